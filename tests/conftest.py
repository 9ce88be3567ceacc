"""Lets the tests import the helper modules that stand beside them (pytest's ``importlib`` mode adds no path)."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
# Their asserts explain themselves like those of the tests, and stay under `python -O`.
pytest.register_assert_rewrite(*(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("test_")))

# Both measure wall time: on a busy machine they fail tests that are right.
settings.register_profile("edgefl", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("edgefl")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts a background job with SIGINT ignored. Python then installs no handler, and every child inherits
    # it: tests that press Ctrl-C would press it in vain.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-seed", type=int, default=None, help="tests/test_faults.py: run this seed alone")
