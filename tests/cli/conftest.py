"""The command line as a user has it: a process, its exit status, its two outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.golden.story import write_store

TIME_LIMIT_S = 60


class Ran:
    """What one command line did."""

    def __init__(self, arguments: Sequence[str], status: int, out: str, err: str) -> None:
        self.arguments, self.status, self.out, self.err = arguments, status, out, err
        assert "Traceback" not in err, err
        assert "Traceback" not in out, out

    @property
    def document(self) -> Any:
        """Standard output as the one JSON document that it must be."""
        return json.loads(self.out)


class Shell:
    """Runs ``interlock`` in a folder of its own, without anything of this machine's settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("INTERLOCK_") and name not in ("NO_COLOR", "FORCE_COLOR")
        }

    def __call__(self, *arguments: object, status: int | None = 0, **environment: str) -> Ran:
        """Run it; ``status`` is what it must exit with, None for whatever it may be."""
        words = [str(argument) for argument in arguments]
        done = subprocess.run(
            [sys.executable, "-m", "interlock.adapters.cli", *words],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT_S,
            check=False,
        )
        ran = Ran(words, done.returncode, done.stdout, done.stderr)
        assert status is None or ran.status == status, f"{words} exited {ran.status}:\n{ran.out}\n{ran.err}"
        return ran


@pytest.fixture
def interlock(tmp_path: Path) -> Shell:
    """A shell in an empty folder."""
    return Shell(tmp_path)


@pytest.fixture
def story_data(tmp_path: Path) -> Path:
    """A data folder with the story's log in it."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_store(folder / "events.db")
    return folder
