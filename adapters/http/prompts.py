"""The marks of a prompt: keyed hashes of its beginnings, which tell two prompts alike and nothing of what they say.

The key is the token that the client came with, so that marks of different tokens never meet: nobody can find out by a
guess of his own what others have asked, neither from the log nor from where his request is sent. Without tokens, which
only loopback allows, it is a random one of this run.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable

from aiohttp import web

from interlock.adapters.grpc.calls import ChatMessage
from interlock.domain.prefixes import DEPTHS, MARK_BITS

BLOCK_BYTES = 256
"""A block of the prompt's text: about as many tokens as a cache's page has."""
_LONGEST = DEPTHS[-1] * BLOCK_BYTES
_KEY_OF_THIS_RUN = secrets.token_bytes(32)


def key_of(request: web.Request) -> bytes:
    """The key of whoever sent the request."""
    given = request.headers.get("Authorization")
    return hashlib.sha256(given.encode(errors="surrogateescape")).digest() if given else _KEY_OF_THIS_RUN


def marks_of_text(key: bytes, model: str, text: str) -> tuple[int, ...]:
    """The marks of a plain prompt; none when it is shorter than a block."""
    prompt = memoryview(text[:_LONGEST].encode())
    digest = hashlib.blake2b(model.encode(), key=key, digest_size=MARK_BITS // 8)
    marks, begin = [], 0
    for depth in DEPTHS:
        end = depth * BLOCK_BYTES
        if end > len(prompt):
            break
        digest.update(prompt[begin:end])
        marks.append(int.from_bytes(digest.copy().digest(), "big"))
        begin = end
    return tuple(marks)


def marks_of_chat(key: bytes, model: str, messages: Iterable[ChatMessage], tools: str) -> tuple[int, ...]:
    """The marks of a conversation: its tools, then its messages in order, as templates write them."""
    parts, length = [tools], len(tools)
    for said in messages:
        parts += (said.role, said.name, said.tool_call_id, said.tool_calls, said.content)
        length += len(said.content)
        if length > _LONGEST:
            break
    return marks_of_text(key, model, "\0".join(parts))
