"""The writer's lease on SQLite: an exclusive lock on a file, which the operating system frees when its holder dies."""

from __future__ import annotations

import fcntl
import os
import weakref
from contextlib import suppress
from pathlib import Path

_leases: weakref.WeakSet[FileLease] = weakref.WeakSet()


class FileLease:
    """An exclusive ``flock`` on ``path``. The file exists only while somebody holds, or tries to take, the lease."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        _leases.add(self)

    @property
    def held(self) -> bool:
        """Whether this object holds the lease."""
        return self._file is not None

    def acquire(self) -> bool:
        """Take the lease without waiting; False when somebody else holds it.

        Raises ``OSError`` when the file cannot be made.
        """
        while self._file is None:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The last holder may have removed the file between our opening and locking it: then this lock is on a
                # file that nobody else can find any more.
                if os.path.samestat(os.fstat(file), os.stat(self._path)):
                    self._file = file
            except BlockingIOError:
                return False
            except FileNotFoundError:
                continue
            finally:
                if self._file is None:
                    os.close(file)
        return True

    def release(self) -> None:
        """Give the lease back and remove its file; does nothing when it is not held."""
        if self._file is None:
            return
        # Removing comes first: whoever opened the file before finds it gone after locking it, and opens a new one.
        with suppress(OSError):
            self._path.unlink()
        os.close(self._file)
        self._file = None

    def forget_after_fork(self) -> None:
        """Close the copy of the lock that a forked child inherits, so that the lock still dies with its holder."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _after_fork() -> None:
    for lease in list(_leases):
        lease.forget_after_fork()


os.register_at_fork(after_in_child=_after_fork)
