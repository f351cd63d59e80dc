"""``python -m interlock.adapters.worker --name orin --url http://127.0.0.1:8700 --nats nats://127.0.0.1:4222``."""

from __future__ import annotations

import asyncio
import logging
import sys

from interlock.domain.errors import InterlockError

from .config import parse
from .run import run_worker


def main(arguments: list[str] | None = None) -> int:
    """Run a worker until it is told to stop; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        asyncio.run(run_worker(parse(arguments)))
    except InterlockError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
