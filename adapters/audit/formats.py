"""The formats of an export, by name. Nothing is imported here: the command line names them in its help."""

from __future__ import annotations

FORMATS = ("jsonl", "csv", "parquet", "cloudevents")
