"""The protocol: what server and device say, and the two machines that say it. Pure; nothing is imported from here.

- ``messages``, ``task``, ``process``: the values that travel, a task's definition, the seam to learning;
- ``events``, ``coordinator`` (with ``round``, ``roundkeeper``, ``taskboard``, ``sampling``, ``selector``,
  ``waiting``, ``devices``, ``pace``): the server's side;
- ``session_events``, ``session_state``, ``session``: the device's side.
"""
