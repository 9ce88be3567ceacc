"""What the readers of research data sets share: users with a training and a test part, made a ``FederatedDataset``.

Invariants: labels are class indexes, as these formats define them, so a small sample may lack a class. Numbers that are
all multiples of 1/255 from 0 to 1, in float32, are pixels: they are stored as the bytes that they once were (uint8,
scale 1/255), in a quarter of the memory, and mean the same up to the last bit of a float32. Bytes stay bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefl.datasets.federated import FederatedDataset
from edgefl.datasets.npz_file import as_trainable
from edgefl.datasets.own import MAX_LABEL, naming
from edgefl.errors import DataError
from edgefl.types import MAX_FEATURES, ClientDataset, DType, Examples, Quantization

if TYPE_CHECKING:
    from numpy.typing import NDArray

WHITE = 255

Classes = Callable[[int], tuple[int, tuple[str, ...]]]
"""How many classes there are, and their names or (), for the largest label that was seen."""


def numbered(largest: int) -> tuple[int, tuple[str, ...]]:
    return largest + 1, ()


class Users:
    """The growing examples of one data set, by user and part."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._width = 0
        self._are_pixels = True
        self._features: tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]] = ({}, {})
        self._labels: tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]] = ({}, {})

    def add(self, user: str, features: NDArray[Any], labels: NDArray[Any], *, test: bool) -> None:
        """``features`` (n, num_features): bytes in all calls, or other numbers in all; ``labels`` (n,) integers.

        Raises ``DataError``, which names the user, for what cannot be trained on.
        """
        import numpy as np

        where = f"{self._path}: user {user!r}"
        if user in self._labels[test]:
            raise DataError(f"{where} is there twice; expected each user once in a part")
        if features.ndim != 2 or len(features) != len(labels):
            raise DataError(f"{where} has {len(features)} examples and {len(labels)} labels; expected one for each")
        if len(labels):
            if not 0 <= int(labels.min()) <= int(labels.max()) <= MAX_LABEL:
                raise DataError(f"{where} has labels {labels.min()} to {labels.max()}; expected 0 to {MAX_LABEL}")
            features = self._checked(where, features)
        self._features[test][user] = features
        self._labels[test][user] = labels.astype(np.int32)

    def _checked(self, where: str, features: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        width = features.shape[1]
        if not 1 <= width <= MAX_FEATURES:
            raise DataError(f"{where} has {width} features; expected 1 to {MAX_FEATURES}")
        if self._width and width != self._width:
            raise DataError(f"{where} has {width} features, those before have {self._width}; expected the same")
        self._width = width
        if features.dtype == np.uint8:
            self._are_pixels = False
            return features
        values, _ = as_trainable(Path(where), features)
        if self._are_pixels:
            pixels = _as_pixels(values)
            if pixels is not None:
                return pixels
            self._unpack()
        return values

    def _unpack(self) -> None:
        """What was taken for pixels so far are numbers like those that have just come."""
        self._are_pixels = False
        for parts in self._features:
            for user, pixels in parts.items():
                parts[user] = _as_floats(pixels)

    def dataset(
        self,
        *,
        name: str,
        held_out: bool,
        classes: Classes = numbered,
        in_order: Callable[[list[str]], list[str]] = list,
    ) -> FederatedDataset:
        """All that was added, users in the order in which they came, or as ``in_order`` puts them.

        ``held_out``  whether there is a test part. Users that are in it alone are clients without a training example.

        Raises ``DataError``, which names the file.
        """
        with naming(self._path):
            users = in_order(list({user: None for part in self._labels for user, one in part.items() if len(one)}))
            if not any(len(one) for one in self._labels[False].values()):
                raise DataError("no user has a training example; expected at least one")
            num_classes, names = classes(
                max(int(one.max()) for part in self._labels for one in part.values() if len(one))
            )
            return FederatedDataset(
                name=name,
                num_features=self._width,
                num_classes=num_classes,
                classes=names,
                clients=tuple(self._client(user, test=False) for user in users),
                held_out=tuple(self._client(user, test=True) for user in users) if held_out else (),
                source=self._path.name,
            )

    def _client(self, user: str, *, test: bool) -> ClientDataset:
        features, labels = self._features[test].get(user), self._labels[test].get(user)
        raw = (b"", b"") if features is None or labels is None or not len(labels) else (features, labels)
        contents = [one if isinstance(one, bytes) else one.tobytes() for one in raw]
        return ClientDataset(user, Examples(self._width, contents[0], contents[1], *self._kind))

    @property
    def _kind(self) -> tuple[DType, Quantization]:
        import numpy as np

        if self._are_pixels:
            return DType.UINT8, Quantization(1 / WHITE)
        if any(one.dtype == np.uint8 for one in self._features[False].values() if len(one)):
            return DType.UINT8, Quantization()
        return DType.FLOAT32, Quantization()


def _as_pixels(values: NDArray[Any]) -> NDArray[Any] | None:
    """The bytes of which ``values`` (float32) are 1/255 each; None where one is not such a fraction."""
    import numpy as np

    whole = np.rint(values * np.float32(WHITE))
    if whole.min() < 0 or whole.max() > WHITE:
        return None
    pixels = whole.astype(np.uint8)
    return pixels if np.array_equal(_as_floats(pixels), values) else None


def _as_floats(pixels: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    floats: NDArray[Any] = pixels.astype(np.float32) / np.float32(WHITE)
    return floats
