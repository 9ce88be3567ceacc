"""``edgefl demo``: the whole loop on real data, with the installed commands as separate processes on loopback."""

from __future__ import annotations

from edgefl.demo.run import run_demo

__all__ = ["run_demo"]
