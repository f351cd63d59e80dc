"""The gRPC service around one backend: identity first, then the call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health

from interlock.adapters.grpc import backend_pb2 as pb
from interlock.adapters.grpc import calls
from interlock.adapters.grpc import methods as m
from interlock.domain.errors import BackendDeclined, BackendFailed
from interlock.domain.units import whole_number

from .base import Backend, CannotDo

Context = grpc.aio.ServicerContext[Any, Any]


class BackendService:
    """Answers ``backend.Backend`` for one process, which is for one replica of one model.

    A call that names another model or another replica, or that comes before the load, gets FAILED_PRECONDITION: the
    caller holds an address that is no longer its own. An empty ``model`` (a process started without one) becomes the
    first model that is loaded. ``epoch`` is the writer's that started the process; older writers may not load.
    """

    def __init__(self, backend: Backend, *, model: str, replica: str, epoch: int, models: Path | None) -> None:
        self.health = health.HealthServicer()
        self._backend = backend
        self._model = model
        self._replica = replica
        self._epoch = epoch
        self._models = models
        self._asked: bytes | None = None
        """The load in progress or done; a repeat must ask the same."""
        self._load: asyncio.Task[None] | None = None
        self._loaded = False
        self._calls = 0

    def handlers(self) -> grpc.GenericRpcHandler:
        """The service's methods, to be added to a server."""
        unary: list[tuple[m.Method[Any, Any], Callable[[Any, Context], Awaitable[Any]]]] = [
            (m.HEALTH, self._health),
            (m.FREE, self._free),
            (m.STATUS, self._status),
            (m.LOAD_MODEL, self._load_model),
            (m.PREDICT, self._predict),
            (m.EMBEDDING, self._embedding),
            (m.TOKENIZE, self._tokenize),
        ]
        table: dict[str, Any] = {
            method.name: grpc.unary_unary_rpc_method_handler(
                handler, request_deserializer=method.parse_asked, response_serializer=m.to_bytes
            )
            for method, handler in unary
        }
        table[m.PREDICT_STREAM.name] = grpc.unary_stream_rpc_method_handler(
            self._predict_stream, request_deserializer=m.PREDICT_STREAM.parse_asked, response_serializer=m.to_bytes
        )
        return grpc.method_handlers_generic_handler(m.SERVICE, table)

    async def _health(self, asked: pb.HealthMessage, context: Context) -> pb.Reply:
        return pb.Reply(message=b"OK")

    async def _status(self, asked: pb.HealthMessage, context: Context) -> pb.StatusResponse:
        await self._check_identity(context, "")
        if self._load is None:
            state = calls.BackendState.UNINITIALIZED
        elif not self._loaded or self._calls:
            state = calls.BackendState.BUSY
        else:
            state = calls.BackendState.READY
        return calls.status_to_wire(calls.BackendStatus(state, self._backend.memory))

    async def _load_model(self, asked: pb.ModelOptions, context: Context) -> pb.Result:
        await self._check_identity(context, asked.Model)
        await self._check_epoch(context)
        self._model = asked.Model
        wanted = asked.SerializeToString(deterministic=True)
        if self._load is None:
            self._asked = wanted
            self._load = asyncio.create_task(self._run_load(asked))
        elif wanted != self._asked:
            return pb.Result(success=False, message=f"{self._model!r} is loaded here with other options")
        try:
            # Shielded: a caller that gives up does not end the load.
            await asyncio.shield(self._load)
        except BackendFailed as error:
            return pb.Result(success=False, message=error.message)
        return pb.Result(success=True, message="loaded")

    async def _run_load(self, asked: pb.ModelOptions) -> None:
        folder = self._models / m.file_name(asked.Model) if self._models else None
        try:
            await self._backend.load(
                asked.Model, calls.options_from_wire(asked), folder if folder and folder.is_dir() else None
            )
        except BackendFailed:
            self._load = self._asked = None
            raise
        except Exception as error:  # a backend's defect is an answer to the caller, not the end of the process
            self._load = self._asked = None
            raise BackendFailed(f"{type(error).__name__}: {error}") from error
        self._loaded = True
        await self.health.set(m.SERVICE, health_pb2.HealthCheckResponse.SERVING)

    async def _free(self, asked: pb.HealthMessage, context: Context) -> pb.Result:
        await self._check_identity(context, "")
        await self._check_epoch(context)
        await self.health.set(m.SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
        load, self._load, self._asked, self._loaded = self._load, None, None, False
        if load is not None and not load.done():
            load.cancel()
        await self._backend.free()
        return pb.Result(success=True, message="freed")

    async def _predict(self, asked: pb.PredictOptions, context: Context) -> pb.Reply:
        parts: list[str] = []
        tokens = prompt_tokens = 0
        async for reply in self._predict_stream(asked, context):
            parts.append(reply.message.decode())
            tokens, prompt_tokens = reply.tokens, reply.prompt_tokens
        return calls.piece_to_wire(calls.Piece("".join(parts), tokens, prompt_tokens))

    async def _predict_stream(self, asked: pb.PredictOptions, context: Context) -> AsyncIterator[pb.Reply]:
        await self._check_loaded(context, asked.ModelIdentity)
        with self._call():
            try:
                async for piece in self._backend.predict(calls.generation_from_wire(asked)):
                    yield calls.piece_to_wire(piece)
            except BackendFailed as error:
                await _abort(context, error)

    async def _embedding(self, asked: pb.PredictOptions, context: Context) -> pb.EmbeddingResult:
        await self._check_loaded(context, asked.ModelIdentity)
        with self._call():
            try:
                vector = await self._backend.embed(asked.Embeddings or asked.Prompt)
            except BackendFailed as error:
                await _abort(context, error)
                raise
        return pb.EmbeddingResult(
            embeddings=vector.values, tokens=1, dim=len(vector.values), prompt_tokens=vector.prompt_tokens
        )

    async def _tokenize(self, asked: pb.PredictOptions, context: Context) -> pb.TokenizationResponse:
        await self._check_loaded(context, asked.ModelIdentity)
        try:
            tokens = await self._backend.tokenize(asked.Prompt)
        except BackendFailed as error:
            await _abort(context, error)
            raise
        return pb.TokenizationResponse(length=len(tokens), tokens=tokens)

    @contextmanager
    def _call(self) -> Iterator[None]:
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    async def _check_loaded(self, context: Context, model: str) -> None:
        await self._check_identity(context, model)
        if not self._loaded:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no model is loaded here")

    async def _check_identity(self, context: Context, model: str) -> None:
        """Abort when the call is meant for another model or replica. A name that is not given is not compared."""
        sent = dict(context.invocation_metadata() or ())
        for name in (model, m.unquoted(str(sent.get(m.MODEL_KEY, "")))):
            if name and self._model and name != self._model:
                words = f"model {name!r} is not loaded here: this process is for {self._model!r}"
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, words)
        replica = m.unquoted(str(sent.get(m.REPLICA_KEY, "")))
        if replica and self._replica and replica != self._replica:
            words = f"replica {replica!r} is not here: this process is for {self._replica!r}"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, words)

    async def _check_epoch(self, context: Context) -> None:
        sent = dict(context.invocation_metadata() or ()).get(m.EPOCH_KEY)
        if sent is None:
            return
        epoch = whole_number(str(sent))
        if epoch is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{str(sent)[:40]!r} is no epoch")
        if epoch < self._epoch:
            await context.abort(grpc.StatusCode.ABORTED, f"epoch {epoch} has passed: {self._epoch} was seen here")
        self._epoch = epoch


async def _abort(context: Context, error: BackendFailed) -> None:
    """End the call with the backend's own words."""
    codes = ((CannotDo, grpc.StatusCode.UNIMPLEMENTED), (BackendDeclined, grpc.StatusCode.INVALID_ARGUMENT))
    code = next((code for kind, code in codes if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
    await context.abort(code, error.message)
