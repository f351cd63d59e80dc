"""Looking at a cluster and changing it: nodes, models, replicas, requests, locks, freezing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import Place, as_json, talks_to_cluster
from .output import builtins, print_json, print_table, say

if TYPE_CHECKING:
    from interlock.domain.commands import Command
    from interlock.domain.errors import InterlockError

    from .client import Cluster

    Request = tuple[str, str, object]
    """Method, path and body of what does over HTTP what a command does in the core."""
    Explain = Callable[[InterlockError, int, bool], None]
    """Gets an error, the place of its step, and whether the steps before it stay done."""


# --- Reading --------------------------------------------------------------------------------------------------------


def listed(place: Place, kind: str, *, quietly: bool = False) -> list[dict[str, Any]]:
    """The nodes, models, replicas or requests: from the running cluster, else from the log, which is said."""
    rows, _ = _seen(place, kind, quietly=quietly)
    return rows


def _seen(place: Place, kind: str, *, quietly: bool = False) -> tuple[list[dict[str, Any]], Callable[[], list[str]]]:
    """What is listed, and what tells what is frozen there."""
    from .client import named

    cluster = named(place)
    if cluster is not None:
        rows: list[dict[str, Any]] = cluster.get(f"/api/{kind}")
        return rows, lambda: (cluster.get("/api/freeze") or {}).get("frozen", [])
    from interlock.adapters.audit.service import AuditService
    from interlock.adapters.store import open_store

    log = open_store(place.log, read_only=True)
    try:
        past = AuditService(log).state("head")
    finally:
        log.close()
    if not quietly:
        say(f"No running cluster was asked: this is the log's end at position {past.position}, {past.time}.")
    found: list[dict[str, Any]] = builtins(past)[kind]
    return found, lambda: past.frozen


def show(place: Place, kind: str, json_: bool) -> None:
    """Print the nodes, models, replicas or requests, as JSON or as a table."""
    rows, frozen = _seen(place, kind)
    headings, cells = TABLES[kind]
    if json_:
        print_json(rows)
        return
    if stopped := frozen():
        say(told_frozen(stopped))
    print_table(headings, (cells(row) for row in rows))


def told_frozen(what: Sequence[str]) -> str:
    """What is frozen, as one line: it is why something that should happen does not."""
    return f"Frozen: {' and '.join(what)}. `interlock thaw` lets {'it' if len(what) == 1 else 'them'} go on."


def _node_cells(row: dict[str, Any]) -> list[Any]:
    from interlock.domain.units import format_size

    pools = row.get("pools") or []
    total = " + ".join(format_size(pool["total"]) for pool in pools)
    used = " + ".join(format_size(pool.get("used", 0)) for pool in pools)
    return [row.get("name"), _status(row), total, used, row.get("labels") or {}]


def _status(row: dict[str, Any]) -> str:
    """A node's status, and how its clock stands when it is off; of one that is drained, what is left, until when."""
    from interlock.domain.units import format_instant, tell_clock

    status = str(row.get("status"))
    if row.get("clock_off"):
        status += f", clock {tell_clock(row['clock_off'])}"
    if not row.get("drained"):
        return status
    if row.get("emptied"):
        return f"{status}: empty"
    replicas, requests = len(row.get("replicas") or ()), row.get("in_flight", 0)
    left = f"{replicas} replica{'' if replicas == 1 else 's'}, {requests} request{'' if requests == 1 else 's'} left"
    until = f", until {format_instant(row['drain_by'])}" if row.get("drain_by") else ""
    return f"{status}: {left}{until}"


def _model_cells(row: dict[str, Any]) -> list[Any]:
    least, most = row.get("min_replicas", 0), row.get("max_replicas", 0)
    copies = "all" if row.get("everywhere") else f"{least}-{most}" if most else f"{least}+"
    keys = ("parallel", "priority", "queue", "parked")
    selector = row.get("node_selector") or {}
    return [row.get("name"), row.get("backend"), row.get("loaded"), copies, *map(row.get, keys), selector]


def _replica_cells(row: dict[str, Any]) -> list[Any]:
    return [row.get(key) for key in ("id", "model", "node", "phase", "in_flight", "address")]


def _request_cells(row: dict[str, Any]) -> list[Any]:
    return [row.get(key) for key in ("id", "model", "status", "replica", "wait", "holder")]


def _tenant_cells(row: dict[str, Any]) -> list[Any]:
    from interlock.domain.units import format_instant, whole_number

    following, at_once = row.get("next_at") or 0, whole_number(str(row.get("at_once")))
    coming = format_instant(following) if following else "now"
    if at_once is not None and row.get("running", 0) + row.get("waiting", 0) >= at_once:
        coming = "when one ends" if at_once else "never"
    keys = ("name", "running", "waiting", "at_once", "rate", "burst", "priority")
    return [*map(row.get, keys), coming]


Table = tuple[tuple[str, ...], Callable[[dict[str, Any]], list[Any]]]

TABLES: dict[str, Table] = {
    "nodes": (("NODE", "STATUS", "MEMORY", "USED", "LABELS"), _node_cells),
    "models": (
        ("MODEL", "BACKEND", "LOADED", "COPIES", "PARALLEL", "PRIORITY", "QUEUE", "PARKED", "SELECTOR"),
        _model_cells,
    ),
    "replicas": (("REPLICA", "MODEL", "NODE", "PHASE", "IN FLIGHT", "ADDRESS"), _replica_cells),
    "requests": (("REQUEST", "MODEL", "STATUS", "REPLICA", "WAITS FOR", "HOLDER"), _request_cells),
    "tenants": (("TENANT", "RUNNING", "WAITING", "AT ONCE", "RATE", "BURST", "PRIORITY", "NEXT"), _tenant_cells),
}
"""What the tables show: headings, and a row's cells."""


# --- Changing -------------------------------------------------------------------------------------------------------


def change(place: Place, steps: Sequence[tuple[Command, Request]], explain: Explain | None = None) -> list[Any]:
    """Have commands decided: by the running cluster, else here as the embedded store's writer; returns the answers.

    ``explain`` adds to the error of a step, by its place, what only the caller knows.
    """
    from .client import named

    cluster = named(place)
    if cluster is not None:
        return [_sent(cluster, step, number, explain) for number, (_, step) in enumerate(steps)]
    from .direct import decide_here

    outcomes = decide_here(place, [command for command, _ in steps], _actor(), explain)
    say("No cluster runs: the change was written to the log, and takes effect when one does.")
    return [{"events": [type(event).__name__ for event in outcome.events]} for outcome in outcomes]


def _sent(cluster: Cluster, request: Request, number: int, explain: Explain | None) -> Any:
    from interlock.domain.errors import InterlockError

    try:
        return cluster.send(*request)
    except InterlockError as error:
        if explain is not None:
            explain(error, number, True)
        raise


def report(json_: bool, message: str, answers: list[Any], **more: object) -> None:
    """Say that a change is made."""
    if json_:
        print_json({"message": message, **more, "answers": answers})
    else:
        click.echo(message)


def _actor() -> str:
    import getpass

    try:
        return f"operator:{getpass.getuser()}"
    except (OSError, KeyError):
        return "operator"


def _do(place: Place, json_: bool, command: Command, request: Request, message: str) -> None:
    report(json_, message, change(place, [(command, request)]))


def _part(name: str) -> str:
    from .client import part

    return part(name)


# --- Nodes ----------------------------------------------------------------------------------------------------------


@click.group(invoke_without_command=True, epilog="Example: interlock nodes; interlock nodes drain thor")
@talks_to_cluster
@as_json
@click.pass_context
def nodes(ctx: click.Context, place: Place, json_: bool) -> None:
    """List nodes, or change one."""
    if ctx.invoked_subcommand is None:
        show(place, "nodes", json_)


def _on_node(name: str, summary: str, method: str, tail: str, done: str) -> None:
    """Define one of the commands that need nothing but a node's name."""
    attribute = {"approve": "ApproveNode", "resume": "ResumeNode", "remove": "RemoveNode"}[name]

    @nodes.command(name, help=summary, epilog=f"Example: interlock nodes {name} thor")
    @click.argument("node")
    @talks_to_cluster
    @as_json
    def command(node: str, place: Place, json_: bool) -> None:
        from interlock.domain import commands

        made = getattr(commands, attribute)(node=node)
        _do(place, json_, made, (method, f"/api/nodes/{_part(node)}{tail}", None), f"Node {node} {done}.")


_on_node("approve", "Let a pending node take work.", "POST", "/approve", "was approved")
_on_node("resume", "End a drain.", "POST", "/resume", "takes work again")
_on_node("remove", "Take a node out of the cluster for good.", "DELETE", "", "was removed")


@nodes.command("drain", epilog="Example: interlock nodes drain thor --deadline 10m")
@click.argument("node")
@click.option(
    "--deadline", metavar="LENGTH", help='Take away what is left after so long, as in "10m"; "forever": never.'
)
@talks_to_cluster
@as_json
def drain(node: str, deadline: str | None, place: Place, json_: bool) -> None:
    """Give a node no new work, and empty it."""
    from interlock.domain.commands import DrainNode
    from interlock.domain.units import FOREVER, parse_limit

    body = {"deadline": deadline} if deadline is not None else None
    within = parse_limit(deadline) if deadline is not None else 0
    request = ("POST", f"/api/nodes/{_part(node)}/drain", body)
    limit = f" What is left after {deadline} is taken away." if within else ""
    if within >= FOREVER:
        limit = " No deadline is set: what is busy there stays until it is done."
    _do(place, json_, DrainNode(node=node, within=within), request, f"Node {node} is being drained.{limit}")


@nodes.command("label", epilog="Example: interlock nodes label thor tier=fast room=")
@click.argument("node")
@click.argument("labels", nargs=-1, required=True, metavar="KEY=VALUE...")
@talks_to_cluster
@as_json
def label(node: str, labels: tuple[str, ...], place: Place, json_: bool) -> None:
    """Merge labels into a node's; an empty value removes one."""
    from interlock.domain.commands import SetNodeLabels

    pairs: dict[str, str] = {}
    for text in labels:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{text!r} is not KEY=VALUE.", param_hint="LABELS")
        pairs[key] = value
    request = ("PATCH", f"/api/nodes/{_part(node)}/labels", pairs)
    _do(place, json_, SetNodeLabels(node=node, labels=pairs), request, f"The labels of node {node} were changed.")


# --- Models ---------------------------------------------------------------------------------------------------------


@click.group(invoke_without_command=True, epilog="Example: interlock models; interlock models apply models.toml")
@talks_to_cluster
@as_json
@click.pass_context
def models(ctx: click.Context, place: Place, json_: bool) -> None:
    """List models, or change one."""
    if ctx.invoked_subcommand is None:
        show(place, "models", json_)


def _owners_of_aliases(place: Place) -> dict[str, str]:
    """Which model each alias names now; nothing where there is no log yet: changing it says what to do about that."""
    from interlock.domain.errors import Unavailable

    try:
        return {alias: row["name"] for row in listed(place, "models", quietly=True) for alias in row["aliases"]}
    except Unavailable:
        return {}


@models.command("apply", epilog="Example: interlock models apply models.toml")
@click.argument("file", type=click.Path(path_type=Path))
@talks_to_cluster
@as_json
def apply(file: Path, place: Place, json_: bool) -> None:
    """Make models be as a TOML file with [[models]] tables says; the same file again changes nothing."""
    from interlock.adapters.modelfile import read_models
    from interlock.domain.aliases import turns

    from .applying import explain, told

    declared = read_models(file)
    taken = turns(declared, _owners_of_aliases(place) if len(declared) > 1 else {})
    answers = change(
        place,
        [(turn.command, ("PUT", f"/api/models/{_part(turn.command.model)}", _table(turn.command))) for turn in taken],
        lambda error, failed, kept: explain(error, file, declared, taken, failed, kept=kept),
    )
    names = [command.model for command in declared]
    answered = dict(zip([turn.command.model for turn in taken], answers, strict=True))
    steps = [
        {"model": turn.command.model, "without": turn.without, "answer": answer}
        for turn, answer in zip(taken, answers, strict=True)
    ]
    report(json_, told(declared, taken), [answered[name] for name in names], models=names, steps=steps)


def _table(command: Any) -> dict[str, Any]:
    """A declaration as the table that it was read from."""
    from interlock.domain.written import scheduling_as_written

    spec = command.spec
    return {
        "name": command.model,
        **({"backend": spec.backend} if spec.backend else {}),
        "options": spec.options,
        "vram": spec.vram,
        "ram": spec.ram,
        "pools": spec.pools or "any",
        "disk": spec.disk,
        **scheduling_as_written(command.scheduling),
        "aliases": list(command.aliases),
    }


def _on_model(name: str, summary: str, method: str, tail: str, done: str) -> None:
    """Define one of the commands that need nothing but a model's name."""
    attribute = {"load": "RequestLoad", "remove": "RemoveModel"}[name]

    @models.command(name, help=summary, epilog=f"Example: interlock models {name} qwen3-8b")
    @click.argument("model")
    @talks_to_cluster
    @as_json
    def command(model: str, place: Place, json_: bool) -> None:
        from interlock.domain import commands

        made = getattr(commands, attribute)(model=model)
        _do(place, json_, made, (method, f"/api/models/{_part(model)}{tail}", None), f"Model {model} {done}.")


_on_model("load", "Load one more replica now, without a request.", "POST", "/load", "is being loaded")
_on_model("remove", "Take a model out; its replicas leave when idle.", "DELETE", "", "was removed")


@models.command("unload", epilog="Example: interlock models unload qwen3-8b")
@click.argument("model")
@talks_to_cluster
@as_json
def unload(model: str, place: Place, json_: bool) -> None:
    """Unload the idle replicas of a model now, and say who will load it again."""
    from interlock.domain.commands import RequestUnload

    told = _told_from_the_log(place, model)
    answers = change(place, [(RequestUnload(model=model), ("POST", f"/api/models/{_part(model)}/unload", None))])
    told = told or (answers[0] or {}).get("message") or f"Model {model} is being unloaded."
    report(json_, told, answers)


def _told_from_the_log(place: Place, name: str) -> str:
    """What is said of an unload where no cluster runs; empty where one does, which says it itself."""
    from interlock.adapters.unloadwords import told_unload
    from interlock.domain.errors import Unavailable

    from .client import named

    if named(place) is not None:
        return ""
    try:
        rows, frozen = _seen(place, "models", quietly=True)
    except Unavailable:
        return ""  # the change itself says what to do about that
    row = next((row for row in rows if name == row["name"] or name in row["aliases"]), None)
    return told_unload(row, frozen()) if row is not None else ""


# --- Replicas, requests, locks --------------------------------------------------------------------------------------


@click.group(invoke_without_command=True, epilog="Example: interlock replicas; interlock replicas evict r-000017")
@talks_to_cluster
@as_json
@click.pass_context
def replicas(ctx: click.Context, place: Place, json_: bool) -> None:
    """List replicas, or evict one."""
    if ctx.invoked_subcommand is None:
        show(place, "replicas", json_)


@replicas.command("evict", epilog="Example: interlock replicas evict r-000017")
@click.argument("replica", metavar="ID")
@talks_to_cluster
@as_json
def evict(replica: str, place: Place, json_: bool) -> None:
    """Unload one replica now; refused while a request holds it."""
    from interlock.domain.commands import EvictReplica

    request = ("POST", f"/api/replicas/{_part(replica)}/evict", None)
    _do(place, json_, EvictReplica(replica=replica), request, f"Replica {replica} is being unloaded.")


@click.command(epilog="Example: interlock requests --json")
@talks_to_cluster
@as_json
def requests(place: Place, json_: bool) -> None:
    """List the requests that wait or run."""
    show(place, "requests", json_)


@click.group(epilog="Example: interlock locks release req-0193f2c8")
def locks() -> None:
    """Requests' claims on replicas."""


@locks.command("release", epilog="Example: interlock locks release req-0193f2c8")
@click.argument("request", metavar="ID")
@talks_to_cluster
@as_json
def release(request: str, place: Place, json_: bool) -> None:
    """End a request's claim by hand, so that its replica is free again."""
    from interlock.domain.commands import ReleaseLock

    known = {row.get("id") for row in listed(place, "requests")}
    if request not in known:
        from interlock.domain.errors import NotFound

        raise NotFound("request", request, cure="`interlock requests` lists those that wait or run.")
    command = ReleaseLock(request=request, outcome="cancelled", detail="released by an operator")
    asked = ("POST", f"/api/locks/{_part(request)}/release", None)
    _do(place, json_, command, asked, f"Request {request} holds nothing any more.")


# --- Freezing -------------------------------------------------------------------------------------------------------

_WHAT = click.Choice(["evictions", "reconciler"])


@click.command(epilog="Example: interlock freeze evictions")
@click.argument("what", type=_WHAT, default="evictions")
@talks_to_cluster
@as_json
def freeze(what: str, place: Place, json_: bool) -> None:
    """Stop evictions, or all of the reconciler."""
    from interlock.domain.commands import Freeze

    _do(place, json_, Freeze(what=what), ("POST", "/api/freeze", {"what": what}), f"Frozen: {what}.")


@click.command(epilog="Example: interlock thaw")
@click.argument("what", type=_WHAT, required=False)
@talks_to_cluster
@as_json
def thaw(what: str | None, place: Place, json_: bool) -> None:
    """Let evictions or the reconciler go on; without a name, both."""
    from interlock.domain.commands import Thaw

    names = [what] if what else list(_WHAT.choices)
    steps: list[tuple[Command, Request]] = [(Thaw(what=name), ("POST", "/api/thaw", {"what": name})) for name in names]
    report(json_, f"Thawed: {' and '.join(names)}.", change(place, steps))
