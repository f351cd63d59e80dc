"""The commands ``simulate`` and ``mutants``, and ``prove`` from its own module. Status 0: it holds; 1: it does not."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import click

from interlock.adapters import own_rules
from interlock.domain.errors import UsageError
from interlock.domain.units import parse_duration
from interlock.simulation.reading.fields import LARGEST

HOLDS, BROKEN = 0, 1
LOCAL = "local"
"""The address of Ray on this machine; named here, so that reading options imports nothing."""


def _print_json(data: Any) -> None:
    click.echo(json.dumps(data, ensure_ascii=False))


_SEED, _SEEDS = click.IntRange(min=0, max=LARGEST), click.IntRange(min=1, max=1_000_000)
_ray_option = click.option(
    "--ray", is_flag=False, flag_value=LOCAL, metavar="[ADDRESS]",
    help="Spread the runs over a Ray cluster, as on head:6379; without an address, over this machine.",
)  # fmt: skip


@click.command(epilog="Example: interlock simulate orin-thor --html report.html")
@click.argument("scenario")
@click.option("--seed", type=_SEED, help="Another seed than the scenario's.")
@click.option("--seeds", type=_SEEDS, help="Run so many seeds, from --seed or the scenario's on.")
@click.option("--mutant", metavar="NAME", help="Seed a bug; `interlock mutants` lists them.")
@click.option("--until", metavar="T", help="End the run earlier: 5m.")
@click.option(
    "--requests", "trace", type=click.Path(exists=True, dir_okay=False), help="A trace, instead of its requests."
)
@click.option(
    "--under-faults", is_flag=True, help="Add random faults of every kind, and ask for properties and invariants only."
)
@click.option("--html", type=click.Path(dir_okay=False), help="Write a page that shows the run.")
@click.option("--events", type=click.Path(), help="Write the events as a SQLite store for the audit commands.")
@click.option("--shrink", type=click.Path(dir_okay=False), help="Write the smallest scenario that still fails.")
@_ray_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def simulate(
    scenario: str,
    seed: int | None,
    seeds: int | None,
    mutant: str | None,
    until: str | None,
    trace: str | None,
    under_faults: bool,
    html: str | None,
    events: str | None,
    shrink: str | None,
    ray: str | None,
    as_json: bool,
) -> int:
    """Run SCENARIO, a file or a bundled name, in virtual time, and say what holds.

    Bundled scenarios are in the folder simulation/scenarios. With "any" each seed chooses a small cluster of its own,
    and what happens in it.
    """
    from . import api
    from .arrivals import with_trace
    from .mutants.catalogue import find_as_asked
    from .reading.scenario import Scenario
    from .under_faults import under_faults as add_faults

    if mutant is not None:
        find_as_asked(mutant)
    if seeds is not None and (html or events or shrink):
        raise click.UsageError("--seeds sums up many runs: give --seed with --html, --events or --shrink.")
    if ray is not None and seeds is None:
        raise click.UsageError("--ray spreads many runs: give --seeds with it.")
    own_rules.install()
    loaded = Scenario.load(scenario)
    if under_faults:
        loaded = add_faults(loaded)
    if trace is not None:
        loaded = with_trace(loaded, trace)
    end = None if until is None else _moment(until)
    if seeds is not None:
        first = loaded.seed if seed is None else seed
        chosen = range(first, first + seeds)
        return _sweep(loaded, chosen, mutant=mutant, until=end, ray=ray, as_json=as_json)
    _refuse_what_cannot_be_written(events, html, shrink)  # now, and not after a run of an hour
    result = api.run(loaded, seed=seed, mutant=mutant, until=end)
    _write(result, events, html)
    _tell(result, result.harness.scenario.description, as_json)
    if shrink is not None:
        _shrink(result, Path(shrink))
    if not result.passed:
        click.echo(result.report["reproduce"], err=True)
    return HOLDS if result.passed else BROKEN


def _write(result: Any, events: str | None, html: str | None) -> None:
    if events is not None:
        from .store import write_events

        click.echo(f"Events: {write_events(result.harness.rows, events)}", err=True)
    if html is not None:
        from .html import page

        Path(html).write_text(page(result), encoding="utf-8")
        click.echo(f"Page: {html}", err=True)


def _tell(result: Any, description: str, as_json: bool) -> None:
    if as_json:
        _print_json(result.report)
        return
    from .report import summary

    click.echo(summary(result.report, description))


def _refuse_what_cannot_be_written(events: str | None, *files: str | None) -> None:
    from interlock.adapters.outputs import writable_file

    from .store import events_file

    if events is not None:
        events_file(events)
    for file in filter(None, files):
        writable_file(file)


def _sweep(
    scenario: Any, seeds: range, *, mutant: str | None, until: int | None, ray: str | None, as_json: bool
) -> int:
    from .sweep import failure_on_stderr, summary_text, sweep, tell_on_stderr

    data = sweep(
        scenario, seeds, mutant=mutant, until=until, ray=ray, tell=tell_on_stderr, tell_failure=failure_on_stderr
    )
    if as_json:
        _print_json(data)
    else:
        click.echo(summary_text(data))
    return HOLDS if data["verdict"] == "pass" else BROKEN


def _shrink(result: Any, path: Path) -> None:
    from .reading import toml
    from .shrink import Shrinker, moved

    if result.passed:
        click.echo("Nothing to shrink: the run passes.", err=True)
        return
    harness, scenario = result.harness, result.harness.scenario
    until = harness.options.until
    shrinker = Shrinker(scenario, harness.seed, result.mutant, lambda words: click.echo(words, err=True), until=until)
    smallest = shrinker.shrink()
    if smallest is None:
        click.echo("Nothing to shrink: written as one file, what was run does not fail.", err=True)
        return
    path.write_text(toml.dump(moved(smallest, Path(scenario.folder), path.parent)), encoding="utf-8")
    mutant = f" --mutant {result.mutant}" if result.mutant else ""
    click.echo(f"Smallest failing scenario: interlock simulate {path}{mutant}", err=True)


@click.command(epilog="Example: interlock mutants --json")
@click.option("--only", multiple=True, metavar="NAME", help="Only this mutant; may be given again.")
@click.option("--json", "as_json", is_flag=True, help="A list of {name, killed, property, found_by, witness}.")
def mutants(only: tuple[str, ...], as_json: bool) -> int:
    """Seed every known bug, one at a time, and show that the harness finds it."""
    from .mutants.catalogue import MUTANTS, find_as_asked
    from .mutants.hunt import hunt_by_name
    from .spread import spread

    chosen = [find_as_asked(name).name for name in only] or list(MUTANTS)
    rows = []
    for row in spread(hunt_by_name, chosen):
        rows.append(row)
        if not as_json:
            mark = "killed  " if row["killed"] else "SURVIVES"
            click.echo(f"{mark}  {row['name']} ({row['property']}, {row['found_by'] or 'nothing'}): {row['witness']}")
        sys.stdout.flush()
    if as_json:
        _print_json(rows)
    killed = sum(1 for row in rows if row["killed"])
    if not as_json:
        click.echo(f"{killed} of {len(rows)} killed")
    return HOLDS if killed == len(rows) else BROKEN


@click.command("compare", epilog="Example: interlock compare fifty-models-a-day --policies ours,lru,never --seeds 3")
@click.argument("scenario", default="fifty-models-a-day")
@click.option("--policies", metavar="A,B", help="Only these, of: ours, lru, cheapest, largest, random, never.")
@click.option("--seed", type=_SEED, help="The first seed, instead of the scenario's.")
@click.option("--seeds", type=_SEEDS, default=3, show_default=True, help="Run so many seeds of each.")
@click.option("--until", metavar="T", help="End each run earlier: 1h.")
@click.option(
    "--requests", "trace", type=click.Path(exists=True, dir_okay=False), help="A trace, instead of its requests."
)
@_ray_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document, with every single run.")
def compare_command(
    scenario: str,
    policies: str | None,
    seed: int | None,
    seeds: int,
    until: str | None,
    trace: str | None,
    ray: str | None,
    as_json: bool,
) -> int:
    """Run SCENARIO under other ways to choose who is evicted, and set what they bring side by side.

    Each figure is the median over the seeds, with the least and the most. Waiting counts those who were refused, too.
    """
    from .compare import FromText, compare, table
    from .policies import POLICIES
    from .reading.scenario import folder_of, read_text
    from .sweep import tell_on_stderr

    own_rules.install()
    names = [name.strip() for name in policies.split(",")] if policies else list(POLICIES)
    if unknown := [name for name in names if name not in POLICIES]:
        raise UsageError(f"No policy is named {unknown[0]!r}.", cure=f"There are: {', '.join(POLICIES)}.")
    text = read_text(scenario)
    source = FromText(text, scenario, str(folder_of(scenario)), trace or "")
    first = source().seed if seed is None else seed
    end = None if until is None else _moment(until)
    tell = functools.partial(tell_on_stderr, what="runs")
    data = compare(source, names, range(first, first + seeds), until=end, ray=ray, tell=tell)
    if as_json:
        _print_json(data)
    else:
        click.echo(table(data))
    for row in data["policies"]:
        if row["broken"]:
            click.echo(f"{row['policy']} breaks {', '.join(row['broken'])}", err=True)
    return BROKEN if any(row["broken"] for row in data["policies"]) else HOLDS


def _moment(until: str) -> int:
    end = parse_duration(until, "--until")
    if end <= 0:
        raise click.UsageError("--until must be longer than nothing.")
    return end


def _all() -> list[click.Command]:
    found: list[click.Command] = [simulate, compare_command, mutants]
    if importlib.util.find_spec("interlock.simulation.prove.cli") is not None:
        found.append(importlib.import_module("interlock.simulation.prove.cli").prove_command)
    return found


commands = click.Group("simulation", commands=_all(), help="Run scenarios, explore small clusters, hunt seeded bugs.")
"""What the command line takes up."""
