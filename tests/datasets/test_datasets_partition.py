"""Partitions: every example lands in one client, sizes are as promised, and the same bits come out on any machine."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefl import datasets
from edgefl.datasets.draws import Draws
from edgefl.datasets.partition import forms, parse
from edgefl.datasets.partitioners import Partitioner
from edgefl.datasets.partitioners.dirichlet import _Urn
from edgefl.errors import ConfigError, DataError
from edgefl.types import DType, Examples, Quantization


def central(labels: list[int], test_labels: list[int] | None = None, **columns: list[str]) -> datasets.CentralDataset:
    """Each example's features are its row number, in three bytes: what lands where can be read off."""

    def part(labels: list[int], first: int) -> Examples:
        features = b"".join((first + row).to_bytes(3, "little") for row in range(len(labels)))
        return Examples(3, features, np.array(labels, np.int32).tobytes(), DType.UINT8, Quantization(1 / 255))

    test = None if test_labels is None else part(test_labels, 1_000_000)
    return datasets.CentralDataset(
        "x", max(labels) + 1, part(labels, 0), test, {name: tuple(values) for name, values in columns.items()}
    )


def rows_of(examples: Examples) -> list[int]:
    raw = bytes(examples.features)
    return [int.from_bytes(raw[at : at + 3], "little") for at in range(0, len(raw), 3)]


def labels_of(data: datasets.FederatedDataset) -> list[Counter[int]]:
    return [Counter(client.examples.labels_view.tolist()) for client in data.clients]


TEN_CLASSES = [row * 7 % 10 for row in range(2000)]

WAYS: list[tuple[str, Partitioner]] = [
    ("iid", datasets.iid(30)),
    ("dirichlet", datasets.dirichlet(30, 0.3)),
    ("by_class", datasets.by_class(30, 2)),
    ("by_size", datasets.by_size(30, 1.5)),
    ("by_column", datasets.by_column("who")),
]


@pytest.mark.parametrize("how", [how for _, how in WAYS], ids=[name for name, _ in WAYS])
def test_every_example_lands_in_exactly_one_client(how: Partitioner) -> None:
    if isinstance(how, datasets.by_column):
        data = central(TEN_CLASSES, who=[f"w{row % 13}" for row in range(2000)])
    else:
        data = central(TEN_CLASSES, [row % 10 for row in range(100)])
    dealt = datasets.partition(data, how, seed=3)
    assert sorted(row for client in dealt.clients for row in rows_of(client.examples)) == list(range(2000))
    assert all(len(client) for client in dealt.clients)
    for client in dealt.clients:  # a label goes with its features
        assert client.examples.labels_view.tolist() == [TEN_CLASSES[row] for row in rows_of(client.examples)]
        assert (client.examples.dtype, client.examples.quantization) == (DType.UINT8, Quantization(1 / 255))
    if data.test is not None:
        kept = [rows_of(part.examples) for part in dealt.held_out]
        assert sorted(row for rows in kept for row in rows) == [1_000_000 + row for row in range(100)]
        assert {len(rows) for rows in kept} == {3, 4}


GOLDEN = {
    "iid": "8bd064e4b69c8d37d7f4cb7288cceef9fbf96df769bc3ebdf91fc47001291795",
    "dirichlet": "36940a98b95edbfcf5e4d62d657f4e56c9beb918dda3d9e958ec3ddb75f6f256",
    "by_class": "78e23a270bb93b1b1d38a78558f1621948b8df9ae74544105e6ff3e2329d05b5",
    "by_size": "17c76932db2f14b79c114a58603b79d82baea7ecac5b0ae8b2820ff781d1b90d",
    "by_column": "d10607a22953cc2568ecd9e666fe31d871c48d35506b0938e4d2b10079178c65",
}


@pytest.mark.parametrize(("name", "how"), WAYS, ids=[name for name, _ in WAYS])
def test_the_same_bits_on_every_machine(name: str, how: Partitioner) -> None:
    """Pinned: partitions are made of integers alone. A changed value is another experiment."""
    data = central(TEN_CLASSES, who=[f"w{row % 13}" for row in range(2000)])
    assert datasets.partition(data, how, seed=3).digest == GOLDEN[name]


@pytest.mark.parametrize("how", [how for _, how in WAYS[:4]], ids=[name for name, _ in WAYS[:4]])
def test_another_seed_deals_otherwise_and_the_same_seed_alike(how: Partitioner) -> None:
    data = central(TEN_CLASSES)
    assert datasets.partition(data, how, seed=1).digest == datasets.partition(data, how, seed=1).digest
    assert datasets.partition(data, how, seed=1).digest != datasets.partition(data, how, seed=2).digest


def test_fashion_mnist_by_dirichlet_is_pinned() -> None:
    people = datasets.partition(datasets.load("fashion_mnist"), datasets.dirichlet(num_clients=100, alpha=0.3), seed=1)
    assert {len(client) for client in people.clients} == {600}
    assert {len(part) for part in people.held_out} == {100}
    assert people.digest == "c594b1dc244bdf1f3b2f0657698b982146166199fa02bc953faf607c9aedd518"


# iid and sizes


@given(st.integers(1, 300), st.integers(1, 300))
@settings(deadline=None, derandomize=True, max_examples=50)
def test_equal_sizes_differ_by_at_most_one(count: int, num_clients: int) -> None:
    data = central([0] * count)
    for how in (datasets.iid(num_clients), datasets.dirichlet(num_clients, 0.5)):
        if num_clients > count:
            with pytest.raises(DataError, match=f"{count} examples for {num_clients} clients; expected at least one"):
                datasets.partition(data, how)
            continue
        sizes = [len(client) for client in datasets.partition(data, how).clients]
        assert len(sizes) == num_clients
        assert max(sizes) - min(sizes) <= 1


def test_sizes_by_a_power_law_by_hand() -> None:
    # 3 spare of 7 in the shares 1 : 1/2 : 1/3 : 1/4 are 1.44, 0.72, 0.48, 0.36, rounded down; two are left over.
    assert datasets.by_size(4, 1.0).sizes(7) == [3, 2, 1, 1]
    assert datasets.by_size(4, 0.0).sizes(8) == [2, 2, 2, 2]
    assert datasets.by_size(2, 4.0).sizes(19) == [17, 2]  # 17 spare, 16 : 1


@given(st.integers(1, 200), st.integers(0, 5000), st.integers(0, 8))
@settings(deadline=None, derandomize=True, max_examples=100)
def test_power_law_sizes_add_up_and_fall(num_clients: int, spare: int, twice: int) -> None:
    sizes = datasets.by_size(num_clients, twice / 2).sizes(num_clients + spare)
    assert sum(sizes) == num_clients + spare
    assert min(sizes) >= 1
    assert sizes == sorted(sizes, reverse=True)
    shares = [k ** -(twice / 2) for k in range(1, num_clients + 1)]
    for size, share in zip(sizes, shares, strict=True):
        assert abs(size - 1 - spare * share / sum(shares)) < 1.001


def test_sizes_leave_the_distribution_alone() -> None:
    largest = labels_of(datasets.partition(central(TEN_CLASSES * 5), datasets.by_size(10, 1.0)))[0]
    mean = sum(largest.values()) / 10
    assert all(abs(largest[label] - mean) < 4 * math.sqrt(mean) for label in range(10))


# Dirichlet


def test_a_small_alpha_gives_few_classes_and_a_large_one_all_alike() -> None:
    def top_share(alpha: float) -> float:
        dealt = labels_of(datasets.partition(central(TEN_CLASSES * 10), datasets.dirichlet(100, alpha), seed=5))
        return sum(max(counts.values()) / sum(counts.values()) for counts in dealt) / len(dealt)

    # The mean of the largest of ten shares is 0.67, 0.29 and 0.10 for these (200,000 variates of NumPy's); that a
    # finite stock is dealt to its end brings the first two nearer to alike, and counting 200 draws adds a little.
    assert top_share(0.1) > 0.5
    assert 0.2 < top_share(1.0) < 0.4
    assert top_share(1000.0) < 0.2


def test_the_urn_has_the_moments_of_a_dirichlet() -> None:
    """n draws count as Dirichlet-multinomial: mean n/C, variance n/C (1 - 1/C) (n + C alpha) / (1 + C alpha)."""
    draws = Draws(bytes(16))
    alpha, classes, n, runs = Fraction(1, 2), 4, 20, 4000
    counts = []
    for _ in range(runs):
        urn = _Urn(alpha)
        counts.append(Counter(urn.draw(draws, range(classes)) for _ in range(n))[0])
    mean = sum(counts) / runs
    variance = sum((count - mean) ** 2 for count in counts) / (runs - 1)
    expected = n / 4 * (3 / 4) * (n + 2) / (1 + 2)
    assert abs(mean - n / 4) < 4 * math.sqrt(expected / runs)
    assert variance == pytest.approx(expected, rel=0.1)


def test_an_urn_without_a_class_draws_as_if_it_had_never_had_it() -> None:
    """Neutrality: after 0, 0, 0, 1 and the loss of class 0, class 1 has (alpha + 1) / (2 alpha + 1), here 3/4."""
    draws = Draws(b"\1" * 16)
    hits = 0
    for _ in range(4000):
        urn = _Urn(Fraction(1, 2))
        urn._drawn = [0, 0, 0, 1]
        hits += urn.draw(draws, [1, 2]) == 1
    assert abs(hits / 4000 - 3 / 4) < 4 * math.sqrt(3 / 16 / 4000)


def test_draws_are_uniform_and_within_any_bound() -> None:
    draws = Draws(b"k" * 16)
    assert [draws.below(1) for _ in range(5)] == [0] * 5
    counts = Counter(draws.below(3) for _ in range(6000))
    assert set(counts) == {0, 1, 2}
    assert all(abs(count - 2000) < 4 * math.sqrt(6000 * 2 / 9) for count in counts.values())
    wide = [draws.below(3 << 70) for _ in range(200)]
    assert max(wide) < 3 << 70
    assert {value >> 70 for value in wide} == {0, 1, 2}


# By class, by column


@pytest.mark.parametrize(("num_clients", "each"), [(10, 1), (7, 3), (30, 2), (5, 10), (13, 9)])
def test_each_client_has_exactly_so_many_classes(num_clients: int, each: int) -> None:
    dealt = labels_of(datasets.partition(central(TEN_CLASSES), datasets.by_class(num_clients, each), seed=2))
    assert [len(counts) for counts in dealt] == [each] * num_clients
    owners = Counter(label for counts in dealt for label in counts)
    assert max(owners.values()) - min(owners.values()) <= 1
    for label in range(10):  # each class is shared equally
        shares = [counts[label] for counts in dealt if label in counts]
        assert max(shares) - min(shares) <= 1


def test_clients_by_column_keep_their_test_examples() -> None:
    data = central([0, 1, 0, 1], [1, 0])
    data = datasets.CentralDataset(
        "x", data.num_classes, data.train, data.test, {"who": ("b", "a", "b", "c")}, {"who": ("c", "b")}
    )
    dealt = datasets.partition(data, datasets.by_column("who"))
    assert [(client.client_id, rows_of(client.examples)) for client in dealt.clients] == [
        ("b", [0, 2]),
        ("a", [1]),
        ("c", [3]),
    ]
    assert [rows_of(part.examples) for part in dealt.held_out] == [[1_000_001], [], [1_000_000]]


def test_pooled_clients_can_be_dealt_anew() -> None:
    first = datasets.partition(central(TEN_CLASSES), datasets.iid(7))
    again = datasets.partition(datasets.pooled(first), datasets.by_column("client"))
    assert again.digest == first.digest


# What cannot be dealt


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (datasets.iid(5), "4 examples for 5 clients; expected at least one each"),
        (datasets.dirichlet(5, 1.0), "4 examples for 5 clients"),
        (datasets.by_size(5), "4 examples for 5 clients"),
        (datasets.by_class(2, 3), "3 classes a client of 2 that occur; expected at most 2"),
        (datasets.by_class(1, 1), "1 clients of 1 classes cannot own 2 classes"),
        (datasets.by_class(4, 2), "class 0 has 3 examples for 4 clients that own it"),
        (datasets.by_column("who"), "no column 'who' to make clients of; it has none"),
    ],
)
def test_examples_that_cannot_be_dealt_so(how: Partitioner, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        datasets.partition(central([0, 0, 0, 1]), how)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range(seed: int) -> None:
    with pytest.raises(ConfigError, match=f"seed is {seed}"):
        datasets.partition(central([0]), datasets.iid(1), seed=seed)


@pytest.mark.parametrize(
    ("text", "num_clients", "how"),
    [
        ("iid", 3, datasets.iid(3)),
        ("dirichlet:0.3", 3, datasets.dirichlet(3, 0.3)),
        ("by-class:2", 3, datasets.by_class(3, 2)),
        ("by-size", 3, datasets.by_size(3, 1.0)),
        ("by-size:1.5", 3, datasets.by_size(3, 1.5)),
        ("by-column:who:what", None, datasets.by_column("who:what")),
    ],
)
def test_a_partitioner_by_its_text(text: str, num_clients: int | None, how: Partitioner) -> None:
    assert parse(text, num_clients) == how


def test_every_partitioner_is_written_by_its_name_and_its_field() -> None:
    assert forms() == ("by-class:CLASSES_PER_CLIENT", "by-column:NAME", "by-size[:EXPONENT]", "dirichlet:ALPHA", "iid")


@pytest.mark.parametrize(
    ("text", "num_clients", "message"),
    [
        *((text, 3, f"expected one of {', '.join(forms())}".replace("[", r"\["))
          for text in ("", "dirichlet", "dirichlet:", "iid:3", "by_class:2", "by-column:", "even:1")),
        ("dirichlet:x", 3, "'dirichlet:x'; expected a number after the colon"),
        ("by-class:1.5", 3, "expected a number after the colon"),
        ("dirichlet:0", 3, "alpha is 0.0; expected 1e-6 to 1e6"),
        ("dirichlet:nan", 3, "alpha is nan"),
        ("by-class:0", 3, "classes_per_client is 0"),
        ("by-size:0.3", 3, "exponent is 0.3; expected a multiple of 0.5"),
        ("by-size:inf", 3, "exponent is inf"),
        ("iid", 0, "num_clients is 0; expected 1 to 1000000"),
        ("iid", None, r"'iid' has no number of clients; say how many \(--clients\)"),
        ("by-column:who", 3, "as many clients as it finds; expected no number"),
    ],
)  # fmt: skip
def test_a_text_that_is_no_partitioner(text: str, num_clients: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text, num_clients)
