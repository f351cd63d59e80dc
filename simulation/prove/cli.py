"""``interlock prove``: explore one scope, or all of them, and say what was found."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import click

from interlock.adapters import own_rules
from interlock.adapters.outputs import writable_file
from interlock.simulation.mutants.catalogue import activate, find_as_asked
from interlock.simulation.spread import spread

from .html import page
from .report import Report, lines_of, prove
from .scopes import LARGEST, bundled_scopes

HOLDS, BROKEN = 0, 1


def explored(scope: str, mutant: str | None) -> Report:
    """One scope, explored in whichever process: scopes are independent of each other."""
    with activate(mutant):
        return prove(scope, mutant=mutant)


@click.command("prove", epilog="Example: interlock prove --scope orin-thor")
@click.option("--scope", "scope", metavar="FILE|NAME", help="One scope; all bundled ones when left out.")
@click.option("--mutant", metavar="NAME", help="Explore with this seeded bug in place; `interlock mutants` lists them.")
@click.option("--html", type=click.Path(dir_okay=False), help="Write a page that shows what was found.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document: an object for one scope, else a list.")
def prove_command(scope: str | None, mutant: str | None, html: str | None, as_json: bool) -> int:
    """Explore scopes state by state, and prove five properties or show a counterexample.

    Several scopes are explored at once, one on each processor, and told in order. Exits 0 when all hold, 1 when one
    fails or the exploration did not end, 2 when a file or a name is wrong.
    """
    if mutant is not None:
        find_as_asked(mutant)
    if html is not None:
        writable_file(html)
    own_rules.install()
    reports: list[Report] = []
    # The largest begins first, so that in the end no processor waits for another.
    names = [scope] if scope is not None else sorted(bundled_scopes(), key=lambda name: name != LARGEST)
    for report in spread(partial(explored, mutant=mutant), names):
        reports.append(report)
        for line in lines_of(report):
            click.echo(line, err=as_json)
    if html is not None:
        Path(html).write_text(page(reports), encoding="utf-8")
        click.echo(f"Page: {html}", err=True)
    if as_json:
        plain = [report.plain() for report in reports]
        click.echo(json.dumps(plain[0] if scope is not None else plain, ensure_ascii=False))
    return HOLDS if all(report.verdict == "pass" for report in reports) else BROKEN
