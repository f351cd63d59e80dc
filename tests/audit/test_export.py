"""Exports: what is in them, and what is blacked out."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from pathlib import Path

import pytest

from interlock.adapters.audit import export
from interlock.adapters.audit.formats import FORMATS
from interlock.adapters.audit.service import AuditService
from interlock.adapters.cloudevents import encoded
from interlock.adapters.store import SqliteStore
from interlock.domain.errors import InvalidField, UsageError


def _export(audit: AuditService, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    audit.export(form, out, **options)  # type: ignore[arg-type]  # each test gives what it names
    return out.getvalue()


def _as_text(audit: AuditService, form: str, folder: Path, **options: object) -> str:
    """What a reader of the format sees; Parquet packs its columns."""
    if form != "parquet":
        return _export(audit, form, **options).decode()
    import pyarrow.parquet

    written = _export(audit, form, path=folder / "log.parquet", **options)
    return str(pyarrow.parquet.read_table(io.BytesIO(written)).to_pylist())


def test_json_lines_hold_every_event_in_order(audit: AuditService) -> None:
    lines = [json.loads(line) for line in _export(audit, "jsonl").splitlines()]
    assert [line["position"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[1]["data"]["node"] == "thor"
    assert lines[1]["event"] == "NodeRegistered"


def test_csv_has_one_row_an_event_and_json_in_its_last_column(audit: AuditService) -> None:
    rows = list(csv.DictReader(io.StringIO(_export(audit, "csv").decode())))
    assert len(rows) == len(_export(audit, "jsonl").splitlines())
    assert json.loads(rows[1]["data"])["node"] == "thor"


def test_cloudevents_are_whole_and_named_as_on_the_bus(audit: AuditService, story_log: SqliteStore) -> None:
    first = json.loads(_export(audit, "cloudevents", filters={"event": "ReplicaLoaded"}).splitlines()[0])
    stored = next(row for row in story_log.read(0) if row.topic == "interlock.ReplicaLoaded.v1")
    assert {**first, "sequence": ""} == {**json.loads(encoded(stored)), "sequence": ""}
    assert first["type"] == "interlock.ReplicaLoaded.v1"
    assert first["sequence"] == str(stored.position).zfill(20)
    assert first["subject"] == "replica:r-000001"
    assert first["data"]["replica"] == "r-000001"
    assert all(name.isalnum() and name.islower() for name in first)


@pytest.mark.parametrize("form", FORMATS)
def test_a_redacted_field_is_nowhere(audit: AuditService, form: str, tmp_path: Path) -> None:
    if form == "parquet" and importlib.util.find_spec("pyarrow") is None:
        pytest.skip("pyarrow is not installed")
    assert "gateway-1" in _as_text(audit, form, tmp_path)
    assert "gateway-1" not in _as_text(audit, form, tmp_path, redact=("holder", "actor", "reason", "detail"))


def test_each_format_that_is_named_has_its_writer() -> None:
    assert tuple(export._WRITERS) == FORMATS


def test_what_is_blacked_out_is_so_within_lists_too(audit: AuditService) -> None:
    surveys = [
        explanation.get("considered", ())
        for line in _export(audit, "jsonl", redact=("node",)).splitlines()
        if (explanation := json.loads(line)["data"].get("explanation"))
    ]
    assert {row["node"] for survey in surveys for row in survey} == {"[redacted]"}


def test_a_cloud_event_without_its_time_has_none_and_is_never_without_its_id(audit: AuditService) -> None:
    for line in _export(audit, "cloudevents", redact=("time", "actor")).splitlines():
        assert "time" not in json.loads(line)
        assert json.loads(line)["id"]
    assert b"[redacted]" in _export(audit, "jsonl", redact=("event_id",))
    with pytest.raises(InvalidField, match=r"redact: .*event_id"):
        audit.check_export("cloudevents", redact=("event_id",), path=None)


@pytest.mark.parametrize("wrong", ["hodler", "", "data.holder"])
def test_a_field_that_there_is_not_is_refused_before_anything_is_written(audit: AuditService, wrong: str) -> None:
    out = io.BytesIO()
    with pytest.raises(InvalidField, match=r"is no column and no field.*actor.*holder"):
        audit.export("jsonl", out, redact=("holder", wrong))
    assert out.getvalue() == b""


def test_a_label_may_be_blacked_out_though_no_event_class_has_it(audit: AuditService) -> None:
    assert b'"tier":"fast"' in _export(audit, "jsonl")
    assert b'"tier":"fast"' not in _export(audit, "jsonl", redact=("tier",))


def test_a_field_of_events_that_did_not_come_is_known(audit: AuditService) -> None:
    assert _export(audit, "jsonl", filters={"event": "NodeApproved"}, redact=("victims",)) is not None


def test_filters_hold_for_exports_too(audit: AuditService) -> None:
    lines = [json.loads(line) for line in _export(audit, "jsonl", filters={"request": "q-2"}).splitlines()]
    assert {line["request_id"] for line in lines} == {"q-2"}


def test_parquet_without_its_library_says_what_to_do(audit: AuditService, tmp_path: Path) -> None:
    if importlib.util.find_spec("pyarrow") is not None:
        pytest.skip("pyarrow is installed")
    with pytest.raises(UsageError, match=r"pip install 'interlock\[parquet\]'"):
        audit.export("parquet", io.BytesIO(), path=tmp_path / "log.parquet")
