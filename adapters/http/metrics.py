"""Counters and histograms of the gateway, written as Prometheus text.

By hand: the hot path observes three lengths and counts one request, about a microsecond in all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping

from .ports import Sample

LATENCY_BUCKETS_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
_MOST_SERIES = 2_000
"""Bound on the label values of one counter; what comes beyond is counted under ``other``."""


class Counter:
    """A counter with labels."""

    def __init__(self, name: str, help_text: str, labels: tuple[str, ...]) -> None:
        self.name, self.help, self.labels = name, help_text, labels
        self.values: dict[tuple[str, ...], int] = {}

    def add(self, *values: str) -> None:
        """Count one more for these label values."""
        if values not in self.values and len(self.values) >= _MOST_SERIES:
            values = ("other",) * len(self.labels)
        self.values[values] = self.values.get(values, 0) + 1

    def lines(self) -> Iterable[str]:
        """The metric as Prometheus text."""
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} counter"
        for values, count in self.values.items():
            yield f"{self.name}{_labels(dict(zip(self.labels, values, strict=True)))} {count}"


class Histogram:
    """Lengths in seconds, counted per bucket."""

    def __init__(self, name: str, help_text: str) -> None:
        self.name, self.help = name, help_text
        self.counts = [0] * (len(LATENCY_BUCKETS_SECONDS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one length."""
        self.counts[bisect_left(LATENCY_BUCKETS_SECONDS, seconds)] += 1
        self.total += seconds

    def lines(self) -> Iterable[str]:
        """The metric as Prometheus text, buckets cumulative."""
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} histogram"
        running = 0
        for bound, count in zip((*LATENCY_BUCKETS_SECONDS, "+Inf"), self.counts, strict=True):
            running += count
            yield f'{self.name}_bucket{{le="{bound}"}} {running}'
        yield f"{self.name}_sum {self.total}"
        yield f"{self.name}_count {running}"


class GatewayMetrics:
    """Everything that the gateway counts of itself."""

    def __init__(self) -> None:
        self.answers = Counter("interlock_http_answers_total", "HTTP answers.", ("route", "status"))
        self.outcomes = Counter("interlock_requests_total", "Model requests by how they ended.", ("outcome",))
        self.refusals = Counter("interlock_requests_refused_total", "Model requests refused, by reason.", ("reason",))
        self.repeated = Counter(
            "interlock_requests_refused_again_total",
            "Model requests refused by the gateway itself with its tenant's last answer, without an event of their own;"
            " they are among interlock_requests_refused_total.",
            ("tenant",),
        )
        self.reroutes = Counter("interlock_reroutes_total", "Requests routed again after their backend was gone.", ())
        self.lock_seconds = Histogram("interlock_lock_seconds", "From a request's arrival to its lock.")
        self.backend_seconds = Histogram("interlock_backend_seconds", "From the lock to the backend's last byte.")
        self.release_seconds = Histogram("interlock_release_seconds", "From the last byte to the durable release.")

    def text(self, samples: Iterable[Sample], unsettled: int) -> str:
        """The page that Prometheus reads: the gateway's own figures, then the scheduler's."""
        lines: list[str] = []
        for metric in (self.answers, self.outcomes, self.refusals, self.repeated, self.reroutes):
            lines.extend(metric.lines())
        for histogram in (self.lock_seconds, self.backend_seconds, self.release_seconds):
            lines.extend(histogram.lines())
        own = Sample("interlock_unsettled_releases", unsettled, help="Releases sent and not confirmed yet.")
        grouped: dict[str, list[Sample]] = {}
        for sample in (own, *samples):
            grouped.setdefault(sample.name, []).append(sample)
        for name, group in grouped.items():
            lines.append(f"# HELP {name} {group[0].help}")
            lines.append(f"# TYPE {name} {group[0].kind}")
            lines.extend(f"{name}{_labels(sample.labels)} {sample.value:.12g}" for sample in group)
        return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    written = ",".join(f'{key}="{_escape(value)}"' for key, value in labels.items())
    return "{" + written + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
