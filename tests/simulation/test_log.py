"""The log of a simulation: what it says of one request."""

from __future__ import annotations

from interlock.domain.codec import decode_event
from interlock.simulation import Scenario, run
from interlock.simulation.log import Log


def test_a_request_s_events_are_told_once_each_however_often_and_between_which_commits_they_are_asked_for() -> None:
    rows = run(Scenario.load("one-load-evicts-one")).harness.rows
    request = next(row.request_id for row in rows if row.request_id)
    log = Log()
    log.epoch = rows[0].epoch
    for row in rows:
        log.append([row], log.epoch)
        told = [decode_event(one.topic, one.state) for one in log.rows if one.request_id == request]
        told = [event for event in told if getattr(event, "request", "") == request]
        assert log.events_of(request) == told
    assert len(told) > 1
