"""EdgeFL: federated learning for small devices. ``import edgefl`` loads only what is asked for."""

from __future__ import annotations

from edgefl._version import __version__

__all__ = ["__version__"]
