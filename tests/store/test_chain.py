"""The hash chain: whatever is changed, removed, inserted or swapped in a log is found, at its place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import astuple

from interlock.adapters.store import chain
from interlock.adapters.store.batch import End, seal
from tests.store.support import batch, event

LENGTH = 6
LOG = seal(batch(1, LENGTH, 3), 3, End())


def resealed(rows: list[chain.Row]) -> list[chain.Row]:
    """The rows with digests that fit them, as somebody would make who knows how."""
    plain = [row[: len(chain.COLUMNS)] for row in rows]
    return [(*row, digest) for row, digest in zip(plain, chain.digests(chain.GENESIS, plain), strict=True)]


values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary())
places = st.integers(0, LENGTH - 1)


def test_an_untouched_log_holds() -> None:
    assert chain.verify(LOG) is None
    assert chain.check(LOG) == chain.Finding(LENGTH, LENGTH, LOG[-1][-1].hex())
    assert chain.verify([]) is None


@given(place=places, column=st.integers(0, len(chain.COLUMNS)), value=values)
def test_any_change_of_any_column_is_found_at_its_position(place: int, column: int, value: Any) -> None:
    row = list(LOG[place])
    # True is 1 in every way that a database knows.
    assume(row[column] != value)
    row[column] = value
    rows = [*LOG[:place], tuple(row), *LOG[place + 1 :]]
    bad = chain.verify(rows)
    assert bad == (min(place + 1, value) if column == 0 and isinstance(value, int) else place + 1)


@given(place=places, column=st.integers(1, len(chain.COLUMNS) - 1), text=st.text(min_size=1), cut=st.integers(0, 99))
def test_moving_text_from_one_column_to_the_next_is_found(place: int, column: int, text: str, cut: int) -> None:
    texts = [index for index in range(1, len(chain.COLUMNS)) if isinstance(LOG[place][index], str)]
    left = texts[column % (len(texts) - 1)]
    right = texts[texts.index(left) + 1]
    row = list(LOG[place])
    joined = row[left] + row[right]
    cut %= len(joined) + 1
    assume(joined[:cut] != row[left])
    row[left], row[right] = joined[:cut], joined[cut:]
    assert chain.verify([*LOG[:place], tuple(row), *LOG[place + 1 :]]) == place + 1


@given(first=places, count=st.integers(1, LENGTH))
def test_a_removed_row_is_found_where_it_is_missing(first: int, count: int) -> None:
    rows = [*LOG[:first], *LOG[first + count :]]
    assume(rows[first:])
    assert chain.verify(rows) == first + 1


@given(place=places)
def test_an_inserted_row_is_found(place: int) -> None:
    assert chain.verify([*LOG[: place + 1], LOG[place], *LOG[place + 1 :]]) == place + 1
    alien = (*astuple(event(place + 1, 3, actor="mallory", event_id="x")), LOG[place][-1])
    moved = [(row[0] + 1, *row[1:]) for row in LOG[place:]]
    assert chain.verify([*LOG[:place], alien, *moved]) == place + 1


@given(left=places, right=places)
def test_two_rows_that_changed_places_are_found(left: int, right: int) -> None:
    assume(left < right)
    rows = list(LOG)
    rows[left] = (LOG[left][0], *LOG[right][1:])
    rows[right] = (LOG[right][0], *LOG[left][1:])
    assert chain.verify(rows) == left + 1
    rows[left], rows[right] = LOG[right], LOG[left]
    assert chain.verify(rows) == left + 1


@given(cut=st.integers(0, LENGTH - 1), anchored=st.integers(1, LENGTH))
def test_a_cut_tail_is_found_by_an_anchor_beyond_it(cut: int, anchored: int) -> None:
    anchor = chain.Anchor(anchored, LOG[anchored - 1][-1].hex())
    finding = chain.check(LOG[:cut], anchors=[anchor])
    assert finding.bad_position == (cut + 1 if anchored > cut else None)
    assert finding.holds is (anchored <= cut)


@given(place=places, anchored=st.integers(1, LENGTH))
def test_a_log_that_was_rewritten_with_fresh_digests_is_found_by_an_anchor(place: int, anchored: int) -> None:
    rows = list(LOG)
    rows[place] = (*LOG[place][:8], "mallory", *LOG[place][9:])
    rewritten = resealed(rows)
    assert chain.verify(rewritten) is None
    anchor = chain.Anchor(anchored, LOG[anchored - 1][-1].hex())
    finding = chain.check(rewritten, anchors=[anchor])
    assert finding.bad_position == (anchored if anchored > place else None)


@given(anchored=st.integers(0, LENGTH), wrong_first=st.booleans())
def test_of_two_anchors_of_one_position_both_must_hold(anchored: int, wrong_first: bool) -> None:
    right = chain.Anchor(anchored, (LOG[anchored - 1][-1] if anchored else chain.GENESIS).hex())
    wrong = chain.Anchor(anchored, "ab" * 32)
    assert chain.check(LOG, anchors=[right, right]).holds
    anchors = [wrong, right] if wrong_first else [right, wrong]
    assert chain.check(LOG, anchors=anchors).bad_position == anchored


def test_an_anchor_where_a_part_begins_is_compared_with_what_comes_before_it() -> None:
    known = chain.Anchor(2, LOG[1][-1].hex())
    assert chain.check(LOG[2:], after=2, previous=LOG[1][-1], anchors=[known]).holds
    other = chain.Anchor(2, LOG[2][-1].hex())
    assert chain.check(LOG[2:], after=2, previous=LOG[1][-1], anchors=[other]).bad_position == 2


def test_an_anchor_may_be_written_in_capitals(tmp_path: Path) -> None:
    path = tmp_path / "anchor.json"
    chain.write_anchor(path, chain.Anchor(LENGTH, LOG[-1][-1].hex().upper()))
    assert chain.read_anchor(path) == chain.Anchor(LENGTH, LOG[-1][-1].hex())
    assert chain.check(LOG, anchors=[chain.Anchor(LENGTH, LOG[-1][-1].hex().upper())]).holds


def test_a_part_of_a_log_is_checked_from_what_comes_before_it() -> None:
    assert chain.verify(LOG[2:], after=2, previous=LOG[1][-1]) is None
    assert chain.verify(LOG[2:], after=2) == 3
    assert chain.check(LOG[2:], after=2, previous=LOG[1][-1]).checked == LENGTH - 2


def test_an_anchor_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "anchor.json"
    anchor = chain.Anchor(LENGTH, LOG[-1][-1].hex())
    chain.write_anchor(path, chain.Anchor(1, LOG[0][-1].hex()))
    chain.write_anchor(path, anchor)
    assert chain.read_anchor(path) == anchor
    assert [one.name for one in tmp_path.iterdir()] == ["anchor.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": "interlock-anchor-2", "position": 1, "digest": "00"}',
        '{"format": "interlock-anchor-1", "position": 1, "digest": "00"}',
        '{"format": "interlock-anchor-1", "position": -1, "digest": "%s"}' % ("00" * 32),
        '{"format": "interlock-anchor-1", "position": "x", "digest": "%s"}' % ("00" * 32),
        '{"format": "interlock-anchor-1", "position": 1, "digest": 7}',
        "[" * 100_000,
    ],
)
def test_a_file_that_is_no_anchor_says_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "anchor.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="not an anchor file"):
        chain.read_anchor(path)


def test_the_chain_is_checked_without_the_domain() -> None:
    source = Path(chain.__file__)
    program = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("chain", {str(source)!r})
module = importlib.util.module_from_spec(spec)
sys.modules["chain"] = module
spec.loader.exec_module(module)
print(sorted(set(name.split(".")[0] for name in sys.modules) & {{"interlock", "msgspec", "eventsourcing"}}))
"""
    # Without site-packages, so that an import of anything but the standard library fails.
    done = subprocess.run([sys.executable, "-S", "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
