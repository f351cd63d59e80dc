"""The faults that the store in memory makes to order, and its clock."""

from __future__ import annotations

import pytest

from interlock.adapters.store import Fault, MemoryLog, MemoryStore
from interlock.domain.errors import CommitUnknown, LeaseHeld, StoreUnavailable
from tests.store.support import LEASE_US, batch


@pytest.mark.parametrize(
    ("fault", "error", "stored"),
    [
        (Fault.UNAVAILABLE, StoreUnavailable, 0),
        (Fault.LOST_REQUEST, CommitUnknown, 0),
        (Fault.LOST_ANSWER, CommitUnknown, 2),
    ],
)
def test_a_fault_strikes_the_append_it_was_ordered_for(fault: Fault, error: type[Exception], stored: int) -> None:
    store = MemoryStore()
    epoch = store.take_epoch("writer", LEASE_US)
    store.fail_next(None, fault)
    store.append(batch(1, 1, epoch), epoch)
    with pytest.raises(error):
        store.append(batch(2, 2, epoch), epoch)
    assert store.head().position == 1 + stored
    assert store.append(batch(2, 2, epoch), epoch).position == 3
    assert store.verify().holds


def test_leases_lapse_on_the_logs_clock() -> None:
    now = 0
    log = MemoryLog(clock=lambda: now)
    writer, standby = MemoryStore(log), MemoryStore(log)
    epoch = writer.take_epoch("writer", 10)
    now = 9
    with pytest.raises(LeaseHeld):
        standby.take_epoch("standby", 10)
    writer.renew_epoch(epoch, 10)
    now = 18
    with pytest.raises(LeaseHeld):
        standby.take_epoch("standby", 10)
    now = 19
    assert standby.take_epoch("standby", 10) == epoch + 1


def test_a_hook_sees_each_batch_before_it_is_stored() -> None:
    store = MemoryStore()
    seen: list[tuple[int, int]] = []
    store.before_append = lambda events: seen.append((len(events), store.head().position))
    epoch = store.take_epoch("writer", LEASE_US)
    store.append(batch(1, 2, epoch), epoch)
    store.append(batch(3, 1, epoch), epoch)
    assert seen == [(2, 0), (1, 2)]
