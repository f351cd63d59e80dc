"""What a backend is: the protocol that an entry point of the group ``interlock.backends`` satisfies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Protocol

from interlock.adapters.grpc.calls import Generation, Piece, Vector
from interlock.domain.errors import BackendDeclined, BackendFailed


class CannotDo(BackendDeclined):
    """This backend does not offer that call at all (UNIMPLEMENTED)."""


class WrongInput(BackendDeclined):
    """What was sent is nothing that the model can work on (INVALID_ARGUMENT)."""


class Backend(Protocol):
    """One model in memory. The server makes one per process and calls it from one event loop.

    Every method may raise :class:`~interlock.domain.errors.BackendFailed`; its words reach the client as they are.
    :class:`CannotDo` and :class:`WrongInput` say that the caller is mistaken, and that nothing failed here.
    Work that takes longer than a few milliseconds belongs in a thread, so that health calls are answered meanwhile.
    """

    @property
    def memory(self) -> int:
        """Bytes that the model takes now; while it loads, those in place so far. Growth is what counts as progress."""

    async def load(self, model: str, options: Mapping[str, str], folder: Path | None) -> None:
        """Bring the model into memory. ``folder`` holds its staged files, when it has any."""
        ...

    async def free(self) -> None:
        """Let go of the model."""
        ...

    def predict(self, wanted: Generation) -> AsyncIterator[Piece]:
        """Make the text piece by piece."""
        ...

    async def embed(self, text: str) -> Vector:
        """The text's vector."""
        ...

    async def tokenize(self, text: str) -> list[int]:
        """The text's token ids."""
        ...


def number_option(options: Mapping[str, str], name: str, default: float) -> float:
    """A number among the options; raises BackendFailed when it is none, or negative."""
    text = options.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise BackendFailed(f"option {name}: {text!r} is not a number of zero or more")
    return value
