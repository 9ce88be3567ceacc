"""The TFLite runtimes that this Python can have; the dev extra installs all of them, so a missing one is a failure."""

from __future__ import annotations

import sys

RUNTIMES = ["ai_edge_litert"] if sys.version_info >= (3, 12) else ["tflite_runtime", "ai_edge_litert"]
"""tflite-runtime has no wheel for Python 3.12 and newer."""
