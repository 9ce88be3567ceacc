"""FedAdam, FedYogi and FedAdagrad against a float64 NumPy oracle. Source: Reddi et al., 2021, algorithm 2; §4.6."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from edgefl import optimizers
from edgefl.errors import ConfigError, KernelError, LocalProtocolError
from edgefl.optimizers import ServerOptimizer

Array = npt.NDArray[np.float64]
Second = Callable[[Array, Array], Array]

RATE, BETA_1, BETA_2, TAU = 0.03, 0.8, 0.95, 1e-2
ALL: dict[str, tuple[ServerOptimizer, float, Second]] = {
    "adam": (
        optimizers.adam(RATE, BETA_1, BETA_2, TAU),
        BETA_1,
        lambda v, square: BETA_2 * v + (1 - BETA_2) * square,
    ),
    "yogi": (
        optimizers.yogi(RATE, BETA_1, BETA_2, TAU),
        BETA_1,
        lambda v, square: v - (1 - BETA_2) * square * np.sign(v - square),
    ),
    "adagrad": (optimizers.adagrad(RATE, TAU), 0.0, lambda v, square: v + square),
}


def floats(*values: float) -> bytes:
    return array("f", values).tobytes()


def doubles(*values: float) -> bytes:
    return array("d", values).tobytes()


def deltas(rounds: int, size: int) -> list[Array]:
    """Of magnitudes from 1e-6 to 1: squares on both sides of tau squared."""
    rng = np.random.default_rng(5)
    return [rng.normal(size=size) * 10.0 ** rng.uniform(-6, 0, size) for _ in range(rounds)]


@pytest.mark.parametrize("name", ALL)
def test_it_is_algorithm_2_of_the_paper(name: str) -> None:
    optimizer, beta_1, second = ALL[name]
    size = 200
    model = np.random.default_rng(6).normal(size=size).astype(np.float32)
    state, m, v = optimizer.init(size), np.zeros(size), np.full(size, TAU**2)
    for delta in deltas(12, size):
        m = beta_1 * m + (1 - beta_1) * delta
        v = second(v, delta**2)
        stepped = model.astype(np.float64) + RATE * (m / (np.sqrt(v) + TAU))
        state, raw = optimizer.apply(state, model.tobytes(), delta.tobytes())
        parts = np.frombuffer(state, np.float64).reshape(-1, size)
        assert np.abs(parts[-1] - v).max() < 1e-12
        if name != "adagrad":
            assert np.abs(parts[0] - m).max() < 1e-12
        model = np.frombuffer(raw, np.float32)
        # Rounded once. NumPy's element-wise operations are IEEE 754's, so nothing is left to a tolerance.
        assert raw == stepped.astype(np.float32).tobytes()
    assert np.abs(model).max() > RATE


# --- Equal bits ------------------------------------------------------------------------------------------------------


def oracle(name: str, first: list[float], second: list[float], delta: list[float]) -> tuple[list[float], list[float]]:
    """New moments by the paper, one Python operation a rounding; without first moments the delta is the direction."""
    squares = [d * d for d in delta]
    m, v = delta, [old + s for old, s in zip(second, squares, strict=True)]
    if name != "adagrad":
        moved = [BETA_1 * old + (1.0 - BETA_1) * d for old, d in zip(first, delta, strict=True)]
        m = [value if abs(value) >= 2.0**-50 else 0.0 for value in moved]
        v = [BETA_2 * old + (1.0 - BETA_2) * s for old, s in zip(second, squares, strict=True)]
    if name == "yogi":
        move = [(1.0 - BETA_2) * s for s in squares]
        signs = [(old > s) - (old < s) for old, s in zip(second, squares, strict=True)]
        v = [old - by * sign if sign else old for old, by, sign in zip(second, move, signs, strict=True)]
    return m, [value if value >= 2.0**-100 else 0.0 for value in v]


EDGES = [0.0, -0.0, 2.0**-50, -(2.0**-50), 2.0**-51, 5e-324, -1e-300, 1e-170, 1e150, -1e150, TAU, -TAU, 1.0]


@pytest.mark.parametrize("name", ALL)
def test_the_bits_are_those_of_the_same_operations_in_python(name: str) -> None:
    optimizer = ALL[name][0]
    rng = np.random.default_rng(9)
    size = 13 * len(EDGES)
    state, model = optimizer.init(size), array("f", rng.normal(size=size))
    for _ in range(6):
        drawn = rng.normal(size=size - 4 * len(EDGES)) * 10.0 ** rng.uniform(-18, 2)
        delta = [*rng.permutation(EDGES * 4).tolist(), *drawn.tolist()]
        parts = array("d", state)
        m, v = oracle(name, list(parts[:size]), list(parts[-size:]), delta)
        scaled = [direction / (math.sqrt(square) + TAU) for direction, square in zip(m, v, strict=True)]
        sums = array("f", [w + RATE * step for w, step in zip(model, scaled, strict=True)])
        model_bytes = array("f", [w if abs(w) >= 2.0**-50 else 0.0 for w in sums]).tobytes()
        state, raw = optimizer.apply(state, model.tobytes(), array("d", delta).tobytes())
        assert raw == model_bytes
        assert state == array("d", v if name == "adagrad" else [*m, *v]).tobytes()
        model = array("f", raw)


@pytest.mark.parametrize("name", ALL)
def test_the_same_bits_twice_and_after_a_state_is_stored(name: str) -> None:
    optimizer = ALL[name][0]

    def run() -> list[tuple[bytes, bytes]]:
        state, model, seen = optimizer.init(50), bytes(200), []
        for delta in deltas(5, 50):
            state, model = optimizer.apply(bytes(bytearray(state)), model, delta.tobytes())
            seen.append((state, model))
        return seen

    assert run() == run()


def test_yogi_does_not_move_where_the_square_equals_the_moment() -> None:
    optimizer = optimizers.yogi(1.0, beta_1=0.0, beta_2=0.5, epsilon=0.5)
    state, model = optimizer.apply(optimizer.init(3), floats(0, 0, 0), doubles(0.5, 0.25, 1.0))
    assert list(memoryview(state).cast("d"))[3:] == [0.25, 0.25 - 0.5 * 0.0625, 0.25 + 0.5]
    assert memoryview(model).cast("f")[0] == 0.5


def test_adagrad_by_hand() -> None:
    optimizer = optimizers.adagrad(2.0, epsilon=0.5)
    state, model = optimizer.apply(optimizer.init(1), floats(1.0), doubles(math.sqrt(2)))
    assert memoryview(state).cast("d")[0] == 0.25 + math.sqrt(2) * math.sqrt(2)
    assert memoryview(model).cast("f")[0] == pytest.approx(1 + 2 * math.sqrt(2) / 2, rel=1e-7)


def test_the_second_moment_starts_at_epsilon_squared() -> None:
    assert optimizers.adam(1.0, epsilon=0.25).init(2) == doubles(0, 0, 0.0625, 0.0625)
    assert optimizers.yogi(1.0, epsilon=0.25).init(2) == doubles(0, 0, 0.0625, 0.0625)
    assert optimizers.adagrad(1.0, epsilon=0.25).init(2) == doubles(0.0625, 0.0625)


@pytest.mark.parametrize("name", ["adam", "yogi"])
def test_moments_that_decay_end_at_zero_and_never_become_subnormal(name: str) -> None:
    optimizer = optimizers.server_optimizer(
        name, {"learning_rate": 1.0, "beta_1": 0.5, "beta_2": 0.5, "epsilon": 2.0**-30}
    )
    state, model = doubles(2.0**-50, 2.0**-100), floats(0.25)
    state, model = optimizer.apply(state, model, doubles(0.0))
    first, second = memoryview(state).cast("d")
    assert first == 0.0
    assert second == (0.0 if name == "adam" else 2.0**-100)  # Yogi's moves by squares alone
    assert model == floats(0.25)


@pytest.mark.parametrize("name", ALL)
def test_a_state_of_another_model_is_refused(name: str) -> None:
    optimizer = ALL[name][0]
    with pytest.raises(LocalProtocolError, match="an optimizer state of"):
        optimizer.apply(optimizer.init(3), bytes(8), bytes(16))


def test_a_step_out_of_float32_is_a_typed_error() -> None:
    with pytest.raises(KernelError):
        optimizers.adam(2.0**127).apply(optimizers.adam(1.0).init(1), floats(3e38), doubles(1e9))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("learning_rate", [0.0, -1.0, 1e-20, math.nan, math.inf]),
        ("epsilon", [0.0, -1.0, 1e-20, math.nan, math.inf]),
        ("beta_1", [1.0, -0.1, 1e-20, math.nan]),
        ("beta_2", [1.0, -0.1, 1e-20, math.nan]),
    ],
)
def test_values_out_of_range_are_refused(name: str, key: str, values: list[float]) -> None:
    for value in values:
        with pytest.raises(ConfigError, match=key):
            optimizers.server_optimizer(name, {"learning_rate": 0.1} | {key: value})
