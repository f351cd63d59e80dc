"""Backend processes over real gRPC: identity, failures, streams, vectors."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from interlock.adapters.grpc.calls import BackendState, ChatMessage, Generation
from interlock.domain import commands as c
from interlock.domain import effects as e
from interlock.domain.entities import LoadSpec
from interlock.domain.errors import BackendDeclined, BackendFailed, BackendGone, Fenced
from tests.workers.rig import RealRig

EMBEDDINGS = LoadSpec(backend="embeddings")
HELLO = Generation(prompt="hello big world")


def echo(**options: str | int | float | bool) -> LoadSpec:
    return LoadSpec(backend="echo", options=options, vram=1000)


async def test_echo_says_again_what_it_was_told(real_rig: RealRig) -> None:
    address = await real_rig.loaded("r-1")
    piece = await real_rig.backends.predict(address, "m", HELLO, replica="r-1")
    assert (piece.text, piece.tokens, piece.prompt_tokens) == ("hello big world", 3, 3)


async def test_a_conversation_travels_as_messages(real_rig: RealRig) -> None:
    address = await real_rig.loaded("r-1")
    messages = (ChatMessage("system", "be brief"), ChatMessage("user", "good morning"))
    piece = await real_rig.backends.predict(address, "m", Generation(messages=messages))
    assert (piece.text, piece.prompt_tokens) == ("good morning", 4)


async def test_an_answer_keeps_to_the_tokens_and_stops_asked_for(real_rig: RealRig) -> None:
    address = await real_rig.loaded("r-1")
    short = await real_rig.backends.predict(address, "m", Generation(prompt="a b c d", max_tokens=2))
    stopped = await real_rig.backends.predict(address, "m", Generation(prompt="a b END d", stop=("END",)))
    assert (short.text, stopped.text) == ("a b", "a b")


async def test_a_slow_stream_arrives_in_pieces(real_rig: RealRig) -> None:
    address = await real_rig.loaded("r-1", spec=echo(tokens_per_second=5))
    began = time.monotonic()
    arrived = []
    async for piece in real_rig.backends.predict_stream(address, "m", HELLO):
        arrived.append((piece.text, time.monotonic() - began))
    assert [text for text, _ in arrived] == ["hello", " big", " world"]
    assert arrived[0][1] < 0.15
    assert arrived[1][1] - arrived[0][1] > 0.1
    assert arrived[2][1] - arrived[1][1] > 0.1


async def test_a_stream_that_is_closed_early_ends_on_the_backend_too(real_rig: RealRig) -> None:
    address = await real_rig.loaded("r-1", spec=echo(tokens_per_second=100, words=10_000))
    stream = real_rig.backends.predict_stream(address, "m", HELLO)
    async for _ in stream:
        break
    await stream.aclose()  # type: ignore[attr-defined]  # an async generator, seen as an iterator
    async with asyncio.timeout(5):
        while (state := (await real_rig.backends.status(address)).state) is BackendState.BUSY:
            await asyncio.sleep(0)
    assert state is BackendState.READY


async def test_before_its_load_a_backend_has_no_model(real_rig: RealRig) -> None:
    address = await real_rig.installed("r-1")
    await real_rig.backends.health(address)
    assert (await real_rig.backends.status(address)).state is BackendState.UNINITIALIZED
    with pytest.raises(BackendGone, match="no model is loaded") as told:
        await real_rig.backends.predict(address, "m", HELLO)
    assert told.value.answered, "somebody is there, and says so"
    with pytest.raises(BackendGone):
        await anext(real_rig.backends.predict_stream(address, "m", HELLO))


async def test_a_call_for_another_model_is_refused(real_rig: RealRig) -> None:
    address = await real_rig.loaded("r-1")
    with pytest.raises(BackendGone, match="other"):
        await real_rig.backends.predict(address, "other", HELLO)
    with pytest.raises(BackendGone):
        await real_rig.backends.embedding(address, "other", "text")
    with pytest.raises(BackendGone):
        await real_rig.backends.load(address, "other", echo(), timeout_s=5)


async def test_a_call_for_another_replica_of_the_model_is_refused(real_rig: RealRig) -> None:
    address = await real_rig.loaded("r-2")
    with pytest.raises(BackendGone, match="r-1"):
        await real_rig.backends.predict(address, "m", HELLO, replica="r-1")


async def test_names_beyond_ascii_are_told_apart(real_rig: RealRig) -> None:
    address = await real_rig.loaded("r-1", model="größe/モデル")
    assert (await real_rig.backends.predict(address, "größe/モデル", HELLO)).tokens == 3
    with pytest.raises(BackendGone):
        await real_rig.backends.status(address, model="größe/другая")


async def test_a_backend_that_is_killed_is_gone(real_rig: RealRig) -> None:
    address = await real_rig.loaded("r-1")
    await real_rig.kill("r-1")
    await real_rig.reports.until(lambda heard: isinstance(heard, c.ReportReplicaDied))
    with pytest.raises(BackendGone) as told:
        await real_rig.backends.predict(address, "m", HELLO)
    assert not told.value.answered


async def test_a_backend_that_dies_before_its_first_word_is_gone(real_rig: RealRig) -> None:
    address = await real_rig.loaded("r-1", spec=echo(fail="exit"))
    with pytest.raises(BackendGone):
        await real_rig.backends.predict(address, "m", HELLO)


async def test_a_backend_that_dies_after_its_first_word_has_failed(real_rig: RealRig) -> None:
    address = await real_rig.loaded("r-1", spec=echo(tokens_per_second=1))
    pid = await real_rig.pid("r-1")
    stream = real_rig.backends.predict_stream(address, "m", HELLO)
    assert (await anext(stream)).text == "hello"
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(BackendFailed):
        await anext(stream)


async def test_a_failure_comes_in_the_backends_own_words(real_rig: RealRig) -> None:
    address = await real_rig.loaded("r-1", spec=echo(fail="predict", message="CUDA error 700"))
    with pytest.raises(BackendFailed, match=r"^CUDA error 700$"):
        await real_rig.backends.predict(address, "m", HELLO)


async def test_an_older_writer_may_not_load(real_rig: RealRig) -> None:
    address = await real_rig.installed("r-1", epoch=5)
    with pytest.raises(Fenced):
        await real_rig.do(e.LoadModel, "r-1", epoch=4, address=address)


async def test_a_caller_that_gives_up_does_not_end_the_load(real_rig: RealRig) -> None:
    address = await real_rig.installed("r-1")
    with pytest.raises(BackendFailed, match="no answer in time"):
        await real_rig.backends.load(address, "m", echo(load_ms=500), timeout_s=0.1)
    await real_rig.backends.load(address, "m", echo(load_ms=500), timeout_s=5)
    assert (await real_rig.backends.status(address)).state is BackendState.READY


async def test_a_load_tells_how_many_bytes_are_in_place(real_rig: RealRig) -> None:
    await real_rig.loaded("r-1", spec=echo(load_ms=600))
    progress = [heard for heard in real_rig.reports.heard if isinstance(heard, c.ReportProgress)]
    assert len(progress) >= 3
    assert [report.done for report in progress] == sorted(report.done for report in progress)
    assert {report.total for report in progress} == {1000}


async def test_the_standard_health_service_tells_whether_the_model_is_loaded(real_rig: RealRig) -> None:
    address = await real_rig.installed("r-1")
    async with grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest(service="backend.Backend")
        before = await health.Check(asked)
        await real_rig.do(e.LoadModel, "r-1", address=address)
        after = await health.Check(asked)
        whole = await health.Check(health_pb2.HealthCheckRequest())
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert (before.status, after.status, whole.status) == (not_serving, serving, serving)


async def test_freeing_leaves_the_process_without_a_model(real_rig: RealRig) -> None:
    address = await real_rig.loaded("r-1")
    await real_rig.backends.free(address, model="m")
    assert (await real_rig.backends.status(address)).memory == 0
    with pytest.raises(BackendGone):
        await real_rig.backends.predict(address, "m", HELLO)


async def test_embeddings_are_real_vectors_of_length_one(real_rig: RealRig) -> None:
    address = await real_rig.loaded("r-1", spec=EMBEDDINGS)
    vector = await real_rig.backends.embedding(address, "m", "A cat sat on the mat.")
    assert len(vector.values) == 256
    assert math.isclose(math.hypot(*vector.values), 1, rel_tol=1e-5)
    assert vector.prompt_tokens == len(await real_rig.backends.tokenize(address, "m", "A cat sat on the mat."))


async def test_embeddings_put_like_near_like(real_rig: RealRig) -> None:
    address = await real_rig.loaded("r-1", spec=EMBEDDINGS)

    async def vector(text: str) -> tuple[float, ...]:
        return (await real_rig.backends.embedding(address, "m", text)).values

    def cosine(a: tuple[float, ...], b: tuple[float, ...]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    cat, kitten = await vector("a cat sleeps on the sofa"), await vector("the kitten is napping on a couch")
    gpu = await vector("the graphics card ran out of memory")
    assert cosine(cat, kitten) > cosine(cat, gpu) + 0.2
    assert cosine(cat, await vector("a cat sleeps on the sofa")) > 0.9999


async def test_embeddings_can_be_cut_and_stay_of_length_one(real_rig: RealRig) -> None:
    address = await real_rig.loaded("r-1", spec=LoadSpec(backend="embeddings", options={"dimensions": 64}))
    vector = await real_rig.backends.embedding(address, "m", "short")
    assert len(vector.values) == 64
    assert math.isclose(math.hypot(*vector.values), 1, rel_tol=1e-5)


async def test_embeddings_make_no_text_and_say_so(real_rig: RealRig) -> None:
    address = await real_rig.loaded("r-1", spec=EMBEDDINGS)
    with pytest.raises(BackendDeclined, match="vectors") as cannot:
        await real_rig.backends.predict(address, "m", HELLO)
    with pytest.raises(BackendDeclined, match="vectors"):
        await anext(real_rig.backends.predict_stream(address, "m", HELLO))
    with pytest.raises(BackendDeclined, match="empty") as wrong:
        await real_rig.backends.embedding(address, "m", "")
    assert (cannot.value.unsupported, wrong.value.unsupported) == (True, False)


async def test_many_calls_share_a_bounded_number_of_channels(real_rig: RealRig) -> None:
    from interlock.adapters.grpc.client import BackendClient

    client = BackendClient(max_channels=1)
    addresses = [await real_rig.loaded(f"r-{index}", index=index) for index in (1, 2)]
    for _ in range(3):
        answers = await asyncio.gather(*(client.predict(address, "m", HELLO) for address in addresses))
        assert [answer.tokens for answer in answers] == [3, 3]
    await client.close()
