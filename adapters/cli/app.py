"""The tree of commands, and the one place where whatever goes wrong becomes a line of text and an exit status."""

from __future__ import annotations

import errno
import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

DONE, NO, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130

_COMMANDS = {
    "up": ("running:up", "Run a whole cluster on this machine."),
    "serve": ("running:serve", "Run the control plane: writer, gateway, dashboard."),
    "worker": ("running:worker", "Run a worker on this machine."),
    "migrate": ("preparing:migrate", "Create or upgrade the schema of an event store."),
    "doctor": ("doctor:doctor", "Check all that Interlock needs."),
    "config": ("preparing:config", "Show every setting with its value and origin."),
    "nodes": ("cluster:nodes", "List nodes; approve, drain, resume, label or remove one."),
    "models": ("cluster:models", "List models; apply a file, load, unload or remove one."),
    "replicas": ("cluster:replicas", "List replicas; evict one."),
    "requests": ("cluster:requests", "List the requests that wait or run."),
    "tenants": ("tenants:tenants", "List tenants, their use and limits; limit one."),
    "locks": ("cluster:locks", "Release a request's lock."),
    "freeze": ("cluster:freeze", "Stop evictions, or the reconciler."),
    "thaw": ("cluster:thaw", "Let what is frozen go on."),
    "plan": ("planning:plan", "Say what a change would place, evict and park."),
    "simulate": ("interlock.simulation.cli:commands", "Run a scenario in virtual time."),
    "compare": ("interlock.simulation.cli:commands", "Compare ways to choose who is evicted."),
    "prove": ("interlock.simulation.cli:commands", "Explore small clusters state by state."),
    "mutants": ("interlock.simulation.cli:commands", "Show that every seeded bug is found."),
    "audit": ("auditing:audit", "Ask the log: what happened, why, and what the state was."),
    "bench": ("benching:bench", "Measure, each figure beside its limit."),
}
"""Each command's module and object; a module without a dot is beside this one."""


class Commands(click.Group):
    """A group that imports a command when it is called, and tells of all without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands that are there, in the order of a user's first day."""
        return list(_COMMANDS)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the command line, and print the help that it asks for; for readers of that, see :meth:`invoke`."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except BrokenPipeError:
            raise click.exceptions.Exit(_seen_enough()) from None  # as click ends what was asked for help

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        place, _ = _COMMANDS.get(cmd_name, ("", ""))
        if not place:
            return None
        module, _, attribute = _full(place).partition(":")
        found = getattr(importlib.import_module(module), attribute)
        if isinstance(found, click.Group) and cmd_name in found.commands and found.name != cmd_name:
            found = found.commands[cmd_name]
        assert isinstance(found, click.Command)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Click would make a failure of a reader that has seen enough."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            return _seen_enough()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in ``--help``."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in self.list_commands(ctx)])


def _full(place: str) -> str:
    return place if place.startswith("interlock.") else f"interlock.adapters.cli.{place}"


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: interlock up, then in another terminal: interlock nodes",
)
@click.version_option(package_name="interlock", prog_name="interlock")
def interlock() -> None:
    """An event-sourced scheduler for model replicas on GPU nodes."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status. Nothing is raised, and no traceback is shown."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started this
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # because it stays open for as long as we run
    status = _run(arguments)
    _output_fails()
    return status


def _run(arguments: Sequence[str]) -> int:
    wants_json = "--json" in arguments
    try:
        status = interlock.main(list(arguments), prog_name="interlock", standalone_mode=False)
        sys.stdout.flush()  # here, where a disk that is full can still be told of
        return status if isinstance(status, int) else DONE
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return USAGE
    except click.UsageError as error:
        error.show(sys.stderr)
        return _fail_json(wants_json, error.format_message(), "invalid_request_error", "usage", USAGE)
    except click.ClickException as error:
        return _fail(wants_json, error.format_message(), "", "invalid_request_error", error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("\nInterrupted.\n")
        return INTERRUPTED
    except BrokenPipeError:
        return _seen_enough()
    except SystemExit as ended:
        # A worker's flags are parsed by somebody who ends this way.
        return ended.code if isinstance(ended.code, int) else DONE
    except Exception as error:
        return _failed(wants_json, error)


def _seen_enough() -> int:
    """Whoever read our output has closed it."""
    _drop_output()
    return DONE


def _output_fails() -> bool:
    """Whether standard output takes no more of what it is given; then the rest of it is dropped."""
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()
        return True
    return False


def _drop_output() -> None:
    """Python would try once more, and complain, when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(wants_json: bool, error: Exception) -> int:
    """The status and the words for an error that is not the command line's own."""
    if os.environ.get("INTERLOCK_TRACEBACK"):
        import traceback

        traceback.print_exc()
    status = getattr(error, "exit_code", None)
    if isinstance(status, int):
        code = getattr(error, "code", "") or _snake(type(error).__name__)
        message = str(getattr(error, "message", error))
        if _is_defect(error):
            cure = "This is a defect: report it with the log. INTERLOCK_TRACEBACK=1 shows where it happened."
            return _fail(wants_json, message, cure, code, NO)
        return _fail(wants_json, message, str(getattr(error, "cure", "")), code, status)
    if isinstance(error, OSError):
        where = error.filename or ("standard output" if _output_fails() else "")
        message = f"{where}: {error.strerror or error}." if where else f"{error.strerror or error}."
        cure, status = _OS_CURES.get(error.errno or 0, ("Check the path and the machine.", USAGE))
        return _fail(wants_json, message, cure, "os_error", status)
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    cure = "This is a defect: report it. INTERLOCK_TRACEBACK=1 shows where it happened."
    return _fail(wants_json, what, cure, "internal_error", NO)


_OS_CURES = {
    errno.EACCES: ("Give this user the right to it, or name another path.", USAGE),
    errno.EPERM: ("Give this user the right to it, or name another path.", USAGE),
    errno.EROFS: ("The disk is mounted read-only: name another path.", USAGE),
    errno.ENOENT: ("Name a path that exists.", USAGE),
    errno.EISDIR: ("Name a file, not a folder.", USAGE),
    errno.ENOTDIR: ("Name a folder, not a file.", USAGE),
    errno.EEXIST: ("Name another path, or move what is there away.", USAGE),
    errno.ENOSPC: ("Free space on that disk.", UNREACHABLE),
    errno.EDQUOT: ("Free space on that disk.", UNREACHABLE),
    errno.EMFILE: ("Raise the limit on open files: ulimit -n.", UNREACHABLE),
    errno.EADDRINUSE: ("Stop the program that listens there, or choose another port.", UNREACHABLE),
    errno.ECONNREFUSED: ("Start the service, or name another address.", UNREACHABLE),
}


def _is_defect(error: Exception) -> bool:
    return any(cls.__name__ == "InvariantBroken" for cls in type(error).__mro__)


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def _fail(wants_json: bool, message: str, cure: str, code: str, status: int) -> int:
    first = message.partition(" ")[0]
    # A plain word begins a sentence; the name of a file or a field stays as it is.
    text = message[:1].upper() + message[1:] if first.isalpha() and first.islower() else message
    # As the domain's errors do it; `audit verify` has to fail well without the domain.
    stop = "." if cure and text and text[-1] not in ".!?" else ""
    told = f"{text}{stop} {cure}".strip()
    sys.stderr.write(f"Error: {told}\n")
    return _fail_json(wants_json, told, "error", code, status)


def _fail_json(wants_json: bool, message: str, kind: str, code: str, status: int) -> int:
    """Who asked for JSON gets a document, whatever happened; where none can be written, standard error has said it."""
    if wants_json:
        try:
            sys.stdout.write(json.dumps({"error": {"message": message, "type": kind, "code": code}}) + "\n")
            sys.stdout.flush()
        except OSError:
            _drop_output()
    return status
