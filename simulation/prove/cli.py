"""``interlock prove``: explore one scope, or all of them, and say what was found."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, nullcontext

import click

from interlock.domain.errors import InterlockError, UsageError

from .report import Report, lines_of, prove
from .scopes import bundled_scopes


@click.command("prove")
@click.option("--scope", "scope", metavar="FILE|NAME", help="One scope; all bundled ones when left out.")
@click.option("--mutant", metavar="NAME", help="Explore with this seeded bug in place; `interlock mutants` lists them.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document: an object for one scope, else a list.")
def prove_command(scope: str | None, mutant: str | None, as_json: bool) -> None:
    """Explore scopes state by state, and prove five properties or show a counterexample.

    Exits 0 when all hold, 1 when one fails or the exploration did not end, 2 when a file or a name is wrong.

    Example: interlock prove --scope orin-thor
    """
    try:
        reports = _explore(scope, mutant, as_json=as_json)
    except UsageError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    except InterlockError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    if as_json:
        plain = [report.plain() for report in reports]
        click.echo(json.dumps(plain[0] if scope is not None else plain, indent=2))
    sys.exit(0 if all(report.verdict == "pass" for report in reports) else 1)


def _explore(scope: str | None, mutant: str | None, *, as_json: bool) -> list[Report]:
    reports: list[Report] = []
    for name in [scope] if scope is not None else bundled_scopes():
        with _in_place(mutant):
            report = prove(name, mutant=mutant)
        reports.append(report)
        for line in lines_of(report):
            click.echo(line, err=as_json)
    return reports


def _in_place(mutant: str | None) -> AbstractContextManager[object]:
    """The mutant's context; raises InvalidField when there is none of that name."""
    if mutant is None:
        return nullcontext()
    from interlock.simulation.mutants import activate  # only who asks for a mutant needs them

    return activate(mutant)
