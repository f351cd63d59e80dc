"""Before a change: what it would place, evict and park."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import Place, as_json, talks_to_cluster
from .output import builtins, print_json, print_table, say

if TYPE_CHECKING:
    from interlock.domain.planning import Change

_LONGEST_S = 120.0
"""A plan for a cluster of ten thousand nodes takes seconds, and plans are made one after the other."""


@click.command(epilog="Example: interlock plan change.toml")
@click.argument("file", type=click.Path(path_type=Path))
@talks_to_cluster
@as_json
def plan(file: Path, place: Place, json_: bool) -> int:
    """Say what a change of models, nodes or settings would place, evict and park; nothing is changed.

    FILE is TOML with [[models]] as `models apply` reads them (or name and remove = true), [[nodes]] with new nodes or
    changes to known ones, and [scheduler] with settings. Exit 1 when something could not be placed.
    """
    from interlock.adapters.planfile import read_change
    from interlock.adapters.planwords import rows

    from .client import named

    asked, change = read_change(file)
    cluster = named(place)
    if cluster is not None:
        told = cluster.send("POST", "/api/plan", asked, timeout_s=_LONGEST_S)
    else:
        told = _on_the_log(place, change)
    if json_:
        print_json(told)
    else:
        click.echo(told["summary"])
        print_table(("WHAT", "WHICH", "WHERE", "WHEN", "WHY"), rows(told), empty="")
        for note in told["notes"]:
            click.echo(f"Note: {note}")
    return 0 if told["holds"] else 1


def _on_the_log(place: Place, change: Change) -> dict[str, Any]:
    """The plan for a cluster that does not run: on the state at its log's end."""
    from interlock.adapters import own_rules
    from interlock.adapters.audit.rebuild import engine_at
    from interlock.adapters.planwords import document
    from interlock.adapters.store import open_store
    from interlock.domain import planning
    from interlock.domain.own_rules import check_installed

    own_rules.install()
    log = open_store(place.log, read_only=True)
    try:
        engine = engine_at(log, log.head().position)
    finally:
        log.close()
    settings = engine.state.settings
    own = [model.scheduling.placement for model in engine.state.models.values()]
    wanted = [command.scheduling.placement for command in change.models]
    profiles = (settings.placement, *filter(None, [*own, *wanted]))
    check_installed(settings.placement_profiles, profiles, "The plan would be wrong")
    told: dict[str, Any] = builtins(document(planning.plan(engine, change, time.time_ns() // 1000)))
    say(f"No running cluster was asked: this is planned on the log's end at position {told['position']}.")
    return told
