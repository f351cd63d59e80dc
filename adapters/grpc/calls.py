"""What a call to a backend says and what comes back, in our own words rather than in protobuf's."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from interlock.domain.entities import LoadSpec
from interlock.domain.errors import BackendFailed
from interlock.domain.units import whole_number

from . import backend_pb2 as pb


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a conversation. ``tool_calls`` is JSON."""

    role: str
    content: str
    name: str = ""
    tool_call_id: str = ""
    tool_calls: str = ""


class Generation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A text to be made, after ``prompt`` or, when there are any, after ``messages``.

    ``max_tokens`` 0 and ``seed`` 0 leave it to the backend; ``tools`` and ``tool_choice`` are JSON.
    """

    prompt: str = ""
    messages: tuple[ChatMessage, ...] = ()
    max_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    grammar: str = ""
    tools: str = ""
    tool_choice: str = ""
    correlation_id: str = ""
    metadata: dict[str, str] = {}


class Piece(msgspec.Struct, frozen=True, gc=False):
    """A part of the text, or all of it. ``tokens`` counts those made so far; ``prompt_tokens`` those of the prompt."""

    text: str
    tokens: int
    prompt_tokens: int


class Vector(msgspec.Struct, frozen=True, gc=False):
    """A text's embedding."""

    values: tuple[float, ...]
    prompt_tokens: int


class BackendState(StrEnum):
    """What a backend does: ``uninitialized`` has no model; ``busy`` loads or serves; ``ready`` waits for a call."""

    UNINITIALIZED = "uninitialized"
    BUSY = "busy"
    READY = "ready"
    ERROR = "error"


class BackendStatus(msgspec.Struct, frozen=True, gc=False):
    """A backend's state and the bytes of memory that its model takes; while it loads, those in place so far."""

    state: BackendState
    memory: int


_STATES = {
    pb.StatusResponse.UNINITIALIZED: BackendState.UNINITIALIZED,
    pb.StatusResponse.BUSY: BackendState.BUSY,
    pb.StatusResponse.READY: BackendState.READY,
}
_STATE_NUMBERS = {state: number for number, state in _STATES.items()} | {BackendState.ERROR: pb.StatusResponse.ERROR}


def generation_to_wire(model: str, wanted: Generation) -> pb.PredictOptions:
    """LocalAI's message for a text to be made: a conversation travels as Messages, to be put through the template."""
    return pb.PredictOptions(
        Prompt=wanted.prompt,
        Seed=wanted.seed,
        Tokens=wanted.max_tokens,
        TopK=wanted.top_k,
        Temperature=wanted.temperature,
        StopPrompts=wanted.stop,
        FrequencyPenalty=wanted.frequency_penalty,
        PresencePenalty=wanted.presence_penalty,
        Grammar=wanted.grammar,
        TopP=wanted.top_p,
        UseTokenizerTemplate=bool(wanted.messages),
        Messages=[
            pb.Message(
                role=message.role,
                content=message.content,
                name=message.name,
                tool_call_id=message.tool_call_id,
                tool_calls=message.tool_calls,
            )
            for message in wanted.messages
        ],
        CorrelationId=wanted.correlation_id,
        Tools=wanted.tools,
        ToolChoice=wanted.tool_choice,
        Metadata=wanted.metadata,
        ModelIdentity=model,
    )


def generation_from_wire(asked: pb.PredictOptions) -> Generation:
    """The inverse of :func:`generation_to_wire`."""
    return Generation(
        prompt=asked.Prompt,
        messages=tuple(
            ChatMessage(
                role=message.role,
                content=message.content,
                name=message.name,
                tool_call_id=message.tool_call_id,
                tool_calls=message.tool_calls,
            )
            for message in asked.Messages
        ),
        max_tokens=asked.Tokens,
        temperature=asked.Temperature,
        top_p=asked.TopP,
        top_k=asked.TopK,
        seed=asked.Seed,
        stop=tuple(asked.StopPrompts),
        frequency_penalty=asked.FrequencyPenalty,
        presence_penalty=asked.PresencePenalty,
        grammar=asked.Grammar,
        tools=asked.Tools,
        tool_choice=asked.ToolChoice,
        correlation_id=asked.CorrelationId,
        metadata=dict(asked.Metadata),
    )


def piece_to_wire(piece: Piece) -> pb.Reply:
    """LocalAI's message for a part of a text."""
    return pb.Reply(message=piece.text.encode(), tokens=piece.tokens, prompt_tokens=piece.prompt_tokens)


def piece_from_wire(reply: pb.Reply) -> Piece:
    """The inverse of :func:`piece_to_wire`; bytes that are no UTF-8 are replaced, not refused."""
    return Piece(reply.message.decode(errors="replace"), reply.tokens, reply.prompt_tokens)


def spec_to_wire(model: str, spec: LoadSpec) -> pb.ModelOptions:
    """LocalAI's message for a model to be loaded: options with a field of their own there, the others as key:value."""
    options = dict(spec.options)
    if spec.vram:
        options.setdefault("vram", spec.vram)
    wire = pb.ModelOptions(Model=model)
    wire.ContextSize = _number(options.pop("context_size", 0), "context_size")
    wire.Threads = _number(options.pop("threads", 0), "threads")
    wire.Seed = _number(options.pop("seed", 0), "seed")
    wire.NGPULayers = _number(options.pop("gpu_layers", 0), "gpu_layers")
    wire.ModelFile = str(options.pop("model_file", ""))
    wire.Embeddings = options.pop("embeddings", False) in (True, "true")
    wire.Options.extend(f"{key}:{_text(value)}" for key, value in sorted(options.items()))
    return wire


def options_from_wire(asked: pb.ModelOptions) -> dict[str, str]:
    """All options of a load as text, by the names that :func:`spec_to_wire` takes."""
    options = dict(entry.partition(":")[::2] for entry in asked.Options)
    for name, number in (
        ("context_size", asked.ContextSize),
        ("threads", asked.Threads),
        ("seed", asked.Seed),
        ("gpu_layers", asked.NGPULayers),
    ):
        if number:
            options[name] = str(number)
    if asked.ModelFile:
        options["model_file"] = asked.ModelFile
    if asked.Embeddings:
        options["embeddings"] = "true"
    return options


def status_to_wire(status: BackendStatus) -> pb.StatusResponse:
    """LocalAI's message for a status."""
    return pb.StatusResponse(state=_STATE_NUMBERS[status.state], memory=pb.MemoryUsageData(total=status.memory))


def status_from_wire(answer: pb.StatusResponse) -> BackendStatus:
    """The inverse of :func:`status_to_wire`."""
    return BackendStatus(_STATES.get(answer.state, BackendState.ERROR), answer.memory.total)


def _number(value: str | int | float | bool, name: str) -> int:
    """An option with a field of its own, which has 32 bits; raises BackendFailed for what is no such number."""
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    number = whole_number(_text(whole), -(2**31), 2**31 - 1)
    if number is None:
        raise BackendFailed(f"option {name}: {_text(whole)[:40]!r} is not a whole number of 32 bits")
    return number


def _text(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
