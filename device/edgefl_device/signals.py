"""Signals as events that cannot be missed.

Python runs a signal's handler between two bytecodes of the main thread. A signal that lands after the last check and
before a lock is waited for, or on another thread, interrupts nothing: the main thread would sleep on until something
else wakes it. The C part of the handler, however, always writes the signal's number to the wakeup descriptor, and a
thread that reads there passes it on.

Source: Python's documentation of ``signal.set_wakeup_fd``.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Collection


class SignalWatch:
    """Calls ``on_signal(number)`` from a thread of its own for each signal in ``numbers``. Made by the main thread."""

    def __init__(self, numbers: Collection[int], on_signal: Callable[[int], None]) -> None:
        self._numbers = frozenset(numbers)
        self._on_signal = on_signal
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._writer, False)
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in self._numbers:
            signal.signal(number, _no_default)
        threading.Thread(target=self._run, name="signals", daemon=True).start()

    def close(self) -> None:
        """Stop watching; the signals go on being ignored, for the process is ending."""
        signal.set_wakeup_fd(self._before)
        os.close(self._writer)  # the thread reads the end

    def _run(self) -> None:
        while numbers := os.read(self._reader, 64):
            for number in numbers:
                if number in self._numbers:
                    self._on_signal(number)
        os.close(self._reader)


def _no_default(_number: int, _frame: object) -> None:
    """A handler must be there, else the default action ends the process before anything is read."""
