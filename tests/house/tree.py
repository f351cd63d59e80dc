"""The files of the repository, as the house rules see them."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

from tests.house.rules import Source

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("domain", "adapters", "simulation")


@cache
def files() -> tuple[str, ...]:
    """Every file that is in the repository or about to be: what git tracks or would, without the links in .dev."""
    asked = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
        found = [name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):  # an exported tree, without git
        hidden = re.compile(r"(^|/)(\.git|\.venv|\.interlock|\.hypothesis|\.\w+_cache|__pycache__|dist|build)(/|$)")
        everything = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*")]
        found = [name for name in everything if not hidden.search(name)]
    return tuple(name for name in sorted(set(found)) if (ROOT / name).is_file() and not (ROOT / name).is_symlink())


@cache
def texts() -> dict[str, str]:
    """Path and content of every text file."""
    found = {}
    for name in files():
        try:
            found[name] = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue
    return found


@cache
def sources(*folders: str) -> tuple[Source, ...]:
    """Every Python file that people wrote below the folders; below all of them when none is named."""
    return tuple(
        Source(path, text)
        for path, text in texts().items()
        if path.endswith(".py") and "_pb2" not in path and (not folders or path.startswith(tuple(folders)))
    )
