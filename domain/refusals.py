"""Why a request may be refused, in three classes: misconfigured, waiting, failed."""

from __future__ import annotations

from .open_words import OpenWords


class RefusalCode(OpenWords):
    """The codes that requests, parked wishes, reports and HTTP errors share."""

    UNKNOWN_MODEL = "unknown_model"
    NO_NODE_MATCHES = "no_node_matches"
    NEVER_FITS = "never_fits"
    LOAD_INFO_MISSING = "load_info_missing"
    CAPACITY_EXHAUSTED = "capacity_exhausted"
    LOADING = "loading"
    DRAINING = "draining"
    FROZEN = "frozen"
    QUEUE_FULL = "queue_full"
    RATE_LIMITED = "rate_limited"
    LOAD_FAILED = "load_failed"
    BACKEND_FAILED = "backend_failed"


HTTP_STATUS = {
    RefusalCode.UNKNOWN_MODEL: 404,
    RefusalCode.NO_NODE_MATCHES: 422,
    RefusalCode.NEVER_FITS: 422,
    RefusalCode.LOAD_INFO_MISSING: 422,
    RefusalCode.CAPACITY_EXHAUSTED: 503,
    RefusalCode.LOADING: 503,
    RefusalCode.DRAINING: 503,
    RefusalCode.FROZEN: 503,
    RefusalCode.QUEUE_FULL: 429,
    RefusalCode.RATE_LIMITED: 429,
    RefusalCode.LOAD_FAILED: 502,
    RefusalCode.BACKEND_FAILED: 502,
}
