"""The commands ``simulate`` and ``mutants``, and ``prove`` from its own module. Status 0: it holds; 1: it does not."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import click

from interlock.domain.errors import UsageError
from interlock.domain.units import parse_duration

HOLDS, BROKEN = 0, 1


def _print_json(data: Any) -> None:
    click.echo(json.dumps(data, ensure_ascii=False))


@click.command(epilog="Example: interlock simulate orin-thor --html report.html")
@click.argument("scenario")
@click.option("--seed", type=click.IntRange(min=0), help="Another seed than the scenario's.")
@click.option("--seeds", type=click.IntRange(min=1), help="Run so many seeds, from --seed or the scenario's on.")
@click.option("--mutant", metavar="NAME", help="Seed a bug; `interlock mutants` lists them.")
@click.option("--until", metavar="T", help="End the run earlier: 5m.")
@click.option(
    "--requests", "trace", type=click.Path(exists=True, dir_okay=False), help="A trace, instead of its requests."
)
@click.option("--html", type=click.Path(dir_okay=False), help="Write a page that shows the run.")
@click.option("--events", type=click.Path(), help="Write the events as a SQLite store for the audit commands.")
@click.option("--shrink", type=click.Path(dir_okay=False), help="Write the smallest scenario that still fails.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def simulate(
    scenario: str,
    seed: int | None,
    seeds: int | None,
    mutant: str | None,
    until: str | None,
    trace: str | None,
    html: str | None,
    events: str | None,
    shrink: str | None,
    as_json: bool,
) -> int:
    """Run SCENARIO, a file or a bundled name, in virtual time, and say what holds.

    Bundled scenarios are in the folder simulation/scenarios.
    """
    from . import api
    from .mutants import find
    from .scenario import Scenario, read_text

    if mutant is not None:
        find(mutant)
    if seeds is not None and (html or events or shrink or trace):
        raise click.UsageError("--seeds sums up many runs: give --seed with --html, --events, --shrink or --requests.")
    loaded = Scenario.load(scenario)
    end = None if until is None else parse_duration(until, "--until")
    if end is not None and end <= 0:
        raise click.UsageError("--until must be longer than nothing.")
    if seeds is not None:
        first = loaded.seed if seed is None else seed
        return _sweep(loaded, read_text(scenario), range(first, first + seeds), mutant, end, as_json)
    if trace is not None:
        loaded = _with_trace(loaded, trace)
    if events is not None and Path(events).is_file():
        raise UsageError(f"{events} exists already.", cure="Name a new file for --events, or move that one away.")
    result = api.run(loaded, seed=seed, mutant=mutant, until=end)
    if events is not None:
        from .store import write_events

        click.echo(f"Events: {write_events(result.harness.rows, Path(events))}", err=True)
    if html is not None:
        from .html import page

        Path(html).write_text(page(result), encoding="utf-8")
        click.echo(f"Page: {html}", err=True)
    if as_json:
        _print_json(result.report)
    else:
        from .report import summary

        click.echo(summary(result.report, loaded.description))
    if shrink is not None:
        _shrink(loaded, result, Path(shrink))
    if not result.passed:
        click.echo(result.report["reproduce"], err=True)
    return HOLDS if result.passed else BROKEN


def _sweep(scenario: Any, text: str, seeds: range, mutant: str | None, until: int | None, as_json: bool) -> int:
    from .sweep import summary_text, sweep, tell_on_stderr

    data = sweep(scenario, text, seeds, mutant=mutant, until=until, tell=tell_on_stderr)
    if as_json:
        _print_json(data)
    else:
        click.echo(summary_text(data))
    return HOLDS if data["verdict"] == "pass" else BROKEN


def _with_trace(scenario: Any, trace: str) -> Any:
    """The scenario with a trace's requests in place of its own; what names no model is spread over all of them."""
    import msgspec

    from .scenario import WorkloadSpec
    from .traces import guess_format, read_trace

    form = guess_format(trace)
    models = tuple((model.name, 1.0) for model in scenario.models)
    if not models and any(not arrival.model for arrival in read_trace(trace, form)):
        raise UsageError(f"{trace} names no models, and {scenario.name} declares none.", cure="Declare [[models]].")
    workload = WorkloadSpec(kind="trace", models=models, path=trace, format=form)
    return msgspec.structs.replace(scenario, requests=(), workloads=(workload,))


def _shrink(scenario: Any, result: Any, path: Path) -> None:
    from . import toml
    from .shrink import Shrinker

    if result.passed:
        click.echo("Nothing to shrink: the run passes.", err=True)
        return
    shrinker = Shrinker(scenario, result.harness.seed, result.mutant, lambda words: click.echo(words, err=True))
    smallest = shrinker.shrink()
    if smallest is None:
        click.echo("Nothing to shrink: the failure needs more than the scenario file, such as --until.", err=True)
        return
    path.write_text(toml.dump(smallest), encoding="utf-8")
    mutant = f" --mutant {result.mutant}" if result.mutant else ""
    click.echo(f"Smallest failing scenario: interlock simulate {path}{mutant}", err=True)


@click.command(epilog="Example: interlock mutants --json")
@click.option("--only", multiple=True, metavar="NAME", help="Only this mutant; may be given again.")
@click.option("--json", "as_json", is_flag=True, help="A list of {name, killed, property, found_by, witness}.")
def mutants(only: tuple[str, ...], as_json: bool) -> int:
    """Seed every known bug, one at a time, and show that the harness finds it."""
    from .hunt import hunt
    from .mutants import MUTANTS, find

    chosen = [find(name) for name in only] or list(MUTANTS.values())
    rows = []
    for mutant in chosen:
        row = hunt(mutant)
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


def _all() -> list[click.Command]:
    found: list[click.Command] = [simulate, mutants]
    if importlib.util.find_spec("interlock.simulation.prove.cli") is not None:
        found.append(importlib.import_module("interlock.simulation.prove.cli").prove_command)
    return found


commands = click.Group("simulation", commands=_all(), help="Run scenarios, explore small clusters, hunt seeded bugs.")
"""What the command line takes up."""
