"""Preparing: the schema of a store, and the settings that would be used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import Place, as_json, reads_store
from .output import print_json, print_table, say

if TYPE_CHECKING:
    from interlock.adapters.runtime.config import Configuration
    from interlock.domain.settings import SettingValue
    from interlock.domain.state import State


@click.command(epilog="Example: interlock migrate --store postgresql://db.example/interlock")
@reads_store
@as_json
def migrate(place: Place, json_: bool) -> None:
    """Create or upgrade the schema of an event store; again changes nothing."""
    from interlock.adapters.store import migrate as bring_up_to_date

    version = bring_up_to_date(place.log)
    if json_:
        print_json({"store": _without_password(place.log), "schema_version": version})
    else:
        click.echo(f"The store has schema version {version}.")


def _without_password(url: str) -> str:
    from interlock.adapters.store import is_postgres

    if not is_postgres(url):
        return url
    from interlock.adapters.store.link import describe

    return describe(url)


@click.group(epilog="Example: interlock config show --json")
def config() -> None:
    """The settings that would be used."""


@config.command("show", epilog="Example: INTERLOCK_MIN_RESIDENCY=1m interlock config show")
@click.option("--config", "file", type=click.Path(path_type=Path), help="Instead of ./interlock.toml.")
@click.option("--store", metavar="URL", help="As for `up` and `serve`: the event store.")
@click.option("--data", metavar="DIR", help="As for `up` and `serve`: the data folder.")
@as_json
def show(file: Path | None, store: str | None, data: str | None, json_: bool) -> None:
    """Show every setting with its value, and whether that is from a flag, the environment, a file or the default."""
    from interlock.adapters.runtime.config import load_config
    from interlock.adapters.runtime.fleet import local_workers
    from interlock.domain.settings import doubts

    given = load_config({"store": store, "data": data}, file=file).check()
    local_workers(given.text("workers"))
    _refuse_as_a_start(given)
    lines = given.shown()
    for doubt in doubts(given.settings()):
        say(doubt)
    if json_:
        print_json(lines)
    else:
        print_table(("SETTING", "VALUE", "ORIGIN"), ((line.name, line.value, line.origin) for line in lines))


_OF_THE_LOG = ("placement", "placement_profiles")
"""What a start refuses by what stands in the log: profiles of the running cluster, and the models that name them."""


def _refuse_as_a_start(given: Configuration) -> None:
    """Raise what the scheduler would refuse of the settings as somebody begins to lead, by the log that there is.

    A log that cannot be reached or read is said to be so: it cannot be known then, and the rest is worth showing.
    """
    from interlock.domain.commands import ChangeSettings
    from interlock.domain.decide import decide
    from interlock.domain.errors import InterlockError, UsageError

    wanted: dict[str, SettingValue] = {name: value for name, value in given.scheduler().items() if name in _OF_THE_LOG}
    if not wanted:
        return
    try:
        state = _state_at_end(given.store)
    except UsageError:
        raise
    except InterlockError as error:
        say(f"Whether a start would take {' and '.join(wanted)} cannot be told without the log: {error.message}")
        return
    decide(state, ChangeSettings(values=wanted), 0)


def _state_at_end(url: str) -> State:
    """The state at the end of the log; an empty one where nothing has been written yet. Raises of the tree."""
    from interlock.adapters.audit.rebuild import engine_at
    from interlock.adapters.store import is_postgres, open_store, sqlite_path
    from interlock.domain.state import State

    if not is_postgres(url) and not sqlite_path(url).exists():
        return State()
    log = open_store(url, read_only=True)
    try:
        return engine_at(log, log.head().position).state
    finally:
        log.close()
