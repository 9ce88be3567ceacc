"""Runs seeds, replays one, shrinks a failure, and remembers how far a long run came.

python -m faults.run --seed 17                 one seed, with its trace when it fails (from tests/)
python -m faults.run --seeds 100000 --state build/faults.json     goes on where the state file says
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from faults.scenario import FAULTS_END_S, Kind, scenario
from faults.world import Violation, World, new_database, scratch

SAVE_EVERY = 200
"""Seeds between two writes of the state file, some ten seconds."""


@dataclass(frozen=True)
class Failure:
    """A seed that broke an invariant, with the fewest faults that still do."""

    seed: int
    message: str
    trace: tuple[str, ...]
    without: tuple[Kind, ...] = ()
    until: float = FAULTS_END_S

    def __str__(self) -> str:
        left_out = "".join(f" --without {kind.value}" for kind in self.without)
        until = "" if self.until == FAULTS_END_S else f" --until {self.until:g}"
        command = f"cd tests && python -m faults.run --seed {self.seed}{left_out}{until}"
        return "\n".join([*self.trace, f"seed {self.seed}: {self.message}", f"replay: {command}"])


class Runner:
    """Runs seeds in a memory file system where there is one. ``make_world``: a mutant's hook."""

    def __init__(self, root: Path, make_world: Callable[..., World] = World) -> None:
        self._root = root
        self._template = new_database(root)
        self._make_world = make_world

    def run(self, seed: int, without: tuple[Kind, ...] = (), until: float = FAULTS_END_S) -> tuple[World, str]:
        """The world after the run of ``seed``, and what it violated ("": nothing)."""
        with scratch(self._root) as folder:
            world = self._make_world(scenario(seed, without, until), folder, self._template)
            try:
                world.run()
            except Violation as violation:
                return world, str(violation)
            except Exception as error:
                world.trace.extend(traceback.format_exception(error))
                return world, f"{type(error).__name__}: {error}"
            return world, ""

    def failure(self, seed: int) -> Failure | None:
        """None for a seed that keeps every invariant."""
        world, message = self.run(seed)
        return Failure(seed, message, tuple(world.trace)) if message else None

    def shrunk(self, failure: Failure) -> Failure:
        """Leave kinds of faults out, then end them earlier, as long as the same invariant still breaks."""
        invariant = failure.message[:3]
        for kind in Kind:
            failure = self._smaller(failure, invariant, (*failure.without, kind), failure.until)
        for share in (0.25, 0.5, 0.75):
            failure = self._smaller(failure, invariant, failure.without, round(FAULTS_END_S * share))
        return failure

    def _smaller(self, failure: Failure, invariant: str, without: tuple[Kind, ...], until: float) -> Failure:
        if until > failure.until:
            return failure
        world, message = self.run(failure.seed, without, until)
        if not message.startswith(invariant):
            return failure
        return Failure(failure.seed, message, tuple(world.trace), without, until)


@contextmanager
def runner(make_world: Callable[..., World] = World) -> Iterator[Runner]:
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="edgefl-faults-", dir=shared if shared.is_dir() else None) as root:
        yield Runner(Path(root), make_world)


def run_range(run: Runner, first: int, last: int) -> Failure | None:
    """Seeds ``first`` to ``last`` - 1; the first failure, shrunk."""
    for seed in range(first, last):
        failure = run.failure(seed)
        if failure is not None:
            return run.shrunk(failure)
    return None


def _long(run: Runner, seeds: int, state: Path) -> int:
    """Seeds 0 to ``seeds`` - 1, from where ``state`` says on."""
    done = json.loads(state.read_text())["done"] if state.exists() else 0
    state.parent.mkdir(parents=True, exist_ok=True)
    print(f"seeds {done} to {seeds - 1}; progress is kept in {state}", flush=True)
    begun, first = time.monotonic(), done
    while done < seeds:
        after = min(seeds, done + SAVE_EVERY)
        failure = run_range(run, done, after)
        if failure is not None:
            print(failure)
            return 1
        done = after
        state.write_text(json.dumps({"done": done}))
        rate = (done - first) / (time.monotonic() - begun)
        print(f"{done} of {seeds} seeds keep every invariant ({rate:.0f} a second)", flush=True)
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m faults.run", description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, help="replay this one, and print its trace")
    parser.add_argument("--without", action="append", default=[], choices=[kind.value for kind in Kind])
    parser.add_argument("--until", type=float, default=FAULTS_END_S, help="no fault after this time (s)")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--state", type=Path, default=Path("build/faults.json"))
    options = parser.parse_args(arguments)
    with runner() as run:
        if options.seed is None:
            return _long(run, options.seeds, options.state)
        world, message = run.run(options.seed, tuple(map(Kind, options.without)), options.until)
        print("\n".join(world.trace))
        print(world.scenario)
        print(f"seed {options.seed}: {message or 'keeps every invariant'}")
        return 1 if message else 0


if __name__ == "__main__":
    sys.exit(main())
