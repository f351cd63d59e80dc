"""The drawing of a counterexample: its stem as a column of states, its cycle as a loop of them, as one inline SVG.

States are cards that say what is otherwise there; between them stand the actions, with the effects that they carry. The
drawing has no styles of its own: classes are the page's, so that it follows light and dark.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from html import escape

import msgspec

from .counterexample import Counterexample, Move

CARD, COLUMN_GAP, MARGIN, RADIUS = 330, 70, 24, 26
LINE, PAD, ARROW = 17, 11, 12
CHARACTERS = 46
"""So many fit on a line of a card; beside an arrow, a few less."""
LINES_MAX = 7
Line = tuple[str, str]
"""A line of text and its class."""


class _Card(msgspec.Struct):
    """A state on the drawing, or the words of the action beside an arrow."""

    lines: list[Line]
    kind: str
    x: int = 0
    y: int = 0

    @property
    def height(self) -> int:
        return len(self.lines) * LINE + 2 * PAD

    @property
    def bottom(self) -> int:
        return self.y + self.height


def draw(shown: Counterexample) -> str:
    """The SVG of a counterexample that has its moves."""
    stem, cycle = shown.moves[: len(shown.stem)], shown.moves[len(shown.stem) :]
    column = [_state("the beginning", shown.start, "start")]
    column += [_state(f"after step {number}", move.changed, "state") for number, move in enumerate(stem, start=1)]
    if cycle:
        entry = column.pop()
        entry.lines[0] = (f"{entry.lines[0][0]}, and after each round", "head")
        entry.kind = "state loop"
    parts: list[str] = []
    bottom = _column(column, stem, parts, broken=not cycle)
    width = MARGIN * 2 + CARD
    if cycle:
        first = len(stem) + 1
        ring = [entry]
        ring += [
            _state(f"after step {first + number}", move.changed, "state loop") for number, move in enumerate(cycle[:-1])
        ]
        edges = [_words(move, first + number) for number, move in enumerate(cycle)]
        left = MARGIN + CARD + 2 * COLUMN_GAP if stem else MARGIN
        joins = _enters(column, stem, bottom) if stem else None
        bottom = max(bottom, _loop(ring, edges, left, joins, parts))
        width = left + CARD * 2 + COLUMN_GAP + MARGIN
    height = bottom + MARGIN
    marker = (
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" '
        'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" class="tip"/></marker></defs>'
    )
    label = escape(f"{shown.property}: {shown.words}", quote=True)
    size = f'viewBox="0 0 {width} {height}" style="max-width:{width}px;min-width:{width * 3 // 4}px"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{label}">{marker}{"".join(parts)}</svg>'
    )


# --- texts ----------------------------------------------------------------------------------------------------------


def _state(title: str, about: list[str], kind: str) -> _Card:
    lines = _wrapped(about or ["as before"], CHARACTERS, "fact")
    return _Card([(title, "head"), *lines], kind)


def _words(move: Move, number: int) -> _Card:
    """The action beside its arrow, with the effects that it carries."""
    lines = _wrapped([f"{number}. {move.did}"], CHARACTERS - 4, "act")
    lines += _wrapped([f"⚡ {effect}" for effect in move.effects], CHARACTERS - 4, "effect")
    return _Card(lines, "words")


def _wrapped(texts: Iterable[str], width: int, kind: str) -> list[Line]:
    lines = [(line, kind) for text in texts for line in textwrap.wrap(text, width, break_on_hyphens=False)]
    if len(lines) > LINES_MAX:
        lines = [*lines[: LINES_MAX - 1], (f"… and {len(lines) - LINES_MAX + 1} lines more, below", kind)]
    return lines


# --- shapes ---------------------------------------------------------------------------------------------------------


def _column(cards: list[_Card], moves: list[Move], parts: list[str], *, broken: bool) -> int:
    """The stem, from the top down; returns where it ends."""
    y = MARGIN
    for number, card in enumerate(cards):
        card.x, card.y = MARGIN, y
        if broken and number == len(cards) - 1:
            card.kind = "state broken"
        parts.append(_box(card))
        y = card.bottom
        if number + 1 < len(cards):
            y = _down(_words(moves[number], number + 1), MARGIN, y, parts)
    return y


def _down(words: _Card, x: int, y: int, parts: list[str]) -> int:
    """An arrow from ``y`` down with its words on its right; returns where it ends."""
    end = y + words.height + ARROW
    words.x, words.y = x + 32, y + ARROW // 2
    parts.append(_arrow(f"M{x + 20} {y}V{end - 2}"))
    parts.append(_text(words))
    return end


def _enters(column: list[_Card], stem: list[Move], bottom: int) -> tuple[int, _Card]:
    """Where the last step of the stem leaves its column, and its words."""
    words = _words(stem[-1], len(stem))
    words.x, words.y = MARGIN + 32, bottom + ARROW // 2
    return bottom, words


def _loop(ring: list[_Card], edges: list[_Card], left: int, joins: tuple[int, _Card] | None, parts: list[str]) -> int:
    """The cycle: down on the left and up again on the right; returns where it ends."""
    half = (len(ring) + 1) // 2
    right = left + CARD + COLUMN_GAP
    # The last edge turns at the top, over the heads of both columns; the words of the turns stand beside them.
    y = top = MARGIN + 2 * RADIUS
    y += 0 if len(ring) == 1 else edges[-1].height
    start = y
    for number, card in enumerate(ring[:half]):
        card.x, card.y = left, y
        y = card.bottom
        if number + 1 < half:
            y = _down(edges[number], left, y, parts)
    if len(ring) == 1:
        return _self_loop(ring[0], edges[0], right, joins, parts)
    low = y
    below = start
    rising = list(range(len(ring) - 1, half - 1, -1))
    for place, number in enumerate(rising):
        ring[number].x, ring[number].y = right, below
        below = ring[number].bottom
        if place + 1 < len(rising):
            below = _up(edges[number - 1], right, below, parts)
    turn = edges[half - 1]
    floor = max(low, below) + RADIUS
    parts.append(
        _arrow(
            _track([(left + 20, low), (left + 20, floor + RADIUS), (right + 20, floor + RADIUS), (right + 20, below)])
        )
    )
    turn.x, turn.y = left + 32, floor + RADIUS
    parts.append(_text(turn))
    last = edges[-1]
    parts.append(
        _arrow(_track([(right + 20, start), (right + 20, top - RADIUS), (left + 20, top - RADIUS), (left + 20, start)]))
    )
    last.x, last.y = left + 32, top - RADIUS
    parts.append(_text(last))
    parts += [_box(card) for card in ring]
    _join(joins, ring[0], parts)
    return max(turn.y + turn.height, _joined(joins))


def _up(words: _Card, x: int, y: int, parts: list[str]) -> int:
    """An arrow that comes up to ``y``, with its words on its right; returns where it starts, below."""
    end = y + words.height + ARROW
    words.x, words.y = x + 32, y + ARROW // 2
    parts.append(_arrow(f"M{x + 20} {end}V{y + 2}"))
    parts.append(_text(words))
    return end


def _self_loop(card: _Card, words: _Card, right: int, joins: tuple[int, _Card] | None, parts: list[str]) -> int:
    """A state that one step leads back to: a ring beside it."""
    upper, lower = card.y + card.height // 4, card.y + card.height - card.height // 4
    edge, far = card.x + CARD, right - 12
    parts.append(
        _arrow(
            f"M{edge} {upper}C{edge + 30} {upper - 46} {far} {upper - 46} {far} {card.y + card.height // 2}"
            f"S{edge + 30} {lower + 46} {edge + 2} {lower}"
        )
    )
    words.x, words.y = far + 4, card.y + card.height // 2 - words.height // 2
    parts += [_text(words), _box(card)]
    _join(joins, card, parts)
    return max(card.bottom, words.y + words.height, _joined(joins)) + RADIUS


def _joined(joins: tuple[int, _Card] | None) -> int:
    return joins[1].y + joins[1].height if joins is not None else 0


def _join(joins: tuple[int, _Card] | None, entry: _Card, parts: list[str]) -> None:
    """The last step of the stem, from under its column into the cycle's first state."""
    if joins is None:
        return
    bottom, words = joins
    x, y = MARGIN + 20, entry.y + entry.height // 2
    turn = MARGIN + CARD + COLUMN_GAP
    down = words.y + words.height + ARROW
    parts.append(_arrow(_track([(x, bottom), (x, down), (turn, down), (turn, y), (entry.x - 2, y)])))
    parts.append(_text(words))


def _track(points: list[tuple[int, int]]) -> str:
    """A way along these points with its corners rounded."""
    path = [f"M{points[0][0]} {points[0][1]}"]
    for before, here, after in zip(points, points[1:], points[2:], strict=False):
        near = _towards(here, before)
        leaving = _towards(here, after)
        path.append(f"L{near[0]} {near[1]}Q{here[0]} {here[1]} {leaving[0]} {leaving[1]}")
    path.append(f"L{points[-1][0]} {points[-1][1]}")
    return "".join(path)


def _towards(here: tuple[int, int], there: tuple[int, int]) -> tuple[int, int]:
    """A corner's length from here on the straight line to there."""
    across, along = there[0] - here[0], there[1] - here[1]
    length = max(1, abs(across) + abs(along))
    step = min(RADIUS, length // 2)
    return here[0] + across * step // length, here[1] + along * step // length


def _arrow(path: str) -> str:
    return f'<path d="{path}" class="way" marker-end="url(#tip)"/>'


def _box(card: _Card) -> str:
    shape = f'<rect x="{card.x}" y="{card.y}" width="{CARD}" height="{card.height}" rx="8" class="{card.kind}"/>'
    return shape + _text(card)


def _text(card: _Card) -> str:
    x = card.x + (PAD if card.kind != "words" else 0)
    rows = [
        f'<text x="{x}" y="{card.y + PAD + (number + 1) * LINE - 5}" class="{kind}">{escape(line)}</text>'
        for number, (line, kind) in enumerate(card.lines)
    ]
    return "".join(rows)
