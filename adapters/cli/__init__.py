"""The command line. Commands are imported when they are called, so that ``interlock --help`` answers at once."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """The entry point ``interlock``; exits with 0, 1, 2 or 3 as the contracts say."""
    from .app import run

    sys.exit(run(sys.argv[1:]))
