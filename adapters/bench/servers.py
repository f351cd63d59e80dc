"""A server of a measurement's own: started, waited for, and interrupted when the measurement is over."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from interlock.domain.errors import Unavailable

T = TypeVar("T")

_START_S, _STOP_S, _LOOK_S = 60.0, 60.0, 0.02


@contextmanager
def running(
    what: str,
    command: Sequence[str],
    said: Path,
    ready: Callable[[], T | None],
    *,
    env: Mapping[str, str] | None = None,
    user: int | None = None,
    error: type[Unavailable] = Unavailable,
) -> Iterator[T]:
    """What ``ready`` gives, asked until it is not None; the server runs until the block is left.

    All that it says goes to the file ``said``. Raises ``error`` when it ends at once, or is not ready within a minute.
    """
    with said.open("wb") as log:
        process = subprocess.Popen(
            command, user=user, cwd=said.parent, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        until = time.monotonic() + _START_S
        while (found := ready()) is None:
            if process.poll() is not None or time.monotonic() > until:
                words = said.read_text(errors="replace").strip().splitlines()
                raise error(f"{what} did not start: {words[-1] if words else 'no word'}.")
            time.sleep(_LOOK_S)
        yield found
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
