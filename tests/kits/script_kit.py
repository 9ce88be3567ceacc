"""Python scripts of tests, run in a process of their own."""

from __future__ import annotations

import sys

SCRIPT = (sys.executable, "-c", "import sys; exec(compile(sys.argv.pop(1), '<script>', 'exec', optimize=0))")
"""Before a script's text and its arguments, for ``subprocess``: as ``python -c``, but its own asserts stay under
``python -O`` (``make test-optimized``), while those of what it imports go."""
