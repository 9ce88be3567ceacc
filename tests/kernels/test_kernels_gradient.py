"""The training minimizes the loss that it states (design §4.3), and stops when it is told to.

Three kinds of proof: cases computed by hand whose every number is exact, central differences of the stated loss in
binary64, and properties (a clipped step has the clip norm; a stopped training is a shorter training).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from kernel_cases import PATHS, data, layer, make_case, make_correction

from edgefl import kernels
from edgefl.types import TrainConfig, Weights

F64 = npt.NDArray[np.float64]

LOG_2 = float(np.float32(np.log(2)))


# --- By hand ---------------------------------------------------------------------------------------------------------


def test_one_direct_step_by_hand() -> None:
    """From zero both probabilities are 1/2: the true class moves by rate/2 times the example, the other against it."""
    got, stats = kernels.train_softmax(Weights.zeros(2, 2), *data([[1, 2]], [0]), TrainConfig(0.5))
    assert got == layer([[0.25, 0.5], [-0.25, -0.5]], [0.25, -0.25])
    assert (stats.examples_seen, stats.num_steps, stats.num_correct, stats.stopped) == (1, 1, 1, False)
    assert stats.loss_sum == LOG_2


def test_a_batch_uses_the_weights_from_before_it_and_divides_by_its_own_size() -> None:
    """Three examples in batches of two: the first step divides by 2, the second, of one example, by 1."""
    rows = [[1.0], [3.0], [0.0]]
    config = TrainConfig(1.0, batch_size=2)
    first, _ = kernels.train_softmax(Weights.zeros(2, 1), *data(rows[:2], [0, 1]), config)
    assert first == layer([[0.25 - 0.75], [-0.25 + 0.75]], [0, 0])
    both, stats = kernels.train_softmax(Weights.zeros(2, 1), *data(rows, [0, 1, 1]), config)
    assert both == layer([[-0.5], [0.5]], [-0.5, 0.5])
    assert (stats.examples_seen, stats.num_steps) == (3, 2)
    assert stats.num_correct == 1  # ties of equal logits go to class 0, which is true of the first row alone
    assert stats.loss_sum == 3 * LOG_2


def test_an_example_weight_multiplies_the_gradient_and_not_the_divisor() -> None:
    example_weights = np.array([0, 4], dtype=np.float32)
    rows = data([[7], [1]], [0, 1])
    for options in PATHS:
        config = TrainConfig(1.0, **options)
        got, stats = kernels.train_softmax(Weights.zeros(2, 1), *rows, config, example_weights=example_weights)
        assert got == layer([[-1], [1]], [-1, 1])
        assert stats.loss_sum == 2 * LOG_2  # statistics are not weighted


def test_l2_and_momentum_by_hand() -> None:
    """With one class the cross-entropy is 0 and the penalty acts alone: v = v/2 + w/2, w = w - v/2."""
    start = layer([[8]], [8])
    for local_epochs, expected in [(1, 6.0), (2, 3.5), (3, 1.375)]:
        config = TrainConfig(0.5, l2=0.5, momentum=0.5, local_epochs=local_epochs)
        got, stats = kernels.train_softmax(start, *data([[1]], [0]), config)
        assert got == layer([[expected]], [8])
        assert (stats.loss_sum, stats.num_correct) == (0.0, local_epochs)


def test_proximal_by_hand() -> None:
    """8, then 8 - 4/2 = 6, then the gradient is 6/2 + (6 - 8)/4 = 2.5."""
    config = TrainConfig(0.5, l2=0.5, proximal=0.25, local_epochs=2)
    got, _ = kernels.train_softmax(layer([[8]], [8]), *data([[1]], [0]), config)
    assert got == layer([[4.75]], [8])


def test_clip_by_hand() -> None:
    """The gradient (3, 4) has norm 5; a norm equal to the limit is not clipped."""
    start = layer([[3, 4]], [0])
    for clip_norm, expected in [(2.5, [1.5, 2.0]), (5.0, [0.0, 0.0]), (6.0, [0.0, 0.0])]:
        config = TrainConfig(1.0, l2=1.0, clip_norm=clip_norm)
        got, _ = kernels.train_softmax(start, *data([[1, 1]], [0]), config)
        assert got == layer([expected], [0])


def test_the_clip_norm_counts_the_bias() -> None:
    """Gradient of kernel and bias: four times 1/2, norm 1; clipped to 1/2 each is 1/4."""
    config = TrainConfig(1.0, clip_norm=0.5)
    got, _ = kernels.train_softmax(Weights.zeros(2, 1), *data([[1]], [0]), config)
    assert got == layer([[0.25], [-0.25]], [0.25, -0.25])


@pytest.mark.parametrize("gap", [41.0, 1000.0, 1e30])
def test_a_probability_underflows_to_exactly_zero_and_its_loss_stays_finite(gap: float) -> None:
    weights = layer([[0], [0]], [0, -gap])
    x, y = data([[0]], [1])
    assert kernels.predict_softmax(weights, x) == np.array([1, 0], dtype=np.float32).tobytes()
    assert kernels.evaluate_softmax(weights, x, y).loss_sum == float(np.float32(gap))
    for options in PATHS:
        got, stats = kernels.train_softmax(weights, x, y, TrainConfig(1.0, **options))
        assert stats.loss_sum == float(np.float32(gap))
        assert np.isfinite(got.bias_view[1])
        assert got.bias_view[0] == -1.0


def test_a_probability_at_the_edge_of_underflow_is_not_zero() -> None:
    for gap, zero in [(40.0, False), (float(np.nextafter(np.float32(40), np.float32(41))), True)]:
        raw = kernels.predict_softmax(layer([[0], [0]], [0, -gap]), data([[0]], [1])[0])
        assert (np.frombuffer(raw, dtype=np.float32)[1] == 0) == zero


def test_a_correction_by_hand() -> None:
    """From zero the gradients are -1/2 and 1/2; the correction joins them before the rate, in kernel and bias."""
    correction = layer([[3], [-0.5]], [0.25, 0.5])
    got, stats = kernels.train_softmax(Weights.zeros(2, 1), *data([[1]], [0]), TrainConfig(0.5), correction=correction)
    assert got == layer([[-1.25], [0]], [0.125, -0.5])
    assert stats.loss_sum == LOG_2


def test_a_correction_comes_before_clipping_and_momentum() -> None:
    """One class has no gradient of its own: (3, 4) has norm 5, and is the velocity's first value."""
    rows = data([[1, 1]], [0])
    for options, expected in [
        ({"clip_norm": 2.5}, [-1.5, -2.0]),
        ({"momentum": 0.5, "local_epochs": 2}, [-7.5, -10.0]),
    ]:
        got, _ = kernels.train_softmax(
            Weights.zeros(1, 2), *rows, TrainConfig(1.0, **options), correction=layer([[3, 4]], [0])
        )
        assert got == layer([expected], [0])


def test_one_full_batch_step_with_a_correction_is_the_analytic_step() -> None:
    """SCAFFOLD's y - rate * (g(y) - c_i + c), in binary64 from the formula of the gradient."""
    for num_features, num_classes in SHAPES:
        case, correction = make_case(num_features, num_classes), make_correction(num_features, num_classes)
        config = TrainConfig(0.5, batch_size=64)
        got, _ = kernels.train_softmax(case.weights, case.features, case.labels, config, correction=correction)
        x = case.features.astype(np.float64)
        kernel = flat(case.weights)[: num_classes * num_features].reshape(num_classes, num_features)
        z = x @ kernel.T + flat(case.weights)[kernel.size :]
        p = np.exp(z - z.max(axis=1, keepdims=True))
        g = (p / p.sum(axis=1, keepdims=True) - np.eye(num_classes)[case.labels]) / len(x)
        gradient = np.concatenate([(g.T @ x).ravel(), g.sum(axis=0)])
        expected = flat(case.weights) - 0.5 * (gradient + flat(correction))
        np.testing.assert_allclose(flat(got), expected, rtol=0, atol=1e-6)


def test_a_correction_of_zeros_has_the_bits_of_none_where_a_gradient_is_summed() -> None:
    """The same path is that of a clip norm which nothing reaches: plain SGD rounds each example by itself."""
    case = make_case(17, 4)
    rows, zeros = (case.features, case.labels), Weights.zeros(4, 17)
    for options in [{"clip_norm": 1e6}, {"momentum": 0.9}, {"l2": 0.1, "proximal": 0.5}]:
        config = TrainConfig(0.25, batch_size=8, local_epochs=2, **options)
        without, _ = kernels.train_softmax(case.weights, *rows, config)
        assert kernels.train_softmax(case.weights, *rows, config, correction=zeros)[0] == without
    plain = TrainConfig(0.25, batch_size=8, local_epochs=2)
    corrected, _ = kernels.train_softmax(case.weights, *rows, plain, correction=zeros)
    assert corrected == kernels.train_softmax(case.weights, *rows, replace(plain, clip_norm=1e6))[0]
    direct, _ = kernels.train_softmax(case.weights, *rows, plain)
    assert corrected != direct
    np.testing.assert_allclose(flat(corrected), flat(direct), rtol=0, atol=TOLERANCE)


# --- By differences --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loss:
    """The loss of one batch in binary64, as a function of kernel and bias in one vector."""

    features: F64
    labels: npt.NDArray[np.int32]
    start: F64
    example_weights: F64
    l2: float = 0.0
    proximal: float = 0.0

    def __call__(self, flat: F64) -> float:
        num_features = self.features.shape[1]
        num_classes = len(flat) // (num_features + 1)
        kernel = flat[: num_classes * num_features].reshape(num_classes, num_features)
        z = self.features @ kernel.T + flat[kernel.size :]
        z = z - z.max(axis=1, keepdims=True)
        losses = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), self.labels]
        penalty = self.l2 / 2 * (kernel**2).sum() + self.proximal / 2 * ((flat - self.start) ** 2).sum()
        return float((self.example_weights * losses).mean() + penalty)

    def gradient(self, flat: F64) -> F64:
        step = 1e-5
        unit = np.eye(len(flat)) * step
        return np.array([(self(flat + one) - self(flat - one)) / (2 * step) for one in unit])


def flat(weights: Weights) -> F64:
    return np.frombuffer(weights.to_bytes(), dtype=np.float32).astype(np.float64)


SHAPES = [(1, 2), (5, 3), (17, 4)]
TOLERANCE = 2e-6  # a few roundings of float32 around values of magnitude 1


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("options", [{}, {"l2": 0.3}, {"momentum": 0.9}, {"l2": 0.3, "momentum": 0.9}])
@pytest.mark.parametrize(("num_features", "num_classes"), SHAPES)
def test_the_first_step_follows_the_gradient_of_the_loss(
    num_features: int, num_classes: int, options: dict[str, Any], weighted: bool
) -> None:
    case = make_case(num_features, num_classes)
    example_weights = np.linspace(0, 2, len(case.labels), dtype=np.float32) if weighted else None
    got, stats = kernels.train_softmax(
        case.weights,
        case.features,
        case.labels,
        TrainConfig(1.0, batch_size=64, **options),
        example_weights=example_weights,
    )
    start = flat(case.weights)
    ones = np.ones(len(case.labels))
    weight64 = ones if example_weights is None else example_weights.astype(np.float64)
    loss = Loss(case.features.astype(np.float64), case.labels, start, weight64, l2=options.get("l2", 0.0))
    np.testing.assert_allclose(start - flat(got), loss.gradient(start), rtol=0, atol=TOLERANCE)
    plain = replace(loss, l2=0.0, example_weights=ones)
    np.testing.assert_allclose(stats.loss_sum / len(case.labels), plain(start), rtol=1e-6)


@pytest.mark.parametrize("proximal", [0.0, 0.5])
@pytest.mark.parametrize("momentum", [0.0, 0.75])
@pytest.mark.parametrize(("num_features", "num_classes"), SHAPES)
def test_the_second_step_adds_the_proximal_term_and_the_velocity(
    num_features: int, num_classes: int, momentum: float, proximal: float
) -> None:
    case = make_case(num_features, num_classes)
    config = TrainConfig(1.0, batch_size=64, l2=0.1, momentum=momentum, proximal=proximal)
    rows = case.features, case.labels
    once, _ = kernels.train_softmax(case.weights, *rows, config)
    twice, _ = kernels.train_softmax(case.weights, *rows, replace(config, local_epochs=2))
    start, middle, end = flat(case.weights), flat(once), flat(twice)
    ones = np.ones(len(case.labels))
    loss = Loss(case.features.astype(np.float64), case.labels, start, ones, l2=0.1, proximal=proximal)
    expected = loss.gradient(middle) + momentum * (start - middle)
    np.testing.assert_allclose(middle - end, expected, rtol=0, atol=2 * TOLERANCE)


@pytest.mark.parametrize(("num_features", "num_classes"), SHAPES)
def test_clipping_shortens_the_step_and_keeps_its_direction(num_features: int, num_classes: int) -> None:
    case = make_case(num_features, num_classes)
    steps = []
    for clip_norm in (0.0, 2.0**-6, 1000.0):
        config = TrainConfig(1.0, batch_size=64, l2=0.1, clip_norm=clip_norm)
        got, _ = kernels.train_softmax(case.weights, case.features, case.labels, config)
        steps.append(flat(case.weights) - flat(got))
    whole, clipped, unclipped = steps
    np.testing.assert_array_equal(whole, unclipped)
    np.testing.assert_allclose(np.linalg.norm(clipped), 2.0**-6, rtol=1e-4)
    np.testing.assert_allclose(clipped, whole * (2.0**-6 / np.linalg.norm(whole)), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"l2": 0.01}], ids=["direct", "momentum", "l2"])
def test_training_separates_what_can_be_separated(options: dict[str, Any]) -> None:
    case = make_case(20, 3, count=60)
    labels = np.argmax(case.features[:, :3], axis=1).astype(np.int32)
    config = TrainConfig(0.1, batch_size=8, local_epochs=60, shuffle_key=bytes(16), **options)
    got, _ = kernels.train_softmax(case.weights, case.features, labels, config)
    before, after = (kernels.evaluate_softmax(w, case.features, labels) for w in (case.weights, got))
    assert after.mean_loss < before.mean_loss / 3
    assert after.accuracy > 0.95


# --- Stopping --------------------------------------------------------------------------------------------------------


def test_a_flag_set_before_stops_before_the_first_batch() -> None:
    stop = kernels.StopFlag()
    assert not stop.is_set()
    stop.set()
    assert stop.is_set()
    case = make_case(13, 3)
    for options in PATHS:
        config = TrainConfig(0.1, **options)
        got, stats = kernels.train_softmax(case.weights, case.features, case.labels, config, stop=stop)
        assert got == case.weights
        assert (stats.examples_seen, stats.num_steps, stats.loss_sum, stats.stopped) == (0, 0, 0.0, True)


def test_a_flag_that_is_not_set_changes_nothing() -> None:
    case = make_case(13, 3)
    rows = case.features, case.labels
    without = kernels.train_softmax(case.weights, *rows, TrainConfig(0.1))
    assert kernels.train_softmax(case.weights, *rows, TrainConfig(0.1), stop=kernels.StopFlag()) == without
    assert not without[1].stopped


def test_a_flag_set_by_another_thread_ends_the_training_between_batches() -> None:
    """Also shows that the training does not hold the interpreter: it would last for minutes, unstoppable.

    What comes back is the training of exactly the examples that were counted, whenever the flag was seen.
    """
    count, batch_size = 1000, 32
    case = make_case(784, 10, count=count)
    rows = case.features, case.labels
    endless = TrainConfig(2.0**-10, batch_size=batch_size, local_epochs=10_000)
    stop, started = kernels.StopFlag(), threading.Event()
    results: list[Any] = []

    def work() -> None:
        started.set()
        results.append(kernels.train_softmax(case.weights, *rows, endless, stop=stop))

    worker = threading.Thread(target=work)
    worker.start()
    assert started.wait(60)
    kernels.train_softmax(case.weights, *rows, replace(endless, local_epochs=3))  # something to do meanwhile
    stop.set()
    worker.join(60)
    assert not worker.is_alive()

    got, stats = results[0]
    assert stats.stopped
    epochs, rest = divmod(stats.examples_seen, count)
    assert epochs < endless.local_epochs
    assert rest % batch_size == 0
    assert stats.num_steps == epochs * -(-count // batch_size) + rest // batch_size
    replayed, _ = kernels.train_softmax(case.weights, *rows, replace(endless, local_epochs=epochs))
    if rest:
        part = case.features[:rest], case.labels[:rest]
        replayed, _ = kernels.train_softmax(replayed, *part, replace(endless, local_epochs=1))
    assert got == replayed
