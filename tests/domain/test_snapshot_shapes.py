"""Which program's snapshots are read: those of the same shape, whatever is said about it."""

from __future__ import annotations

from typing import Any

import msgspec

from interlock.domain.snapshots import name_of_shape


def shape_with(*fields: tuple[str, type, Any], words: str = "A room.") -> str:
    """The name of the shape of an image that holds a room of these fields."""
    room = msgspec.defstruct("Room", fields, namespace={"__doc__": words})
    return name_of_shape(msgspec.defstruct("Image", [("rooms", list[room])]), ())  # type: ignore[valid-type]  # made here


def test_other_words_about_an_entity_leave_older_snapshots_readable() -> None:
    assert shape_with(("size", int, 0)) == shape_with(("size", int, 0), words="The same, in other words.")


def test_another_field_another_kind_or_another_default_makes_another_shape() -> None:
    one, more = ("size", int, 0), ("doors", int, 1)
    shapes = [shape_with(one), shape_with(one, more), shape_with(("size", int, 1)), shape_with(("size", float, 0))]
    assert len(set(shapes)) == len(shapes)


def test_a_field_that_is_called_like_a_docstring_counts() -> None:
    assert shape_with(("title", str, "")) != shape_with(("description", str, ""))
