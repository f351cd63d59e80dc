"""Many runs at once give what they give one after another, wherever they run."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from types import SimpleNamespace

import pytest

from interlock.adapters.cli import app
from interlock.domain.errors import Unavailable, UsageError
from interlock.simulation import Scenario, spread
from interlock.simulation.sweep import Job, sweep
from tests.simulation.support import TWO_NODES

TEXT = TWO_NODES + (
    '[[workloads]]\nkind = "poisson"\nmodel = "m"\nrate = "6/m"\nuntil = "2m"\n[random_faults]\nprocess-kill = 30.0\n'
)
HAS_RAY = importlib.util.find_spec("ray") is not None


def summed_up(**where: object) -> dict[str, object]:
    data = sweep(Scenario.parse(TEXT, "spread"), range(1, 7), **where)  # type: ignore[arg-type]  # handed on
    return {key: value for key, value in data.items() if key != "wall_seconds"}


def test_processes_bring_what_one_brings() -> None:
    assert summed_up(processes=2) == summed_up(processes=1)


class FakeRay:
    """Ray's few functions, here and at once: what is checked is our side of them."""

    def __init__(self, code: str = "") -> None:
        self.code = code
        self.most_under_way = self.under_way = 0
        self.open = False

    def init(self, address: str, **options: object) -> None:
        if address == "nowhere:6379":
            raise ConnectionError("nobody there\nand more lines")
        self.open = True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}

    def put(self, value: object) -> object:
        return value

    def remote(self, **options: object) -> object:
        def wrap(call: object) -> object:
            def begin(*args: object) -> object:
                self.under_way += 1
                self.most_under_way = max(self.most_under_way, self.under_way)
                return call, args

            return SimpleNamespace(remote=begin)

        return wrap

    def get(self, ref: object) -> object:
        self.under_way -= 1
        call, args = ref  # type: ignore[misc]  # what `begin` has made
        machine, code, result = call(*args)
        return machine, self.code or code, result

    def shutdown(self) -> None:
        self.open = False


def test_rays_results_are_those_of_the_processes_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)  # type: ignore[arg-type]  # it has what we use of the module
    assert summed_up(ray="head:6379") == summed_up(processes=1)
    assert fake.most_under_way == spread.AHEAD_PER_CPU
    assert not fake.open


def test_a_machine_with_other_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay(code="of another version")
    monkeypatch.setitem(sys.modules, "ray", fake)  # type: ignore[arg-type]  # it has what we use of the module
    with pytest.raises(UsageError, match="runs other code"):
        summed_up(ray="head:6379")
    assert not fake.open


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", FakeRay())  # type: ignore[arg-type]  # it has what we use of the module
    with pytest.raises(Unavailable, match="nowhere:6379: nobody there"):
        summed_up(ray="nowhere:6379")


def test_without_ray_the_cure_is_told(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # type: ignore[arg-type]  # None makes importing it fail
    assert app.run(["simulate", "orin-thor", "--seeds", "2", "--ray"]) == 2
    assert 'pip install "interlock[ray]"' in capfd.readouterr().err
    assert app.run(["simulate", "orin-thor", "--ray"]) == 2
    assert "give --seeds" in capfd.readouterr().err


def test_the_same_code_has_the_same_digest_and_a_job_travels() -> None:
    import pickle

    assert spread.code_digest() == spread.code_digest()
    assert len(spread.code_digest()) == 32
    job = pickle.loads(pickle.dumps(Job(Scenario.parse(TEXT, "spread"), None, None)))
    assert job(3)["log_hash"] == Job(Scenario.parse(TEXT, "spread"), None, None)(3)["log_hash"]


@pytest.mark.skipif(not HAS_RAY, reason="the extra `ray` is not installed")
@pytest.mark.timeout(300)
def test_a_real_ray_on_this_machine_gives_the_same(capfd: pytest.CaptureFixture[str]) -> None:
    assert summed_up(ray="local") == summed_up(processes=1)
    assert app.run(["simulate", "orin-thor", "--seeds", "2", "--ray", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["seeds"]["failed"] == 0
