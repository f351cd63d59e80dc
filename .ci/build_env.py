"""Build .venv from the lock file, with the standard library alone; do nothing when it is up to date.

The stamp is written last, and a mark stands while work is under way. An environment that an interrupted or failed run
left behind has the mark or lacks the stamp, and is thrown away: pip cannot tell a half-copied package from a whole one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".complete"
UNDER_WAY = VENV / ".under-way"


def wanted_stamp() -> str:
    """What an environment is built from, and where: one that was moved does not work.

    Of pyproject.toml only what an installation depends on counts, not the settings of the linters.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    tables = [project["build-system"], project["project"], project["dependency-groups"], project["tool"]["hatch"]]
    digest = hashlib.sha256(json.dumps(tables, sort_keys=True).encode())
    digest.update((ROOT / "requirements.lock").read_bytes())
    return f"{VENV} {digest.hexdigest()}\n"


def found_stamp() -> str:
    """What the environment that is there was built from; empty when none is there or it is not whole."""
    if UNDER_WAY.exists() or not STAMP.exists():
        return ""
    runs = PYTHON.exists()  # false for a link to an interpreter that was removed
    return STAMP.read_text(encoding="utf-8") if runs else ""


def pip_install(*arguments: str) -> None:
    """Run pip inside the environment; the pip that comes with Python 3.11 is new enough for all we ask of it."""
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, cwd=ROOT)


def build() -> None:
    """Install the locked packages by hash, then the project itself, editable, with the locked build backend."""
    wanted = wanted_stamp()
    if not found_stamp().startswith(f"{VENV} "):
        print(f"make env: creating .venv with Python {sys.version.split()[0]}", flush=True)
        venv.create(VENV, with_pip=True, clear=True, symlinks=True)
    UNDER_WAY.touch()
    print("make env: installing the packages of requirements.lock", flush=True)
    pip_install("--require-hashes", "--no-deps", "--requirement", "requirements.lock")
    pip_install("--no-deps", "--no-build-isolation", "--editable", ".")
    STAMP.write_text(wanted, encoding="utf-8")
    UNDER_WAY.unlink()


def main() -> int:
    """Bring .venv up to date; of several runs at once, one builds and the others wait for it."""
    if found_stamp() == wanted_stamp():
        return 0
    with open(ROOT / "requirements.lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if found_stamp() == wanted_stamp():
            return 0
        try:
            build()
        except subprocess.CalledProcessError as failure:
            print(f"make env: this command failed, see above: {' '.join(map(str, failure.cmd))}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("make env: interrupted; the next run starts afresh", file=sys.stderr)
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
