"""What the ledger writes beside each event."""

from __future__ import annotations

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.engine import Engine
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


def test_what_one_fork_learns_of_a_command_is_not_known_to_the_other() -> None:
    """A fork is taken in the middle of a command: both go on with its events by themselves."""
    cluster = Cluster()
    cluster.node("thor")
    cluster.model("m", parallel=2)
    cluster.request("q1", "m")
    cluster.request("q2", "m")
    cluster.settle()
    answered = [row for row, event in zip(cluster.log, cluster.events, strict=True) if type(event) is ev.ReplicaLocked]
    assert len({row.command_id for row in answered}) == 1, "one command answers both requests"
    envelope = cmd.Envelope(
        command_id=answered[0].command_id, command=cmd.AcquireLock(request="q2", model="m", holder="gateway")
    )
    half = Engine().replay(cluster.log[: answered[-1].position - 1])
    whole = half.fork().replay(cluster.log[answered[-1].position - 1 :])
    assert isinstance(whole.ledger.recall(envelope), cmd.Locked)
    assert half.ledger.recall(envelope) == cmd.Done()
    later = half.fork()
    half.replay(cluster.log[answered[-1].position - 1 :])
    assert isinstance(half.ledger.recall(envelope), cmd.Locked)
    assert later.ledger.recall(envelope) == cmd.Done()
