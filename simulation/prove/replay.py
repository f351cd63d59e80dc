"""Replaying a counterexample in ``simulate``: the same steps at the instants found for them, judged by the simulator.

The harness runs as it always does: SimPy's clock, the writer with commit, reply and effect, the log and its replay, and
the invariants that know nothing of this package. Only what comes from outside follows a script instead of rates and
seeds: requests, answers, faults and operators come when the counterexample says. Timers are the harness's own.

A cycle follows the script for some rounds. Then the workers go on answering by themselves, as they did in it, and the
simulator lets hours pass to see whether it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from interlock.domain import events as ev
from interlock.domain.codec import decode_event
from interlock.domain.commands import (
    AcquireLock,
    AnyReply,
    CancelRequest,
    ChangeKind,
    Command,
    Envelope,
    Locked,
    LoseHolder,
    ReleaseLock,
    ReportBackendGone,
    ReportSilence,
    Review,
)
from interlock.domain.effects import Effect, InstallBackend, LoadModel, ReplicaEffect, StageModel
from interlock.domain.engine import Outcome
from interlock.domain.entities import RequestStatus, Scheduling
from interlock.domain.settings import Settings
from interlock.domain.state import State
from interlock.domain.units import FOREVER, HOUR, SECOND
from interlock.simulation import world
from interlock.simulation.clock import START
from interlock.simulation.cluster import VirtualCluster, VirtualNode
from interlock.simulation.faults import Faults
from interlock.simulation.gateways import GATEWAYS, Call, Gateways
from interlock.simulation.harness import Harness, Options
from interlock.simulation.judging.invariants import IDLE_ROUNDS_MAX, Invariants
from interlock.simulation.operators import Operators
from interlock.simulation.prologue import BACKGROUND, Prologue
from interlock.simulation.reading.scenario import ModelSpec, NodeSpec, Scenario
from interlock.simulation.writer import Sent, Writer

from .actions import BUSY_FOREVER, NO_ANSWER, Key, holder_named, rival_of
from .counterexample import Counterexample, Run, follow, plays, solve
from .scope import Scope
from .start import what_stands_is_declared

GAPS = (10 * SECOND, SECOND, 1_000, 1)
"""Steps are so far apart: the first of these that real durations allow."""
ROUNDS = IDLE_ROUNDS_MAX + 3
"""So many rounds of a cycle follow the script."""
PACE = 10 * SECOND
"""Once the script is over, workers answer so long after they were asked."""


class Cue(msgspec.Struct, frozen=True):
    """One step of the script: its instant after the start, its action, and what it is about in the harness's terms."""

    at: int
    key: Key
    about: Any
    words: str


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What the simulator has seen. ``broken`` maps each property that fails there to what was seen.

    ``diverged`` names the first step that was not possible, or the first event that was another; empty: none.
    ``rounds`` are those that followed the script; ``effects_at_the_end`` are those sent in the last hour unasked.
    """

    broken: dict[str, list[str]]
    diverged: str
    rounds: int
    virtual_seconds: float
    effects_at_the_end: int


class Script(msgspec.Struct, frozen=True):
    """A counterexample as the harness follows it. ``settles``: what goes on after it is judged, too."""

    run: Run
    cues: list[Cue]
    duration: int
    rounds: int
    settles: bool


def write_script(scope: Scope, shown: Counterexample) -> Script | None:
    """The script of a counterexample; the mutant that it was found under is in place. None: it cannot happen."""
    keys = [move.key for move in shown.moves]
    stem, cycle = keys[: len(shown.stem)], keys[len(shown.stem) :]
    found = _scheduled(scope, stem, cycle)
    if found is None:
        return None
    run, schedule, rounds = found
    settles = shown.property in ("Q", "W")
    return Script(run, _cues(run, schedule), schedule[-1] + SECOND, rounds, settles)


def play(script: Script) -> Replayed:
    """Have the harness follow the script, with the mutant that is in place now, if any."""
    # Whether effects end, and what waits for ever, is seen only when what goes on is left to itself; a request's rounds
    # are seen at once.
    played = Replay(scenario_of(script.run.scope, script.duration), script)
    played.run()
    broken: dict[str, list[str]] = {}
    for violation in played.invariants.violations:
        broken.setdefault(violation.property, []).append(violation.detail)
    expected = [event for events in script.run.events for event in events]
    return Replayed(
        broken=broken,
        diverged=played.diverged or _difference(expected, played.told()),
        rounds=script.rounds,
        virtual_seconds=played.clock.elapsed / SECOND,
        effects_at_the_end=sum(at > played.clock.elapsed - HOUR for at, _, _ in played.unasked_effects),
    )


def _scheduled(scope: Scope, stem: list[Key], cycle: list[Key]) -> tuple[Run, list[int], int] | None:
    """The way with as many rounds as real durations allow up to ``ROUNDS``, its steps as wide apart as they can be."""
    for rounds in range(ROUNDS, 0, -1) if cycle else (0,):
        keys = [*stem, *cycle * rounds]
        run = follow(scope, keys)
        if len(run.actions) < len(keys):
            continue
        for gap in GAPS:
            schedule = solve(len(run.actions), run.bounds, gap)
            if schedule is not None and plays(run, schedule):
                return run, schedule, rounds
    return None


# --- the script -----------------------------------------------------------------------------------------------------


def scenario_of(scope: Scope, duration: int) -> Scenario:
    """The scope's world as a scenario; what happens in it is the script's."""
    plain = msgspec.structs.asdict(Settings())
    changed = {name: value for name, value in msgspec.structs.asdict(scope.settings).items() if value != plain[name]}
    nodes = []
    for node in scope.nodes:
        facts = node.facts
        nodes.append(NodeSpec(
            name=facts.name, labels=dict(facts.labels), pools=facts.pools, budget=facts.budget, ram=facts.ram,
            unified=facts.unified,
            disk=facts.disk, max_replicas_per_model=facts.max_replicas_per_model, approved=node.approved, up=node.up,
        ))  # fmt: skip
    models = (ModelSpec(name=m.name, spec=m.spec, scheduling=m.scheduling, aliases=m.aliases) for m in scope.models)
    replicas = (replace(replica, busy_for=FOREVER, busy_each=()) for replica in scope.replicas)  # the script ends them
    return Scenario(
        name=f"{scope.name}-replayed", duration=duration, settings=changed, nodes=tuple(nodes), models=tuple(models),
        replicas=tuple(replicas),
    )  # fmt: skip


def _cues(run: Run, schedule: list[int]) -> list[Cue]:
    """Each step but the timers, which are the harness's own."""
    arrived: dict[str, str] = {}
    holders: dict[str, int] = {}
    cues = []
    for before, action, move, at in zip(run.befores, run.actions, run.moves, schedule[1:], strict=True):
        kind, about = action.key[0], action.about
        if kind in ("timer", "pass"):
            continue
        if kind == "arrive":
            arrived[f"q{before.now + 1}"] = f"q-{len(arrived) + 1:06d}"
            name = holder_named(before.state, about[1], before.now + 1)
            about = (about[0], holders.setdefault(name, len(holders) % GATEWAYS))
        elif kind in ("release", "hang-up", "gone", "in-vain", "report"):
            about = _request(about if kind in ("release", "hang-up") else about[0], arrived)
        elif kind == "lose-holder":
            about = holders.get(about, 0)
        elif kind in ("answer", "fail", "delay", "repeat"):
            about = about[1]
        elif kind == "kill":
            about = action.key[1:]
        cues.append(Cue(at, action.key, about, move.did))
    return cues


def _request(name: str, arrived: dict[str, str]) -> str:
    """The harness's name of a request: by order of arrival, or the place of one that was there at the beginning."""
    if name in arrived:
        return arrived[name]
    number, place = name.removeprefix("busy-").removeprefix(BUSY_FOREVER).split("-")
    return f"{BACKGROUND}-r-{int(number) + 1:06d}-{int(place) + 1}"


def _difference(expected: list[ev.Event], told: list[ev.Event]) -> str:
    """The first event of the counterexample that the harness has not told; empty when there is none."""
    for number, event in enumerate(expected):
        if number >= len(told):
            return f"after {number} events nothing more was decided, but {_gist(event)} was expected"
        if _gist(event) != _gist(told[number]):
            return f"event {number + 1} is {_gist(told[number])}, but {_gist(event)} was expected"
    return ""


def _gist(event: ev.Event) -> str:
    """An event without ids and instants."""
    parts = [getattr(event, field, "") for field in ("model", "node", "index", "reason", "code", "lacks")]
    return " ".join(str(part) for part in (type(event).__name__, *parts) if part != "")


# --- the harness with a script --------------------------------------------------------------------------------------


class ScopePrologue(Prologue):
    """Only the models that stand at the beginning are known before it, and may run anywhere: they stand already."""

    def declare(self) -> None:
        """Those that stand."""
        standing = dict.fromkeys(replica.model for replica in self.scenario.replicas)
        specs = {model.name: model.spec for model in self.scenario.models}
        for name in standing:
            self.take([ev.ModelDeclared(at=START, model=name, spec=specs[name], scheduling=Scheduling())])


class ScriptedWriter(Writer):
    """A writer that begins as the scope does."""

    beginning: Callable[[], None]

    def submit(self, envelope: Envelope, on_reply: Callable[[AnyReply], None] | None = None) -> None:
        """Have a command decided; in place of the run's first look at everything, what the scope begins with."""
        if envelope.command_id == "begin":
            self.beginning()
        else:
            super().submit(envelope, on_reply)

    def note(self, outcome: Outcome) -> None:
        """Something has happened that nobody decided."""
        review = Review(change=ChangeKind.EPOCH, cause="scope")
        self._when_durable(Sent(Envelope(command_id="noted", command=review)), outcome)


class ScriptedCluster(VirtualCluster):
    """Workers that answer when they are told to. Nobody watches them: the script says when a silence is noticed."""

    held: dict[Key, tuple[Effect, int]]
    scope: Scope
    free = False
    """The script is over."""

    def send(self, effect: Effect, epoch: int) -> None:
        """Keep the order until the script has it answered; once that is over, answer it after a while."""
        self.held[_slot(effect)] = (effect, epoch)
        if self.free:
            self.clock.after(PACE, self._answer_by_itself, _slot(effect))

    def let_go(self) -> None:
        """The script is over."""
        self.free = True
        for key in self.held:
            self.clock.after(PACE, self._answer_by_itself, key)

    def _answer_by_itself(self, key: Key) -> None:
        effect, _ = self.held.get(key, (None, 0))
        if effect is None:
            return
        doomed = self.scope.is_doomed(effect.node, getattr(effect, "model", "")) and world.can_fail(effect)
        node = self.nodes[effect.node]
        for answer in self.perform(key, "it always fails" if doomed else "") or ():
            self.report(node, answer)

    def watch(self, node: VirtualNode) -> None:
        """The script knows."""
        node.in_doubt = False

    def doubt_all(self) -> None:
        """The script has the workers asked."""

    def perform(self, key: Key, failure: str) -> tuple[Command, ...] | None:
        """Carry out the order that the script means, and what the worker answers; None when there is no such order."""
        held = self.held.pop(key, None)
        if held is None:
            return None
        effect, epoch = held
        node = self.nodes[effect.node]
        node.worker, answers = world.perform(node.worker, effect, epoch, failure)
        return answers


class ScriptedGateways(Gateways):
    """Gateways whose requests end when the script says."""

    def arrive_at(
        self, model: str, gateway: int, deadline: int, priority: int, prefix: tuple[int, ...] = (), tenant: str = ""
    ) -> None:
        """A request comes in at this gateway."""
        self.tally.submitted += 1
        now = self.clock.now
        call = Call(f"q-{self.tally.submitted:06d}", model, gateway, now, FOREVER)
        self.live[call.id] = call
        until = now + deadline if 0 < deadline < FOREVER else deadline
        command = AcquireLock(
            request=call.id,
            model=model,
            holder=self.holder(gateway),
            priority=priority,
            deadline=until,
            prefix=prefix,
            tenant=tenant,
        )
        self.writer.submit(
            Envelope(command_id=f"{call.id}.acquire", command=command, actor=command.holder, request_id=call.id),
            lambda reply: self._reply(call, reply),
        )

    def _locked(self, call: Call, lock: Locked) -> None:
        """The script says when it finds out that nobody is there, and when it is over."""
        call.replica, call.node = lock.replica, lock.node
        call.waits = False

    def find_gone(self, request: str, replica: str) -> bool:
        """The request has found that its backend is gone; an empty replica: it was told so."""
        call = self.live.get(request)
        if call is None:
            return False
        call.tries += 1
        call.waits = True
        command = ReportBackendGone(request=request, replica=replica, detail=NO_ANSWER)
        envelope = Envelope(command_id=f"{request}.gone{call.tries}", command=command, request_id=request)
        self.writer.submit(envelope, lambda reply: self._reply(call, reply))
        return True


class Replay(Harness):
    """A run that follows a script. ``diverged`` tells the first step that was not possible."""

    told_before = ScopePrologue

    def __init__(self, scenario: Scenario, script: Script) -> None:
        super().__init__(scenario, Options(settle=script.settles))
        like = script.run
        self.writer: ScriptedWriter = ScriptedWriter(self.clock, self.log, self.streams, self)
        self.cues = script.cues
        self.writer.beginning = self._declare
        self.like = like
        self.diverged = ""
        self.mail: list[Command] = []
        self.cluster: ScriptedCluster = ScriptedCluster(self.clock, self.streams, self.writer, self)
        self.cluster.held, self.cluster.scope = {}, like.scope
        self.gateways: ScriptedGateways = ScriptedGateways(self.clock, self.streams, self.writer, self.cluster)
        self.operators = Operators(self.clock, self.writer, self.cluster, {})
        self.faults = Faults(self.clock, self.streams, self.writer, self.cluster, self.gateways)
        self.invariants = Invariants(self.cluster.is_running, self.gateways.is_served, like.scope.settings)
        self._sent = 0
        self._told_before = 0

    def _begin(self) -> None:
        super()._begin()
        self._told_before = self.log.length
        there, here = _standing(self.like.befores[0].state), _standing(self.engine.state)
        if there != here:
            self.diverged = f"the beginning: {sorted(here ^ there)}"
        for cue in self.cues:
            self.clock.at(START + cue.at, self._play, cue)
        self.clock.at(START + self.duration, self.cluster.let_go)

    def _declare(self) -> None:
        """One model after the other, each with what follows from it; what stands gets its own scheduling, and stays."""
        for model in self.like.scope.models:
            engine = self.engine
            if model.name in engine.state.models:
                own = ScopePrologue(engine, self.cluster, self.scenario, f"scheduling of {model.name}")
                own.take([what_stands_is_declared(model, START)])
                self.writer.note(own.outcome)
            else:
                self.say(model.declaration)

    def told(self) -> list[ev.Event]:
        """Every event since the beginning."""
        return [decode_event(row.topic, row.state) for row in self.rows[self._told_before :]]

    def _play(self, cue: Cue) -> None:
        try:
            possible = _PLAYED[str(cue.key[0])](self, cue)
        except (KeyError, IndexError):
            possible = False
        if not possible and not self.diverged:
            self.diverged = f"{cue.words}: not possible after {self.clock.elapsed / SECOND:g} s"

    def say(self, *commands: Command) -> bool:
        """Somebody outside says this to the writer."""
        for command in commands:
            self._sent += 1
            self.writer.submit(Envelope(command_id=f"said-{self._sent}", command=command, actor="script"), _unheard)
        return True


def _unheard(reply: AnyReply) -> None:
    """Whoever said it needs no answer, and says it again when a writer dies."""


def _standing(state: State) -> set[str]:
    """What is where, without ids."""
    replicas = state.replicas.values()
    return {f"{r.model} on {r.node} #{r.index} {r.phase.value} {state.lock_count(r.id)}" for r in replicas}


def _slot(effect: Effect) -> Key:
    """What the script calls the order by: the replica's slot and what it is about to be."""
    if not isinstance(effect, ReplicaEffect):
        return (effect.node, "stray")
    phases = {InstallBackend: "installing", StageModel: "staging", LoadModel: "loading"}
    return (effect.model, effect.node, effect.index, phases.get(type(effect), "unloading"))


# --- each kind of step ----------------------------------------------------------------------------------------------


def _arrive(run: Replay, cue: Cue) -> bool:
    kind, gateway = cue.about
    run.gateways.arrive_at(kind.model, gateway, kind.deadline, kind.priority, kind.prefix, kind.tenant)
    return True


def _release(run: Replay, cue: Cue) -> bool:
    run.gateways.live.pop(cue.about, None)
    if cue.about not in run.engine.state.requests:
        return False
    return run.say(ReleaseLock(request=cue.about))


def _hang_up(run: Replay, cue: Cue) -> bool:
    run.gateways.live.pop(cue.about, None)
    if cue.about not in run.engine.state.requests:
        return False
    return run.say(CancelRequest(request=cue.about, reason="client left"))


def _gone(run: Replay, cue: Cue) -> bool:
    request = run.engine.state.requests[cue.about]
    return run.gateways.find_gone(cue.about, "" if cue.key[0] == "report" else request.replica)


def _in_vain(run: Replay, cue: Cue) -> bool:
    state = run.engine.state
    node = state.replicas[state.requests[cue.about].replica].node
    return run.say(ReportSilence(node=node, call=NO_ANSWER)) and _gone(run, cue)


def _lose_holder(run: Replay, cue: Cue) -> bool:
    gateways, state = run.gateways, run.engine.state
    name = gateways.holder(cue.about)
    held = [state.requests[request] for request in state.by_holder.get(name, ())]
    run.mail += [ReleaseLock(request=held_.id) for held_ in held if held_.status is RequestStatus.LOCKED][:1]
    gateways.runs[cue.about] += 1
    for call in [call for call in gateways.live.values() if call.gateway == cue.about]:
        call.dead = True
        del gateways.live[call.id]
    return run.say(LoseHolder(holder=name))


def _answer(run: Replay, cue: Cue) -> bool:
    answers = run.cluster.perform(cue.key[1:], cue.about)
    if answers is None:
        return False
    if cue.key[0] != "delay":
        run.say(*answers)
    if cue.key[0] in ("delay", "repeat"):
        run.mail += answers
    return True


def _mail(run: Replay, cue: Cue) -> bool:
    return run.say(run.mail.pop(int(cue.key[1])))


def _crash(run: Replay, cue: Cue) -> bool:
    return run.cluster.crash(run.cluster.nodes[str(cue.key[1])])


def _goodbye(run: Replay, cue: Cue) -> bool:
    node = run.cluster.nodes[str(cue.key[1])]
    run.mail += world.leave(node.worker)[1]
    return run.cluster.crash(node)


def _start(run: Replay, cue: Cue) -> bool:
    node = run.cluster.nodes[str(cue.key[1])]
    node.worker = world.start(node.worker)
    node.registered = True
    return run.say(world.register(node.worker, approve=node.spec.approved))


def _cut(run: Replay, cue: Cue) -> bool:
    return run.cluster.cut(run.cluster.nodes[str(cue.key[1])], off=True)


def _heal(run: Replay, cue: Cue) -> bool:
    node = run.cluster.nodes[str(cue.key[1])]
    healed = run.cluster.cut(node, off=False)
    run.say(world.heartbeat(node.worker), world.report_running(node.worker, run.clock.now))
    return healed


def _silence(run: Replay, cue: Cue) -> bool:
    return run.say(ReportSilence(node=str(cue.key[1])))


def _tell(run: Replay, cue: Cue) -> bool:
    return run.say(world.report_running(run.cluster.nodes[str(cue.key[1])].worker, run.clock.now))


def _kill(run: Replay, cue: Cue) -> bool:
    model, name, index = cue.about
    node = run.cluster.nodes[str(name)]
    found = [p.replica for p in node.worker.processes if (p.model, p.index) == (model, index)]
    node.worker, died = world.kill(node.worker, found[0])
    run.mail += died
    return True


def _rival(run: Replay, cue: Cue) -> bool:
    return run.say(rival_of(run.cluster.nodes[str(cue.key[1])].worker))


def _again(run: Replay, cue: Cue) -> bool:
    return run.say(world.register(run.cluster.nodes[str(cue.key[1])].worker, approve=True))


def _admin(run: Replay, cue: Cue) -> bool:
    return run.say(cue.about)


def _takeover(run: Replay, cue: Cue) -> bool:
    """Another writer leads at once, from what is stored."""
    run.writer.leading = False
    run.writer.lead()
    return True


_PLAYED: dict[str, Callable[[Replay, Cue], bool]] = {
    "arrive": _arrive, "release": _release, "gone": _gone, "report": _gone, "in-vain": _in_vain,
    "lose-holder": _lose_holder,
    "answer": _answer, "fail": _answer, "delay": _answer, "repeat": _answer, "mail": _mail, "crash": _crash,
    "start": _start, "cut": _cut, "heal": _heal, "silence": _silence, "tell": _tell, "kill": _kill, "admin": _admin,
    "takeover": _takeover, "rival": _rival, "again": _again, "hang-up": _hang_up, "goodbye": _goodbye,
}  # fmt: skip
