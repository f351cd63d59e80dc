"""Every error that Interlock raises, in one tree.

Each error says what was asked, what stood in the way, and the setting or action that cures it::

    InterlockError
    ├── UsageError                    the caller's input is wrong (exit 2, HTTP 400)
    │   ├── InvalidField              one field of a command, file or request body
    │   ├── InvalidSetting            a setting's name or value
    │   └── UnreadableFile            a file that does not parse, with the line when known
    ├── Refused                       Interlock ran and the answer is no (exit 1); carries a refusal code
    ├── NotFound                      the named node, model, replica or request does not exist (HTTP 404)
    ├── Conflict                      it exists, and its state forbids what was asked (HTTP 409)
    ├── Unavailable                   a needed service cannot be reached (exit 3, HTTP 503)
    │   ├── StoreUnavailable          the event store does not answer, or its disk is full
    │   ├── BrokerUnavailable         NATS does not answer
    │   ├── WorkerUnavailable         a worker or a model backend does not answer
    │   │   └── BackendGone           no process with the model at that address; nothing was served
    │   └── NoWriter                  no writer leads the cluster now
    ├── BackendFailed                 a model backend answered with an error of its own (HTTP 502)
    │   └── BackendDeclined           it cannot do what was asked, or finds it wrong: the caller's mistake (HTTP 400)
    ├── StoreError                    the store answered, and what it said stops us
    │   ├── Fenced                    another writer has taken a newer epoch
    │   ├── LeaseHeld                 another writer still holds the lease
    │   ├── CommitUnknown             the commit was sent and its answer was lost
    │   ├── EventConflict             a (stream, version) or event id exists with other content
    │   ├── UnknownEvent              an event version that this program is too old to read
    │   └── ChainBroken               the hash chain does not hold
    └── InvariantBroken               a defect of Interlock itself; never caught to carry on
        └── AttemptBudgetExceeded     a request took more steps of its own than its proof allows
"""

from __future__ import annotations


def sentences(message: str, cure: str) -> str:
    """What went wrong and what cures it, one after the other; a message that is no sentence becomes one."""
    if message and cure and message[-1] not in ".!?":
        return f"{message}. {cure}"
    return f"{message} {cure}".strip()


class InterlockError(Exception):
    """Root of the tree. ``cure`` is the action or setting that helps, as one plain sentence."""

    exit_code = 1
    code = ""
    """What programs know it by, where somebody else has said it; else its class says it."""

    def __init__(self, message: str, *, cure: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure

    def __str__(self) -> str:
        return sentences(self.message, self.cure)


class UsageError(InterlockError):
    """The caller's input is wrong; nothing was done."""

    exit_code = 2


class InvalidField(UsageError):
    """One field is missing, unknown, or has a value it cannot have."""

    def __init__(self, field: str, problem: str, *, cure: str = "") -> None:
        super().__init__(f"{field}: {problem}", cure=cure)
        self.field = field


class InvalidSetting(UsageError):
    """A setting that does not exist, or a value it cannot have."""


class UnreadableFile(UsageError):
    """A file that cannot be read or does not parse; the message names path, key and line."""


class Refused(InterlockError):
    """Interlock ran and the answer is no. ``code`` is one of :class:`interlock.domain.refusals.RefusalCode`."""

    def __init__(self, code: str, message: str, *, cure: str = "") -> None:
        super().__init__(message, cure=cure)
        self.code = code


class NotFound(InterlockError):
    """The named thing does not exist."""

    def __init__(self, kind: str, name: str, *, cure: str = "") -> None:
        super().__init__(f"no {kind} named {name!r}.", cure=cure)
        self.kind = kind
        self.name = name


class Conflict(InterlockError):
    """The thing exists, and its present state forbids what was asked."""


class Unavailable(InterlockError):
    """A service that is needed cannot be reached now."""

    exit_code = 3


class StoreUnavailable(Unavailable):
    """The event store does not answer, or cannot write (disk full, read-only)."""


class BrokerUnavailable(Unavailable):
    """The NATS broker does not answer."""


class WorkerUnavailable(Unavailable):
    """A worker or a model backend does not answer."""


class BackendGone(WorkerUnavailable):
    """Nothing at ``address`` has the model: no process, or another model's. Nothing was served, so ask elsewhere.

    ``answered``: somebody there said so; else nothing was heard from there.
    """

    def __init__(self, address: str, detail: str, *, answered: bool = False) -> None:
        super().__init__(f"the backend at {address} is gone: {detail}")
        self.address = address
        self.detail = detail
        self.answered = answered


class NoWriter(Unavailable):
    """No writer leads the cluster at this moment. ``taken``: one had taken the command up, and has left since."""

    def __init__(self, message: str, *, cure: str = "", taken: bool = False) -> None:
        super().__init__(message, cure=cure)
        self.taken = taken


class BackendFailed(InterlockError):
    """A model backend failed a call; the message is in its own words. Part of the answer may have been given."""


class BackendDeclined(BackendFailed):
    """A model backend does not offer what was asked (``unsupported``), or finds it wrong. Nothing failed there."""

    def __init__(self, message: str, *, cure: str = "", unsupported: bool = False) -> None:
        super().__init__(message, cure=cure)
        self.unsupported = unsupported


class StoreError(InterlockError):
    """The event store answered, and its answer stops the operation."""


class Fenced(StoreError):
    """Another writer has taken a newer epoch: nothing that this writer appends can be stored any more."""


class LeaseHeld(StoreError):
    """Another writer holds the lease; wait for it to lapse, or stop that writer."""


class CommitUnknown(StoreError):
    """COMMIT was sent and its answer was lost: the batch is stored whole, or not at all."""


class EventConflict(StoreError):
    """An event with this (stream, version) or event id is stored already, with other content."""


class UnknownEvent(StoreError):
    """The log holds an event type or version that this program does not know; upgrade before it leads."""


class ChainBroken(StoreError):
    """The hash chain does not hold at a position: rows were changed, removed or inserted behind our back."""


class InvariantBroken(InterlockError):
    """A defect of Interlock itself. Report it with the log; it is never caught to carry on."""


class AttemptBudgetExceeded(InvariantBroken):
    """A request took more steps of its own than the ranking argument allows."""
