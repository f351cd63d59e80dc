"""``interlock up`` and ``serve`` as a program for tests: the same calls, errors told as the command line tells them."""

from __future__ import annotations

import json
import logging
import resource
import sys

from interlock.adapters.runtime.bootstrap import ServeOptions, UpOptions, run_serve, run_up
from interlock.domain.errors import InterlockError


def main() -> int:
    """Run what the JSON on the command line says; ``file_limit`` bounds every file's size, as a full disk does."""
    options = json.loads(sys.argv[2])
    limit = options.pop("file_limit", 0)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    try:
        return run_up(UpOptions(**options)) if sys.argv[1] == "up" else run_serve(ServeOptions(**options))
    except InterlockError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
