"""Options that many commands share, and where they point."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_DATA = "./.interlock"
_TABLES = ("scheduler", "gateway")
"""Where the configuration file may hold settings beside its top; the later one counts, as for `up`."""


class Place:
    """Where a command finds its log: ``store`` when one was named, else the embedded one in ``data``.

    ``url`` is the running cluster that was named, if any. What flags and environment leave open is looked up in
    ``interlock.toml``, as :mod:`interlock.adapters.runtime.config` does, but without importing the domain: `audit
    verify` has to work without it.
    """

    def __init__(self, store: str | None, data: str | None, url: str | None = None) -> None:
        file = from_file("store", "data", "url") if store is None and data is None else {}
        self.store = store or file.get("store")
        self.data = Path(data or file.get("data") or DEFAULT_DATA)
        self.url = (url or file.get("url", "")).rstrip("/") or None
        self.names_store = store is not None
        """A store that was named is read itself, though a cluster may run in the data folder."""

    @property
    def admin_token(self) -> str:
        """What opens the cluster to operators, where the environment or the configuration file says so."""
        return os.environ.get("INTERLOCK_ADMIN_TOKEN", "") or from_file("admin_token").get("admin_token", "")

    @property
    def log(self) -> str:
        """What ``open_store`` takes."""
        if self.store:
            return self.store
        return str(self.data) if self.data.is_dir() or self.data.suffix else str(self.data / "events.db")


def from_file(*keys: str) -> dict[str, str]:
    """Those of ``keys`` that the configuration file names, if there is one: at its top or in one of its tables."""
    named = os.environ.get("INTERLOCK_CONFIG")
    path = Path(named or "interlock.toml")
    if not named and not path.is_file():
        return {}
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise click.UsageError(f"{path}: {error}. Mend it, or name another with INTERLOCK_CONFIG.") from None
    named_there: dict[str, str] = {}
    tables = [found, *(found[name] for name in _TABLES if isinstance(found.get(name), dict))]
    for table in tables:
        for key in keys:
            value = table.get(key, "")
            if not isinstance(value, str):
                raise click.UsageError(f"{path}: {key}: {value!r} is not text. Write it in quotes.")
            named_there |= {key: value} if value else {}
    return named_there


def reads_store(command: F) -> F:
    """``--store URL`` and ``--data DIR``, as one argument ``place``."""
    return _with_place(command, with_url=False)


def talks_to_cluster(command: F) -> F:
    """``--url``, ``--store`` and ``--data``, as one argument ``place``."""
    return _with_place(command, with_url=True)


def _with_place(command: F, *, with_url: bool) -> F:
    def called(*args: Any, store: str | None, data: str | None, url: str | None = None, **kwargs: Any) -> Any:
        ctx = click.get_current_context()
        if (_was_written(ctx, "store") or _was_written(ctx, "data")) and not _was_written(ctx, "url"):
            url = None  # flags come before the environment: who names a folder does not mean the usual cluster
        if _was_written(ctx, "data") and not _was_written(ctx, "store"):
            store = None  # nor the usual store
        return command(*args, place=Place(store, data, url), **kwargs)

    called.__name__, called.__doc__ = command.__name__, command.__doc__
    called.__dict__.update(command.__dict__)
    options = [
        click.option(
            "--store",
            envvar="INTERLOCK_STORE",
            metavar="URL",
            callback=_inherited,
            help="sqlite:///FILE or postgresql://...",
        ),
        click.option(
            "--data",
            envvar="INTERLOCK_DATA",
            metavar="DIR",
            callback=_inherited,
            help=f"The data folder; {DEFAULT_DATA} when nothing is given.",
        ),
    ]
    if with_url:
        options.append(
            click.option("--url", envvar="INTERLOCK_URL", metavar="URL", callback=_inherited, help="A running cluster.")
        )
    decorated: Any = called
    for option in reversed(options):
        decorated = option(decorated)
    result: F = decorated
    return result


def as_json(command: F) -> F:
    """``--json``, as the argument ``json_``."""
    option = click.option(
        "--json", "json_", is_flag=True, callback=_inherited, help="One JSON document on standard output."
    )
    made: F = option(command)
    return made


def _inherited(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """What was written before a subcommand counts for it too: ``interlock nodes --json drain thor``."""
    parent, name = ctx.parent, param.name or ""
    if _is_written(ctx, name) or parent is None or not _was_written(parent, name):
        return value
    return parent.params[name]


def _was_written(ctx: click.Context, name: str) -> bool:
    """Whether that option stands on the command line, for this command or before it."""
    return _is_written(ctx, name) or (ctx.parent is not None and _is_written(ctx.parent, name))


def _is_written(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
