"""``interlock audit``: what happened, why, what the state was, what changed, and whether the log was altered."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from interlock.adapters.audit.formats import FORMATS

from .options import Place, as_json, reads_store
from .output import print_json, print_json_line, print_table, say

if TYPE_CHECKING:
    from interlock.adapters.audit.rows import Row
    from interlock.adapters.audit.service import AuditService
    from interlock.adapters.audit.whatif import WhatIf
    from interlock.adapters.audit.why import Step, Why


@contextmanager
def _asking(place: Place, *, judging: bool = False) -> Iterator[AuditService]:
    """The service on the store. ``judging``: the core will judge nodes, and needs the scheduler's own rules for it."""
    from interlock.adapters import own_rules
    from interlock.adapters.audit.service import AuditService
    from interlock.adapters.store import open_store

    if judging:
        own_rules.install()
    store = open_store(place.log, read_only=True)
    try:
        yield AuditService(store)
    finally:
        store.close()


@click.group(epilog="Example: interlock audit why req-0193f2c8")
def audit() -> None:
    """Ask the log: what happened, why, and what the state was."""


# --- log ------------------------------------------------------------------------------------------------------------

_FILTERS = ("model", "node", "request", "replica", "event", "actor", "correlation", "since", "until", "after")


def _filtered(command: Callable[..., None]) -> Callable[..., None]:
    """The filters of ``log`` and ``export``, as one argument ``filters``."""

    def called(*args: Any, **kwargs: Any) -> None:
        given = {name: kwargs.pop(name) for name in _FILTERS}
        command(*args, filters={name: value for name, value in given.items() if value}, **kwargs)

    called.__doc__ = command.__doc__
    called.__dict__.update(command.__dict__)
    helps = {
        "event": "A kind of event: ReplicaEvicted.",
        "since": "From this time on: 2026-01-01T03:12:00Z, or 15m ago.",
        "until": "Before this time.",
        "after": "Beyond this cursor, a position.",
    }
    for name in reversed(_FILTERS):
        called = click.option(f"--{name}", default="", help=helps.get(name, f"Of this {name}."))(called)
    return called


@audit.command("log", epilog="Example: interlock audit log --model qwen3-8b --since 1h --follow")
@_filtered
@click.option("--limit", default="100", show_default=True, help="At most so many rows.")
@click.option("--follow", is_flag=True, help="Go on with what comes; with --json, one document per line.")
@reads_store
@as_json
def log(place: Place, filters: dict[str, str], limit: str, follow: bool, json_: bool) -> None:
    """Show the newest events in order of time, each in one sentence.

    --after CURSOR or --since TIME begin there instead, and --json at the log's beginning: page by page with its cursor.
    """
    with _asking(place) as service:
        given = {**filters, "limit": limit}
        newest = not json_ and not filters.keys() & {"after", "since"}
        if not follow:
            page = service.log(given, newest=newest)
            if json_:
                print_json(page)
                return
            _print_rows(page.rows)
            if page.more:
                say("There are earlier ones: --after 0" if newest else f"There is more: --after {page.cursor}")
            return
        try:
            for page in service.follow(given, newest=newest):
                if json_:
                    for row in page.rows:
                        print_json_line(row)
                else:
                    _print_rows(page.rows)
        except KeyboardInterrupt:
            return


def _print_rows(rows: list[Row]) -> None:
    for row in rows:
        click.echo(f"{row.position:>8}  {row.time}  {row.event:<24}  {row.summary}")


# --- why ------------------------------------------------------------------------------------------------------------


@audit.command("why", epilog="Example: interlock audit why r-000017 --full")
@click.argument("subject", metavar="ID")
@click.option("--full", is_flag=True, help="Survey every node again where the record was cut.")
@reads_store
@as_json
def why(place: Place, subject: str, full: bool, json_: bool) -> None:
    """Tell the chain of causes of a request, replica, node, model, event or correlation.

    ID is a request's, replica's or node's id, node:NAME, model:NAME, position:N or correlation:ID.
    """
    with _asking(place, judging=True) as service:
        found = service.why(subject, full=full)
    if json_:
        print_json(found)
    else:
        _print_why(found)


def _print_why(found: Why) -> None:
    click.echo(found.sentence)
    for wait in found.waits:
        click.echo(f"          {wait.began[11:23]}  {wait.sentence}")
    click.echo()
    for step in found.chain:
        click.echo(f"{step.position:>8}  {step.time[11:23]}  {step.summary}")
        if step.decision is not None:
            _print_decision(step)
    if found.truncated:
        say("Older events were left out; `interlock audit log` shows them all.")


def _print_decision(step: Step) -> None:
    decision = step.decision
    assert decision is not None
    indent = " " * 24
    for row in decision.considered:
        reason = f"{row.filter}: {row.detail}" if row.filter else row.detail
        click.echo(f"{indent}{row.node}: {row.outcome}{f' ({reason})' if reason else ''}")
    if decision.rejected:
        counts = ", ".join(f"{count} by {name}" for name, count in decision.rejected.items())
        click.echo(f"{indent}not listed: {counts} (--full lists every node)")
    if decision.cure:
        click.echo(f"{indent}would help: {decision.cure}")
    if decision.note:
        click.echo(f"{indent}{decision.note}")


# --- state and diff -------------------------------------------------------------------------------------------------


@audit.command("state", epilog="Example: interlock audit state --at 2026-01-01T03:12:00Z")
@click.option("--at", default="head", show_default=True, help="A time, or a position in the log.")
@reads_store
@as_json
def state(place: Place, at: str, json_: bool) -> None:
    """Show the cluster as it was."""
    with _asking(place, judging=True) as service:
        past = service.state(at)
    if json_:
        print_json(past)
        return
    from .cluster import TABLES
    from .output import builtins

    click.echo(f"Position {past.position}, {past.time}")
    if past.frozen:
        click.echo(f"Frozen: {' and '.join(past.frozen)}.")
    seen = builtins(past)
    for kind, (headings, cells) in TABLES.items():
        click.echo(f"\n{kind.capitalize()}")
        print_table(headings, map(cells, seen[kind]))
    click.echo("\nSettings")
    print_table(("SETTING", "VALUE"), seen["settings"].items())


@audit.command("diff", epilog="Example: interlock audit diff 2026-01-01T03:00:00Z 2026-01-01T03:12:00Z")
@click.argument("start", metavar="A")
@click.argument("end", metavar="B")
@reads_store
@as_json
def diff(place: Place, start: str, end: str, json_: bool) -> None:
    """Show what changed between two times or positions."""
    with _asking(place, judging=True) as service:
        found = service.diff(start, end)
    if json_:
        print_json(found)
        return
    for one in found.changes:
        what = f"{one.kind} {one.id}" if one.kind != one.id else one.kind
        if one.change == "changed":
            click.echo(f"~ {what}{f'.{one.field}' if one.field else ''}: {one.before} -> {one.after}")
        else:
            click.echo(f"{'+' if one.change == 'added' else '-'} {what}")
    if not found.changes:
        say("Nothing changed.")


# --- what if --------------------------------------------------------------------------------------------------------


@audit.command("whatif", epilog="Example: interlock audit whatif --from 1h --set min_residency=2m")
@click.option("--from", "begin", required=True, metavar="T", help="Where the stretch begins: a time, or a position.")
@click.option("--until", default="head", show_default=True, metavar="T", help="Where it ends.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting that is to be another one.")
@click.option(
    "--policy", type=click.Path(path_type=Path), help="A file of what is to be other: scheduler, models, nodes."
)
@click.option("--scenario", type=click.Path(path_type=Path), help="Write the stretch as a scenario for `simulate`.")
@reads_store
@as_json
def whatif(
    place: Place,
    begin: str,
    until: str,
    settings: tuple[str, ...],
    policy: Path | None,
    scenario: Path | None,
    json_: bool,
) -> None:
    """Run a recorded stretch again in virtual time, with something changed, and compare.

    The same requests and faults come from the same state, once as it was and once with the change.
    """
    from interlock.adapters.audit.whatif import what_if
    from interlock.adapters.outputs import writable_file

    wanted = _settings_of(settings)
    if not wanted and policy is None and scenario is None:
        raise click.UsageError("Say what is to be other: --set KEY=VALUE or --policy FILE.")
    if scenario is not None:
        if scenario.exists():
            raise click.UsageError(f"{scenario} is there already: name a new file.")
        writable_file(scenario)
    with _asking(place, judging=True) as service:
        part = service.stretch(begin, until)
    if scenario is not None:
        from interlock.simulation.reading import toml

        scenario.write_text(toml.dump(part.recorded.tables), encoding="utf-8")
        say(f"Scenario: {scenario}")
        if not wanted and policy is None:
            if json_:
                print_json({"scenario": str(scenario), "left_out": part.recorded.left_out})
            return
    found = what_if(part, wanted, _policy_of(policy))
    if json_:
        print_json(found)
    else:
        _print_what_if(found)


def _settings_of(given: tuple[str, ...]) -> dict[str, str]:
    settings = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name.strip():
            raise click.UsageError(f"--set {one}: write KEY=VALUE, as in min_residency=2m.")
        settings[name.strip()] = value.strip()
    return settings


def _policy_of(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    from interlock.domain.documents import parse_toml
    from interlock.domain.errors import UnreadableFile

    try:
        return parse_toml(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UnreadableFile(f"{path}: {error}.", cure="Give a TOML file that can be read.") from None


def _print_what_if(found: WhatIf) -> None:
    sides = (found.recorded, found.as_it_was, found.changed)
    rows: list[tuple[object, ...]] = [
        (name.upper(), *(getattr(side, name) for side in sides))
        for name in ("requests", "served", "waiting", "loads", "evictions")
    ]
    for code in sorted({code for side in sides for code in side.refused}):
        rows.append((f"REFUSED {code}", *(side.refused.get(code, 0) for side in sides)))
    rows += [
        (f"WAIT {name}", *(f"{side.wait_seconds[name]:.3g}s" for side in sides))
        for name in ("mean", "p50", "p95", "p99", "max")
    ]
    click.echo(f"From {found.start} to {found.end}")
    print_table(("", "RECORDED", "RUN AGAIN", "CHANGED"), rows)
    first = found.first_difference
    if first is None:
        click.echo("No decision differs.")
    else:
        click.echo(f"The first decision that differs is at {first.time}:")
        click.echo(f"  as it was: {first.as_it_was or 'nothing more was decided'}")
        click.echo(f"  changed:   {first.changed or 'nothing more was decided'}")
    for what, count in found.left_out.items():
        say(f"Not repeated: {what} ({count})")


# --- verify ---------------------------------------------------------------------------------------------------------


@audit.command("verify", epilog="Example: interlock audit verify --anchor monday.json --write-anchor today.json")
@click.option("--anchor", "anchors", multiple=True, type=click.Path(path_type=Path), help="Check against this anchor.")
@click.option("--write-anchor", type=click.Path(path_type=Path), help="Write the log's end to this file when it holds.")
@reads_store
@as_json
def verify(place: Place, anchors: tuple[Path, ...], write_anchor: Path | None, json_: bool) -> int:
    """Check the hash chain over the stored bytes; exit 1 when something is wrong.

    An anchor, kept somewhere else, also tells when the end of the log was cut off or all of it written anew.
    """
    # No other import: this must work where the domain cannot be loaded.
    from interlock.adapters.audit.verify import verify as check

    found = check(place.log, anchors=anchors, write_anchor=write_anchor)
    if json_:
        print_json_plainly(found)
    elif found["holds"]:
        click.echo(f"The chain holds: {found['checked']} events, up to position {found['position']}.")
    else:
        click.echo(f"Position {found['bad_position']} is the first bad one: {found['problem']}.")
    return 0 if found["holds"] else 1


def print_json_plainly(document: object) -> None:
    """The one document, by the standard library alone."""
    import json

    sys.stdout.write(json.dumps(document, indent=2) + "\n")


# --- export and sql -------------------------------------------------------------------------------------------------


@audit.command("export", epilog="Example: interlock audit export --format csv --redact tenant --output log.csv")
@click.option("--format", "form", type=click.Choice(FORMATS), default="jsonl")
@click.option("--redact", multiple=True, metavar="FIELD", help="Black out a column, or a field at any depth of data.")
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="A file; else standard output.")
@_filtered
@reads_store
def export(place: Place, form: str, redact: tuple[str, ...], output: Path | None, filters: dict[str, str]) -> None:
    """Write events in another format."""
    if output is not None:
        from interlock.adapters.outputs import writable_file

        writable_file(output)
    with _asking(place) as service:
        if output is None:
            count = service.export(form, sys.stdout.buffer, filters=filters, redact=redact)
            sys.stdout.buffer.flush()
        else:
            service.check_export(form, filters=filters, redact=redact, path=output)
            with output.open("wb") as file:
                count = service.export(form, file, filters=filters, redact=redact, path=output)
    say(f"{count} events exported.")


@audit.command("sql", epilog='Example: interlock audit sql "SELECT topic, count(*) FROM events GROUP BY topic"')
@click.argument("statement")
@reads_store
@as_json
def sql(place: Place, statement: str, json_: bool) -> None:
    """Ask the log in SQL, for reading only; the view ``events`` has it under plain names."""
    with _asking(place) as service:
        answer = service.sql(statement)
    if json_:
        _refuse_twins(answer.columns)
        rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
        print_json({"columns": answer.columns, "rows": rows, "truncated": answer.truncated})
    else:
        print_table(answer.columns, ([_text(value) for value in row] for row in answer.rows))
    if answer.truncated:
        say(f"Only the first {len(answer.rows)} rows are shown.")


def _refuse_twins(columns: Sequence[str]) -> None:
    """Raise UsageError for a name that two columns have: a row in JSON would lose one of them."""
    for place, name in enumerate(columns):
        if name in columns[:place]:
            from interlock.domain.errors import UsageError

            cure = "Name one of them otherwise: SELECT a.position AS first, b.position AS second."
            raise UsageError(f"Two columns of the answer are named {name!r}, and JSON has room for one.", cure=cure)


def _text(value: object) -> object:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
