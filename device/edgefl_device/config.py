"""The device's configuration: one TOML file, read into frozen dataclasses.

Invariants: unknown keys are refused; relative paths mean relative to the file; plaintext is spoken to loopback alone.
Source: design §7 (``insecure``), §9 (the device).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from edgefl.address import require_loopback, split_address
from edgefl.classes import check_classes
from edgefl.errors import ConfigError
from edgefl.protocol.task import check_name
from edgefl.settings import parse_toml, read_toml
from edgefl.types import DType, Quantization, check_shape

EXAMPLE_OVERHEAD_BYTES = 64
"""What an example costs besides its features: label, time, row and index entries, page slack (SQLite, measured)."""

MAX_QUOTA_BYTES = 1 << 34
"""16 GiB: beyond it a typing error is likelier than a device with such a card."""

MAX_AGE_DAYS = 36_500
"""A hundred years."""


@dataclass(frozen=True)
class DeviceSection:
    """``name`` is the device's identity; ``state_dir`` holds all that the agent keeps."""

    name: str
    population: str
    state_dir: Path

    def __post_init__(self) -> None:
        check_name("name", self.name)
        check_name("population", self.population)


@dataclass(frozen=True)
class ServerSection:
    """``address`` is HOST:PORT, or [HOST]:PORT for IPv6. ``insecure`` allows plaintext, and then to loopback alone."""

    address: str = "127.0.0.1:7443"
    insecure: bool = False

    def __post_init__(self) -> None:
        if split_address(self.address)[1] == 0:
            raise ConfigError(f"address is {self.address!r}; expected the server's port, 1 to 65535")

    def check_transport(self) -> None:
        """Refuse what would put plaintext on a network. Raises ``ConfigError``."""
        if not self.insecure:
            raise ConfigError(
                "this version has no TLS; set insecure = true in [server] (or pass --insecure) to speak plaintext "
                "to a server on loopback"
            )
        require_loopback(self.address)


@dataclass(frozen=True)
class ExampleSpec:
    """What the device's applications store: the table ``[examples]``.

    ``scale``, ``zero_point``: what 8-bit features mean, ``scale * (stored - zero_point)``.
    ``quota_bytes``: beyond it the oldest examples are dropped. ``max_age_days``: older ones are dropped; 0 keeps them.
    ``inbox``: a folder whose CSV and NPZ files are taken in before each check-in; none without it.
    ``features``: the names of the features, in the order in which values are stored and models see them; without them
    the first file with names fixes them. ``classes``: the names of the classes, in the order of the labels.
    ``num_features``, ``num_classes``: may be left out where there are names.
    """

    num_features: int = 0
    num_classes: int = 0
    dtype: DType = DType.FLOAT32
    scale: float = 1.0
    zero_point: int = 0
    quota_bytes: int = 64 << 20
    max_age_days: float = 0.0
    inbox: Path | None = None
    features: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key, names in (("features", self.features), ("classes", self.classes)):
            count = f"num_{key}"
            if not names and not getattr(self, count):
                raise ConfigError(f"{count} is missing or 0; expected 1 or more, or the names: {key} = [...]")
            if not getattr(self, count):
                object.__setattr__(self, count, len(names))
        check_shape(self.num_classes, self.num_features)
        _check_features(self.features, self.num_features)
        check_classes(self.classes, self.num_classes)
        if self.dtype is DType.FLOAT32 and (self.scale, self.zero_point) != (1.0, 0):
            raise ConfigError("scale or zero_point with dtype 'float32'; expected them with uint8 and int8 only")
        Quantization(self.scale, self.zero_point)
        if not self.example_cost_bytes <= self.quota_bytes <= MAX_QUOTA_BYTES:
            raise ConfigError(
                f"quota_bytes is {self.quota_bytes}; expected {self.example_cost_bytes} (one example) "
                f"to {MAX_QUOTA_BYTES}"
            )
        if not 0 <= self.max_age_days <= MAX_AGE_DAYS:
            raise ConfigError(f"max_age_days is {self.max_age_days}; expected 0 (keep) to {MAX_AGE_DAYS}")

    @property
    def quantization(self) -> Quantization:
        return Quantization(self.scale, self.zero_point)

    @property
    def row_bytes(self) -> int:
        """Size of one example's features."""
        return self.num_features * self.dtype.size_bytes

    @property
    def example_cost_bytes(self) -> int:
        """What one example takes of the quota."""
        return self.row_bytes + EXAMPLE_OVERHEAD_BYTES

    @property
    def max_examples(self) -> int:
        """How many examples the quota holds, of both splits together."""
        return self.quota_bytes // self.example_cost_bytes


@dataclass(frozen=True)
class EligibilitySection:
    """The device's own conditions. ``min_examples``: training examples needed before it checks in."""

    min_examples: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.min_examples <= 1 << 31:
            raise ConfigError(f"min_examples is {self.min_examples}; expected 0 or more")


@dataclass(frozen=True)
class DeviceConfig:
    """The whole file: its tables."""

    device: DeviceSection
    examples: ExampleSpec
    server: ServerSection = field(default_factory=ServerSection)
    eligibility: EligibilitySection = field(default_factory=EligibilitySection)

    @property
    def store_path(self) -> Path:
        """Where the device's examples are."""
        return self.device.state_dir / "examples.db"


def _check_features(features: tuple[str, ...], num_features: int) -> None:
    if features and len(features) != num_features:
        raise ConfigError(f"features has {len(features)} names and num_features is {num_features}; expected as many")
    for index, name in enumerate(features):
        if not name or name != name.strip() or name in ("label", "split"):
            raise ConfigError(f"features[{index}] is {name!r}; expected a name, and not 'label' or 'split'")
        if name in features[:index]:
            raise ConfigError(f"features has {name!r} twice; expected distinct names")


def load_config(path: Path, *, insecure: bool = False) -> DeviceConfig:
    """Read and check a configuration file; ``insecure`` comes from the command line and wins over the file.

    Raises ``ConfigError`` that names the file, the key and what was expected.
    """
    config = parse_toml(read_toml(path), DeviceConfig, str(path))
    base = path.absolute().parent
    device = dataclasses.replace(config.device, state_dir=base / config.device.state_dir)
    examples = config.examples
    if examples.inbox is not None:
        examples = dataclasses.replace(examples, inbox=base / examples.inbox)
    server = dataclasses.replace(config.server, insecure=config.server.insecure or insecure)
    return dataclasses.replace(config, device=device, examples=examples, server=server)
