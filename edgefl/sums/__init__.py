"""Exact integer sums: the grid, what is added up on it, and its bounds (design §4.4). Aggregators stand on it.

Each name is in the module that defines it: ``grid``, ``running`` and ``integer_sum``.
"""
