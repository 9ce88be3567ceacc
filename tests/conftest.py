"""Lets the tests import their kits, and each other (pytest's ``importlib`` mode adds no path).

The folders mirror the house; ``core`` is of the modules that stand alone in ``edgefl/``, ``house`` of the repository.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

HERE = Path(__file__).resolve().parent
KITS = HERE / "kits"
sys.path[:0] = [str(KITS), *sorted({str(path.parent) for path in HERE.glob("*/test_*.py")})]
# Their asserts explain themselves like those of the tests, and stay under `python -O`.
pytest.register_assert_rewrite(*(path.stem for path in KITS.glob("*.py")))

# Both measure wall time: on a busy machine they fail tests that are right.
settings.register_profile("edgefl", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("edgefl")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts a background job with SIGINT ignored. Python then installs no handler, and every child inherits
    # it: tests that press Ctrl-C would press it in vain.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-seed", type=int, default=None, help="tests/faults/test_faults.py: run this seed alone")
