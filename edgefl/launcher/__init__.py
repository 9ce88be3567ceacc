"""A real fleet on this machine: the installed server and agents as processes on loopback.

``edgefl demo`` and ``edgefl simulate --grpc`` share it.
"""
