"""Seeded bugs in the files on a node's disk; made like those of :mod:`interlock.simulation.mutants.core`."""

from __future__ import annotations

from typing import Any

from interlock.domain import disk, state

from .patching import Patches, Row


def disk_unchecked(patches: Patches) -> None:
    """Whether the disk can hold a model is found out only while it is being staged."""
    need = disk.staging_need

    def unchecked(at: Any, model: Any, node: Any, *, replacing: bool = False) -> int:
        known = need(at, model, node, replacing=replacing)
        return model.declared_spec.disk if known is None else known

    patches.swap(need, unchecked)


def margin_ignored(patches: Patches) -> None:
    """Staging may fill a disk to its last byte."""

    def to_the_last_byte(self: Any, node: Any) -> Any:
        return None if node.disk is None else node.disk - self.disk_used.get(node.name, 0)

    patches.attribute(state.State, "disk_free", to_the_last_byte)


def files_in_use_dropped(patches: Patches) -> None:
    """Files give way on a full disk whether or not something runs from them."""
    unused = disk.unused_files

    def any_files(at: Any, node: Any) -> Any:
        return [(*key, size) for key, size in at.staged.get(node.name, {}).items()]

    patches.swap(unused, any_files)


ROWS: tuple[Row, ...] = (
    (disk_unchecked, "S", "full-disk", True),
    (margin_ignored, "S", "disk-margin", True),
    (files_in_use_dropped, "S", "staged-files-give-way", True),
)
"""As in :data:`interlock.simulation.mutants.core.ALL`."""
