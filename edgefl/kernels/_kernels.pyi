"""Types of the extension module; what it does stands in ``_kernels.pyx``."""

from typing_extensions import Buffer

from edgefl.types import Quantization, Standardization, TrainConfig

NUM_STATUSES: int
MAX_BINS: int
MAX_HIDDEN: int
VARIABLE: str
ADAPTIVE_RULES: dict[str, int]

class StopFlag:
    """Asks a training to stop between two batches; may be set from any thread while the training runs."""

    def set(self) -> None: ...
    def is_set(self) -> bool: ...

class Features:
    def __init__(
        self,
        data: Buffer,
        kind: str,
        scale: float,
        zero_point: int,
        mean: Buffer | None,
        inverse_spread: Buffer | None,
    ) -> None: ...

class Model:
    def __init__(self, kernel: Buffer, bias: Buffer) -> None: ...

class Scratch:
    """Memory for one call; freed with the object."""

class Cohort:
    """The trainings of one cohort, all from ``start``."""

    def __init__(
        self, start: Model, num_features: int, capacity: int, as_delta: bool, stop: StopFlag | None, folds: bool = False
    ) -> None: ...
    def add_plain(
        self,
        features: Buffer,
        labels: Buffer,
        example_weights: Buffer | None,
        config: TrainConfig,
        shuffle_key: bytes | None,
        correction: Model | None,
        standardization: Standardization | None,
        quantization: Quantization | None,
    ) -> bool: ...
    def add_checked(
        self,
        features: Features,
        labels: Buffer,
        example_weights: Buffer | None,
        config: TrainConfig,
        shuffle_key: bytes | None,
        correction: Model | None,
        standardization: Standardization | None,
    ) -> None: ...
    def new_scratch(self) -> Scratch: ...
    def run(self, scratch: Scratch) -> None: ...
    def run_and_fold(self, scratch: Scratch, sums: Buffer, grid_shift: int, max_squared_norm: float) -> None: ...
    def totals(self) -> tuple[int, int, list[float]] | None: ...
    def close(self) -> None: ...
    def outcome(self, index: int) -> tuple[bytes, bytes, tuple[int, int, float, int, bool]]: ...

def available_variants() -> tuple[str, ...]: ...
def select_variant(name: str | None) -> None: ...
def active_variant() -> str: ...
def train(
    features: Features,
    labels: Buffer,
    example_weights: Buffer | None,
    start: Model,
    config: TrainConfig,
    correction: Model | None,
    stop: StopFlag | None,
) -> tuple[bytes, bytes, tuple[int, int, float, int, bool]]: ...
def evaluate(features: Features, labels: Buffer, model: Model) -> tuple[bytes, float]: ...
def predict(features: Features, model: Model) -> bytes: ...

class Mlp:
    def __init__(self, parameters: Buffer, num_hidden: int, num_classes: int) -> None: ...

def train_mlp(
    features: Features,
    labels: Buffer,
    example_weights: Buffer | None,
    start: Mlp,
    config: TrainConfig,
    correction: Buffer | None,
    stop: StopFlag | None,
) -> tuple[bytes, tuple[int, int, float, int, bool]]: ...
def evaluate_mlp(features: Features, labels: Buffer, model: Mlp) -> tuple[bytes, float]: ...
def predict_mlp(features: Features, model: Mlp) -> bytes: ...
def random_words(key: bytes, epoch: int, count: int) -> bytes: ...
def permutation(key: bytes, epoch: int, n: int) -> bytes: ...
def accumulate(sums: Buffer, delta: Buffer, weight: int, grid_shift: int, factor: float) -> None: ...
def add_sums(sums: Buffer, other: Buffer) -> None: ...
def finalize_mean(sums: Buffer, total_weight: int, grid_shift: int) -> bytes: ...
def squared_norm(values: Buffer) -> float: ...
def first_non_finite(values: Buffer) -> int: ...
def subtract(a: Buffer, b: Buffer) -> bytes: ...
def apply_update(model: Buffer, update: Buffer, rate: float) -> bytes: ...
def adaptive_step(
    rule: int,
    state: bytes,
    model: Buffer,
    delta: Buffer,
    learning_rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
) -> tuple[bytes, bytes]: ...
def feature_sums(features: Features, center: Buffer | None, bound: float, grid_shift: int) -> bytes: ...
def feature_extremes(features: Features) -> tuple[bytes, bytes]: ...
def feature_counts(features: Features, edges: Buffer) -> bytes: ...
