"""The lock is released exactly once, whatever happens."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import aiohttp
import openai
import pytest

from interlock.adapters.http.app import GATEWAY
from interlock.domain import commands as c
from interlock.domain.errors import BackendDeclined, BackendFailed, BackendGone
from interlock.domain.units import SECOND
from tests.gateway.conftest import Cluster

BODY = {"model": "m", "messages": [{"role": "user", "content": "one two three four"}]}
STREAM = {**BODY, "stream": True}


def check_nothing_is_held(cluster: Cluster) -> None:
    """No lock, nobody waiting, and every request that got a lock was ended once."""
    scheduler = cluster.scheduler
    assert scheduler.locks == {}
    assert scheduler.waiting == {}
    ended = [request for request, _ in scheduler.ended]
    assert len(ended) == len(set(ended))
    assert scheduler.acquired - scheduler.released == 0


async def read_events(response: aiohttp.ClientResponse) -> list[Any]:
    text = (await response.read()).decode()
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [event if event == "[DONE]" else json.loads(event) for event in events]


async def test_a_request_that_is_served_is_released_as_served(cluster: Cluster) -> None:
    status, _, _ = await cluster.chat()
    assert status == 200
    await cluster.scheduler.until(lambda: bool(cluster.scheduler.ended))
    assert cluster.scheduler.kinds() == ["AcquireLock", "ReleaseLock"]
    assert cluster.scheduler.of(c.AcquireLock)[0].holder == cluster.holder
    assert [outcome for _, outcome in cluster.scheduler.ended] == ["served"]


async def test_the_next_request_of_a_connection_never_meets_the_lock_of_the_last(cluster: Cluster) -> None:
    cluster.scheduler.serve("one", "r9", parallel=1)
    for _ in range(20):
        status, _, _ = await cluster.chat("one")
        assert status == 200
    assert all(not isinstance(reply, c.Waiting) for reply in cluster.scheduler.replies.values())


async def test_a_backends_own_error_reaches_the_client_in_its_words(cluster: Cluster) -> None:
    cluster.backends.fails["r1:1"] = BackendFailed("out of paper")
    status, answer, _ = await cluster.chat()
    assert status == 502
    assert answer["error"] == {"message": "out of paper", "type": "failed", "code": "backend_failed"}
    assert [outcome for _, outcome in cluster.scheduler.ended] == ["failed"]
    assert cluster.scheduler.of(c.ReleaseLock)[0].detail == "out of paper"


async def test_a_backend_that_is_gone_is_reported_and_the_request_served_elsewhere(cluster: Cluster) -> None:
    cluster.backends.gone.add("r1:1")
    status, answer, _ = await cluster.chat()
    assert status == 200
    assert answer["choices"][0]["message"]["content"] == "m: hello there"
    assert cluster.backends.calls == ["r1:1", "r2:1"]
    await cluster.scheduler.until(lambda: bool(cluster.scheduler.ended))
    assert cluster.scheduler.kinds() == ["AcquireLock", "ReportBackendGone", "ReleaseLock"]
    assert cluster.scheduler.of(c.ReportBackendGone)[0].replica == "r1"
    assert not cluster.scheduler.of(c.ReportBackendGone)[0].answered
    check_nothing_is_held(cluster)


async def test_a_backend_that_says_that_the_model_is_not_there_is_reported_with_that(cluster: Cluster) -> None:
    cluster.backends.fails["r1:1"] = BackendGone("r1:1", "no model is loaded here", answered=True)
    assert (await cluster.chat())[0] == 200
    assert [command.answered for command in cluster.scheduler.of(c.ReportBackendGone)] == [True]


async def test_a_stream_whose_backend_is_gone_before_its_first_byte_is_served_elsewhere(cluster: Cluster) -> None:
    cluster.backends.gone.add("r1:1")
    async with cluster.http.post("/v1/chat/completions", json=STREAM) as response:
        assert response.status == 200
        assert (await read_events(response))[-1] == "[DONE]"
    assert cluster.backends.calls == ["r1:1", "r2:1"]
    await cluster.scheduler.until(lambda: bool(cluster.scheduler.ended))
    check_nothing_is_held(cluster)


async def test_when_no_backend_is_left_the_cores_refusal_is_the_answer(
    cluster: Cluster,
) -> None:
    cluster.backends.gone |= {"r1:1", "r2:1"}
    status, answer, headers = await cluster.chat()
    assert (status, answer["error"]["code"], headers["Retry-After"]) == (503, "capacity_exhausted", "3")
    assert cluster.scheduler.kinds() == ["AcquireLock", "ReportBackendGone", "ReportBackendGone", "ReleaseLock"]
    check_nothing_is_held(cluster)


@pytest.mark.parametrize("said", [c.Done(), c.Rejected(code="backend_failed", message="It was ended.")])
async def test_a_lock_that_outlives_the_report_of_its_backend_is_released(cluster: Cluster, said: c.AnyReply) -> None:
    cluster.backends.gone.add("r1:1")
    decide = cluster.scheduler._decide
    cluster.scheduler._decide = lambda command: (  # type: ignore[method-assign]  # the core's answer to a stale report
        said if isinstance(command, c.ReportBackendGone) else decide(command)
    )
    status, answer, _ = await cluster.chat()
    assert (status, answer["error"]["code"]) == (502, "backend_failed")
    check_nothing_is_held(cluster)


@pytest.mark.parametrize("error", [BackendFailed("ran dry"), BackendGone("r1:1", "died"), KeyError("a defect")])
async def test_an_error_after_the_first_byte_ends_the_stream_visibly(cluster: Cluster, error: Exception) -> None:
    cluster.backends.breaks["r1:1"] = (2, error)
    async with cluster.http.post("/v1/chat/completions", json=STREAM) as response:
        assert response.status == 200
        events = await read_events(response)
    assert "error" in events[-1]
    assert "KeyError" not in json.dumps(events[-1])
    assert cluster.scheduler.of(c.ReportBackendGone) == []
    await cluster.scheduler.until(lambda: bool(cluster.scheduler.ended))
    assert [outcome for _, outcome in cluster.scheduler.ended] == ["failed"]
    check_nothing_is_held(cluster)


@pytest.mark.parametrize("error", [BackendFailed("no"), BackendGone("r1:1", "died"), KeyError("a defect")])
async def test_an_error_of_the_second_prompt_of_a_stream_comes_after_the_first_byte(
    cluster: Cluster, error: Exception
) -> None:
    cluster.backends.only = (1, error)
    body = {"model": "m", "prompt": ["a b", "c"], "stream": True}
    async with cluster.http.post("/v1/completions", json=body) as response:
        assert response.status == 200
        events = await read_events(response)
    assert [event.get("choices", [{}])[0].get("text") for event in events] == ["a ", "b ", "", None]
    assert "error" in events[-1]
    await cluster.scheduler.until(lambda: bool(cluster.scheduler.ended))
    assert [outcome for _, outcome in cluster.scheduler.ended] == ["failed"]
    check_nothing_is_held(cluster)


async def test_the_official_client_raises_when_a_stream_breaks(cluster: Cluster) -> None:
    cluster.backends.breaks["r1:1"] = (2, BackendFailed("ran dry"))
    stream = await cluster.openai().completions.create(model="m", prompt="a b c", stream=True)
    with pytest.raises(openai.APIError, match="ran dry"):
        async for _ in stream:
            pass


@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_caller_got_wrong_is_told_to_it_and_held_against_nobody(cluster: Cluster, stream: bool) -> None:
    words = "the embeddings backend makes vectors, not text"
    cluster.backends.fails["r1:1"] = BackendDeclined(words, unsupported=True)
    status, answer, _ = await cluster.ask("POST", "/v1/chat/completions", json={**STREAM, "stream": stream})
    assert (status, answer["error"]) == (
        400,
        {
            "message": f"{words}. This model may serve POST /v1/embeddings.", "type": "invalid_request_error",
            "code": "unsupported", "param": "model",
        },
    )  # fmt: skip
    await cluster.scheduler.until(lambda: bool(cluster.scheduler.ended))
    assert [outcome for _, outcome in cluster.scheduler.ended] == ["declined"]
    assert 'interlock_requests_total{outcome="declined"} 1' in await (await cluster.http.get("/metrics")).text()
    cluster.backends.fails["r1:1"] = cluster.backends.fails["r2:1"] = BackendDeclined("the text is empty")
    status, answer, _ = await cluster.ask("POST", "/v1/embeddings", json={"model": "m", "input": "a"})
    assert (status, answer["error"]["code"], answer["error"]["message"]) == (400, "invalid_input", "the text is empty")
    check_nothing_is_held(cluster)


async def test_an_error_before_the_first_byte_of_a_stream_has_a_status(cluster: Cluster) -> None:
    cluster.backends.fails["r1:1"] = BackendFailed("no such voice")
    status, answer, _ = await cluster.ask("POST", "/v1/chat/completions", json=STREAM)
    assert (status, answer["error"]["message"]) == (502, "no such voice")


async def test_a_client_that_leaves_while_it_waits_is_cancelled(cluster: Cluster) -> None:
    cluster.scheduler.hold = True
    asking = asyncio.create_task(cluster.chat())
    await cluster.scheduler.until(lambda: len(cluster.scheduler.waiting) == 1)
    asking.cancel()
    await cluster.scheduler.until(lambda: bool(cluster.scheduler.ended))
    assert cluster.scheduler.kinds() == ["AcquireLock", "CancelRequest"]
    assert cluster.backends.calls == []
    check_nothing_is_held(cluster)


async def test_a_client_that_leaves_while_the_backend_works_stops_it_and_is_released(cluster: Cluster) -> None:
    cluster.backends.stalls["r1:1"] = 0
    asking = asyncio.create_task(cluster.chat())
    await cluster.backends.stalled.wait()
    asking.cancel()
    await asyncio.wait_for(cluster.backends.left.wait(), 10)
    await cluster.scheduler.until(lambda: bool(cluster.scheduler.ended))
    assert [outcome for _, outcome in cluster.scheduler.ended] == ["cancelled"]
    check_nothing_is_held(cluster)


async def test_a_client_that_leaves_mid_stream_stops_the_backend_and_is_released(cluster: Cluster) -> None:
    cluster.backends.stalls["r1:1"] = 2
    response = await cluster.http.post("/v1/chat/completions", json=STREAM)
    await response.content.readuntil(b"\n\n")
    await cluster.backends.stalled.wait()
    response.close()
    await asyncio.wait_for(cluster.backends.left.wait(), 10)
    await cluster.scheduler.until(lambda: bool(cluster.scheduler.ended))
    assert [outcome for _, outcome in cluster.scheduler.ended] == ["cancelled"]
    check_nothing_is_held(cluster)


async def test_a_release_is_sent_again_under_the_same_id_until_a_writer_is_back(cluster: Cluster) -> None:
    decide = cluster.scheduler._decide

    def leave_after_the_lock(command: c.Command) -> c.AnyReply:
        if isinstance(command, c.AcquireLock):
            cluster.scheduler.away = 3
        return decide(command)

    cluster.scheduler._decide = leave_after_the_lock  # type: ignore[method-assign]  # the writer dies at this moment
    status, _, _ = await cluster.chat()
    assert status == 200
    await cluster.scheduler.until(lambda: bool(cluster.scheduler.ended))
    sent = [envelope.command_id for envelope in cluster.scheduler.sent if isinstance(envelope.command, c.ReleaseLock)]
    assert len(sent) >= 3
    assert len(set(sent)) == 1
    check_nothing_is_held(cluster)


async def test_a_release_whose_answer_was_lost_is_decided_once(cluster: Cluster) -> None:
    decide = cluster.scheduler._decide

    def lose_the_answer(command: c.Command) -> c.AnyReply:
        if isinstance(command, c.ReleaseLock):
            cluster.scheduler.lost_answers = 2
        return decide(command)

    cluster.scheduler._decide = lose_the_answer  # type: ignore[method-assign]  # the answer gets lost at this moment
    await cluster.chat()
    await cluster.scheduler.until(lambda: len(cluster.scheduler.sent) >= 4)
    assert cluster.scheduler.kinds() == ["AcquireLock", "ReleaseLock"]
    check_nothing_is_held(cluster)


async def test_a_lock_whose_answer_was_lost_is_found_again(cluster: Cluster) -> None:
    cluster.scheduler.lost_answers = 2
    status, _, _ = await cluster.chat()
    assert status == 200
    assert cluster.scheduler.acquired == 1
    await cluster.scheduler.until(lambda: bool(cluster.scheduler.ended))
    check_nothing_is_held(cluster)


async def test_many_unconfirmed_releases_are_one_line_in_the_log(
    bare: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interlock.adapters.http.lifecycle._LONGEST_PAUSE_SECONDS", 0.02)
    await bare.start(writer_patience=10_000)
    bare.scheduler.away = 10**6
    await asyncio.gather(*(bare.chat() for _ in range(30)))
    claims = bare.app[GATEWAY].claims
    async with asyncio.timeout(10):
        while "not confirmed" not in caplog.text:
            await asyncio.sleep(0.01)
    assert claims.unsettled == 30
    assert caplog.text.count("not confirmed") == 1
    bare.scheduler.away = 0
    await claims.drain()
    assert claims.unsettled == 0


async def test_without_a_writer_the_client_is_told_and_the_request_ended_once_one_is_back(bare: Cluster) -> None:
    await bare.start(writer_patience=50_000)
    bare.scheduler.away = 10**6
    status, answer, headers = await bare.chat()
    assert (status, answer["error"]["code"], headers["Retry-After"]) == (503, "no_writer", "1")
    bare.scheduler.away = 0
    await bare.scheduler.until(lambda: "CancelRequest" in bare.scheduler.kinds())
    assert bare.scheduler.of(c.AcquireLock) == []
    check_nothing_is_held(bare)


async def test_a_port_that_is_slow_to_say_that_no_writer_leads_keeps_no_client_waiting_for_ever(bare: Cluster) -> None:
    await bare.start(writer_patience=50_000)
    bare.scheduler.away, bare.scheduler.away_after_s = 10**6, 0.1
    status, answer, _ = await asyncio.wait_for(bare.chat(), 5)
    assert (status, answer["error"]["code"]) == (503, "no_writer")
    asked = [one for one in bare.scheduler.sent if isinstance(one.command, c.AcquireLock)]
    assert len(asked) == 1, "what is over patience at its first answer is not asked again"
    bare.scheduler.away = 0  # the gateway says its goodbyes without delay


async def test_a_writer_that_leaves_during_a_wait_is_waited_for_anew(bare: Cluster) -> None:
    await bare.start(writer_patience=500_000)
    bare.scheduler.away, bare.scheduler.away_after_s, bare.scheduler.left = 1, 0.6, 1
    assert (await bare.chat())[0] == 200
    assert bare.scheduler.acquired == 1


async def test_a_wait_that_ends_without_a_writer_says_so_and_not_that_there_is_no_room(bare: Cluster) -> None:
    await bare.start(writer_patience=60 * SECOND, wait_limit=200_000)
    bare.scheduler.away = 10**6
    status, answer, _ = await bare.chat()
    assert (status, answer["error"]["code"]) == (503, "no_writer")
    bare.scheduler.away = 0


async def test_a_wait_beyond_the_last_resort_is_given_up(bare: Cluster) -> None:
    await bare.start(wait_limit=50_000)
    bare.scheduler.hold = True
    status, answer, _ = await bare.chat()
    assert (status, answer["error"]["code"]) == (503, "capacity_exhausted")
    await bare.scheduler.until(lambda: bool(bare.scheduler.ended))
    check_nothing_is_held(bare)


async def test_a_deadline_of_the_clients_own_reaches_the_core(cluster: Cluster) -> None:
    await cluster.chat(headers={"X-Interlock-Deadline": "30s"})
    await cluster.chat()
    await cluster.chat(headers={"X-Interlock-Deadline": "0s"})
    given, default, none = cluster.scheduler.of(c.AcquireLock)
    assert given.patience == 30_000_000, "a length, since the writer's clock may be another"
    assert none.patience < 0, "it does not wait"
    assert (given.deadline, default.deadline, default.patience) == (0, 0, 0)
    status, answer, _ = await cluster.chat(headers={"X-Interlock-Deadline": "soon"})
    assert (status, answer["error"]["param"]) == (400, "X-Interlock-Deadline")


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("unknown_model", 404, "misconfigured"), ("no_node_matches", 422, "misconfigured"),
        ("never_fits", 422, "misconfigured"), ("load_info_missing", 422, "misconfigured"),
        ("capacity_exhausted", 503, "waiting"), ("loading", 503, "waiting"), ("draining", 503, "waiting"),
        ("frozen", 503, "waiting"), ("queue_full", 429, "waiting"), ("rate_limited", 429, "waiting"),
        ("load_failed", 502, "failed"), ("backend_failed", 502, "failed"), ("cancelled", 409, "conflict_error"),
    ],
)  # fmt: skip
async def test_a_refusal_has_its_status_its_class_and_its_cure(
    cluster: Cluster, code: str, status: int, kind: str
) -> None:
    cluster.scheduler.refuse["m"] = c.Rejected(code=code, message="No.", cure="Do this.", retry_after=1_200_000)
    got, answer, headers = await cluster.chat()
    assert (got, answer["error"]["code"], answer["error"]["type"]) == (status, code, kind)
    assert answer["error"]["message"] == "No. Do this."
    assert headers.get("Retry-After") == ("2" if kind == "waiting" else None)
    check_nothing_is_held(cluster)


async def test_a_wait_too_long_for_a_load_tells_how_far_the_load_is(cluster: Cluster) -> None:
    cluster.scheduler.refuse["m"] = c.Rejected(code="loading", message="It loads.", retry_after=5_000_000)
    cluster.scheduler.loading["m"] = {"state": "staging", "node": "thor", "progress": 0.25}
    status, answer, headers = await cluster.chat()
    assert (status, headers["Retry-After"]) == (503, "5")
    assert answer["error"]["loading"] == {"state": "staging", "node": "thor", "progress": 0.25}


async def test_the_holders_lease_is_renewed_also_after_a_failure(bare: Cluster) -> None:
    await bare.start(holder_lease=60_000)
    await bare.scheduler.until(lambda: len(bare.scheduler.renewals) >= 2)
    bare.scheduler.away = 1
    seen = len(bare.scheduler.renewals)
    await bare.scheduler.until(lambda: len(bare.scheduler.renewals) >= seen + 2)
    assert set(bare.scheduler.renewals) == {bare.holder}


async def test_a_lease_that_an_operator_shortened_is_renewed_in_time(bare: Cluster) -> None:
    bare.scheduler.lease = 60_000
    await bare.start(holder_lease=3_600_000_000)
    await bare.scheduler.until(lambda: len(bare.scheduler.renewals) >= 3)
    assert set(bare.scheduler.renewals) == {bare.holder}


async def test_a_gateway_that_stops_ends_what_it_holds(bare: Cluster) -> None:
    await bare.start(drain_limit=100_000)
    bare.backends.stalls["r1:1"] = 0
    asking = asyncio.create_task(bare.chat())
    await bare.backends.stalled.wait()
    await bare.server.close()
    status, answer, headers = await asking
    assert (status, answer["error"]["code"], headers["Retry-After"]) == (503, "gateway_stops", "1")
    [released] = bare.scheduler.of(c.ReleaseLock)
    assert (released.outcome, released.detail) == ("cancelled", "the gateway stopped")
    check_nothing_is_held(bare)


async def test_a_gateway_that_stops_tells_who_waits_at_once_and_lets_who_runs_end(bare: Cluster) -> None:
    await bare.start(drain_limit=20 * SECOND)
    bare.backends.stalls["r1:1"] = 0
    running = asyncio.create_task(bare.chat())
    await bare.backends.stalled.wait()
    bare.scheduler.hold = True
    waiting = asyncio.create_task(bare.chat())
    await bare.scheduler.until(lambda: len(bare.scheduler.waiting) == 1)
    stopping = asyncio.create_task(bare.server.drain())
    status, answer, headers = await waiting
    assert (status, answer["error"]["type"], headers["Retry-After"]) == (503, "unavailable", "1")
    [cancelled] = bare.scheduler.of(c.CancelRequest)
    assert cancelled.reason == "the gateway stopped"
    assert (await bare.chat())[1]["error"]["code"] == "gateway_stops", "who comes now is told the same"
    assert (await bare.ask("GET", "/readyz"))[0] == 503
    assert not stopping.done()
    bare.backends.goes_on.set()
    assert (await running)[0] == 200
    await stopping
    check_nothing_is_held(bare)


async def test_a_stream_that_the_gateway_has_no_time_left_for_ends_with_an_error_event(bare: Cluster) -> None:
    await bare.start(drain_limit=100_000)
    bare.backends.stalls["r1:1"] = 1
    asking = asyncio.create_task(bare.ask_raw({**BODY, "stream": True}))
    await bare.backends.stalled.wait()
    await bare.server.close()
    assert b'"code":"gateway_stops"' in await asking
    [released] = bare.scheduler.of(c.ReleaseLock)
    assert released.detail == "the gateway stopped"
    check_nothing_is_held(bare)


async def test_a_call_whose_claim_an_operator_ends_here_is_broken_off_and_its_client_is_told(bare: Cluster) -> None:
    await bare.start()
    bare.backends.stalls["r1:1"] = 0
    asking = asyncio.create_task(bare.chat(headers={"X-Request-Id": "long"}))
    await bare.backends.stalled.wait()
    assert (await bare.ask("POST", "/api/locks/long/release"))[0] == 200
    status, answer, _ = await asking
    assert (status, answer["error"]["code"]) == (409, "cancelled")
    assert "ended by an operator" in answer["error"]["message"]
    check_nothing_is_held(bare)


async def test_a_call_whose_claim_was_ended_through_another_gateway_is_broken_off_at_the_next_renewal(
    bare: Cluster,
) -> None:
    bare.scheduler.lease = 60_000
    await bare.start(holder_lease=60_000)
    bare.backends.stalls["r1:1"] = 1
    asking = asyncio.create_task(bare.ask_raw({**BODY, "stream": True}, headers={"X-Request-Id": "long"}))
    await bare.backends.stalled.wait()
    bare.scheduler.taken.append("long")
    assert b'"code":"cancelled"' in await asking
    check_nothing_is_held(bare)


@pytest.mark.parametrize("seed", range(4))
async def test_after_any_mix_of_outcomes_every_lock_is_back(cluster: Cluster, seed: int) -> None:
    chance = random.Random(seed)
    cluster.scheduler.serve("m", *(f"r{n}" for n in range(1, 9)), parallel=2)
    cluster.backends.gone.add("r2:1")
    cluster.backends.fails["r3:1"] = BackendFailed("no")
    cluster.backends.breaks["r4:1"] = (1, BackendFailed("midway"))
    cluster.backends.breaks["r5:1"] = (2, BackendGone("r5:1", "died"))
    cluster.backends.stalls["r6:1"] = 1

    async def one() -> None:
        body = {**BODY, "model": chance.choice(["m", "m", "m", "nobody"]), "stream": chance.random() < 0.5}
        request = asyncio.create_task(cluster.ask_raw(body))
        if chance.random() < 0.3:
            for _ in range(chance.randrange(40)):
                await asyncio.sleep(0)
            request.cancel()
        if chance.random() < 0.2:
            cluster.scheduler.away += chance.randrange(3)
        if chance.random() < 0.2:
            cluster.scheduler.lost_answers += 1
        await asyncio.wait((request,), timeout=chance.choice([0.05, 0.5]))
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)

    await asyncio.gather(*(one() for _ in range(60)))
    cluster.scheduler.away = cluster.scheduler.lost_answers = 0
    await cluster.scheduler.until(lambda: not cluster.scheduler.locks and not cluster.scheduler.waiting)
    check_nothing_is_held(cluster)
    assert cluster.scheduler.acquired >= 10
    assert all(count == 2 for replica, count in cluster.scheduler.free.items() if replica != "r2")


async def test_a_client_that_leaves_while_it_is_routed_again_is_ended_once(cluster: Cluster) -> None:
    cluster.backends.gone.add("r1:1")
    decide = cluster.scheduler._decide

    def hold_from_now_on(command: c.Command) -> c.AnyReply:
        cluster.scheduler.hold = isinstance(command, c.ReportBackendGone)
        return decide(command)

    cluster.scheduler._decide = hold_from_now_on  # type: ignore[method-assign]  # room runs out at this moment
    asking = asyncio.create_task(cluster.chat())
    await cluster.scheduler.until(lambda: len(cluster.scheduler.waiting) == 1)
    asking.cancel()
    await cluster.scheduler.until(lambda: bool(cluster.scheduler.ended))
    await cluster.chat("nobody")  # whatever else was on its way has arrived by the time this is answered
    assert cluster.scheduler.kinds()[:3] == ["AcquireLock", "ReportBackendGone", "CancelRequest"]
    assert cluster.scheduler.of(c.ReleaseLock) == []
    check_nothing_is_held(cluster)
