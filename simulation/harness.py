"""One run: the production engine in virtual time, with everything around it that a scenario asks for.

The run has two parts. Up to the scenario's ``duration`` things happen and are counted. Then nothing new comes in, and
the system has to settle: what is under way ends, effects stop, and every model is satisfied or parked. What does not
settle is a failure and is named.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

import msgspec

from interlock.domain import causes
from interlock.domain import events as ev
from interlock.domain.commands import ChangeKind, Envelope, ReleaseLock, ReportCapacity, Review
from interlock.domain.consequences import whole_cluster
from interlock.domain.effects import Effect, ReplicaEffect
from interlock.domain.engine import Engine, Outcome
from interlock.domain.errors import InvariantBroken
from interlock.domain.recording import Recorded
from interlock.domain.settings import Settings
from interlock.domain.units import FOREVER, HOUR, SECOND, format_duration

from .arrivals import Arrivals
from .clock import START, Clock, Streams
from .cluster import VirtualCluster
from .faults import Faults
from .gateways import ARRIVALS_KEPT, GATEWAYS, Gateways, Tally
from .judging import judge
from .judging.clock_rules import ClockRules
from .judging.invariants import Invariants
from .log import Log, state_hash
from .operators import Operators
from .prologue import BACKGROUND, Prologue
from .reading.fields import Distribution
from .reading.scenario import Scenario
from .settling import PATIENCE, Settling
from .world import boot_of
from .writer import Writer

CHECKPOINT_EVENTS = 5_000
"""A full check, the replay of the log included, at least once in so many events."""
EFFECTS_KEPT = 50_000
"""So many effects are remembered for the page that shows the run."""
SMALL = 64
"""Up to so many nodes and models every decision is followed by a full look for forgotten wake-ups."""
BACKGROUND_ACTOR = "scenario"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a run is watched.

    ``keep_log`` holds every event in memory, which takeovers, replays and pages need. The full checks run at least once
    in ``checkpoint_events``. So many of the first requests are remembered as their clients sent them.
    ``until_broken`` is a property whose first violation ends the run.
    """

    seed: int | None = None
    until: int | None = None
    keep_log: bool = True
    checks: bool = True
    checkpoint_events: int = CHECKPOINT_EVENTS
    settle: bool = True
    arrivals_kept: int = ARRIVALS_KEPT
    until_broken: str = ""


class Numbers(msgspec.Struct):
    """What the run is counted by, taken when its duration is over."""

    events: int = 0
    loads: int = 0
    loaded_bytes: int = 0
    evictions: int = 0
    holders_lost: int = 0
    unloads: Counter[str] = msgspec.field(default_factory=Counter)
    effects: Counter[str] = msgspec.field(default_factory=Counter)
    event_types: Counter[str] = msgspec.field(default_factory=Counter)
    faults: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    waiting: int = 0
    running: int = 0
    replicas_at_end: Counter[str] = msgspec.field(default_factory=Counter)


class Harness:
    """A scenario, run. Build it, call :meth:`run`, and read what is left in its fields."""

    told_before: type[Prologue] = Prologue

    def __init__(self, scenario: Scenario, options: Options = Options()) -> None:  # noqa: B008  # because it is frozen
        self.seed = scenario.seed if options.seed is None else options.seed
        self.scenario = scenario = scenario.of_seed(self.seed)
        self.options = options
        self.duration = min(scenario.duration, options.until or FOREVER)
        self.clock = Clock()
        self.streams = Streams(self.seed)
        self.log = Log(keep=options.keep_log)
        self.writer = Writer(self.clock, self.log, self.streams, self)
        self.cluster = VirtualCluster(self.clock, self.streams, self.writer, self)
        self.gateways = Gateways(self.clock, self.streams, self.writer, self.cluster)
        self.gateways.arrivals_kept = options.arrivals_kept
        self.operators = Operators(
            self.clock, self.writer, self.cluster, {model.name: model for model in scenario.models}
        )
        self.faults = Faults(self.clock, self.streams, self.writer, self.cluster, self.gateways)
        settings = msgspec.structs.replace(Settings(), **scenario.settings)
        self.invariants = Invariants(self.cluster.is_running, self.gateways.is_served, settings)
        self.clock_rules = ClockRules(self.invariants, lambda: self.clock.now, self.cluster.clock_off_at)
        self.invariants.noted = self._noted
        self.numbers = Numbers()
        self.tally = Tally()
        self.effect_times: list[tuple[int, Effect]] = []
        self.unasked_effects: list[tuple[int, str, str]] = []
        """When an effect left that no request had asked for, its name, and the node that it was for."""
        self.wall_seconds = 0.0
        self.settled_for = 0
        self.unsettled = "" if options.settle else "settling was left out"
        """Why what comes after the duration is not judged; empty when it is."""
        self.broken_by: list[str] = []
        self.log_hash = self.state_hash = ""
        self._since_checkpoint = 0
        self._acknowledged = 0
        self._for_request: dict[str, bool] = {}
        self._sizes: dict[str, int] = {}
        self._counting = False
        self._begun = False
        """The first look at everything has been asked for: before it floors have nobody yet who raises them."""
        self._structural = False
        self._deeds = 0
        self._last_deed = (0, "")

    # --- what the writer tells --------------------------------------------------------------------------------------

    def reported(self, figures: ReportCapacity) -> None:
        """A node's figures were taken in and changed nothing."""
        self.invariants.node_rules.figures(figures)
        self.clock_rules.told(figures)

    def committed(self, outcome: Outcome, envelope: Envelope) -> None:
        """Events are durable: count and judge them."""
        self._count(outcome)
        self.invariants.see(outcome, envelope.command)
        if self._structural:
            self.clock_rules.see(outcome, envelope.command)
        if not self.options.checks:
            return
        self._since_checkpoint += len(outcome.events)
        if self.log.length != self.writer.engine.ledger.position:
            return  # decided further than committed: the state is ahead of what can be judged
        state = self.writer.engine.state
        small = len(state.nodes) <= SMALL and len(state.models) <= SMALL
        if self._begun and small and (state.queues or self._structural):
            self._find(judge.forgotten(state, self.clock.now))
        if self._since_checkpoint >= self.options.checkpoint_events:
            self.checkpoint()

    def effect(self, effect: Effect, epoch: int) -> None:
        """An effect leaves; its cause must be durable."""
        self.numbers.effects[effect.name] += self._counting
        engine = self.writer.engine
        if engine.ledger.position > self.log.length:
            self.invariants.breach("S", f"{effect.name} leaves before its cause is durable", effect.op)
        if len(self.effect_times) < EFFECTS_KEPT:
            self.effect_times.append((self.clock.elapsed, effect))
        asked = isinstance(effect, ReplicaEffect) and self._for_request.get(effect.replica, False)
        if not asked:
            self.unasked_effects.append((self.clock.elapsed, effect.name, effect.node))
        self.cluster.send(effect, epoch)

    def answered(self, request: str, reply: object) -> None:
        """A waiting request has come to its end."""
        self.gateways.answered(request, reply)  # type: ignore[arg-type]  # the writer hands on what it was told

    def took_over(self) -> None:
        """A new writer leads: nothing that was acknowledged may be missing in what it reads."""
        if self.writer.engine.ledger.position < self._acknowledged:
            self.invariants.breach("S", f"the new writer starts before position {self._acknowledged}", "log")
        self.cluster.doubt_all()
        self.gateways.took_over()
        self.operators.took_over()

    def broken(self, problem: str, *, stuck: bool = False) -> None:
        """The core has failed; ``stuck``: one decision follows another without an end."""
        self.broken_by.append(problem)
        self.invariants.breach("T" if stuck else "S", problem, "core")

    def _noted(self, prop: str) -> None:
        if prop == self.options.until_broken:
            self.writer.halted = True

    def fault_took_effect(self, kind: str) -> None:
        """A fault has changed something."""
        self.faults.took_effect(kind)

    # --- counting ---------------------------------------------------------------------------------------------------

    def _count(self, outcome: Outcome) -> None:
        self._acknowledged = self.log.length
        numbers = self.numbers
        self._structural = False
        for event in outcome.events:
            kind = type(event)
            if kind is ev.ReplicaLocked or kind is ev.ReplicaReleased:  # nine events of ten
                if self._counting:
                    numbers.events += 1
                    numbers.event_types[kind.__name__] += 1
                continue
            self._structural = True
            if kind is ev.NodeClockOff:
                self.faults.took_effect("clock-jump")
            if kind is not ev.LoadProgressed:
                self._deeds += 1
                self._last_deed = (self.clock.elapsed, kind.__name__)
            if kind is ev.ReplicaReserved:
                assert isinstance(event, ev.ReplicaReserved)
                asked = causes.is_of_request(event.cause)
                self._for_request[event.replica] = asked
                self._sizes[event.replica] = sum(size for _, size in event.claim)
                for victim in event.victims:
                    self._for_request[victim] = asked
            elif isinstance(event, ev.ReplicaLoaded | ev.UnloadRequested) and not _is_tried_again(event):
                self._for_request.pop(event.replica, None)  # what is done with it from now on is for no request
            if self._counting:
                self._add_up(event)

    def _add_up(self, event: ev.Event) -> None:
        """Take an event other than a lock's or a release's into the figures of the report."""
        numbers = self.numbers
        numbers.events += 1
        numbers.event_types[type(event).__name__] += 1
        match event:
            case ev.LoadStarted():
                numbers.loads += 1
                numbers.loaded_bytes += self._sizes.get(event.replica, 0)
            case ev.ReplicaEvicted():
                numbers.evictions += 1
                numbers.unloads["evicted"] += 1
            case ev.HolderLost():
                numbers.holders_lost += 1
            case ev.UnloadRequested(tries=1):
                numbers.unloads[event.reason] += 1
            case ev.ReplicaLost():
                numbers.unloads["lost"] += 1
            case ev.ReplicaLoadFailed():
                numbers.unloads["load failed"] += 1

    def _find(self, findings: Iterable[judge.Finding]) -> None:
        for prop, detail, subject in findings:
            self.invariants.breach(prop, detail, subject)

    def checkpoint(self) -> None:
        """The full check: the picture against the state, and the replayed log against the live state."""
        self._since_checkpoint = 0
        engine = self.writer.engine
        if self.log.length != engine.ledger.position or not self.writer.leading:
            return
        try:
            difference = self.log.differs_from(engine)
        except InvariantBroken as error:
            difference = error.message
        if difference:
            self.invariants.breach("S", difference, "replay")
        self._find(judge.full(engine, self.invariants.picture))

    # --- running ----------------------------------------------------------------------------------------------------

    def run(self) -> Harness:
        """Run it to the end; returns itself. Raises UnreadableFile when the scenario's world cannot be."""
        began = time.perf_counter()
        self._begin()
        self._pass(self.duration)
        if self.options.checks and not self.writer.halted:
            self.checkpoint()
        self._take_numbers()
        if self.options.settle and not self.writer.halted:
            self._settle()
        self.log_hash, self.state_hash = self.log.digest, state_hash(self.writer.engine)
        self.wall_seconds = time.perf_counter() - began
        return self

    def _begin(self) -> None:
        scenario = self.scenario
        self.log.take_epoch()
        prologue = self.told_before(self.writer.engine, self.cluster, scenario)
        prologue.tell()
        outcome = prologue.outcome
        self.log.append(outcome.recorded, 1)
        self.invariants.judging = False
        begun = Review(change=ChangeKind.EPOCH, cause="scenario")
        self.invariants.see(outcome, begun)
        self.clock_rules.see(outcome, begun)
        self.invariants.judging = True
        self._count(outcome)
        self._counting = True
        self.writer.leading = True
        for length, request in prologue.busy:
            self.clock.after(length, self._release_background, request)
        for fault in scenario.faults:
            if fault.at <= self.duration:  # what a run that is cut short leaves out does not come while it settles
                self.faults.agree(fault)
        if scenario.random_faults is not None:
            self.faults.agree_random(scenario.random_faults, self.duration)
        for step in scenario.admin:
            if step.at <= self.duration:
                self.operators.agree(step)
        self.gateways.prefill_of = lambda model: self.operators.prefills.get(model, (0, 0))
        self.arrivals = Arrivals(self.clock, self.streams, self.gateways.arrive, self._service_of)
        self.arrivals.agree(scenario)
        models = whole_cluster(self.writer.engine.state)
        review = Review(change=ChangeKind.EPOCH, cause="the run begins", models=models)
        begin = Envelope(command_id="begin", command=review, actor=BACKGROUND_ACTOR)
        if any(step.at == 0 for step in scenario.admin):
            self.clock.after(0, self._look, begin)  # what holds from the beginning on holds for this, too
        else:
            self._look(begin)

    def _look(self, begin: Envelope) -> None:
        """Have everything looked at for the first time; where nobody leads just now, the next writer does it."""
        self._begun = True
        self.writer.submit(begin)

    def _release_background(self, request: str) -> None:
        envelope = Envelope(command_id=f"{request}.release", command=ReleaseLock(request=request), request_id=request)
        self.writer.submit(envelope, lambda reply: None)

    def _service_of(self, model: str) -> Distribution:
        state = self.writer.engine.state
        known = state.find_model(model)
        return self.operators.services.get(known.name if known else model, Distribution("exp", 2 * SECOND))

    def _pass(self, until: int) -> None:
        """Let time pass, but no longer than anything can happen."""
        step = max(SECOND, until // 64)
        while self.clock.elapsed < until and not self.writer.halted:
            if not self.clock.run(min(until, self.clock.elapsed + step)):
                self._judge_stall()
                self.clock.run(until)
                break
        if not self.writer.halted:
            self.clock.finish_instant()  # what a scenario asks for at the moment of its end is a part of it

    def _judge_stall(self) -> None:
        """W: nothing is agreed for any later instant; with work to do that is no end, but a failure."""
        waiting = [call.id for call in self.gateways.live.values() if call.waits]
        if (waiting or self.writer.unheard) and not self.faults.store_is_lost:
            names = ", ".join(waiting[:5])
            self.invariants.breach("W", f"nothing will ever happen, and {len(waiting)} requests wait: {names}", "stall")

    def _take_numbers(self) -> None:
        """The counts at the end of the duration; what settling brings is judged and not counted."""
        numbers, state = self.numbers, self.writer.engine.state
        numbers.waiting, numbers.running = self.gateways.counts()
        for replica in state.replicas.values():
            if state.takes_locks(replica):
                numbers.replicas_at_end[replica.model] += 1
        numbers.faults = self.faults.counts()
        self._counting = False
        self.tally = self.gateways.tally.copy()
        self.effects_counted = len(self.unasked_effects)

    # --- settling ---------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Nothing new comes in: let what is under way end, and name what does not."""
        began = self.clock.elapsed
        if self.scenario.random_faults is not None:
            self.faults.heal_all()
        if self.faults.store_is_lost:
            self.unsettled = "the store never answers again"
            self._judge_answers()
            return
        patience = Settling(self.gateways.counts()[0], self._deeds)
        while not self.writer.halted and not patience.over and not self._is_quiet():
            step = patience.step(self.writer.engine.state.settings.reconcile_interval)
            if not self.clock.run(self.clock.elapsed + step):
                self._judge_stall()
            waiting, running = self.gateways.counts()
            due = self.writer.engine.next_wakeup()
            promised = running > 0 or self._faults_go_on() or (due is not None and due > self.clock.now)
            patience.passed(step, waiting=waiting, deeds=self._deeds, promised=promised)
        self.settled_for = self.clock.elapsed - began
        if not self.writer.halted:
            self._judge_the_end(patience)

    def _is_quiet(self) -> bool:
        """Whether everything that is under way has ended."""
        writer, state = self.writer, self.writer.engine.state
        if not writer.leading or writer.unheard or writer.inbox or writer.hanging or self._faults_go_on():
            return False
        reached = [node for node in self.cluster.nodes.values() if node.worker.hears and not node.removed]
        if any(node.in_doubt or not self.cluster.is_well_known(node) for node in reached):
            return False
        if any(call.waits for call in self.gateways.live.values()) or self.gateways.dead:
            return False
        if any(judge.unanswered(state, self.cluster)):
            return False
        return writer.engine.next_wakeup() is None

    def _faults_go_on(self) -> bool:
        return self.clock.elapsed < self.faults.last_end

    def _judge_the_end(self, patience: Settling) -> None:
        engine, now = self.writer.engine, self.clock.now
        self.checkpoint()
        self._find(judge.unquiet(engine, self.cluster, now))
        self._find(judge.forgotten(engine.state, now))
        length = format_duration(self.settled_for)
        for call in self.gateways.live.values():
            request = engine.state.requests.get(call.id)
            if call.waits and (request is None or request.deadline <= now):
                self.invariants.breach("W", f"{call.id} for {call.model} still waits after {length} of quiet", call.id)
        self._judge_holders()
        self._judge_answers()
        self._judge_files()
        if patience.spent >= PATIENCE:
            self._judge_restlessness(length)

    def _judge_restlessness(self, length: str) -> None:
        """Q: patience is at its end; what goes on is named."""
        lately = self.clock.elapsed - HOUR
        # A link that loses or delays messages without an end is input: orders are sent there again and again.
        strained = {name for name, node in self.cluster.nodes.items() if node.trouble.strains_the_link}
        late = [name for at, name, node in self.unasked_effects if at > lately and node not in strained]
        at, deed = self._last_deed
        if late:
            most = Counter(late).most_common(1)[0]
            text = f"{most[0]} was sent {most[1]} times in the last hour of {length} without input: effects go on"
            self.invariants.breach("Q", text, most[0])
        elif at > lately and not self.faults.at_work:  # a fault without an end is input
            self.invariants.breach("Q", f"{deed} is recorded in the last hour of {length} without input", deed)

    def _judge_holders(self) -> None:
        """W: who is gone holds nothing, be it a gateway or a client."""
        alive = {self.gateways.holder(number) for number in range(GATEWAYS)} | {BACKGROUND}
        for holder, held in self.engine.state.by_holder.items():
            if holder not in alive:
                self.invariants.breach("W", f"{holder} is gone and still holds {', '.join(held)}: a leak", holder)
            elif holder != BACKGROUND:
                for request in [request for request in held if request not in self.gateways.live]:
                    self.invariants.breach("W", f"{request} is over for its client, and not ended: a leak", request)

    def _judge_answers(self) -> None:
        """S: another model or machine answers nothing."""
        for wrong in self.gateways.wrong_answers:
            self.invariants.breach("S", wrong, "port")
        self.invariants.order_rules.judge(self.cluster.carried_out)

    def _judge_files(self) -> None:
        """S: what the core believes to be on a disk is there, as far as its worker is reached."""
        state = self.engine.state
        for name, staged in state.staged.items():
            node, known = self.cluster.nodes.get(name), state.nodes.get(name)
            if node is None or known is None or not node.worker.hears or known.boot != boot_of(node.worker):
                continue
            there = {files.model for files in node.worker.staged}
            for model, revision in staged:
                if model not in there:
                    text = (
                        f"the files of {model} are not on {name}, where revision {revision} of them is believed to be"
                    )
                    self.invariants.breach("S", text, f"{name}/{model}")

    # --- afterwards -------------------------------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """The engine as the run left it."""
        return self.writer.engine

    @property
    def rows(self) -> list[Recorded]:
        """Every event of the run, in order."""
        return self.log.rows


def _is_tried_again(event: ev.Event) -> bool:
    """Whether a victim is asked to leave once more, for whom it was to leave at first."""
    return isinstance(event, ev.UnloadRequested) and event.reason == "evicted"


__all__ = ["START", "Harness", "Numbers", "Options"]
