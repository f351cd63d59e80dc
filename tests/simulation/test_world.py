"""The model of the outside world, rule by rule: it is what both simulation and exploration stand on."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from interlock.domain import commands as cmd
from interlock.domain.effects import InstallBackend, LoadModel, StageModel, StopStray, UnloadModel
from interlock.domain.entities import LoadSpec
from interlock.domain.units import GIB
from interlock.simulation import world
from interlock.simulation.world import NodeFacts, Worker

SPEC = LoadSpec(backend="echo", vram=8, disk=5)
FACTS = NodeFacts(name="n", pools=(24,), disk=10)


def order(kind: type, op: int, replica: str = "r1", model: str = "m", spec: LoadSpec = SPEC) -> object:
    common = {"op": f"{replica}.{op}", "node": "n", "replica": replica, "model": model, "index": 0}
    return kind(**common) if kind is UnloadModel else kind(**common, spec=spec)


def loaded(worker: Worker, replica: str = "r1", model: str = "m") -> Worker:
    for op, kind in enumerate((InstallBackend, StageModel, LoadModel), 1):
        worker, answers = world.perform(worker, order(kind, op, replica, model), 1)
        assert not isinstance(answers[0], cmd.ReportLoadFailed), answers
    return worker


def test_a_load_is_answered_step_by_step() -> None:
    worker = loaded(Worker(FACTS))
    assert world.running(worker)[0].replica == "r1"
    assert world.call(worker, "n:50000", "m") == ""


def test_an_order_of_an_older_epoch_is_refused_and_changes_nothing() -> None:
    worker, answers = world.perform(Worker(FACTS), order(InstallBackend, 1), 5)
    assert len(answers) == 1
    assert world.begin(worker, order(UnloadModel, 2), 4) == world.Begun(worker)
    assert world.begin(worker, order(UnloadModel, 2), 5).works


def test_the_same_operation_twice_is_one_operation() -> None:
    begun = world.begin(Worker(FACTS), order(InstallBackend, 1), 1)
    assert world.begin(begun.worker, order(InstallBackend, 1), 1) == world.Begun(begun.worker)
    worker, first = world.finish(begun.worker, order(InstallBackend, 1))
    assert world.begin(worker, order(InstallBackend, 1), 1).answers == first
    assert len(worker.processes) == 1


def test_an_unload_ends_the_replicas_work_and_it_never_starts_again() -> None:
    begun = world.begin(Worker(FACTS), order(InstallBackend, 1), 1)
    worker, answers = world.perform(begun.worker, order(UnloadModel, 2), 1)
    assert answers == (cmd.ReportUnloaded(replica="r1", op="r1.2"),)
    assert world.finish(worker, order(InstallBackend, 1)) == (worker, ())
    late, answers = world.perform(worker, order(InstallBackend, 1), 1)
    assert not late.processes
    assert isinstance(answers[0], cmd.ReportLoadFailed)


@pytest.mark.parametrize("disk", [9, 10])
def test_an_old_edition_stays_until_the_new_one_has_come_where_there_is_room_for_both(disk: int) -> None:
    worker = Worker(NodeFacts(name="n", pools=(24,), disk=disk), staged=(world.Files("m", "old", 5),))
    worker, _ = world.perform(worker, order(InstallBackend, 1), 1)
    failed, _ = world.perform(worker, order(StageModel, 2), 1, "the source does not answer")
    assert [files.kind for files in failed.staged] == (["old"] if disk == 10 else [])
    worker, _ = world.perform(worker, order(StageModel, 2), 1)
    assert [files.kind for files in worker.staged] == ["echo"]


def test_files_that_came_with_another_order_meanwhile_need_no_room_of_their_own() -> None:
    worker = Worker(NodeFacts(name="n", pools=(24,), disk=9))
    first, second = (order(StageModel, 2, replica) for replica in ("r1", "r2"))
    for stage in (first, second):
        worker = world.begin(worker, stage, 1).worker
    for stage in (first, second):
        worker, answers = world.finish(worker, stage)
        assert isinstance(answers[0], cmd.ReportStaged)
    assert len(worker.staged) == 1


@pytest.mark.parametrize("end", [LoadModel, UnloadModel])
def test_a_staging_that_comes_again_when_it_is_over_takes_no_files_with_it(end: type) -> None:
    """What gave way to its files may have been brought again since, and is loaded from by then."""
    worker = Worker(NodeFacts(name="n", pools=(24,), disk=20), staged=(world.Files("old", "echo", 5),))
    worker, _ = world.perform(worker, order(InstallBackend, 1), 1)
    stage = replace(order(StageModel, 2), drops=("old",))
    worker, _ = world.perform(worker, stage, 1)
    assert [files.model for files in worker.staged] == ["m"]
    worker, _ = world.perform(worker, order(end, 3), 1)
    worker, _ = world.perform(worker, order(StageModel, 1, "r2", "old"), 1)
    worker, _ = world.perform(worker, stage, 1)
    assert [files.model for files in worker.staged] == ["m", "old"]


def test_a_port_is_used_again_and_a_call_for_another_model_is_turned_away() -> None:
    worker = loaded(Worker(FACTS))
    worker, _ = world.kill(worker, "r1")
    assert world.call(worker, "n:50000", "m").startswith("UNAVAILABLE")
    for op, kind in enumerate((InstallBackend, LoadModel), 1):
        worker, _ = world.perform(worker, order(kind, op, "r2", "other", LoadSpec(backend="echo")), 1)
    assert world.call(worker, "n:50000", "m").startswith("FAILED_PRECONDITION")
    assert world.call(worker, "n:50000", "other") == ""


def test_a_crash_takes_the_processes_and_leaves_the_files() -> None:
    worker = world.start(world.crash(loaded(Worker(FACTS))))
    assert not worker.processes
    assert [files.model for files in worker.staged] == ["m"]
    assert world.register(worker).boot == "b2"
    assert world.register(worker).disk == 5


@pytest.mark.parametrize("change", [world.crash, world.cut])
def test_a_worker_that_does_not_hear_answers_nothing(change: object) -> None:
    worker = change(loaded(Worker(FACTS)))  # type: ignore[operator]  # both take and return a worker
    assert world.perform(worker, order(UnloadModel, 4), 1) == (worker, ())
    assert world.call(worker, "n:50000", "m").startswith("UNAVAILABLE")
    assert bool(worker.processes) == (change is world.cut)


@pytest.mark.parametrize(
    ("kind", "spec", "words"),
    [
        (InstallBackend, LoadSpec(), "no backend"),
        (StageModel, LoadSpec(backend="echo", disk=11), "no space left"),
        (LoadModel, SPEC, "no process"),
    ],
)
def test_what_cannot_be_done_is_said_in_the_workers_words(kind: type, spec: LoadSpec, words: str) -> None:
    _, answers = world.perform(Worker(FACTS), order(kind, 1, spec=spec), 1)
    assert isinstance(answers[0], cmd.ReportLoadFailed)
    assert words in answers[0].reason


def test_a_process_that_dies_says_so_and_its_load_fails() -> None:
    worker, _ = world.perform(Worker(FACTS), order(InstallBackend, 1), 1)
    worker, _ = world.perform(worker, order(StageModel, 2), 1)
    begun = world.begin(worker, order(LoadModel, 3), 1)
    worker, answers = world.kill(begun.worker, "r1")
    assert [type(answer) for answer in answers] == [cmd.ReportReplicaDied, cmd.ReportLoadFailed]
    assert world.finish(worker, order(LoadModel, 3)) == (worker, ())


def test_a_stray_is_stopped_by_its_process() -> None:
    worker = loaded(Worker(FACTS))
    stop = StopStray(op="n.p1-r1", node="n", process="p1-r1")
    worker, answers = world.perform(worker, stop, 1)
    assert answers == (cmd.ReportStrayStopped(node="n", process="p1-r1"),)
    assert not worker.processes


def test_equal_workers_hash_equal_whatever_way_led_to_them() -> None:
    one = loaded(loaded(Worker(NodeFacts(name="n")), "r1"), "r2")
    two = loaded(loaded(Worker(NodeFacts(name="n")), "r2"), "r1")
    assert {process.replica for process in one.processes} == {process.replica for process in two.processes}
    assert hash(loaded(Worker(FACTS))) == hash(loaded(Worker(FACTS)))
    assert one.processes == tuple(sorted(one.processes))


def test_what_is_in_use_is_what_loaded_models_hold_and_what_strangers_took_of_the_rest() -> None:
    spec = LoadSpec(backend="echo", vram=8, pools=2)
    worker = Worker(NodeFacts(name="n", pools=(8, 16)))
    for op, kind in enumerate((InstallBackend, LoadModel), 1):
        order_ = kind(op=f"r1.{op}", node="n", replica="r1", model="m", index=0, spec=spec, pools=(0, 1))
        assert world.used(worker) == (0, 0), "nothing is held before the load is done"
        worker, _ = world.perform(worker, order_, 1)
    assert world.used(worker) == (4, 4)
    worker = world.squeeze(worker, 1, 0, 6)
    assert world.used(worker) == (8, 4), "a stranger takes what is free and no more"
    assert world.squeeze(worker, 2, 0, 6) == worker
    assert world.used(world.kill(worker, "r1")[0]) == (4, 0)
    assert world.used(world.relax(worker, 1)) == (4, 4)
    assert world.used(world.crash(worker)) == (0, 0), "it dies with the machine"


@pytest.mark.parametrize("comes", ["before", "meanwhile"])
def test_a_load_into_memory_that_others_took_fails_in_the_words_of_its_backend(comes: str) -> None:
    spec = LoadSpec(backend="echo", vram=10 * GIB)
    worker = Worker(NodeFacts(name="n", pools=(16 * GIB,)))
    install, load = (
        kind(op=f"r1.{op}", node="n", replica="r1", model="m", index=0, spec=spec, pools=(0,))
        for op, kind in enumerate((InstallBackend, LoadModel), 1)
    )
    worker, _ = world.perform(worker, install, 1)
    if comes == "before":
        answers = world.begin(world.squeeze(worker, 1, 0, 8 * GIB), load, 1).answers
    else:
        begun = world.begin(worker, load, 1)
        assert begun.works
        _, answers = world.finish(world.squeeze(begun.worker, 1, 0, 8 * GIB), load)
    reason = "the backend said: CUDA error: out of memory: tried to allocate 10GiB on device 0, 8GiB free"
    assert answers == (cmd.ReportLoadFailed(replica="r1", op="r1.2", reason=reason),)


def test_a_load_beside_others_that_leave_it_enough_is_done() -> None:
    worker = loaded(world.squeeze(Worker(NodeFacts(name="n", pools=(16 * GIB,))), 1, 0, 4 * GIB))
    assert [process.loaded for process in worker.processes] == [True]
