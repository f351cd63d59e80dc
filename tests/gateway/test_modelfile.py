"""Model files: read whole, and every mistake named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from interlock.adapters.modelfile import read_models
from interlock.domain.errors import UnreadableFile
from interlock.domain.units import FOREVER, GIB

GOOD = """
[[models]]
name = "a"
backend = "echo"
vram = "1GiB"

[[models]]
name = "b"
replicas = "all"
node_selector = { tier = "fast" }
idle_unload = "off"
"""


def test_a_file_declares_its_models_in_order(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(GOOD.replace('vram = "1GiB"', 'vram = "1GiB"\nram = "2GiB"'))
    first, second = read_models(path)
    assert (first.model, first.spec.backend, first.spec.vram, first.spec.ram) == ("a", "echo", GIB, 2 * GIB)
    assert (second.model, second.spec.backend, second.scheduling.everywhere) == ("b", "", True)
    assert (first.scheduling.idle_unload, second.scheduling.idle_unload) == (None, FOREVER)
    (tmp_path / "models.json").write_text('{"models": [{"name": "c"}]}')
    assert [model.model for model in read_models(tmp_path / "models.json")] == ["c"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD + "vramm = 1\n", r"models\.toml:12: models\[1\]\.vramm: no such key"),
        (GOOD.replace('"1GiB"', "24"), r"models\.toml:5: models\[0\]\.vram: 24 would be 24 bytes"),
        (GOOD.replace('"1GiB"', '"1 lot"'), r"models\.toml:5: models\[0\]\.vram: '1 lot' is not a size"),
        (GOOD.replace('{ tier = "fast" }', "{ tier = 7 }"), r"models\.toml:10: models\[1\]\.node_selector\.tier"),
        ('[[models]]\nbackend = "echo"\n', r"models\[0\]\.name: missing"),
        (GOOD.replace('"off"', '"0s"'), r"models\.toml:11: models\[1\]\.idle_unload: '0s' is shorter"),
        (GOOD + '[[models]]\nname = "a"\n', r"models\.toml:13: models\[2\]\.name: 'a' stands there twice"),
        (
            GOOD + "remove = true\n",
            r"models\.toml:12: models\[1\]\.remove: only a plan's .* models remove b` does it; do",
        ),
        (GOOD + "[other]\nx = 1\n", r"models\.toml:12: other: no such key"),
        ("name = \nx = 1", r"models\.toml: .*line 1"),
        ("x = 1", r"no \[\[models\]\] tables"),
    ],
)
def test_a_mistake_is_named_with_key_and_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "models.toml"
    path.write_text(text)
    with pytest.raises(UnreadableFile, match=told):
        read_models(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match=r"nothing\.toml"):
        read_models(tmp_path / "nothing.toml")
