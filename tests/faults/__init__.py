"""A deterministic simulation of everything that dies: one seed is one run of a server, its disk, devices and a network.

The parts under test are the real ones: coordinator, batcher, SQLite store, session machine, the device's state folder
and its releases. What they stand on is simulated: the disks (``disk``, ``card``), the ``link``, the clocks (``world``).
After every step ``checks`` compares what is stored with what was promised; ``mutants`` shows that it would notice.

    python -m faults.run --seed 17          (from tests/) replays one seed, with its trace
    pytest tests/test_faults.py --fault-seed 17

Source: design §5 (I1 to I5, I7, I9).
"""
