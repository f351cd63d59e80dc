"""The library's abstract suites, bound to our recorders; ``test_recorders.py`` runs them on each engine.

They stand apart from the tests, because a runner would collect them there without an engine.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from eventsourcing.tests import persistence as suites
from eventsourcing.utils import Environment

from interlock.adapters.store.recorders import (
    SNAPSHOTS,
    LogAggregateRecorder,
    LogApplicationRecorder,
    LogFactory,
    LogProcessRecorder,
    LogTrackingRecorder,
)


class AggregateSuite(suites.AggregateRecorderTestCase):
    """Events of aggregates on a store that the engine gives."""

    store: Any

    def create_recorder(self) -> LogAggregateRecorder:
        return LogAggregateRecorder(self.store)


class SnapshotSuite(suites.AggregateRecorderTestCase):
    """Snapshots of aggregates on a store that the engine gives."""

    store: Any

    def create_recorder(self) -> LogAggregateRecorder:
        return LogAggregateRecorder(self.store, table=SNAPSHOTS)


class ApplicationSuite(suites.ApplicationRecorderTestCase[LogApplicationRecorder]):
    """An application's events on a store that the engine gives."""

    store: Any

    def create_recorder(self) -> LogApplicationRecorder:
        return LogApplicationRecorder(self.store)

    def tearDown(self) -> None:
        # Whatever the suite did, through however many threads: the chain holds.
        assert self.store.verify().holds

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TextSuite(ApplicationSuite):
    """The same with ids that are texts on a store that the engine gives."""

    def new_originator_id(self) -> UUID | str:
        return f"order-{uuid4()}"

    def create_recorder(self) -> LogApplicationRecorder:
        return LogApplicationRecorder(self.store, originator_id_type="text")


class InterleavingSuite(suites.NonInterleavingNotificationIDsBaseCase):
    """Two writers at once on a store that the engine gives."""

    store: Any

    def create_recorder(self) -> LogApplicationRecorder:
        return LogApplicationRecorder(self.store)


class TrackingSuite(suites.TrackingRecorderTestCase):
    """Positions of followers on a store that the engine gives."""

    store: Any

    def create_recorder(self) -> LogTrackingRecorder:
        return LogTrackingRecorder(self.store)


class ProcessSuite(suites.ProcessRecorderTestCase):
    """Events and positions together on a store that the engine gives."""

    store: Any

    def create_recorder(self) -> LogProcessRecorder:
        return LogProcessRecorder(self.store)


class SpecialTracking(LogTrackingRecorder):
    """A tracking recorder that an application brings along."""


class FactorySuite(suites.InfrastructureFactoryTestCase[LogFactory]):
    """The factory on a store that the engine gives."""

    url: str

    def setUp(self) -> None:
        self.env = Environment("App")
        self.env["PERSISTENCE_MODULE"] = LogFactory.__module__
        self.env[LogFactory.STORE] = self.url
        super().setUp()

    def expected_factory_class(self) -> type[LogFactory]:
        return LogFactory

    def expected_aggregate_recorder_class(self) -> type[LogAggregateRecorder]:
        return LogAggregateRecorder

    def expected_application_recorder_class(self) -> type[LogApplicationRecorder]:
        return LogApplicationRecorder

    def expected_tracking_recorder_class(self) -> type[LogTrackingRecorder]:
        return LogTrackingRecorder

    def tracking_recorder_subclass(self) -> type[LogTrackingRecorder]:
        return SpecialTracking

    def expected_process_recorder_class(self) -> type[LogProcessRecorder]:
        return LogProcessRecorder
