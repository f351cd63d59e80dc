"""Operators' own paths: models, replicas, locks, requests, switches, the log, and the paths around them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from interlock.adapters.http.metrics import Counter
from interlock.adapters.http.ports import Readiness
from interlock.domain import commands as c
from interlock.domain.entities import LoadSpec
from interlock.domain.errors import InvariantBroken, StoreUnavailable
from interlock.domain.units import GIB, SECOND
from tests.gateway.conftest import Cluster

QWEN = {
    "name": "qwen", "backend": "llama-cpp", "options": {"context": 4096}, "vram": "9GiB", "disk": "8GiB",
    "node_selector": {"tier": ["fast", "big"]}, "min_replicas": 1, "max_replicas": 2, "parallel": 4, "priority": 1,
    "pinned": True, "anti_affinity": "chat", "anti_affinity_hard": True, "aliases": ["q"],
}  # fmt: skip


async def test_a_model_is_declared_shown_and_taken_out(cluster: Cluster) -> None:
    status, answer, _ = await cluster.ask("POST", "/api/models", json=QWEN)
    assert (status, answer["name"], answer["backend"]) == (200, "qwen", "llama-cpp")
    command = cluster.scheduler.of(c.DeclareModel)[0]
    assert command.spec == LoadSpec(backend="llama-cpp", options={"context": 4096}, vram=9 * GIB, disk=8 * GIB)
    assert (command.aliases, command.scheduling.parallel, command.scheduling.pinned) == (("q",), 4, True)
    assert (command.scheduling.anti_affinity, command.scheduling.anti_affinity_hard) == ("chat", True)
    _, listed, _ = await cluster.ask("GET", "/api/models")
    assert [model["name"] for model in listed] == ["m", "qwen"]
    _, by_alias, _ = await cluster.ask("GET", "/api/models/q")
    assert by_alias["name"] == "qwen"
    status, _, _ = await cluster.ask("DELETE", "/api/models/qwen")
    assert status == 200
    assert cluster.scheduler.of(c.RemoveModel) == [c.RemoveModel(model="qwen")]


async def test_a_models_name_may_hold_a_slash(cluster: Cluster) -> None:
    status, _, _ = await cluster.ask("PUT", "/api/models/meta%2Fllama", json={"backend": "echo"})
    assert status == 200
    assert cluster.scheduler.of(c.DeclareModel)[0].model == "meta/llama"
    status, answer, _ = await cluster.ask("GET", "/api/models/meta%2Fllama")
    assert (status, answer["name"]) == (200, "meta/llama")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"vrma": "9GiB"}, "vrma"), ({"vram": "9 potatoes"}, "vram"), ({"vram": True}, "vram"),
        ({"backend": 7}, "backend"), ({"backend": ""}, "backend"), ({"options": {"a": []}}, "options.a"),
        ({"min_replicas": -1}, "min_replicas"), ({"min_replicas": 1.5}, "min_replicas"),
        ({"max_replicas": 0, "min_replicas": 0, "replicas": "some"}, "replicas"), ({"replicas": "all"}, "replicas"),
        ({"prefix_affinity": -1}, "prefix_affinity"), ({"prefix_affinity": "on"}, "prefix_affinity"),
        ({"anti_affinity": 1}, "anti_affinity"), ({"anti_affinity": ""}, "anti_affinity_hard"),
        ({"pinned": "yes"}, "pinned"), ({"node_selector": {"": "a"}}, "node_selector."), ({"aliases": "q"}, "aliases"),
        ({"aliases": ["a b"]}, "aliases[0]"), ({"name": "other"}, "name"), ({"parallel": True}, "parallel"),
        ({"service_time": "2s"}, "service_time"),
    ],
)  # fmt: skip
async def test_a_model_that_cannot_be_is_refused_by_key(cluster: Cluster, change: dict[str, Any], field: str) -> None:
    status, answer, _ = await cluster.ask("PUT", "/api/models/qwen", json={**QWEN, **change})
    assert (status, answer["error"]["param"]) == (400, field)
    assert cluster.scheduler.decided == []


async def test_a_load_is_begun_and_followed(cluster: Cluster) -> None:
    status, answer, _ = await cluster.ask("POST", "/api/models/m/load")
    assert (status, answer) == (202, {"model": "m", "state": "loaded", "replicas": 2})
    cluster.scheduler.loading["m"] = {"state": "staging", "node": "thor", "progress": 0.5}
    _, answer, _ = await cluster.ask("GET", "/api/models/m/load-status")
    assert answer == {"model": "m", "state": "staging", "node": "thor", "progress": 0.5, "replicas": 2}
    await cluster.ask("POST", "/api/models/m/unload")
    assert cluster.scheduler.kinds() == ["RequestLoad", "RequestUnload"]
    status, _, _ = await cluster.ask("POST", "/api/models/nobody/load")
    assert status == 404


async def test_replicas_requests_and_locks_can_be_looked_at_and_ended(cluster: Cluster) -> None:
    cluster.scheduler._lock("stuck", "m")
    _, replicas, _ = await cluster.ask("GET", "/api/replicas")
    assert [replica["id"] for replica in replicas] == ["r1", "r2"]
    status, answer, _ = await cluster.ask("POST", "/api/replicas/r1/evict")
    assert (status, answer["error"]["code"]) == (409, "conflict")
    _, requests, _ = await cluster.ask("GET", "/api/requests")
    assert requests == [{"id": "stuck"}]
    status, _, _ = await cluster.ask("GET", "/api/requests/stuck")
    assert status == 200
    status, _, _ = await cluster.ask("POST", "/api/locks/stuck/release")
    assert status == 200
    assert cluster.scheduler.locks == {}
    status, answer, _ = await cluster.ask("POST", "/api/locks/nosuch/release")
    assert (status, answer["error"]["code"]) == (404, "not_found")
    for path in ("/api/requests/stuck", "/api/replicas/r9"):
        status, answer, _ = await cluster.ask("GET", path)
        assert (status, answer["error"]["code"]) == (404, "not_found")


async def test_evictions_and_the_reconciler_are_frozen_and_thawed(cluster: Cluster) -> None:
    _, answer, _ = await cluster.ask("POST", "/api/freeze")
    assert answer == {"frozen": ["evictions"]}
    _, answer, _ = await cluster.ask("POST", "/api/freeze", json={"what": "reconciler"})
    assert answer == {"frozen": ["evictions", "reconciler"]}
    _, answer, _ = await cluster.ask("POST", "/api/thaw")
    assert answer == {"frozen": []}
    status, answer, _ = await cluster.ask("POST", "/api/freeze", json={"what": "everything"})
    assert (status, answer["error"]["param"]) == (400, "what")


async def test_settings_are_shown_and_changed_as_people_write_them(cluster: Cluster) -> None:
    _, settings, _ = await cluster.ask("GET", "/api/settings")
    assert settings["min_residency"] == "30s"
    body = {"min_residency": "0s", "queue_limit": 5}
    status, _, _ = await cluster.ask("PATCH", "/api/settings", json=body)
    assert status == 200
    assert cluster.scheduler.of(c.ChangeSettings)[0].values == {"min_residency": 0, "queue_limit": 5}
    for wrong in ({"min_residence": "1s"}, {"min_residency": "soon"}, {}):
        status, _, _ = await cluster.ask("PATCH", "/api/settings", json=wrong)
        assert status == 400


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/audit/log?model=m&limit=5", {"rows": [], "asked": {"model": "m", "limit": "5"}}),
        ("/api/audit/why/model:m?full=1", {"subject": "model:m", "full": True}),
        ("/api/audit/state?at=2026-01-01T03:12:00Z", {"at": "2026-01-01T03:12:00Z"}),
        ("/api/audit/diff?from=1&to=9", {"from": "1", "to": "9"}),
    ],
)
async def test_questions_to_the_log_are_handed_on(cluster: Cluster, path: str, expected: Any) -> None:
    status, answer, _ = await cluster.ask("GET", path)
    assert (status, answer) == (200, expected)


@pytest.mark.parametrize(
    ("path", "status", "param"),
    [
        ("/api/audit/log?modle=m", 400, "modle"), ("/api/audit/log?limit=many", 400, "limit"),
        ("/api/audit/log?limit=" + "9" * 5000, 400, "limit"), ("/events?after=" + "9" * 5000, 400, "after"),
        ("/events?after=²", 400, "after"),
        ("/api/audit/log?model=a&model=b", 400, "model"), ("/api/audit/state", 400, "at"),
        ("/api/audit/diff?from=1", 400, "to"), ("/api/audit/why/nobody", 404, None),
        ("/api/audit/verify", 500, None),
    ],
)  # fmt: skip
async def test_a_question_that_cannot_be_answered_says_why(
    cluster: Cluster, path: str, status: int, param: str | None
) -> None:
    got, answer, _ = await cluster.ask("GET", path)
    assert (got, answer["error"].get("param")) == (status, param)


async def test_probes_tell_life_and_readiness(cluster: Cluster) -> None:
    status, alive, _ = await cluster.ask("GET", "/livez")
    assert (status, alive["live"], bool(alive["run"])) == (200, True, True)
    assert (await cluster.ask("GET", "/readyz"))[:2] == (200, {"ready": True, "reasons": []})
    cluster.scheduler.readiness = Readiness(False, ("no writer leads.",))
    assert (await cluster.ask("GET", "/readyz"))[:2] == (503, {"ready": False, "reasons": ["no writer leads."]})


async def test_metrics_count_answers_outcomes_and_lengths(cluster: Cluster) -> None:
    await cluster.chat()
    await cluster.chat("nobody")
    await cluster.scheduler.until(lambda: bool(cluster.scheduler.ended))
    async with cluster.http.get("/metrics") as response:
        text = await response.text()
    assert 'interlock_http_answers_total{route="/v1/chat/completions",status="200"} 1' in text
    assert 'interlock_requests_total{outcome="served"} 1' in text
    assert 'interlock_requests_total{outcome="refused"} 1' in text
    assert "interlock_lock_seconds_count 1" in text
    assert 'interlock_lock_seconds_bucket{le="+Inf"} 1' in text
    assert 'interlock_nodes{status="he\\"althy"} 0' in text
    assert "interlock_unsettled_releases 0" in text


def test_the_series_of_a_metric_are_bounded_and_what_comes_beyond_is_counted_as_other() -> None:
    counter = Counter("interlock_things", "Things.", ("route", "status"))
    for number in range(2_500):
        counter.add(str(number), "200")
    counter.add("7", "200")
    assert len(counter.values) == 2_001
    assert counter.values["other", "other"] == 500
    assert counter.values["7", "200"] == 2, "what is known already goes on"


async def test_the_dashboard_is_one_page_without_foreign_assets(cluster: Cluster) -> None:
    async with cluster.http.get("/") as response:
        text = await response.text()
        assert response.content_type == "text/html"
    assert "<title>Interlock" in text
    for foreign in ("http://", "https://", "src=", "@import"):
        assert foreign not in text


async def test_events_are_a_feed_that_resumes(cluster: Cluster) -> None:
    async with cluster.http.get("/events") as response:
        text = await response.text()
    assert text.startswith('id: 1\nevent: Event1\ndata: {"n":1}\n\n')
    async with cluster.http.get("/events", headers={"Last-Event-ID": "2"}) as response:
        assert (await response.text()).count("id: ") == 1
    status, answer, _ = await cluster.ask("GET", "/events?after=here")
    assert (status, answer["error"]["param"]) == (400, "after")


async def test_a_reader_of_the_feed_that_leaves_ends_it(cluster: Cluster) -> None:
    cluster.events.endless = True
    response = await cluster.http.get("/events")
    await response.content.readuntil(b"id: 3")
    assert not cluster.events.closed.is_set()
    response.close()
    await asyncio.wait_for(cluster.events.closed.wait(), 10)
    assert cluster.events.closed.is_set()


async def test_a_gateway_that_stops_does_not_wait_for_readers_of_the_feed(bare: Cluster) -> None:
    await bare.start(drain_limit=60 * SECOND)
    bare.events.endless = True
    response = await bare.http.get("/events")
    await response.content.readuntil(b"id: 3")
    await asyncio.wait_for(bare.server.close(), 10)
    assert bare.events.closed.is_set()


async def test_what_can_be_got_answers_head_too(cluster: Cluster) -> None:
    for path in ("/livez", "/readyz", "/v1/models", "/"):
        async with cluster.http.head(path) as response:
            assert response.status == 200, path
            assert await response.read() == b""


async def test_openapi_tells_every_path_with_its_body_and_token(cluster: Cluster) -> None:
    _, document, _ = await cluster.ask("GET", "/openapi.json")
    assert document["openapi"].startswith("3.1")
    served = {
        (route.method.lower(), route.resource.canonical)
        for route in cluster.app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    told = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert told == served
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert chat["security"] == [{"client": []}]
    reference = chat["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert reference.rsplit("/", 1)[1] in document["components"]["schemas"]
    assert list(chat["responses"]["200"]["content"]) == ["application/json", "text/event-stream"]


async def test_openapi_tells_every_query_parameter_and_which_must_be_there(cluster: Cluster) -> None:
    _, document, _ = await cluster.ask("GET", "/openapi.json")
    seen = 0
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            parameters = [one for one in told.get("parameters", []) if one["in"] == "query"]
            if not parameters:
                continue
            seen += 1
            url = path.replace("{id}", "r1")
            query = "&".join(f"{one['name']}=1" for one in parameters)
            async with cluster.http.request(method, f"{url}?{query}") as response:
                assert response.status == 200, f"{path}?{query}: {await response.text()}"
            async with cluster.http.request(method, url) as response:
                assert response.status == (400 if any(one["required"] for one in parameters) else 200), path
            status, answer, _ = await cluster.ask(method, f"{url}?{query}&unheard-of=1")
            assert (status, answer["error"]["param"]) == (400, "unheard-of")
            assert all(one["name"] in answer["error"]["message"] for one in parameters), path
    assert seen == 5


@pytest.mark.parametrize(
    ("method", "path", "arguments", "status", "code"),
    [
        ("GET", "/nowhere", {}, 404, "unknown_path"),
        ("GET", "/api/plan", {}, 405, "method_not_allowed"),
        ("DELETE", "/v1/chat/completions", {}, 405, "method_not_allowed"),
        ("POST", "/v1/chat/completions", {"data": b'{"model": "m", "messages": [}'}, 400, "invalid_field"),
        ("POST", "/v1/chat/completions", {"data": b""}, 400, "invalid_field"),
        ("POST", "/v1/chat/completions", {"data": b"[" * 100_000}, 400, "invalid_field"),
        ("POST", "/v1/chat/completions", {"data": b'{"model": "\xff"}'}, 400, "invalid_field"),
        ("POST", "/api/models", {"data": b'["a"]'}, 400, "invalid_field"),
        ("POST", "/v1/chat/completions", {"json": {"model": "m" * 10_000_000}}, 413, "too_large"),
    ],
)
async def test_what_makes_no_sense_is_refused_in_json(
    cluster: Cluster, method: str, path: str, arguments: Any, status: int, code: str
) -> None:
    got, answer, headers = await cluster.ask(method, path, **arguments)
    assert (got, answer["error"]["code"]) == (status, code)
    assert headers["X-Request-Id"]


async def test_broken_json_is_told_with_its_position(cluster: Cluster) -> None:
    _, answer, _ = await cluster.ask("POST", "/api/models", data=b'{"name": ?}')
    assert "(byte 9)" in answer["error"]["message"]


async def test_a_method_that_is_wrong_is_told_with_those_that_are_right(cluster: Cluster) -> None:
    _, _, headers = await cluster.ask("DELETE", "/v1/chat/completions")
    assert headers["Allow"] == "POST"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StoreUnavailable("the disk is full."), 503, "unavailable"),
        (InvariantBroken("two locks on one seat"), 500, "internal"),
        (KeyError("secret"), 500, "internal"),
    ],
)
async def test_no_traceback_reaches_a_user(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, error: Exception, status: int, code: str
) -> None:
    cluster.scheduler.broken = error
    with caplog.at_level(logging.ERROR):
        got, answer, headers = await cluster.ask("POST", "/api/freeze", headers={"X-Request-Id": "tell-me"})
    cluster.scheduler.broken = None
    assert (got, answer["error"]["code"]) == (status, code)
    assert "secret" not in str(answer)
    assert "seat" not in str(answer)
    assert headers["X-Request-Id"] == "tell-me"
    if status == 500:
        assert answer["error"]["request_id"] == "tell-me"
        assert "tell-me" in caplog.text


async def test_a_lease_of_settings_is_in_microseconds(cluster: Cluster) -> None:
    await cluster.ask("PATCH", "/api/settings", json={"holder_lease": "45s"})
    assert cluster.scheduler.of(c.ChangeSettings)[0].values == {"holder_lease": 45 * SECOND}


@pytest.mark.parametrize(
    ("method", "path", "body", "words"),
    [
        ("PUT", "/api/nodes/thor/vram-budget", {"budget": "80%"}, ["budget: no such field", "The fields are: value"]),
        ("POST", "/api/freeze", {"what": "all"}, ["what: ", "'all'", "Choose one of: evictions, reconciler"]),
        ("PATCH", "/api/nodes/thor/labels", {"tier": 1}, ["tier: is not text"]),
        ("PUT", "/api/models/x", {"backend": "echo", "vram": 24}, ["vram: 24 would be 24 bytes", "24GiB"]),
    ],
)
async def test_a_mistake_in_a_body_is_named_with_what_would_be_right(
    cluster: Cluster, method: str, path: str, body: object, words: list[str]
) -> None:
    status, answer, _ = await cluster.ask(method, path, json=body)
    assert status == 400
    assert all(word in answer["error"]["message"] for word in words), answer
