"""Many seeds of the fault simulation, over hours: remembers how far it came, and goes on there.

python -m faults.long --seeds 100000 --state build/faults.json     (from tests/; `make test-long` is this)
python -m faults.long --run 17                                     one seed, with its trace
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from edgefl.faults.run import Runner, run_range, runner
from edgefl.faults.scenario import all_but
from faults.adding import CONFIG, AddingFleet

SAVE_EVERY = 200
"""Seeds between two writes of the state file, some ten seconds."""


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
            print("\n".join([*failure.trace, f"seed {failure.seed}: {failure.message}"]))
            print(f"replay: cd tests && python -m faults.long {failure.options}")
            return 1
        done = after
        state.write_text(json.dumps({"done": done}))
        rate = (done - first) / (time.monotonic() - begun)
        print(f"{done} of {seeds} seeds keep every invariant ({rate:.0f} a second)", flush=True)
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m faults.long", description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=int, help="replay this seed, and print its trace")
    parser.add_argument("--only", help="no faults but these kinds")
    parser.add_argument("--until", type=float, help="no fault after this time (s)")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--state", type=Path, default=Path("build/faults.json"))
    options = parser.parse_args(arguments)
    with runner(AddingFleet, CONFIG) as run:
        if options.run is None:
            return _long(run, options.seeds, options.state)
        world, failure = run.run(options.run, all_but(options.only) if options.only else (), options.until)
        print("\n".join(world.trace))
        print(world.scenario)
        print(f"seed {options.run}: {'keeps every invariant' if failure is None else failure.message}")
        return 0 if failure is None else 1


if __name__ == "__main__":
    sys.exit(main())
