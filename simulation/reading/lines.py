"""Where a key of a TOML text stands: ``tomllib`` keeps no line numbers, so it is looked up when there is an error.

Tables may be written in every way that TOML has: under their own header, in parts of their own (``[nodes.labels]``),
with dotted keys, or inline.
"""

from __future__ import annotations

import re

_HEADER = re.compile(r"\s*\[\[?\s*([^\[\]#]+?)\s*\]\]?\s*(#.*)?$")


def line_of(lines: list[str], header: str, ordinal: int, key: str) -> int:
    """The line (from 1) of ``key`` in the ``ordinal``-th table called ``header``; of the table when not found.

    An empty ``header`` means the top of the file. Keys of tables within the table have dots: ``labels.tier``.
    """
    begins = _begin(lines, header, ordinal)
    if begins is None:
        return _inline(lines, header, ordinal, key) if header else _anywhere(lines, 0, key) or 1
    found = _within(lines, begins, header, key)
    if found is None and not header and key:  # a table of the file that is no table here
        return next((number for number, line in enumerate(lines, 1) if _named(line) == key), 1)
    return found or max(begins, 1)


def _named(line: str) -> str:
    """What a header is the header of, without quotes and spaces; empty when the line is none."""
    found = _HEADER.match(line)
    return re.sub(r"""["'\s]""", "", found[1]) if found else ""


def _begin(lines: list[str], header: str, ordinal: int) -> int | None:
    """The line of the table's header, or of its first part that has one; 0 for the top of the file."""
    if not header:
        return 0
    whole = [number for number, line in enumerate(lines, 1) if _named(line) == header]
    if ordinal < len(whole):
        return whole[ordinal]
    parts = [number for number, line in enumerate(lines, 1) if _named(line).startswith(f"{header}.")]
    return parts[0] if parts and not ordinal and not whole else None


def _within(lines: list[str], begins: int, header: str, key: str) -> int | None:
    """The line of the key between the table's header and the next table's, its own parts included."""
    inside = _named(lines[begins - 1]).removeprefix(header).removeprefix(".") if begins else ""
    for number, line in enumerate(lines[begins:], begins + 1):
        named = _named(line)
        if named and not (header and named.startswith(f"{header}.")):
            return None
        if named:
            inside = named.removeprefix(f"{header}.")
            if inside == key:
                return number
        elif key and (rest := _rest(key, inside)) and _opens(line, rest):
            return number
    return None


def _rest(key: str, inside: str) -> str:
    """What is left of a key's name within a part of its table; empty when it is of another part."""
    if not inside:
        return key
    return key.removeprefix(f"{inside}.") if key.startswith(f"{inside}.") else ""


def _opens(line: str, key: str) -> bool:
    """Whether the line gives the key its value: whole, or what is before its first dots."""
    names = key.split(".")
    tries = (".".join(names[: length + 1]) for length in reversed(range(len(names))))
    return any(re.match(rf"""\s*["']?{re.escape(name)}["']?\s*[=.]""", line) for name in tries)


def _inline(lines: list[str], header: str, ordinal: int, key: str) -> int:
    """The line of the ``ordinal``-th of the tables that are written inline: ``nodes = [{ ... }]``."""
    opens = next((number for number, line in enumerate(lines, 1) if _opens(line, header)), 0)
    if not opens:
        return _anywhere(lines, 0, key) or 1
    depth, place = 0, -1
    for number, line in enumerate(lines[opens - 1 :], opens):
        for sign in re.findall(r"[{}]", line):
            depth += 1 if sign == "{" else -1
            place += sign == "{" and depth == 1
            if place == ordinal:
                return number  # all of it: an inline table is written on one line
    return _anywhere(lines, opens - 1, key) or opens


def _anywhere(lines: list[str], after: int, key: str) -> int:
    """The first line after that one on which the key is named; 0 when it is on none."""
    pattern = re.compile(rf"""(^|[\s{{,.])["']?{re.escape(key.rpartition(".")[2])}["']?\s*=""")
    return next((number for number, line in enumerate(lines[after:], after + 1) if key and pattern.search(line)), 0)
