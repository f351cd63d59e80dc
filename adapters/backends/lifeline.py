"""A child that ends with its parent, however the parent ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1


def die_with(parent: int, number: signal.Signals) -> bool:
    """Arrange that this process gets signal ``number`` when its parent ends; false when that has happened already.

    Where the kernel offers it, the kernel sends it. Everywhere the parent holds the other end of our standard input,
    and its end is the sign.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        return False
    threading.Thread(target=_await_end_of_input, args=(number,), name="lifeline", daemon=True).start()
    return True


def _await_end_of_input(number: signal.Signals) -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), number)
