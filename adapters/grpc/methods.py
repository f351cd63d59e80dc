"""The calls of ``backend.Backend`` by name, shared by client and server: path, request and reply types."""

from __future__ import annotations

from typing import Final, Generic, TypeVar
from urllib.parse import quote, unquote

from google.protobuf.message import Message

from . import backend_pb2 as pb

SERVICE: Final = "backend.Backend"

MODEL_KEY: Final = "interlock-model"
"""Metadata: the model that a call is meant for. Messages that have a field for it carry it there as well."""
REPLICA_KEY: Final = "interlock-replica"
"""Metadata: the replica that a call is meant for, when the caller knows it."""
EPOCH_KEY: Final = "interlock-epoch"
"""Metadata: the writer's epoch, on LoadModel and Free."""

Asked = TypeVar("Asked", bound=Message)
Answered = TypeVar("Answered", bound=Message)


class Method(Generic[Asked, Answered]):
    """One call: its name, and the messages it takes and gives. ``streams`` when it answers with many."""

    def __init__(self, name: str, asked: type[Asked], answered: type[Answered], *, streams: bool = False) -> None:
        self.name = name
        self.asked = asked
        self.answered = answered
        self.streams = streams

    @property
    def path(self) -> str:
        """The call's path on the wire."""
        return f"/{SERVICE}/{self.name}"

    def parse_asked(self, data: bytes) -> Asked:
        """A request from its bytes."""
        return self.asked.FromString(data)

    def parse_answered(self, data: bytes) -> Answered:
        """An answer from its bytes."""
        return self.answered.FromString(data)


def quoted(name: str) -> str:
    """A name as metadata carries it: printable ASCII."""
    return quote(name, safe="/:@ ")


def unquoted(text: str) -> str:
    """The inverse of :func:`quoted`."""
    return unquote(text)


def file_name(model: str) -> str:
    """The folder of a model's staged files below the folder of all models: a name that cannot climb out of it."""
    name = quote(model, safe="@ ")
    return name if name.strip(".") else f"%2E{name[1:]}"


def to_bytes(message: Message) -> bytes:
    """A message's bytes."""
    return message.SerializeToString()


HEALTH = Method("Health", pb.HealthMessage, pb.Reply)
FREE = Method("Free", pb.HealthMessage, pb.Result)
STATUS = Method("Status", pb.HealthMessage, pb.StatusResponse)
LOAD_MODEL = Method("LoadModel", pb.ModelOptions, pb.Result)
PREDICT = Method("Predict", pb.PredictOptions, pb.Reply)
PREDICT_STREAM = Method("PredictStream", pb.PredictOptions, pb.Reply, streams=True)
EMBEDDING = Method("Embedding", pb.PredictOptions, pb.EmbeddingResult)
TOKENIZE = Method("TokenizeString", pb.PredictOptions, pb.TokenizationResponse)
