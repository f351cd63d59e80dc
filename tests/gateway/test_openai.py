"""OpenAI's paths, as the official client uses them."""

from __future__ import annotations

import base64
import json
import struct

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from interlock.domain.commands import AcquireLock
from interlock.domain.errors import StoreUnavailable
from tests.gateway.conftest import Cluster

USER: list[ChatCompletionMessageParam] = [{"role": "user", "content": "one two three"}]


async def test_a_chat_is_answered_with_text_usage_and_the_models_name(cluster: Cluster) -> None:
    answer = await cluster.openai().chat.completions.create(model="m", messages=USER)
    assert answer.object == "chat.completion"
    assert answer.model == "m"
    assert answer.choices[0].message.content == "m: one two three"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 3, 6)


async def test_a_streamed_chat_arrives_in_pieces_with_usage_at_the_end(cluster: Cluster) -> None:
    stream = await cluster.openai().chat.completions.create(
        model="m", messages=USER, stream=True, stream_options={"include_usage": True}
    )  # fmt: skip
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "one two three "
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3
    await cluster.scheduler.until(lambda: len(cluster.scheduler.ended) == 1)


async def test_a_stream_ends_with_done_and_has_no_usage_unless_asked(cluster: Cluster) -> None:
    body = {"model": "m", "messages": USER, "stream": True}
    async with cluster.http.post("/v1/chat/completions", json=body) as response:
        text = await response.text()
        assert response.headers["Content-Type"].startswith("text/event-stream")
    events = text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert "usage" not in text


async def test_completions_take_one_prompt_or_several(cluster: Cluster) -> None:
    client = cluster.openai()
    one = await client.completions.create(model="m", prompt="just this")
    assert one.choices[0].text == "m: just this"
    several = await client.completions.create(model="m", prompt=["a", "b c"])
    assert [(choice.index, choice.text) for choice in several.choices] == [(0, "m: a"), (1, "m: b c")]
    assert several.usage is not None
    assert several.usage.completion_tokens == 3


async def test_streamed_completions_keep_their_prompts_apart(cluster: Cluster) -> None:
    stream = await cluster.openai().completions.create(model="m", prompt=["a b", "c"], stream=True)
    texts = ["", ""]
    async for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["a b ", "c "]


async def test_embeddings_come_as_floats_and_as_base64(cluster: Cluster) -> None:
    client = cluster.openai()
    plain = await client.embeddings.create(model="m", input="four", encoding_format="float")
    assert plain.data[0].embedding == [4.0, 0.5, -1.25]
    # Without a format the official client asks for base64 and unpacks it.
    packed = await client.embeddings.create(model="m", input=["a", "bb"])
    assert [entry.embedding[0] for entry in packed.data] == [1.0, 2.0]
    body = {"model": "m", "input": "four", "encoding_format": "base64"}
    _, raw, _ = await cluster.ask("POST", "/v1/embeddings", json=body)
    assert base64.b64decode(raw["data"][0]["embedding"]) == struct.pack("<3f", 4.0, 0.5, -1.25)


async def test_models_are_listed_with_their_aliases(cluster: Cluster) -> None:
    await cluster.ask("PUT", "/api/models/meta%2Fllama", json={"backend": "echo", "aliases": ["llama"]})
    client = cluster.openai()
    assert [model.id async for model in client.models.list()] == ["m", "meta/llama", "llama"]
    assert (await client.models.retrieve("llama")).id == "llama"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nobody")


async def test_sampling_reaches_the_backend_and_unknown_fields_are_ignored(cluster: Cluster) -> None:
    body = {
        "model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "hi you"}]}],
        "max_completion_tokens": 2, "temperature": 0.5, "stop": "END", "seed": 7, "wholly_unknown": {"a": 1},
    }  # fmt: skip
    status, answer, _ = await cluster.ask("POST", "/v1/chat/completions", json=body)
    assert status == 200
    assert answer["choices"][0]["finish_reason"] == "length"
    prompt = cluster.backends.prompts[0]
    assert (prompt.max_tokens, prompt.temperature, prompt.stop, prompt.seed) == (2, 0.5, ("END",), 7)
    assert prompt.messages[0].content == "hi you"


async def test_a_body_that_is_not_packed_as_its_header_says_is_refused(cluster: Cluster) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
    headers = {"Content-Encoding": "gzip"}
    status, answer, _ = await cluster.ask("POST", "/v1/chat/completions", data=body, headers=headers)
    assert (status, answer["error"].get("param")) == (400, "body")
    assert "'gzip'" in answer["error"]["message"]


async def test_tools_reach_the_backend_as_they_came(cluster: Cluster) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    calls = [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]
    said = [
        {"role": "user", "content": "how warm is it"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "20"},
    ]
    for choice in ("auto", {"type": "function", "function": {"name": "weather"}}):
        body = {"model": "m", "messages": said, "tools": tools, "tool_choice": choice}
        status, answer, _ = await cluster.ask("POST", "/v1/chat/completions", json=body)
        assert status == 200, answer
        prompt = cluster.backends.prompts[-1]
        assert (json.loads(prompt.tools), json.loads(prompt.tool_choice)) == (tools, choice)
        assert [json.loads(message.tool_calls or "null") for message in prompt.messages] == [None, calls, None]


async def test_tools_that_are_null_or_left_out_are_none(cluster: Cluster) -> None:
    for given in ({}, {"tools": None, "tool_choice": None}):
        body = {"model": "m", "messages": USER, **given}
        assert (await cluster.ask("POST", "/v1/chat/completions", json=body))[0] == 200
        assert (cluster.backends.prompts[-1].tools, cluster.backends.prompts[-1].tool_choice) == ("", "")


async def test_tools_that_are_not_text_are_refused_by_name(cluster: Cluster) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"tools":["\xff"]}'
    status, answer, _ = await cluster.ask("POST", "/v1/chat/completions", data=body)
    assert (status, answer["error"].get("param")) == (400, "tools")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/chat/completions", {"model": "m"}, "messages"),
        ("/v1/chat/completions", {"model": "m", "messages": []}, "messages"),
        ("/v1/chat/completions", {"model": 7, "messages": USER}, "model"),
        ("/v1/chat/completions", {"model": "", "messages": USER}, "model"),
        ("/v1/chat/completions", {"model": "a\0b", "messages": USER}, "model"),
        ("/v1/chat/completions", {"model": "m", "messages": USER, "seed": 2**40}, "seed"),
        ("/v1/chat/completions", {"model": "m", "messages": [{"role": 1}]}, "messages[0].role"),
        ("/v1/chat/completions", {"model": "m", "messages": USER, "n": 2}, "n"),
        ("/v1/chat/completions", {"model": "m", "messages": USER, "max_tokens": 0}, "max_tokens"),
        (
            "/v1/chat/completions",
            {"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
        ),
        ("/v1/completions", {"model": "m", "prompt": []}, "prompt"),
        ("/v1/embeddings", {"model": "m", "input": [1, 2]}, "input[0]"),
        ("/v1/embeddings", {"model": "m", "input": "a", "encoding_format": "hex"}, "encoding_format"),
        ("/v1/embeddings", {"model": "m", "input": "a", "dimensions": 2}, "dimensions"),
    ],
)
async def test_a_field_that_cannot_be_is_refused_by_name(
    cluster: Cluster, path: str, body: dict[str, object], field: str
) -> None:
    status, answer, _ = await cluster.ask("POST", path, json=body)
    assert status == 400
    assert answer["error"]["code"] == "invalid_field"
    assert answer["error"]["param"] == field
    await cluster.scheduler.until(lambda: not cluster.scheduler.locks)


async def test_a_request_keeps_its_clients_id_and_gets_one_otherwise(cluster: Cluster) -> None:
    _, _, headers = await cluster.chat(headers={"X-Request-Id": "mine-1"})
    assert headers["X-Request-Id"] == "mine-1"
    _, _, headers = await cluster.chat()
    assert headers["X-Request-Id"].startswith("req-")
    acquired = [envelope for envelope in cluster.scheduler.sent if type(envelope.command).__name__ == "AcquireLock"]
    assert [envelope.correlation_id for envelope in acquired] == ["mine-1", headers["X-Request-Id"]]
    assert acquired[0].request_id == "mine-1"


@pytest.mark.parametrize("path", ["/v1/models/nope", "/api/models/nope", "/api/nodes/scheduling/nope"])
async def test_a_model_that_nobody_declared_has_one_code_wherever_it_is_asked_for(cluster: Cluster, path: str) -> None:
    status, answer, _ = await cluster.ask("GET", path)
    assert (status, answer["error"]["code"], answer["error"]["type"]) == (404, "unknown_model", "misconfigured")
    assert (await cluster.chat(model="nope"))[1]["error"]["code"] == "unknown_model"


async def test_a_clients_id_that_comes_twice_is_told_apart_in_the_log(cluster: Cluster) -> None:
    await cluster.chat(headers={"X-Request-Id": "twice"})
    _, _, headers = await cluster.chat(headers={"X-Request-Id": "twice"})
    assert headers["X-Request-Id"] == "twice"
    assert headers["X-Interlock-Request-Id"].startswith("twice~")
    requests = [command.request for command in cluster.scheduler.of(AcquireLock)]
    assert len(set(requests)) == 2


async def test_an_id_that_the_log_knows_of_an_earlier_run_is_told_apart_too(cluster: Cluster) -> None:
    cluster.scheduler.past.add("nightly")
    _, _, headers = await cluster.chat(headers={"X-Request-Id": "nightly"})
    assert headers["X-Request-Id"] == "nightly"
    assert headers["X-Interlock-Request-Id"].startswith("nightly~")


async def test_an_id_of_which_the_log_cannot_tell_is_told_apart_to_be_sure(cluster: Cluster) -> None:
    cluster.scheduler.mute = StoreUnavailable("the event store does not answer.")
    status, _, headers = await cluster.chat(headers={"X-Request-Id": "nightly"})
    assert status == 200
    assert headers["X-Interlock-Request-Id"].startswith("nightly~")


async def test_an_id_as_the_gateway_gives_them_is_no_clients_own(cluster: Cluster) -> None:
    _, _, headers = await cluster.chat()
    mine = headers["X-Request-Id"][:-1] + "2"
    _, _, headers = await cluster.chat(headers={"X-Request-Id": mine})
    assert headers["X-Interlock-Request-Id"].startswith(f"{mine}~")


async def test_an_id_that_lives_already_elsewhere_is_told_apart_too(cluster: Cluster) -> None:
    cluster.scheduler._lock("theirs", "m")
    status, _, headers = await cluster.chat(headers={"X-Request-Id": "theirs"})
    assert status == 200
    assert headers["X-Request-Id"] == "theirs"
    assert headers["X-Interlock-Request-Id"].startswith("theirs~")


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "node:thor", "é"])
async def test_an_id_that_the_log_cannot_hold_is_refused(cluster: Cluster, given: str) -> None:
    status, answer, headers = await cluster.chat(headers={"X-Request-Id": given})
    assert status == 400
    assert answer["error"]["param"] == "X-Request-Id"
    assert headers.get("X-Request-Id") != given


async def test_the_node_is_named_only_when_that_is_enabled(bare: Cluster) -> None:
    await bare.start(show_node=True)
    _, _, headers = await bare.chat()
    assert headers["X-Interlock-Node"] == "node-of-r1"


async def test_the_node_is_not_named_by_default(cluster: Cluster) -> None:
    _, _, headers = await cluster.chat()
    assert "X-Interlock-Node" not in headers
