"""The server's optimizer against hand-computed values and exact rational arithmetic. Source: design §4.4, §4.6."""

from __future__ import annotations

from array import array
from fractions import Fraction

import numpy as np
import pytest

from edgefl import optimizers
from edgefl.errors import ConfigError, KernelError, LocalProtocolError


def floats(*values: float) -> bytes:
    return array("f", values).tobytes()


def doubles(*values: float) -> bytes:
    return array("d", values).tobytes()


def test_the_server_adds_the_delta() -> None:
    state, model = optimizers.sgd(1.0).apply(b"", floats(1.0, -2.0), doubles(0.25, 0.5))
    assert (state, model) == (b"", floats(1.25, -1.5))


def test_the_rate_scales_the_step_and_the_model_is_rounded_once() -> None:
    rate, weight, delta = 0.3, 0.1, 1e-9
    _, model = optimizers.sgd(rate).apply(b"", floats(weight), doubles(delta))
    stored = float(np.float32(weight))
    product = float(Fraction(rate) * Fraction(delta))  # binary64, rounded once each
    assert model == floats(float(Fraction(stored) + Fraction(product)))


def test_momentum_by_hand_over_three_rounds() -> None:
    optimizer = optimizers.sgd(0.5, momentum=0.5)
    state, model = optimizer.init(2), floats(0.0, 0.0)
    seen = []
    for delta in (doubles(1.0, -1.0), doubles(1.0, 0.0), doubles(0.0, 0.0)):
        state, model = optimizer.apply(state, model, delta)
        seen.append((list(memoryview(state).cast("d")), list(memoryview(model).cast("f"))))
    assert seen == [
        ([1.0, -1.0], [0.5, -0.5]),
        ([1.5, -0.5], [1.25, -0.75]),
        ([0.75, -0.25], [1.625, -0.875]),
    ]


def test_momentum_is_binary64_with_one_rounding_an_operation() -> None:
    rng = np.random.default_rng(3)
    velocity, delta, model = rng.normal(size=50), rng.normal(size=50), rng.normal(size=50).astype(np.float32)
    state, stepped = optimizers.sgd(0.7, momentum=0.9).apply(velocity.tobytes(), model.tobytes(), delta.tobytes())
    expected = 0.9 * velocity + delta  # NumPy's element-wise operations are IEEE 754's
    assert state == expected.tobytes()
    assert stepped == (model.astype(np.float64) + 0.7 * expected).astype(np.float32).tobytes()


def test_what_is_stored_is_never_below_the_least_magnitude() -> None:
    tiny, least = 2.0**-51, 2.0**-50
    state, model = optimizers.sgd(1.0, momentum=0.5).apply(doubles(0.0, 0.0), floats(0.0, 0.0), doubles(tiny, least))
    assert (state, model) == (doubles(0.0, least), floats(0.0, least))
    state, model = optimizers.sgd(1.0).apply(b"", floats(0.0, -0.0), doubles(-tiny, -0.0))
    assert model == floats(0.0, 0.0)


def test_a_step_out_of_float32_is_a_typed_error() -> None:
    with pytest.raises(KernelError):
        optimizers.sgd(1.0).apply(b"", floats(0.0), doubles(1e39))


def test_a_state_of_another_model_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="a momentum of 8 bytes; expected 16"):
        optimizers.sgd(1.0, momentum=0.5).apply(doubles(0.0), floats(0.0, 0.0), doubles(0.0, 0.0))


def test_the_state_is_empty_without_momentum() -> None:
    assert optimizers.sgd(1.0).init(7) == b""
    assert optimizers.sgd(1.0, momentum=0.5).init(7) == bytes(56)


@pytest.mark.parametrize(("rate", "momentum"), [(0.0, 0.0), (-1.0, 0.0), (float("nan"), 0.0), (1.0, 1.0), (1.0, -0.1)])
def test_values_out_of_range_are_refused(rate: float, momentum: float) -> None:
    with pytest.raises(ConfigError):
        optimizers.sgd(rate, momentum)


def test_an_unknown_optimizer_says_what_there_is() -> None:
    with pytest.raises(ConfigError, match="'lion'; expected one of adagrad, adam, sgd, yogi"):
        optimizers.server_optimizer("lion", {})
    with pytest.raises(ConfigError, match="'_adaptive'; expected one of"):
        optimizers.server_optimizer("_adaptive", {})
    assert optimizers.server_optimizer("sgd", {"learning_rate": 0.5, "momentum": 0.25}) == optimizers.sgd(0.5, 0.25)
    assert optimizers.server_optimizer("sgd", {}) == optimizers.sgd(1.0)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS.names())
def test_a_name_is_that_of_its_file_and_of_its_function(name: str) -> None:
    built = optimizers.server_optimizer(name, {"learning_rate": 0.5})
    assert built.name == name
    assert built == getattr(optimizers, name)(0.5)


def test_an_option_of_another_optimizer_is_refused_and_a_missing_one_is_named() -> None:
    with pytest.raises(ConfigError, match="'adam' has no 'momentum'; expected of learning_rate, beta_1, beta_2, eps"):
        optimizers.server_optimizer("adam", {"learning_rate": 0.1, "momentum": 0.5})
    with pytest.raises(ConfigError, match="'yogi' needs 'learning_rate'"):
        optimizers.server_optimizer("yogi", {"beta_1": 0.5})
