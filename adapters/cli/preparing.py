"""Preparing: the schema of a store, and the settings that would be used."""

from __future__ import annotations

from pathlib import Path

import click

from .options import Place, as_json, reads_store
from .output import print_json, print_table


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
@as_json
def show(file: Path | None, json_: bool) -> None:
    """Show every setting with its value, and whether that is from a flag, the environment, a file or the default."""
    from interlock.adapters.runtime.config import load_config
    from interlock.adapters.runtime.fleet import local_workers

    given = load_config(file=file).check()
    local_workers(given.text("workers"))
    lines = given.shown()
    if json_:
        print_json(lines)
    else:
        print_table(("SETTING", "VALUE", "ORIGIN"), ((line.name, line.value, line.origin) for line in lines))
