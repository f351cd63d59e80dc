"""Exports: what is in them, and what is blacked out."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from pathlib import Path

import pytest

from interlock.adapters.audit.service import AuditService
from interlock.domain.errors import UsageError


def _export(audit: AuditService, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    audit.export(form, out, **options)  # type: ignore[arg-type]  # each test gives what it names
    return out.getvalue()


def test_json_lines_hold_every_event_in_order(audit: AuditService) -> None:
    lines = [json.loads(line) for line in _export(audit, "jsonl").splitlines()]
    assert [line["position"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[1]["data"]["node"] == "thor"
    assert lines[1]["event"] == "NodeRegistered"


def test_csv_has_one_row_an_event_and_json_in_its_last_column(audit: AuditService) -> None:
    rows = list(csv.DictReader(io.StringIO(_export(audit, "csv").decode())))
    assert len(rows) == len(_export(audit, "jsonl").splitlines())
    assert json.loads(rows[1]["data"])["node"] == "thor"


def test_cloudevents_are_whole_and_named_as_on_the_bus(audit: AuditService) -> None:
    first = json.loads(_export(audit, "cloudevents", filters={"event": "ReplicaLoaded"}).splitlines()[0])
    assert first["specversion"] == "1.0"
    assert first["type"] == "interlock.events.replica.ReplicaLoaded"
    assert first["subject"] == "replica:r-000001"
    assert first["data"]["replica"] == "r-000001"
    assert all(name.isalnum() and name.islower() for name in first)


@pytest.mark.parametrize("form", ["jsonl", "csv", "cloudevents"])
def test_a_redacted_field_is_nowhere(audit: AuditService, form: str) -> None:
    assert b"gateway-1" in _export(audit, form)
    assert b"gateway-1" not in _export(audit, form, redact=("holder", "actor", "reason", "detail"))


def test_filters_hold_for_exports_too(audit: AuditService) -> None:
    lines = [json.loads(line) for line in _export(audit, "jsonl", filters={"request": "q-2"}).splitlines()]
    assert {line["request_id"] for line in lines} == {"q-2"}


def test_parquet_without_its_library_says_what_to_do(audit: AuditService, tmp_path: Path) -> None:
    if importlib.util.find_spec("pyarrow") is not None:
        pytest.skip("pyarrow is installed")
    with pytest.raises(UsageError, match="pip install pyarrow"):
        audit.export("parquet", io.BytesIO(), path=tmp_path / "log.parquet")
