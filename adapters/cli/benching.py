"""``interlock bench``: measure, each figure beside its limit."""

from __future__ import annotations

import click

from .options import as_json
from .output import print_json, print_table, say


@click.command(epilog="Example: interlock bench route --json")
@click.argument("name", required=False)
@click.option("--runs", type=click.IntRange(1, 100), default=5, show_default=True, help="Runs of each case.")
@click.option("--quick", is_flag=True, help="A hundredth of the size and two runs: for a look, not for a figure.")
@click.option("--store", metavar="URL", help="Where there is a choice: an empty PostgreSQL database to measure on.")
@as_json
def bench(name: str | None, runs: int, quick: bool, store: str | None, json_: bool) -> None:
    """Run the benchmark NAME, or all of them; without a bar that holds it still exits 0.

    Each row has a median of several runs, their spread, and a limit that was measured in the same run.
    """
    from interlock.adapters.bench.registry import BENCHES, run
    from interlock.adapters.bench.report import Scale

    if name is not None and name not in BENCHES:
        raise click.BadParameter(f"{name!r} is no benchmark; there are: {', '.join(BENCHES)}.", param_hint="NAME")
    scale = Scale(runs=2, share=0.01, store=store or "") if quick else Scale(runs=runs, store=store or "")
    reports = []
    for chosen in [name] if name else list(BENCHES):
        report = run(chosen, scale, say)
        reports.append(report)
        if not json_:
            click.echo(f"\n{report.name}: {report.machine}")
            headings = ("CASE", "VALUE", "UNIT", "SPREAD", "LIMIT", "RATIO", "BAR", "HOLDS")
            print_table(headings, ([getattr(row, field) for field in row.__struct_fields__] for row in report.rows))
    if json_:
        print_json(reports[0] if name else reports)
