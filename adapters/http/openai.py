"""OpenAI's shapes over replicas: chat completions, completions, embeddings, models.

Fields that are not known are ignored, as their servers do; one that is known and cannot be honoured is refused by name.
"""

from __future__ import annotations

import base64
import logging
import time
from array import array
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from sys import byteorder
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web

from interlock.adapters.grpc.calls import ChatMessage, Generation, Piece, Vector
from interlock.domain.commands import Locked
from interlock.domain.errors import BackendDeclined, InterlockError, InvalidField, InvariantBroken, NotFound
from interlock.domain.settings import HIGHEST_PRIORITY
from interlock.domain.units import parse_duration, whole_number

from .kit import EVENTS, IDS, Gateway, Route, fields, json_response, query, read
from .lifecycle import Claim
from .problems import describe
from .prompts import key_of, marks_of_chat, marks_of_text
from .security import TENANT, Audience

log = logging.getLogger("interlock.gateway")

_MOST_INPUTS = 2048
_LONGEST_MODEL_NAME = 200


Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]
"""What the backends' messages hold."""
Tokens = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]


def _null() -> msgspec.Raw:
    """What a field holds that is passed on as it came, where the client left it out."""
    return msgspec.Raw(b"null")


class Part(msgspec.Struct, frozen=True):
    """One part of a message's content."""

    type: str
    text: str | None = None


class InMessage(msgspec.Struct, frozen=True):
    """One message as a client sends it."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    # Raw alone: in a union with None msgspec takes nothing but null.
    tool_calls: msgspec.Raw = msgspec.field(default_factory=_null)


class StreamOptions(msgspec.Struct, frozen=True):
    """What a stream tells besides its text."""

    include_usage: bool | None = False


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """What completions and chat completions have in common."""

    model: str
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Int32 | None = None
    seed: Int32 | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stop: str | list[str] | None = None
    n: int | None = None

    @property
    def limit(self) -> int | None:
        """The most tokens that the answer may have."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class ChatRequest(Sampling, frozen=True, kw_only=True):
    """``POST /v1/chat/completions``."""

    messages: list[InMessage]
    tools: msgspec.Raw = msgspec.field(default_factory=_null)
    tool_choice: msgspec.Raw = msgspec.field(default_factory=_null)


class CompletionRequest(Sampling, frozen=True, kw_only=True):
    """``POST /v1/completions``."""

    prompt: str | list[str]
    echo: bool | None = False


class EmbeddingsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /v1/embeddings``."""

    model: str
    input: str | list[str]
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = None


def _priority(request: web.Request) -> int:
    given = request.headers.get("X-Interlock-Priority", "0").strip()
    priority = whole_number(given, -HIGHEST_PRIORITY, HIGHEST_PRIORITY)
    if priority is None:
        cure = f"Send a whole number from -{HIGHEST_PRIORITY} to {HIGHEST_PRIORITY}."
        raise InvalidField("X-Interlock-Priority", f"{given[:40]!r} is no priority", cure=cure)
    return priority


class _StreamBroken(Exception):
    """The stream ended with an error event; the client has been told."""


class OpenAI:
    """The handlers of ``/v1``."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._chat_decoder = msgspec.json.Decoder(ChatRequest)
        self._completion_decoder = msgspec.json.Decoder(CompletionRequest)
        self._embeddings_decoder = msgspec.json.Decoder(EmbeddingsRequest)

    def routes(self) -> list[Route]:
        """What is served, for the application and for OpenAPI."""
        client = Audience.CLIENT
        return [
            Route(
                "POST", "/v1/chat/completions", self.chat, client, "Complete a conversation", ChatRequest, streams=True
            ),
            Route("POST", "/v1/completions", self.complete, client, "Complete a text", CompletionRequest, streams=True),
            Route("POST", "/v1/embeddings", self.embed, client, "Embed texts", EmbeddingsRequest),
            Route("GET", "/v1/models", self.models, client, "The models that can be asked for"),
            Route("GET", "/v1/models/{name}", self.model, client, "One model"),
        ]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Complete a conversation, whole or as a stream."""
        asked = await read(request, self._chat_decoder)
        if not asked.messages:
            raise InvalidField("messages", "empty", cure="Send at least one message.")
        messages = tuple(_message(message, place) for place, message in enumerate(asked.messages))
        tools, choice = _raw("tools", asked.tools), _raw("tool_choice", asked.tool_choice)
        wanted = _generation(asked, messages=messages, tools=tools, tool_choice=choice)
        prefix = marks_of_chat(key_of(request), asked.model, messages, tools)
        with _offering("/v1/embeddings"):
            return await self._generate(request, asked, [wanted], _CHAT, prefix)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Complete one text, or several in one answer."""
        asked = await read(request, self._completion_decoder)
        if asked.echo:
            raise InvalidField("echo", "not supported", cure="Leave it out.")
        texts = _texts("prompt", asked.prompt)
        wanted = [_generation(asked, prompt=text) for text in texts]
        prefix = marks_of_text(key_of(request), asked.model, texts[0])
        with _offering("/v1/embeddings"):
            return await self._generate(request, asked, wanted, _TEXT, prefix)

    async def _generate(
        self,
        request: web.Request,
        asked: Sampling,
        prompts: Sequence[Generation],
        shape: _Shape,
        prefix: tuple[int, ...],
    ) -> web.StreamResponse:
        if asked.n not in (None, 1):
            raise InvalidField("n", f"{asked.n} answers at once are not supported", cure="Ask for 1.")
        claim = self._claim(request, asked.model, prefix)
        prompts = [msgspec.structs.replace(prompt, correlation_id=claim.ids.request) for prompt in prompts]
        if asked.stream:
            usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
            return await self._stream(request, claim, prompts, shape, usage)
        predict = self._gateway.backends.predict
        done: list[Piece] = []
        async with claim:
            for prompt in prompts:

                async def call(lock: Locked, prompt: Generation = prompt) -> Piece:
                    return await predict(lock.address, lock.model, prompt, replica=lock.replica)

                with claim.told_of_stop():
                    done.append(await claim.run(call))
            return await self._finish(request, claim, shape.whole(claim, done, asked.limit))

    async def embed(self, request: web.Request) -> web.StreamResponse:
        """Embed one text or several, in order."""
        asked = await read(request, self._embeddings_decoder)
        with _offering("/v1/chat/completions"):
            return await self._embed(request, asked)

    async def _embed(self, request: web.Request, asked: EmbeddingsRequest) -> web.StreamResponse:
        texts = _texts("input", asked.input)
        claim = self._claim(request, asked.model)
        embedding = self._gateway.backends.embedding
        data, tokens = [], 0
        async with claim:
            for index, text in enumerate(texts):

                async def call(lock: Locked, text: str = text) -> Vector:
                    return await embedding(lock.address, lock.model, text, replica=lock.replica)

                with claim.told_of_stop():
                    vector, told = msgspec.structs.astuple(await claim.run(call))
                tokens += told
                if asked.dimensions not in (None, len(vector)):
                    raise InvalidField("dimensions", f"this model's embeddings have {len(vector)}")
                written = _base64(vector) if asked.encoding_format == "base64" else list(vector)
                data.append({"object": "embedding", "index": index, "embedding": written})
            body = {
                "object": "list",
                "model": claim.lock.model,
                "data": data,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
            return await self._finish(request, claim, body)

    async def models(self, request: web.Request) -> web.StreamResponse:
        """All models and their aliases."""
        query(request)
        found = [_listed(name) for view in await self._gateway.queries.models() for name in _names(fields(view))]
        return json_response({"object": "list", "data": found})

    async def model(self, request: web.Request) -> web.StreamResponse:
        """One model, by its name or an alias."""
        name = request.match_info["name"]
        if await self._gateway.queries.model(name) is None:
            raise NotFound("model", name)
        return json_response(_listed(name))

    def _claim(self, request: web.Request, model: str, prefix: tuple[int, ...] = ()) -> Claim:
        if not 0 < len(model) <= _LONGEST_MODEL_NAME:
            raise InvalidField("model", f"has {len(model)} characters", cure=f"Use 1 to {_LONGEST_MODEL_NAME}.")
        if not model.isprintable():
            raise InvalidField("model", "holds a character that no name has")
        deadline = request.headers.get("X-Interlock-Deadline")
        wait = None if deadline is None else parse_duration(deadline, "X-Interlock-Deadline")
        ids = self._gateway.ids.take(request.headers.get("X-Request-Id"))
        request[IDS] = ids
        tenant = request.get(TENANT, "")
        return self._gateway.claims.claim(model, ids, wait, prefix, tenant=tenant, priority=_priority(request))

    def _headers(self, request: web.Request, claim: Claim) -> dict[str, str]:
        request[IDS] = claim.ids
        return {"X-Interlock-Node": claim.lock.node} if self._gateway.config.show_node else {}

    async def _finish(self, request: web.Request, claim: Claim, body: object) -> web.Response:
        """Send the answer before the lock is given back: the client need not wait for that to be durable.

        The connection takes its next request only afterwards, so a client in sequence never meets its own lock.
        """
        response = json_response(body, headers=self._headers(request, claim))
        await response.prepare(request)
        await response.write_eof()
        return response

    async def _stream(
        self, request: web.Request, claim: Claim, prompts: list[Generation], shape: _Shape, usage: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        response.content_type = EVENTS
        try:
            async with claim:
                try:
                    with claim.told_of_stop():
                        await self._send_pieces(request, claim, prompts, shape, usage, response)
                except ConnectionError:
                    raise  # the client is gone; nobody is left to be told
                except Exception as error:
                    if not response.prepared:
                        raise  # nothing was sent yet: it can still be told with a status
                    raise await _tell(response, error) from error
        except _StreamBroken:
            await response.write_eof()
        return response

    async def _send_pieces(
        self,
        request: web.Request,
        claim: Claim,
        prompts: list[Generation],
        shape: _Shape,
        usage: bool,
        response: web.StreamResponse,
    ) -> None:
        counts = [0, 0]
        for index, prompt in enumerate(prompts):
            stream, first = await self._begin(request, claim, prompt, response)
            async with aclosing(stream):
                await _pump(response, stream, first, shape.pieces(claim, index, prompt, usage), counts)
        if usage:
            await response.write(shape.usage_event(claim, counts))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()

    async def _begin(
        self, request: web.Request, claim: Claim, prompt: Generation, response: web.StreamResponse
    ) -> tuple[Any, Piece | None]:
        """Open the backend's stream up to its first piece: until then another replica may serve, and status is free."""
        predict_stream = self._gateway.backends.predict_stream

        async def call(lock: Locked) -> tuple[Any, Piece | None]:
            stream = predict_stream(lock.address, lock.model, prompt, replica=lock.replica)
            return stream, await anext(stream, None)

        if response.prepared:
            return await call(claim.lock)
        stream, first = await claim.run(call)
        try:
            response.headers.update(self._headers(request, claim))
            await response.prepare(request)
        except BaseException:
            await stream.aclose()
            raise
        return stream, first


@contextmanager
def _offering(path: str) -> Iterator[None]:
    """Where the backend does not offer what was asked, name the path that it may offer."""
    try:
        yield
    except BackendDeclined as error:
        if error.unsupported:
            error.cure = f"This model may serve POST {path}."
        raise


async def _pump(
    response: web.StreamResponse,
    stream: AsyncIterator[Piece],
    first: Piece | None,
    pieces: _Pieces,
    counts: list[int],
) -> None:
    """Send a stream's pieces on, and add what it took to ``counts``: tokens, and tokens of the prompt."""
    piece = first
    tokens = prompt_tokens = 0
    if opening := pieces.first():
        await response.write(opening)
    while piece is not None:
        tokens, prompt_tokens = max(tokens, piece.tokens), max(prompt_tokens, piece.prompt_tokens)
        if piece.text:
            await response.write(pieces.text(piece.text))
        piece = await anext(stream, None)
    counts[0] += tokens
    counts[1] += prompt_tokens
    await response.write(pieces.last(tokens))


async def _tell(response: web.StreamResponse, error: Exception) -> _StreamBroken:
    """Write the error into a stream that has begun; it ends without ``[DONE]``."""
    if isinstance(error, InterlockError) and not isinstance(error, InvariantBroken):
        told = error
    else:
        log.error("a stream broke for a reason of our own", exc_info=error)
        told = InterlockError("Interlock failed while it streamed this answer; its log has the details.")
    _, body, _ = describe(told)
    await response.write(b"data: " + msgspec.json.encode({"error": body}) + b"\n\n")
    return _StreamBroken(str(error))


class _Pieces:
    """The events of one streamed choice, their constant part encoded once."""

    def __init__(self, shape: _Shape, head: dict[str, object], index: int, prompt: Generation) -> None:
        self._shape, self._head, self._index, self._limit = shape, head, index, prompt.max_tokens or None

    def _event(self, choice: dict[str, object]) -> bytes:
        self._head["choices"] = [{"index": self._index, **choice, "logprobs": None}]
        return b"data: " + msgspec.json.encode(self._head) + b"\n\n"

    def first(self) -> bytes:
        """What opens the choice; nothing for plain completions."""
        if not self._shape.chat:
            return b""
        return self._event({"delta": {"role": "assistant", "content": ""}, "finish_reason": None})

    def text(self, text: str) -> bytes:
        """One piece of text."""
        said = {"delta": {"content": text}} if self._shape.chat else {"text": text}
        return self._event({**said, "finish_reason": None})

    def last(self, tokens: int) -> bytes:
        """The end of the choice, with the reason."""
        said: dict[str, object] = {"delta": {}} if self._shape.chat else {"text": ""}
        return self._event({**said, "finish_reason": _finish_reason(tokens, self._limit)})


class _Shape:
    """Chat completions, or completions: the same answer in two dresses."""

    def __init__(self, *, chat: bool) -> None:
        self.chat = chat
        self._prefix = "chatcmpl-" if chat else "cmpl-"
        self._whole = "chat.completion" if chat else "text_completion"
        self._piece = "chat.completion.chunk" if chat else "text_completion"

    def _head(self, claim: Claim, kind: str) -> dict[str, object]:
        return {
            "id": self._prefix + claim.ids.request,
            "object": kind,
            "created": int(time.time()),
            "model": claim.lock.model,
        }

    def whole(self, claim: Claim, done: Sequence[Piece], limit: int | None) -> dict[str, object]:
        """A whole answer, one choice per prompt."""
        choices = []
        for index, completion in enumerate(done):
            said: dict[str, object] = {"text": completion.text}
            if self.chat:
                said = {"message": {"role": "assistant", "content": completion.text}}
            reason = _finish_reason(completion.tokens, limit)
            choices.append({"index": index, **said, "logprobs": None, "finish_reason": reason})
        usage = _usage([sum(one.tokens for one in done), sum(one.prompt_tokens for one in done)])
        return {**self._head(claim, self._whole), "choices": choices, "usage": usage}

    def pieces(self, claim: Claim, index: int, prompt: Generation, usage: bool) -> _Pieces:
        """The writer of one streamed choice; with ``usage`` every piece but the last names it as null."""
        head = self._head(claim, self._piece)
        return _Pieces(self, {**head, "usage": None} if usage else head, index, prompt)

    def usage_event(self, claim: Claim, counts: list[int]) -> bytes:
        """The event that closes a stream whose client asked for usage."""
        head = {**self._head(claim, self._piece), "choices": [], "usage": _usage(counts)}
        return b"data: " + msgspec.json.encode(head) + b"\n\n"


_CHAT, _TEXT = _Shape(chat=True), _Shape(chat=False)


def _usage(counts: list[int]) -> dict[str, int]:
    tokens, prompt_tokens = counts
    return {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": tokens + prompt_tokens}


def _finish_reason(tokens: int, limit: int | None) -> str:
    return "length" if limit is not None and tokens >= limit else "stop"


def _message(message: InMessage, place: int) -> ChatMessage:
    content = message.content
    if isinstance(content, list):
        for number, part in enumerate(content):
            if part.type != "text" or part.text is None:
                raise InvalidField(f"messages[{place}].content[{number}].type", f"{part.type!r} is not supported")
        content = "".join(part.text or "" for part in content)
    return ChatMessage(
        role=message.role,
        content=content or "",
        name=message.name or "",
        tool_call_id=message.tool_call_id or "",
        tool_calls=_raw(f"messages[{place}].tool_calls", message.tool_calls),
    )


def _generation(
    asked: Sampling,
    *,
    prompt: str = "",
    messages: tuple[ChatMessage, ...] = (),
    tools: str = "",
    tool_choice: str = "",
) -> Generation:
    stop = asked.stop or ()
    return Generation(
        prompt=prompt,
        messages=messages,
        max_tokens=asked.limit or 0,
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        top_k=asked.top_k or 0,
        seed=asked.seed or 0,
        frequency_penalty=asked.frequency_penalty or 0.0,
        presence_penalty=asked.presence_penalty or 0.0,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        tools=tools,
        tool_choice=tool_choice,
    )


def _raw(field: str, value: msgspec.Raw) -> str:
    """JSON that goes on as it came; empty for null."""
    try:
        text = bytes(value).decode()
    except UnicodeDecodeError:
        raise InvalidField(field, "a text in it is not UTF-8") from None
    return "" if text == "null" else text


def _texts(field: str, given: str | list[str]) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not 0 < len(texts) <= _MOST_INPUTS:
        raise InvalidField(field, f"holds {len(texts)} texts", cure=f"Send 1 to {_MOST_INPUTS}.")
    return texts


def _base64(vector: Sequence[float]) -> str:
    packed = array("f", vector)
    if byteorder != "little":
        packed.byteswap()
    return base64.b64encode(packed.tobytes()).decode()


def _names(model: dict[str, Any]) -> list[str]:
    return [model["name"], *model.get("aliases", ())]


def _listed(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "interlock"}
