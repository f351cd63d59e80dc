"""``prove``: exhaustive exploration of the production decisions on small scopes. See README.md beside this file."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from .report import Report, prove
from .scopes import bundled_scopes, load_scope

__all__ = ["Report", "bundled_scopes", "load_scope", "prove"]


class _Callable(ModuleType):
    """``from interlock.simulation import prove`` gives this package, whatever was imported before: it is called, too.

    Importing a package sets it as an attribute of the one above it, so a function of that name could not stay there.
    """

    def __call__(self, *arguments: Any, **options: Any) -> Report:
        from interlock.simulation.api import prove as explore

        return explore(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
