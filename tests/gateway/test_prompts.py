"""What the gateway makes of a prompt: marks that tell two prompts alike, and nothing of what they say."""

from __future__ import annotations

import pytest

from interlock.adapters.grpc.calls import ChatMessage
from interlock.adapters.http.prompts import BLOCK_BYTES, marks_of_chat, marks_of_text
from interlock.domain.commands import AcquireLock
from interlock.domain.prefixes import DEPTHS
from tests.gateway.conftest import Cluster

KEY = b"k" * 32
SYSTEM = "You answer as a railway signaller would. " * 60


def _chat(*texts: str, key: bytes = KEY, model: str = "m", tools: str = "") -> tuple[int, ...]:
    roles = ("system", "user", "assistant", "user")
    messages = [ChatMessage(role=role, content=text) for role, text in zip(roles, texts, strict=False)]
    return marks_of_chat(key, model, messages, tools)


def test_the_next_turn_has_the_marks_of_the_one_before_and_more() -> None:
    first = _chat(SYSTEM, "May I pass?")
    next_turn = _chat(SYSTEM, "May I pass?", "The route is set. " * 40, "And now?")
    assert len(first) >= 5
    assert len(next_turn) > len(first)
    assert next_turn[: len(first)] == first


def test_prompts_that_differ_share_marks_up_to_where_they_differ() -> None:
    one, other = (marks_of_text(KEY, "m", "a" * 1000 + tail * 2000) for tail in "xy")
    same = sum(mine == theirs for mine, theirs in zip(one, other, strict=True))
    assert same == sum(depth * BLOCK_BYTES <= 1000 for depth in DEPTHS) == 3


def test_who_speaks_and_which_tools_there_are_is_part_of_the_prompt() -> None:
    plain = _chat(SYSTEM)
    assert _chat("", SYSTEM)[0] != plain[0]
    assert _chat(SYSTEM, tools='[{"type":"function"}]')[0] != plain[0]


def test_another_key_or_model_has_other_marks() -> None:
    assert not set(_chat(SYSTEM)) & set(_chat(SYSTEM, key=b"x" * 32))
    assert not set(_chat(SYSTEM)) & set(_chat(SYSTEM, model="n"))


@pytest.mark.parametrize(("length", "marks"), [(0, 0), (255, 0), (256, 1), (2048, 6), (5_000_000, 24)])
def test_marks_are_few_however_long_the_prompt(length: int, marks: int) -> None:
    found = marks_of_text(KEY, "m", "é" * (length // 2))
    assert len(found) == marks
    assert all(0 <= mark < 2**32 for mark in found)


async def test_a_chat_and_a_completion_bring_their_marks_and_embeddings_none(cluster: Cluster) -> None:
    await cluster.chat("m", SYSTEM)
    await cluster.ask("POST", "/v1/completions", json={"model": "m", "prompt": [SYSTEM, "b"]})
    await cluster.ask("POST", "/v1/embeddings", json={"model": "m", "input": SYSTEM})
    await cluster.chat("m", "short")
    chat, completion, embedding, short = cluster.scheduler.of(AcquireLock)
    assert len(chat.prefix) == len(completion.prefix) == 6
    assert chat.prefix != completion.prefix
    assert embedding.prefix == short.prefix == ()


async def test_marks_of_two_clients_tokens_never_meet(cluster: Cluster) -> None:
    for token in ("Bearer one", "Bearer two", "Bearer one"):
        await cluster.chat("m", SYSTEM, headers={"Authorization": token})
    one, two, again = (command.prefix for command in cluster.scheduler.of(AcquireLock))
    assert one == again
    assert not set(one) & set(two)
