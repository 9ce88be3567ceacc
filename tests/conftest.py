"""Lets the tests import the helper modules that stand beside them (pytest's ``importlib`` mode adds no path)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-seed", type=int, default=None, help="tests/test_faults.py: run this seed alone")
