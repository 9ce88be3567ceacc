"""The data sets that have a name: each one file that defines ``load``. The name of the file is the data set's.

``load()`` gives a ``FederatedDataset`` where the data says whose each example is, else a ``CentralDataset``.
"""

from __future__ import annotations

from edgefl.registry import Registry

__all__ = ["DATASETS"]

DATASETS = Registry("data set", __name__, "load", group="edgefl.datasets")
