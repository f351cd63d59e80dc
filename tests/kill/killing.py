"""Starts the writer program with a crash point, kills it there, and judges what is left."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from interlock.adapters.runtime.crashpoints import POINTS
from interlock.adapters.store import open_store
from interlock.domain.engine import Engine
from interlock.domain.snapshots import encode_cluster
from tests.kill.writer_program import HOLDER_LEASE_US, LEASE_US

PROGRAM = Path(__file__).with_name("writer_program.py")
ROOT = PROGRAM.parents[2]
START_LIMIT_S = 30
SLACK_S = 1.0
"""For a machine that has other things to do, beside the lease itself."""


@dataclass
class Life:
    """What one run of the program has said before it ended."""

    lines: list[str] = field(default_factory=list)

    def acked(self) -> list[tuple[str, int]]:
        """Acknowledged commands, each with the position that the log had reached."""
        words = [line.split() for line in self.lines if line.startswith("ack ")]
        return [(line[1], int(line[2])) for line in words]

    def began_with(self) -> tuple[int, str] | None:
        """Position and digest of the state that it began with."""
        words = [line.split() for line in self.lines if line.startswith("state ")]
        return (int(words[0][1]), words[0][2]) if words else None

    def free_after_s(self) -> float | None:
        """How long locks of earlier runs lasted after its takeover."""
        words = [line.split() for line in self.lines if line.startswith("free ")]
        return float(words[0][1]) if words else None


@contextmanager
def program(url: str, seed: int, *more: str, fifo: Path | None = None, point: str = "") -> Iterator[subprocess.Popen]:
    """The program as a process; it is killed by its process id at the end, if it still lives."""
    environment = dict(os.environ)
    if fifo is not None:
        environment |= {"INTERLOCK_CRASH_POINT": point, "INTERLOCK_CRASH_FIFO": str(fifo)}
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), url, str(seed), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def kill_at(url: str, seed: int, point: str, count: int, folder: Path) -> tuple[Life, bool]:
    """Run the program until it stands at the ``count``-th pass of a point, and kill it there."""
    fifo = folder / f"fifo-{seed}"
    os.mkfifo(fifo)
    # Opened for reading and writing, so that opening does not wait for the other side.
    reader = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    with program(url, seed, fifo=fifo, point=f"{point}:{count}") as process:
        said = asyncio.run(_until_reached(process, reader))
        process.send_signal(signal.SIGKILL)
        out, err = process.communicate(timeout=START_LIMIT_S)
    os.close(reader)
    assert said is not None, f"the point {point}:{count} was not reached: {err.decode()[-2000:]}"
    return Life(out.decode().splitlines()), said


async def _until_reached(process: subprocess.Popen, reader: int) -> bool | None:
    """True when the point was reached; None when the program ended first, or it took too long."""
    loop = asyncio.get_running_loop()
    reached = loop.create_future()
    loop.add_reader(reader, lambda: reached.done() or reached.set_result(os.read(reader, 100)))
    try:
        async with asyncio.timeout(START_LIMIT_S):
            while not reached.done():
                if process.poll() is not None:
                    return None
                await asyncio.wait([reached], timeout=0.1)
        return True
    except TimeoutError:
        return None
    finally:
        loop.remove_reader(reader)


class Campaign:
    """Many kills of writers on one store, one after the other, each judged."""

    def __init__(self, url: str, folder: Path, seed: int) -> None:
        self.url, self.folder, self.chance, self.seed = url, folder, random.Random(seed), seed
        self.hits: Counter[str] = Counter()
        self.acked = 0
        self.longest_lock_s = 0.0

    def run(self, kills: int) -> None:
        """Kill, look, start again; at the end, let one run settle and stop by itself."""
        for number in range(kills):
            point = POINTS[number % len(POINTS)]
            life, _ = kill_at(self.url, self.seed * 1000 + number, point, self.chance.randint(1, 60), self.folder)
            self.hits[point] += 1
            self.expect_sound(life)
        with program(self.url, 0, "--settle") as process:
            out, err = process.communicate(timeout=START_LIMIT_S)
        assert process.returncode == 0, err.decode()[-2000:]
        life = Life(out.decode().splitlines())
        self.expect_sound(life)
        assert life.free_after_s() is not None
        self.expect_no_locks()

    def expect_sound(self, life: Life) -> None:
        """Every acknowledged decision is in the log, epochs never interleave, and the state is the log's replay."""
        store = open_store(self.url, read_only=True)
        try:
            stored = list(store.read())
            assert store.verify().holds
        finally:
            store.close()
        engine, began = Engine(), life.began_with()
        for recorded in stored:
            engine.fold(recorded)
            if began is not None and recorded.position == began[0]:
                assert hashlib.sha256(encode_cluster(engine.state)).hexdigest() == began[1], "state is not the replay"
                began = None
        assert began is None or began[0] == 0, "it began with a state that is not in the log"
        epochs = [recorded.epoch for recorded in stored]
        assert epochs == sorted(epochs), "epochs interleave"
        commands = {recorded.command_id for recorded in stored}
        for command, position in life.acked():
            assert position <= len(stored), f"{command} was acknowledged at {position}, the log ends at {len(stored)}"
        asked = [command for command, _ in life.acked()]
        missing = [command for command in asked if command not in commands]
        assert missing == [], f"acknowledged and not in the log: {missing[:5]}"
        self.acked += len(asked)
        lasted_s = life.free_after_s()
        if lasted_s is not None:
            self.longest_lock_s = max(self.longest_lock_s, lasted_s)
            assert lasted_s < HOLDER_LEASE_US / 1e6 + SLACK_S, "a lock outlived its holder's lease"

    def expect_no_locks(self) -> None:
        """Nobody holds anything any more."""
        store = open_store(self.url, read_only=True)
        try:
            engine = Engine().replay(store.read())
        finally:
            store.close()
        assert engine.state.locks == {}
        assert engine.state.requests == {}

    def report(self) -> str:
        """Hits per point, for whoever reads the test's output."""
        points = ", ".join(f"{point} {self.hits[point]}" for point in POINTS)
        return (
            f"kills: {points}; {self.acked} acknowledged; locks of the dead lasted at most {self.longest_lock_s:.2f} s"
        )


__all__ = ["HOLDER_LEASE_US", "LEASE_US", "Campaign", "Life", "kill_at", "program"]
