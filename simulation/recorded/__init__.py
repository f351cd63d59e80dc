"""A stretch of a recorded log as a scenario: the same requests and misfortunes again, from the state that was.

The state at the beginning becomes the scenario's nodes, models, replicas and settings, what came in its requests, what
went wrong its faults, and what operators did its administrative steps. What a scenario cannot say is counted and named.
"""

from __future__ import annotations

from .stretch import Recorded, record_of

__all__ = ["Recorded", "record_of"]
