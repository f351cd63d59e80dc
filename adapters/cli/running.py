"""The commands that run for as long as they are wanted: ``up``, ``serve`` and ``worker``."""

from __future__ import annotations

import logging
import sys
from typing import Any

import click

_LEVELS = click.Choice(["debug", "info", "warning", "error"])


def _logs(command: Any) -> Any:
    return click.option("--log-level", type=_LEVELS, envvar="INTERLOCK_LOG_LEVEL", default="info", show_default=True)(
        command
    )


def _start_logging(level: str) -> None:
    """Logs go to standard error; standard output is for what a command answers."""
    form = "%(asctime)s %(levelname)-7s %(name)s %(message)s"
    logging.basicConfig(level=level.upper(), stream=sys.stderr, format=form)
    # What its client library reports of lost connections we say ourselves.
    logging.getLogger("nats").setLevel(logging.ERROR)


@click.command(epilog="Example: interlock up --workers 3 --http 127.0.0.1:9000")
@click.option("--store", metavar="URL", help="postgresql://... or sqlite:///FILE; else SQLite in the data folder.")
@click.option("--nats", metavar="URL", help="A broker; else one of our own.")
@click.option("--workers", metavar="N|FILE", help="How many local workers, or a file that describes them; default 2.")
@click.option("--http", metavar="HOST:PORT", help="Where to listen; default 127.0.0.1:8700.")
@click.option("--data", metavar="DIR", help="The data folder; default ./.interlock.")
@click.option("--config", metavar="FILE", help="Instead of ./interlock.toml.")
@click.option("--insecure", is_flag=True, default=None, help="Listen beyond this machine without tokens.")
@_logs
def up(log_level: str, **flags: Any) -> int:
    """Run a whole cluster on this machine: store, broker, writer, gateway, dashboard and local workers.

    Prints the address and three commands to try. Ctrl-C stops all of it.
    """
    _start_logging(log_level)
    from interlock.adapters.runtime.bootstrap import UpOptions, run_up

    return run_up(UpOptions(**flags))


@click.command(
    epilog="Example: interlock serve --store postgresql://db.example/interlock --nats nats://broker.example:4222"
)
@click.option("--store", metavar="URL", help="postgresql://...; run `interlock migrate` on it once.")
@click.option("--nats", metavar="URL", help="The broker.")
@click.option("--http", metavar="HOST:PORT", help="Where to listen; default 127.0.0.1:8700.")
@click.option("--data", metavar="DIR", help="The data folder; default ./.interlock.")
@click.option("--config", metavar="FILE", help="Instead of ./interlock.toml.")
@click.option("--insecure", is_flag=True, default=None, help="Listen beyond this machine without tokens.")
@_logs
def serve(log_level: str, **flags: Any) -> int:
    """Run the control plane: a writer, or a standby that takes over, with its gateway and dashboard."""
    _start_logging(log_level)
    from interlock.adapters.runtime.bootstrap import ServeOptions, run_serve

    return run_serve(ServeOptions(**flags))


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def worker(arguments: tuple[str, ...]) -> int:
    """Run a worker on this machine; its flags are the worker's own, and ``--help`` lists them."""
    from interlock.adapters.worker.__main__ import main

    return main(list(arguments))
