"""What is said to who unloads a model."""

from __future__ import annotations

import pytest

from interlock.adapters.http.kit import fields
from interlock.adapters.unloadwords import told_unload
from interlock.domain import commands as cmd
from interlock.domain.views import model_view
from tests.domain.cluster import Cluster


def told(cluster: Cluster, model: str = "m") -> str:
    view = fields(model_view(cluster.state, cluster.state.models[model]))
    return told_unload(view, sorted(cluster.state.frozen))


def with_model(**scheduling: object) -> Cluster:
    cluster = Cluster()
    cluster.node("n")
    cluster.model("m", **scheduling)
    cluster.settle()
    return cluster


def test_a_model_that_nobody_will_load_again_is_just_said_to_be_unloaded() -> None:
    cluster = with_model()
    cluster.loaded("m")
    assert told(cluster) == "Model m is being unloaded."


def test_of_a_model_without_a_copy_it_is_said_that_there_is_nothing_to_unload() -> None:
    cluster = with_model()
    assert told(cluster) == "Nothing of model m is loaded."
    cluster.loaded("m")
    cluster.send(cmd.RequestUnload(model="m"))
    assert told(cluster) == "What there is of model m is being unloaded already."


def test_a_load_in_progress_is_unloaded_too() -> None:
    cluster = with_model()
    cluster.send(cmd.RequestLoad(model="m"))
    assert told(cluster) == "Model m is being unloaded."


def test_a_floor_will_load_it_again_and_what_keeps_it_away_is_said() -> None:
    cluster = with_model(min_replicas=1)
    again = "Its floor of 1 will load it again"
    assert told(cluster) == f"Model m is being unloaded. {again}: set `min_replicas` to 0 to keep it away."
    cluster.send(cmd.Freeze(what="reconciler"))
    assert f"{again}, once the reconciler is thawed: " in told(cluster)
    cluster.send(cmd.Thaw(what="reconciler"))
    cluster.send(cmd.RequestUnload(model="m"))
    cluster.settle()
    assert cluster.state.warm["m"], "and so it did"


def test_a_floor_that_is_not_kept_loads_it_as_soon_as_it_can() -> None:
    cluster = with_model(vram=99, min_replicas=1)
    assert told(cluster) == (
        "Nothing of model m is loaded. "
        "Its floor of 1 will load it as soon as it can: set `min_replicas` to 0 to keep it away."
    )


def test_of_a_model_for_every_candidate_it_is_said_what_would_keep_it_away() -> None:
    wish = 'Its `replicas = "all"` will load it again: declare it without that to keep it away.'
    assert told(with_model(everywhere=True)) == f"Model m is being unloaded. {wish}"


@pytest.mark.parametrize(("waiting", "who"), [(1, "1 request that waits for it"), (2, "2 requests that wait for it")])
def test_requests_that_wait_for_a_load_in_progress_begin_it_anew(waiting: int, who: str) -> None:
    cluster = with_model()
    for number in range(waiting):
        cluster.request(f"q{number}", "m")
    assert told(cluster) == f"Model m is being unloaded. {who} will load it again."
    cluster.send(cmd.RequestUnload(model="m"))
    cluster.settle()
    assert cluster.count("LoadStarted") == 1, "and so they did"
