"""The numbers that the parts of EdgeFL pass to each other: frozen, checked, free of I/O and of NumPy.

Numbers travel as C-contiguous buffers (``bytes``, ``array.array``, ``memoryview``, NumPy arrays): a device that
trains must not pay for NumPy. Multi-byte values are little-endian; every supported machine is.

Source: design §4.1 (weights), §4.2 (arithmetic), §4.3 (options of a training).
"""

from __future__ import annotations

import enum
import hashlib
import math
import operator
import struct
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING

from edgefl.errors import ConfigError, DataError

if TYPE_CHECKING:
    from typing_extensions import Buffer

MIN_MAGNITUDE = 2.0**-30
"""Features, scales and rates are 0 or at least this large: then no subnormal can arise (design §4.2)."""

STORED_MIN_MAGNITUDE = 2.0**-50
"""A stored value (weight, bias, momentum, gradient) below this becomes +0 (design §4.2)."""

MAX_FLOAT32 = 2.0**128 - 2.0**104
"""The largest float32: the kernel and the wire hold options in that type."""

MAX_SCALE = MAX_FLOAT32 / 512
"""A scale times the largest |stored - zero_point|, 383, must fit float32."""

MAX_CLASSES = 4096
MAX_FEATURES = 65536
"""Bounds of a model's shape: far above what a device of this class trains; they keep sizes within 32 bits."""

MAX_BATCH = 2**20
"""Examples in a batch: its output gradients, a number for each example and class, are held at once."""

MAX_EPOCHS = 10_000
"""Local epochs of one training: beyond it a typing error is likelier than a wish."""

KEY_BYTES = 16
"""Size of a key of the counter-based generator (128 bits)."""


@dataclass(frozen=True)
class RoundKey:
    """What the randomness of one round derives from (``edgefl.randomness``): the task's seed, the round's number."""

    task_seed: int
    round_num: int


class DType(enum.Enum):
    """How a feature is stored; the value is the name used in TOML, on the wire and in the example store."""

    FLOAT32 = "float32"
    UINT8 = "uint8"
    INT8 = "int8"

    @property
    def size_bytes(self) -> int:
        return 4 if self is DType.FLOAT32 else 1


@dataclass(frozen=True)
class Quantization:
    """What 8-bit features mean: ``value = scale * (stored - zero_point)``, computed in float32.

    ``scale`` is rounded to float32 when it is given: what a device configured and what a plan brought compare equal.
    """

    scale: float = 1.0
    zero_point: int = 0

    def __post_init__(self) -> None:
        check_multiplier("scale", self.scale)
        if not 0 < self.scale <= MAX_SCALE:
            raise ConfigError(f"scale is {self.scale!r}; expected a number above 0, at most {MAX_SCALE!r}")
        object.__setattr__(self, "scale", to_float32(self.scale))
        if not -128 <= self.zero_point <= 255:
            raise ConfigError(f"zero_point is {self.zero_point}; expected -128 to 255")


@dataclass(frozen=True)
class Standardization:
    """Per-feature shift and factor: ``value = (x - mean) * inverse_spread``, float32, subtraction first.

    Both are ``num_features`` float32 values as bytes. Results below 2**-30 in magnitude become 0.
    """

    mean: bytes = field(repr=False)
    inverse_spread: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.inverse_spread) or len(self.mean) % 4 or not self.mean:
            raise DataError(
                f"standardization of {len(self.mean)} and {len(self.inverse_spread)} bytes; "
                "expected two equal, non-empty float32 vectors"
            )
        for name, raw in (("mean", self.mean), ("inverse_spread", self.inverse_spread)):
            for index, value in enumerate(memoryview(raw).cast("f")):
                if not math.isfinite(value) or 0 < abs(value) < MIN_MAGNITUDE:
                    raise DataError(f"{name}[{index}] is {value!r}; expected 0 or a finite value of at least 2**-30")

    @property
    def num_features(self) -> int:
        return len(self.mean) // 4


Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""The arrays of a model by name, in the order of the canonical form: a kernel (outputs, inputs), then its bias."""


def layer_shapes(num_classes: int, num_features: int) -> Shapes:
    """The arrays of a softmax layer. Raises ``ConfigError`` for a shape that no kernel takes."""
    check_shape(num_classes, num_features)
    return ("kernel", (num_classes, num_features)), ("bias", (num_classes,))


def hidden_layer_shapes(num_classes: int, num_hidden: int, num_features: int) -> Shapes:
    """The arrays of a hidden layer and the softmax layer after it."""
    check_shape(num_classes, num_features)
    return (
        ("hidden_kernel", (num_hidden, num_features)),
        ("hidden_bias", (num_hidden,)),
        ("output_kernel", (num_classes, num_hidden)),
        ("output_bias", (num_classes,)),
    )


def num_values(shapes: Shapes) -> int:
    """How many float32 values arrays of these shapes have together."""
    return sum(math.prod(shape) for _, shape in shapes)


@dataclass(frozen=True, init=False, repr=False)
class Weights:
    """The parameters of a model of any kind, or a delta of them: ``values`` are the arrays of ``shapes`` joined.

    ``values`` is the canonical form of a model: float32, each array row-major, as ``bytes``: immutable, hashable,
    without NumPy. ``digest`` is its SHA-256. ``Weights(num_classes, num_features, kernel, bias)`` makes those of a
    softmax layer: ``kernel`` (num_classes, num_features) and ``bias`` (num_classes,); ``of`` those of other kinds.
    """

    shapes: Shapes
    values: bytes

    def __init__(self, num_classes: int, num_features: int, kernel: bytes, bias: bytes) -> None:
        shapes = layer_shapes(num_classes, num_features)
        if len(kernel) != 4 * num_classes * num_features or len(bias) != 4 * num_classes:
            raise DataError(
                f"weights of {len(kernel)} + {len(bias)} bytes; expected "
                f"{4 * num_classes * num_features} + {4 * num_classes} for "
                f"{num_classes} classes of {num_features} features"
            )
        object.__setattr__(self, "shapes", shapes)
        object.__setattr__(self, "values", kernel + bias)

    @classmethod
    def of(cls, shapes: Shapes, values: Buffer) -> Weights:
        """Read the canonical form of arrays of ``shapes``. Raises ``DataError`` when the size does not fit them."""
        view, size = memoryview(values).cast("B"), 4 * num_values(shapes)
        if len(view) != size:
            raise DataError(f"a model of {len(view)} bytes; expected {size}")
        made = object.__new__(cls)
        object.__setattr__(made, "shapes", shapes)
        object.__setattr__(made, "values", values if isinstance(values, bytes) else bytes(view))
        return made

    @classmethod
    def zeros(cls, num_classes: int, num_features: int) -> Weights:
        """A softmax layer of zeros."""
        shapes = layer_shapes(num_classes, num_features)
        return cls.of(shapes, bytes(4 * num_values(shapes)))

    @classmethod
    def from_bytes(cls, raw: Buffer, num_classes: int, num_features: int) -> Weights:
        """Read the canonical form of a softmax layer. Raises ``DataError`` when the size does not fit the shape."""
        return cls.of(layer_shapes(num_classes, num_features), raw)

    def __repr__(self) -> str:
        if len(self.shapes) > 2:
            return f"Weights(shapes={self.shapes})"
        return f"Weights(num_classes={self.num_classes}, num_features={self.num_features})"

    @property
    def num_classes(self) -> int:
        return self.shapes[-1][1][0]

    @property
    def num_features(self) -> int:
        return self.shapes[0][1][1]

    def to_bytes(self) -> bytes:
        return self.values

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form, 64 hexadecimal digits."""
        return hashlib.sha256(self.values).hexdigest()

    def array(self, name: str) -> memoryview[float]:
        """One array as a flat float32 buffer, not copied. Raises ``DataError`` when the model does not have it."""
        start = 0
        for found, shape in self.shapes:
            end = start + 4 * math.prod(shape)
            if found == name:
                return memoryview(self.values)[start:end].cast("f")
            start = end
        known = ", ".join(found for found, _ in self.shapes)
        raise DataError(f"these weights have no {name!r}; they have {known}: they are of another kind of model")

    @property
    def kernel(self) -> bytes:
        """The bytes of the kernel of a softmax layer; a copy."""
        return self.array("kernel").tobytes()

    @property
    def bias(self) -> bytes:
        """The bytes of the bias of a softmax layer; a copy."""
        return self.array("bias").tobytes()

    @property
    def kernel_view(self) -> memoryview[float]:
        """The kernel as a float32 buffer of shape (num_classes, num_features); ``numpy.asarray`` takes it uncopied."""
        return self.array("kernel").cast("B").cast("f", shape=[self.num_classes, self.num_features])

    @property
    def bias_view(self) -> memoryview[float]:
        """The bias as a float32 buffer of shape (num_classes,)."""
        return self.array("bias")


@dataclass(frozen=True)
class SgdOptions:
    """How a device runs SGD (design §4.3): one value from the task file over the plan to the kernel.

    The loss is the mean cross-entropy of a batch.

    ``learning_rate``  step size.
    ``batch_size``     examples in a step; the last batch of an epoch may be smaller and is divided by its own size.
    ``local_epochs``   passes over the data; 0 trains nothing.
    ``l2``             adds ``l2 * w`` to the gradient of the kernel (never of the bias).
    ``momentum``       ``v = momentum * v + g``, ``w = w - learning_rate * v``; 0 keeps no velocity.
    ``proximal``       adds ``proximal * (w - w_start)`` to the gradient, kernel and bias (FedProx).
    ``clip_norm``      the batch gradient is scaled to at most this L2 norm; 0 does not clip.
    """

    learning_rate: float
    batch_size: int = 32
    local_epochs: int = 1
    l2: float = 0.0
    momentum: float = 0.0
    proximal: float = 0.0
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "l2", "momentum", "proximal", "clip_norm"):
            value = getattr(self, name)
            check_multiplier(name, value)
            if value < 0:
                raise ConfigError(f"{name} is {value!r}; expected 0 or more")
        if to_float32(self.momentum) >= 1:
            raise ConfigError(f"momentum is {self.momentum!r}; expected less than 1 when it is rounded to float32")
        if not 1 <= self.batch_size <= MAX_BATCH:
            raise ConfigError(f"batch_size is {self.batch_size}; expected 1 to {MAX_BATCH}")
        if not 0 <= self.local_epochs <= MAX_EPOCHS:
            raise ConfigError(f"local_epochs is {self.local_epochs}; expected 0 to {MAX_EPOCHS}")

    @property
    def sgd(self) -> SgdOptions:
        """These options alone, of a value that has more."""
        return SgdOptions(**{one.name: getattr(self, one.name) for one in fields(SgdOptions)})

    def keyed(self, shuffle_key: bytes | None) -> TrainConfig:
        """What the kernel is told."""
        return TrainConfig(**vars(self.sgd), shuffle_key=shuffle_key)


@dataclass(frozen=True)
class TrainConfig(SgdOptions):
    """Options of one local training. ``shuffle_key``: 16 bytes, a new order each epoch; None keeps the order."""

    shuffle_key: bytes | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shuffle_key is not None and len(self.shuffle_key) != KEY_BYTES:
            raise ConfigError(f"shuffle_key has {len(self.shuffle_key)} bytes; expected {KEY_BYTES}")


@dataclass(frozen=True)
class TrainStats:
    """What a training did. ``loss_sum`` and ``num_correct`` come from each step's forward pass, before that step.

    ``examples_seen`` counts examples over all epochs. ``stopped`` is True when the stop flag ended it between batches.
    """

    examples_seen: int
    num_steps: int
    loss_sum: float
    num_correct: int
    stopped: bool


@dataclass(frozen=True)
class EvalStats:
    """What an evaluation counted. ``confusion[true * num_classes + predicted]`` counts examples, in int64.

    A tie between classes is won by the lowest. ``loss_sum`` is the sum of cross-entropies, in binary64, in row order.
    """

    num_examples: int
    loss_sum: float
    num_correct: int
    confusion: memoryview

    @property
    def accuracy(self) -> float:
        return self.num_correct / self.num_examples if self.num_examples else 0.0

    @property
    def mean_loss(self) -> float:
        return self.loss_sum / self.num_examples if self.num_examples else 0.0


@dataclass(frozen=True)
class Examples:
    """Records of one client in order, as bytes: ``features`` (n, num_features) of ``dtype``, ``labels`` (n,) int32."""

    num_features: int
    features: bytes = field(repr=False)
    labels: bytes = field(repr=False)
    dtype: DType = DType.FLOAT32
    quantization: Quantization = field(default_factory=Quantization)

    def __post_init__(self) -> None:
        row = self.num_features * self.dtype.size_bytes
        if self.num_features < 1 or len(self.labels) % 4 or len(self.features) != row * (len(self.labels) // 4):
            raise DataError(
                f"{len(self.features)} bytes of features and {len(self.labels)} of labels; "
                f"expected {row} and 4 bytes an example ({self.num_features} {self.dtype.value} features)"
            )

    def __len__(self) -> int:
        return len(self.labels) // 4

    @property
    def meaning(self) -> Quantization | None:
        """What 8-bit features mean; None for float32 ones."""
        return None if self.dtype is DType.FLOAT32 else self.quantization

    @cached_property  # both views: casting anew each round is a part of a small client's time
    def features_view(self) -> memoryview[float] | memoryview[int]:
        """Shape (n, num_features); not for zero examples (a buffer cannot have a dimension of 0)."""
        shape = [len(self), self.num_features]
        if self.dtype is DType.FLOAT32:
            return memoryview(self.features).cast("f", shape=shape)
        return memoryview(self.features).cast("B" if self.dtype is DType.UINT8 else "b", shape=shape)

    @cached_property
    def labels_view(self) -> memoryview[int]:
        return memoryview(self.labels).cast("i")

    def __reduce__(self) -> tuple[type[Examples], tuple[object, ...]]:
        """Copies and pickles without the views, which cannot be pickled."""
        return Examples, tuple(getattr(self, each.name) for each in fields(self))


@dataclass(frozen=True)
class ClientDataset:
    """The examples of one client; ``client_id`` is its device's id, and enters the seed of its work."""

    client_id: str
    examples: Examples

    def __post_init__(self) -> None:
        check_kind("client_id", self.client_id, str, "text")
        check_kind("examples", self.examples, Examples, "an edgefl.types.Examples")

    def __len__(self) -> int:
        return len(self.examples)


def check_multiplier(name: str, value: float) -> None:
    """Refuse a hyper-parameter that float32 cannot hold, or that could make a subnormal: 0 or at least 2**-30."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value != value:  # not a number
        raise ConfigError(f"{name} is {value!r}; expected a finite number")
    if abs(value) > MAX_FLOAT32:
        raise ConfigError(f"{name} is {value!r}; expected a finite number, at most {MAX_FLOAT32!r} (float32)")
    if 0 < abs(value) < MIN_MAGNITUDE:
        raise ConfigError(f"{name} is {value!r}; expected 0 or at least 2**-30 in magnitude")


def check_whole(name: str, value: object) -> None:
    """Refuse what is not a whole number, such as 2.0 or True; NumPy's integers are whole numbers."""
    try:
        operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        value, whole = repr(value), False
    else:
        whole = not isinstance(value, bool)
    if not whole:
        raise ConfigError(f"{name} is {value}; expected a whole number")


def check_kind(name: str, value: object, kind: type, how: str) -> None:
    """Refuse an object of another class where it is handed over, not where it is first used; ``how`` to get one."""
    if not isinstance(value, kind):
        raise ConfigError(f"{name} is {value!r:.80}; expected {how}")


def parse_feature(text: str, where: str) -> float:
    """A float32 feature written as text, as it is stored: below 2**-30 it is 0. Raises ``DataError`` at ``where``."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # An array rounds to float32, where a large value would become infinite; float() would take "1_000".
    if not -MAX_FLOAT32 <= value <= MAX_FLOAT32 or "_" in text:
        raise DataError(f"{where} is {text!r}; expected a finite number in float32's range")
    return value if abs(value) >= MIN_MAGNITUDE else 0.0


def check_shape(num_classes: int, num_features: int) -> None:
    """Refuse a model shape outside what the kernels take."""
    check_whole("num_classes", num_classes)
    check_whole("num_features", num_features)
    if not 1 <= num_classes <= MAX_CLASSES:
        raise ConfigError(f"num_classes is {num_classes}; expected 1 to {MAX_CLASSES}")
    if not 1 <= num_features <= MAX_FEATURES:
        raise ConfigError(f"num_features is {num_features}; expected 1 to {MAX_FEATURES}")


def to_float32(value: float) -> float:
    """``value`` rounded to the nearest float32, ties to even; ``value`` is at most ``MAX_FLOAT32`` in magnitude."""
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded
