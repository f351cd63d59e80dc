"""The harness: the production core in virtual time (``simulate``) and state by state (``prove``).

::

    from interlock.simulation import Scenario, run, prove
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .reading.scenario import Scenario

if TYPE_CHECKING:
    from .api import Result, prove, run

__all__ = ["Result", "Scenario", "prove", "run"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: a scenario can be read without loading the whole harness."""
    if name in ("run", "Result"):
        from . import api

        return getattr(api, name)
    if name == "prove":
        import importlib

        return importlib.import_module(".prove", __name__)  # the package, which can be called
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")  # the language's own protocol for modules
