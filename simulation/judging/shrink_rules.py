"""Judges copies that leave as one too many: each has been idle for its time, and enough that can serve stay."""

from __future__ import annotations

from interlock.domain import events as ev

from .court import Court
from .picture import ModelView, ReplicaView


class ShrinkRules:
    """Looks at each copy that the reconciler removes; by then it counts as leaving."""

    def __init__(self, court: Court) -> None:
        self.court = court

    def on_UnloadRequested(self, event: ev.UnloadRequested) -> None:
        replica = self.court.picture.replicas.get(event.replica)
        model = self.court.picture.models.get(event.model)
        if replica is None or event.tries > 1:
            return
        if event.reason == "scale-down" and event.at < replica.used_at + self.court.settings.scale_down_delay:
            self._breach("is removed as idle before it was idle for long enough", replica)
        if event.reason == "idle":
            self._judge_idle(event, replica, model)
        if model is not None and event.reason in ("ceiling", "scale-down") and not model.scheduling.everywhere:
            self._judge_surplus(event, replica, model)

    def _judge_idle(self, event: ev.UnloadRequested, replica: ReplicaView, model: ModelView | None) -> None:
        """A last copy leaves only when it was idle for the model's own time, or the cluster's."""
        court = self.court
        if model is None or event.at < replica.used_at + court.picture.idle_unload(model, court.settings):
            self._breach("is unloaded as idle before its idle_unload is over", replica)

    def _judge_surplus(self, event: ev.UnloadRequested, replica: ReplicaView, model: ModelView) -> None:
        """It is not one too many because of others that cannot serve."""
        staying = self.court.picture.usable_copies(model)
        scheduling = model.scheduling
        least = scheduling.max_replicas if event.reason == "ceiling" else max(scheduling.min_replicas, 1)
        if staying < least:
            self._breach(f"of {model.name} leaves ({event.reason}), and only {staying} that can serve stay", replica)

    def _breach(self, what: str, replica: ReplicaView) -> None:
        self.court.breach("S", f"{replica.id} {what}", replica.id)
