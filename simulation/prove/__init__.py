"""``prove``: exhaustive exploration of the production decisions on small scopes. See README.md beside this file."""

from __future__ import annotations

from .report import Report, prove
from .scopes import bundled_scopes, load_scope

__all__ = ["Report", "bundled_scopes", "load_scope", "prove"]
