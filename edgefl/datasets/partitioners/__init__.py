"""Ways to deal the examples of a central data set to clients. Each is a frozen description; ``rows`` does the dealing.

Each is one file of this package that defines ``PARTITIONER``: a dataclass whose first field is ``num_clients`` (none
where the data says how many) and which has at most one other. The name of the file is the name on a command line, with
``-`` for ``_``, and the other field's value stands after a colon (``edgefl.datasets.partition.parse``).
"""

from __future__ import annotations

# The modules come before the classes of the same names, which take their places in this package.
from edgefl.datasets.partitioners._dealing import Partitioner, Shares
from edgefl.datasets.partitioners.by_class import by_class
from edgefl.datasets.partitioners.by_column import by_column
from edgefl.datasets.partitioners.by_size import by_size
from edgefl.datasets.partitioners.dirichlet import dirichlet
from edgefl.datasets.partitioners.iid import iid
from edgefl.registry import Registry

__all__ = ["PARTITIONERS", "Partitioner", "Shares", "by_class", "by_column", "by_size", "dirichlet", "iid"]

PARTITIONERS = Registry("partition", __name__, "PARTITIONER", group=__name__)
