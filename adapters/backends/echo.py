"""The ``echo`` backend: says again what it was told, with delays and failures on demand."""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import zlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from interlock.adapters.grpc.calls import Generation, Piece, Vector
from interlock.domain.errors import BackendFailed

from .base import number_option

FAILURES = ("", "load", "predict", "stream", "exit", "hang")
_LOAD_STEPS = 20


class EchoBackend:
    """Deterministic: the same call gets the same answer. Its options:

    ``delay_ms`` before the first word of an answer, or before a vector; ``tokens_per_second`` paces the words after it;
    ``load_ms`` is how long a load takes, in which ``vram`` bytes come to be reported; ``words`` makes every answer that
    long; ``dimensions`` is a vector's length (64). ``fail`` = ``load``, ``predict`` (before the first word), ``stream``
    (after it), ``exit`` (the process dies under the call), ``hang`` (a load that never ends); ``message`` is what it
    says then.
    """

    def __init__(self) -> None:
        self._memory = 0
        self._delay_s = 0.0
        self._pause_s = 0.0
        self._words = 0
        self._dimensions = 64
        self._fail = ""
        self._message = ""

    @property
    def memory(self) -> int:
        """The bytes that the ``vram`` option tells it to report."""
        return self._memory

    async def load(self, model: str, options: Mapping[str, str], folder: Path | None) -> None:
        """Read the options, and take as long as they say."""
        self._fail = options.get("fail", "")
        self._message = options.get("message", "") or f"echo was told to fail ({self._fail})"
        if self._fail not in FAILURES:
            raise BackendFailed(f"option fail: {self._fail!r} is none of {', '.join(filter(None, FAILURES))}")
        self._delay_s = number_option(options, "delay_ms", 0) / 1000
        rate = number_option(options, "tokens_per_second", 0)
        self._pause_s = 1 / rate if rate else 0.0
        self._words = int(number_option(options, "words", 0))
        self._dimensions = max(1, int(number_option(options, "dimensions", 64)))
        size = int(number_option(options, "vram", 0))
        load_s = number_option(options, "load_ms", 0) / 1000
        for step in range(1, _LOAD_STEPS + 1):
            await asyncio.sleep(load_s / _LOAD_STEPS)
            if self._fail == "load" and step > _LOAD_STEPS // 2:
                self._memory = 0
                raise BackendFailed(self._message)
            if self._fail == "hang":
                await asyncio.Event().wait()
            self._memory = size * step // _LOAD_STEPS

    async def free(self) -> None:
        """Report no memory any more."""
        self._memory = 0

    async def predict(self, wanted: Generation) -> AsyncIterator[Piece]:
        """The prompt's or the last message's words, one by one."""
        prompt = wanted.messages[-1].content if wanted.messages else wanted.prompt
        told = prompt.split()
        prompt_tokens = sum(len(message.content.split()) for message in wanted.messages) or len(told)
        words = told or ["echo"]
        if self._words:
            words = [words[at % len(words)] for at in range(self._words)]
        if wanted.max_tokens:
            words = words[: wanted.max_tokens]
        await self._before_the_first()
        for at, word in enumerate(words):
            if at:
                await asyncio.sleep(self._pause_s)
                if self._fail == "stream":
                    raise BackendFailed(self._message)
            if word in wanted.stop:
                return
            yield Piece(word if at == 0 else f" {word}", at + 1, prompt_tokens)

    async def embed(self, text: str) -> Vector:
        """A vector of length one made from the text's hash: equal for equal texts, and without meaning."""
        await self._before_the_first()
        digest = hashlib.shake_256(text.encode()).digest(2 * self._dimensions)
        raw = [int.from_bytes(digest[at : at + 2], "big") - 32767.5 for at in range(0, len(digest), 2)]
        length = math.sqrt(sum(value * value for value in raw))
        return Vector(tuple(value / length for value in raw), len(text.split()))

    async def tokenize(self, text: str) -> list[int]:
        """A number for each word."""
        return [zlib.crc32(word.encode()) & 0x7FFFFFFF for word in text.split()]

    async def _before_the_first(self) -> None:
        await asyncio.sleep(self._delay_s)
        if self._fail == "predict":
            raise BackendFailed(self._message)
        if self._fail == "exit":
            os._exit(70)  # at once, as a crash would: no answer, no clean-up
