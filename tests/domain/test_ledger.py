"""What the ledger writes beside each event."""

from __future__ import annotations

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from tests.domain.cluster import Cluster


def test_the_event_that_begins_an_epoch_is_stamped_with_it() -> None:
    """The store refuses a batch with a row of another epoch, so a writer could not have taken over."""
    cluster = Cluster()
    cluster.send(cmd.StartEpoch(epoch=1, writer="a"))
    cluster.node("thor")
    cluster.send(cmd.StartEpoch(epoch=2, writer="b"))
    begun = [
        row.epoch for row, event in zip(cluster.log, cluster.events, strict=True) if type(event) is ev.EpochStarted
    ]
    assert begun == [1, 2]
    assert [row.epoch for row in cluster.log] == sorted(row.epoch for row in cluster.log)
