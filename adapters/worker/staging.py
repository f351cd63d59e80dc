"""Staging: a model's files brought onto the node's disk, once per node, whole or not at all."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from interlock.adapters.grpc.methods import file_name
from interlock.domain.errors import InterlockError
from interlock.domain.units import format_size

_CHUNK = 4 * 2**20

Told = Callable[[int, int], None]
"""Hears of bytes copied and bytes in all; called from the staging thread."""


class StagingFailed(InterlockError):
    """The files could not be brought here; nothing of them is left."""


class _Manifest(msgspec.Struct, frozen=True):
    """What was staged: where it came from, and its size."""

    source: str
    size: int


def stage(models: Path, model: str, source: str, told: Told, stop: threading.Event, *, replaces: bool = False) -> int:
    """Copy ``source``, a path or file URL, to the model's folder below ``models``; returns its bytes.

    Does nothing when that source is staged already at that size. The room is looked at before the first byte moves;
    with ``replaces`` what was staged of the model from elsewhere goes first where there is not room for both.
    Raises StagingFailed; ``stop`` ends it early, which is a failure too. Blocking: runs in a thread.
    """
    origin = _local_path(source)
    target = models / file_name(model)
    manifest_path = target.with_name(f"{target.name}.staged.json")
    try:
        files = list(_files(origin))
        size = sum(path.stat().st_size for path, _ in files)
        manifest = _Manifest(source, size)
        if target.is_dir() and _read(manifest_path) == manifest:
            return size
        models.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(models).free
        if size > free and replaces and target.is_dir():
            remove(models, model)
            free = shutil.disk_usage(models).free
        if size > free:
            raise StagingFailed(f"the disk is too full for {model!r}: it needs {format_size(size)}, and there are "
                                f"{format_size(free)} free in {models}")  # fmt: skip
        partial = target.with_name(f"{target.name}.part")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            _copy(files, partial, size, told, stop)
            shutil.rmtree(target, ignore_errors=True)
            partial.replace(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        manifest_path.write_bytes(msgspec.json.encode(manifest))
    except OSError as error:
        raise StagingFailed(f"{source}: {error.strerror or error}") from None
    return size


def remove(models: Path, model: str) -> None:
    """Remove what was staged of the model."""
    target = models / file_name(model)
    target.with_name(f"{target.name}.staged.json").unlink(missing_ok=True)
    shutil.rmtree(target, ignore_errors=True)


def _local_path(source: str) -> Path:
    parts = urlsplit(source)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if parts.scheme and "://" in source:
        raise StagingFailed(f"{source}: only paths and file:// URLs can be staged")
    return Path(source)


def _files(origin: Path) -> Iterator[tuple[Path, Path]]:
    """Every file to copy, with its place in the model's folder."""
    if not origin.exists():
        raise StagingFailed(f"{origin}: no such file or folder")
    if origin.is_file():
        yield origin, Path(origin.name)
        return
    for path in sorted(origin.rglob("*")):
        if path.is_file():
            yield path, path.relative_to(origin)


def _copy(files: list[tuple[Path, Path]], target: Path, size: int, told: Told, stop: threading.Event) -> None:
    done = 0
    target.mkdir(parents=True)
    for path, place in files:
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as reading, (target / place).open("wb") as writing:
            while chunk := reading.read(_CHUNK):
                if stop.is_set():
                    raise StagingFailed("staging was stopped")
                writing.write(chunk)
                done += len(chunk)
                told(done, size)


def _read(path: Path) -> _Manifest | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Manifest)
    except (OSError, msgspec.DecodeError):
        return None
