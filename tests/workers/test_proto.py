"""The backend protocol: the generated modules are current, and the numbers are LocalAI's."""

from __future__ import annotations

from pathlib import Path

import pytest

from interlock.adapters.grpc import backend_pb2 as pb
from interlock.adapters.grpc import calls, generate
from interlock.adapters.grpc.methods import file_name
from interlock.domain.entities import LoadSpec
from interlock.domain.errors import BackendFailed


def test_the_generated_modules_are_current(tmp_path: Path) -> None:
    generate.generate(tmp_path)
    for name in generate.GENERATED:
        assert (tmp_path / name).read_text() == (generate.HERE / name).read_text(), (
            f"{name} is stale: run python -m interlock.adapters.grpc.generate"
        )


@pytest.mark.parametrize(
    ("message", "numbers"),
    [
        ("PredictOptions", {"Prompt": 1, "Tokens": 4, "Embeddings": 36, "Messages": 44, "ModelIdentity": 54}),
        ("Message", {"role": 1, "content": 2}),
        ("ModelOptions", {"Model": 1, "Threads": 15, "ModelFile": 21, "Options": 62}),
        ("Reply", {"message": 1, "tokens": 2, "prompt_tokens": 3}),
        ("Result", {"message": 1, "success": 2}),
        ("EmbeddingResult", {"embeddings": 1, "prompt_tokens": 4}),
        ("TokenizationResponse", {"length": 1, "tokens": 2}),
        ("StatusResponse", {"state": 1, "memory": 2}),
    ],
)
def test_fields_have_localais_numbers(message: str, numbers: dict[str, int]) -> None:
    fields = getattr(pb, message).DESCRIPTOR.fields_by_name
    assert {name: fields[name].number for name in numbers} == numbers


def test_a_generation_survives_the_wire() -> None:
    wanted = calls.Generation(
        messages=(calls.ChatMessage("user", "hi", name="ann"),),
        max_tokens=7,
        temperature=0.5,
        top_p=0.25,
        stop=("END",),
        seed=3,
        tools="[]",
        metadata={"a": "b"},
    )
    wire = calls.generation_to_wire("m", wanted)
    assert wire.ModelIdentity == "m"
    assert wire.UseTokenizerTemplate
    assert calls.generation_from_wire(wire) == wanted


def test_options_survive_the_wire_as_text() -> None:
    spec = LoadSpec(backend="echo", options={"context_size": 4096, "delay_ms": 1.5, "fast": True, "url": "a:b"}, vram=9)
    wire = calls.spec_to_wire("m", spec)
    assert wire.ContextSize == 4096
    assert calls.options_from_wire(wire) == {
        "context_size": "4096",
        "delay_ms": "1.5",
        "fast": "true",
        "url": "a:b",
        "vram": "9",
    }


@pytest.mark.parametrize("value", ["9" * 5000, "²", "many", 2**31, 1.5, True])
def test_an_option_that_is_no_number_of_the_wire_fails_the_load(value: str | float) -> None:
    with pytest.raises(BackendFailed, match=r"option threads: .* is not a whole number of 32 bits"):
        calls.spec_to_wire("m", LoadSpec(backend="echo", options={"threads": value}))
    assert calls.spec_to_wire("m", LoadSpec(backend="echo", options={"threads": 4.0, "seed": "-1"})).Seed == -1


@pytest.mark.parametrize("name", ["../../etc", "..", ".", "a/b", "", "\0", "CON:x"])
def test_a_models_folder_cannot_climb_out(name: str) -> None:
    folder = Path("/models") / file_name(name)
    assert folder.parent == Path("/models")
    assert folder.name not in ("", ".", "..")
