"""What travels between control plane and workers, as JSON. Field names are LocalAI's, those marked + are ours.

Every order carries + ``node`` (its addressee's full name: a worker stays silent on an order for another), + ``epoch``
(the writer's; an older one than the worker has seen is refused with code ``fenced``) and ``op_id`` (a repeat of an
``op_id`` is the same operation and gets the same answer). Fields that we do not know are ignored.
"""

from __future__ import annotations

import msgspec

FENCED = "fenced"
"""Code of an answer: the order's epoch has passed."""


class Order(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Base of all orders. + ``boot`` is the worker that is meant; another one of the node's name leaves it alone."""

    node: str = ""
    boot: str = ""
    epoch: int = 0
    op_id: str = ""


class Install(Order, kw_only=True):
    """Start a backend process for (model, index); + ``replica`` is the incarnation that it is for.

    + ``pools`` are the memory pools that are its own, by their place in what the worker reports.
    """

    backend: str = ""
    model_id: str = ""
    replica_index: int = 0
    replica: str = ""
    pools: tuple[int, ...] = ()


class Stage(Order, kw_only=True):
    """+ Bring a model's files onto the disk: ``options["source"]``, a path or file URL; ``disk`` is their size.

    ``drops`` are models whose files go first, unless something runs from them.
    """

    model_id: str = ""
    replica: str = ""
    backend: str = ""
    options: dict[str, str | int | float | bool] = {}
    disk: int = 0
    drops: tuple[str, ...] = ()


class Unload(Order, kw_only=True):
    """Free a model's memory. With + ``stop`` its process is stopped too, and the answer comes when it is gone."""

    model_name: str = ""
    address: str = ""
    replica: str = ""
    stop: bool = False


class Stop(Order, kw_only=True):
    """Stop processes. ``backend`` is a + process id, a process key ``model#index`` or a backend's name."""

    backend: str = ""
    force: bool = False


class BackendOrder(Order, kw_only=True):
    """Upgrade or delete a backend: its processes are stopped; the backends themselves come with the package."""

    backend: str = ""


class ModelStop(Order, kw_only=True):
    """Stop exactly this process, if it is still at that address."""

    model_name: str = ""
    process_key: str = ""
    expected_address: str = ""
    force: bool = False


class ModelDelete(Order, kw_only=True):
    """Remove a model's staged files."""

    model_name: str = ""


class Answer(msgspec.Struct, kw_only=True):
    """Base of all answers. ``error`` is in the worker's words; + ``code`` is ``fenced``, ``invalid`` or ``failed``."""

    success: bool = True
    error: str = ""
    code: str = ""

    def __post_init__(self) -> None:
        if self.error and not self.code:
            self.code = "failed"


class InstallAnswer(Answer, kw_only=True):
    """``address`` is the process's own; + ``model_id`` and ``replica_index`` say again whose it is."""

    address: str = ""
    process: str = ""
    model_id: str = ""
    replica_index: int = 0


class StageAnswer(Answer, kw_only=True):
    """+ ``found``: the files were there or on their way before the order came, so how long it took measures nothing."""

    found: bool = False


class StopAnswer(Answer, kw_only=True):
    """Which processes were stopped, by process key."""

    stopped_process_keys: list[str] = []
    reports_stopped_processes: bool = True
    """For LocalAI's masters, which take an empty list from a worker that does not say so for ignorance."""


class ModelStopAnswer(Answer, kw_only=True):
    """What was done to the one process."""

    matched: bool = False
    freed: bool = False
    terminated: bool = False
    process_key: str = ""
    address: str = ""


class RunningModel(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One process that is alive; + ``process`` is its id and ``replica`` the incarnation that it is for."""

    model_id: str
    replica_index: int
    address: str = ""
    process: str = ""
    replica: str = ""


class RunningAnswer(Answer, kw_only=True):
    """All processes that are alive, those being started or stopped included; + of which ``boot``."""

    models: list[RunningModel] = []
    boot: str = ""


class BackendInfo(msgspec.Struct, kw_only=True):
    """A backend that is installed on the worker."""

    name: str
    is_system: bool = True
    """For LocalAI's masters, which offer to delete what is not: ours come with the package."""
    version: str = ""


class ListAnswer(Answer, kw_only=True):
    """The backends that are installed."""

    backends: list[BackendInfo] = []


class Progress(msgspec.Struct, kw_only=True):
    """How far an operation is; a lost one is not missed. + ``done_bytes`` and ``total_bytes`` are 0 when none move."""

    op_id: str
    node_id: str
    backend: str = ""
    file_name: str = ""
    current: str = ""
    total: str = ""
    percentage: float = 0.0
    phase: str = ""
    replica: str = ""
    done_bytes: int = 0
    total_bytes: int = 0


class Died(msgspec.Struct, kw_only=True):
    """+ A process has ended by itself; ``reason`` is how, with the last line that it wrote."""

    node: str
    boot: str
    process: str
    replica: str
    model: str
    index: int
    reason: str
