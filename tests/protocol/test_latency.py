"""Who is counted, by how fast they are: each committed round says so."""

from __future__ import annotations

from coordinator_kit import Fleet, of
from protocol_kit import training

from edgefl.protocol.events import SaveCommit
from edgefl.protocol.latency import Latencies


def shares_of_round(fleet: Fleet, seconds: dict[str, float]) -> tuple[float, ...]:
    """One round in which each device reports so long after the selection; the shares of its commit."""
    start = fleet.now
    jobs = fleet.arrive_all("".join(seconds))
    commits: list[SaveCommit] = []
    for device, after in sorted(seconds.items(), key=lambda item: item[1]):
        fleet.now = start + after
        commits += of(SaveCommit, fleet.answer(device, jobs[device]))
    (commit,) = commits
    assert fleet.server.coordinator.rounds()[-2].latency_shares == commit.latency_shares
    return commit.latency_shares


def test_a_fleet_that_is_counted_whole_has_a_quarter_in_each_quartile() -> None:
    fleet = Fleet(training(goal=8, rounds=9))
    seconds = {device: float(1 + index) for index, device in enumerate("abcdefgh")}
    assert shares_of_round(fleet, seconds) == (), "nobody's time is known yet"
    assert shares_of_round(fleet, seconds) == (0.25, 0.25, 0.25, 0.25)


def test_over_selection_counts_the_fast() -> None:
    fleet = Fleet(training(goal=4, over_selection=2.0, rounds=9))
    seconds = {device: float(1 + index) for index, device in enumerate("abcdefgh")}
    shares_of_round(fleet, seconds)
    assert shares_of_round(fleet, seconds) == (0.5, 0.5, 0.0, 0.0)
    turned = {device: 9.0 - after for device, after in seconds.items()}
    assert shares_of_round(fleet, turned) == (0.0, 0.0, 0.5, 0.5), "by the times that were known before"
    assert shares_of_round(fleet, turned) == (0.5, 0.5, 0.0, 0.0)


def test_who_never_reports_is_as_slow_as_the_round_was_long() -> None:
    latencies = Latencies()
    latencies.note_round(("a", "b", "c", "d"), {"a": 3.0, "b": 1.0, "c": 2.0}, 5.0)
    assert latencies.shares(("a", "b", "c", "d"), {"b", "d"}) == (0.5, 0.0, 0.0, 0.5)
    latencies.note("d", 0.5)  # it has, after all
    assert latencies.shares(("a", "b", "c", "d"), {"d"}) == (1.0, 0.0, 0.0, 0.0)
    assert latencies.shares(("a", "b", "c"), {"a"}) == (), "too few"
    assert latencies.shares(("a", "b", "c", "d"), set()) == (), "nobody counted"
