"""A deterministic simulation of everything that dies: one seed is one run of a server, its disk, devices and a network.

The parts under test are the real ones: coordinator, batcher, SQLite store, session machine and its executor, the
delivery of large updates, the device's state folder and its releases, and a user's tasks with their learning. What they
stand on is simulated: the disks (``disk``, ``card``), the ``link``, the clocks (``world``). After every step ``checks``
compares what is stored with what was promised.

    edgefl simulate TASK.toml --dataset D --faults faults.toml --runs 100

The one package of the core that imports both shells, and it is imported for that option alone (docs/adr/0002).

Source: design §5 (I1 to I5, I7, I9).
"""
