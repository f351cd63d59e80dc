"""The client of a model backend, over ``grpc.aio``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import grpc
import grpc.aio

from interlock.domain.entities import LoadSpec
from interlock.domain.errors import BackendDeclined, BackendFailed, BackendGone, Fenced, InterlockError

from . import backend_pb2 as pb
from . import calls
from . import methods as m

_CHANNEL_OPTIONS = (
    # A port's next process may come up any moment: the library's own pauses grow to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
    # A connection shared with another client of this process would outlive its channel.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
_DECLINED = frozenset({grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE})
_GONE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.CANCELLED})
"""Codes that mean, before the first byte, that no model is loaded there. CANCELLED: the server was stopped."""


class _Channel:
    """A channel and the number of calls that use it now."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self.users = 0


class BackendClient:
    """Calls to model backends by address, over channels that are kept.

    Every call names the model, and the replica where it is known, so that a port's next process refuses it. Each raises
    :class:`~interlock.domain.errors.BackendGone` when nothing there has the model (UNAVAILABLE or FAILED_PRECONDITION
    before the first byte) and :class:`~interlock.domain.errors.BackendFailed`, in the backend's own words, otherwise.
    Timeouts are in seconds. One client belongs to one event loop.
    """

    def __init__(
        self, *, max_channels: int = 256, call_timeout_s: float = 10.0, serve_timeout_s: float = 3600.0
    ) -> None:
        self._channels: OrderedDict[str, _Channel] = OrderedDict()
        self._max_channels = max_channels
        self._call_timeout_s = call_timeout_s
        self._serve_timeout_s = serve_timeout_s

    async def close(self) -> None:
        """Close every channel; calls in progress are cancelled."""
        channels = [entry.channel for entry in self._channels.values()]
        self._channels.clear()
        for channel in channels:
            await channel.close()

    async def health(self, address: str, *, timeout_s: float = 2.0) -> None:
        """Return when a backend answers there, with or without a model."""
        await self._unary(address, m.HEALTH, pb.HealthMessage(), (), timeout_s)

    async def status(self, address: str, *, model: str = "", replica: str = "") -> calls.BackendStatus:
        """The backend's state and its memory."""
        answer = await self._unary(
            address, m.STATUS, pb.HealthMessage(), _identity(model, replica), self._call_timeout_s
        )
        return calls.status_from_wire(answer)

    async def load(
        self, address: str, model: str, spec: LoadSpec, *, replica: str = "", epoch: int = 0, timeout_s: float
    ) -> None:
        """Load the model. A model that is loaded already, or is being loaded, is the same load.

        Raises :class:`~interlock.domain.errors.Fenced` when that process has seen a newer ``epoch``.
        """
        identity = (*_identity(model, replica), *(((m.EPOCH_KEY, str(epoch)),) if epoch else ()))
        answer = await self._unary(address, m.LOAD_MODEL, calls.spec_to_wire(model, spec), identity, timeout_s)
        if not answer.success:
            raise BackendFailed(answer.message or "the backend gave no reason")

    async def free(self, address: str, *, model: str = "", replica: str = "", timeout_s: float = 2.0) -> None:
        """Let go of the model's memory; the process stays."""
        answer = await self._unary(address, m.FREE, pb.HealthMessage(), _identity(model, replica), timeout_s)
        if not answer.success:
            raise BackendFailed(answer.message or "the backend gave no reason")

    async def predict(self, address: str, model: str, wanted: calls.Generation, *, replica: str = "") -> calls.Piece:
        """Make the whole text."""
        asked = calls.generation_to_wire(model, wanted)
        answer = await self._unary(address, m.PREDICT, asked, _identity(model, replica), self._serve_timeout_s)
        return calls.piece_from_wire(answer)

    async def predict_stream(
        self, address: str, model: str, wanted: calls.Generation, *, replica: str = ""
    ) -> AsyncIterator[calls.Piece]:
        """Make the text piece by piece. After the first, every error is BackendFailed. Closing it cancels the call."""
        with self._channel(address) as channel:
            stream = channel.unary_stream(
                m.PREDICT_STREAM.path,
                request_serializer=m.to_bytes,
                response_deserializer=m.PREDICT_STREAM.parse_answered,
            )(
                calls.generation_to_wire(model, wanted),
                metadata=_identity(model, replica),
                timeout=self._serve_timeout_s,
            )
            begun = False
            try:
                async for reply in stream:
                    begun = True
                    yield calls.piece_from_wire(reply)
            except grpc.aio.AioRpcError as error:
                raise _translated(address, error, begun=begun) from None
            finally:
                stream.cancel()

    async def embedding(self, address: str, model: str, text: str, *, replica: str = "") -> calls.Vector:
        """The text's vector."""
        asked = pb.PredictOptions(Embeddings=text, Prompt=text, ModelIdentity=model)
        answer = await self._unary(address, m.EMBEDDING, asked, _identity(model, replica), self._serve_timeout_s)
        return calls.Vector(tuple(answer.embeddings), answer.prompt_tokens)

    async def tokenize(self, address: str, model: str, text: str, *, replica: str = "") -> list[int]:
        """The text's token ids."""
        asked = pb.PredictOptions(Prompt=text, ModelIdentity=model)
        answer = await self._unary(address, m.TOKENIZE, asked, _identity(model, replica), self._call_timeout_s)
        return list(answer.tokens)

    async def _unary(
        self,
        address: str,
        method: m.Method[m.Asked, m.Answered],
        asked: m.Asked,
        metadata: tuple[tuple[str, str], ...],
        timeout_s: float,
    ) -> m.Answered:
        with self._channel(address) as channel:
            call = channel.unary_unary(
                method.path, request_serializer=m.to_bytes, response_deserializer=method.parse_answered
            )
            try:
                return await call(asked, metadata=metadata, timeout=timeout_s)
            except grpc.aio.AioRpcError as error:
                raise _translated(address, error, begun=False) from None

    @contextmanager
    def _channel(self, address: str) -> Iterator[grpc.aio.Channel]:
        """The channel to ``address``, kept open for as long as the caller uses it."""
        entry = self._channels.get(address)
        if entry is None:
            self._drop_idle()
            entry = self._channels[address] = _Channel(address)
        self._channels.move_to_end(address)
        entry.users += 1
        try:
            yield entry.channel
        finally:
            entry.users -= 1

    def _drop_idle(self) -> None:
        """Make room for one more channel; one with a call on it stays, so that the bound never breaks a call."""
        for address, entry in list(self._channels.items()):
            if len(self._channels) < self._max_channels:
                return
            if entry.users == 0:
                # Unreferenced, the channel closes itself; nothing waits for it.
                del self._channels[address]


def _identity(model: str, replica: str) -> tuple[tuple[str, str], ...]:
    """Whom a call is meant for, as metadata; gRPC takes printable ASCII there, so names are quoted."""
    pairs = ((m.MODEL_KEY, model), (m.REPLICA_KEY, replica))
    return tuple((key, m.quoted(value)) for key, value in pairs if value)


def _translated(address: str, error: grpc.aio.AioRpcError, *, begun: bool) -> InterlockError:
    """Our error for gRPC's. ``begun``: the caller has had a part of the answer, so it must not be asked again."""
    words = error.details() or error.code().name.lower().replace("_", " ")
    if error.code() in _GONE and not begun:
        return BackendGone(address, words, answered=error.code() is grpc.StatusCode.FAILED_PRECONDITION)
    if error.code() in _DECLINED:
        return BackendDeclined(words, unsupported=error.code() is grpc.StatusCode.UNIMPLEMENTED)
    if error.code() is grpc.StatusCode.ABORTED:
        return Fenced(words)
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        words = f"no answer in time ({words})"
    return BackendFailed(words)
