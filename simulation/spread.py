"""Many runs at once: over the processes of this machine, or with Ray over those of others, with the same results.

Every job is a function of its item alone, and results come in the items' order, so where they ran cannot be seen in
them. Machines that run other code than this one would give other results: they are found out and refused.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from interlock.adapters import own_rules
from interlock.domain.errors import Unavailable, UsageError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
LOCAL = "local"
"""The address that means: start Ray on this machine for this run."""
AHEAD_PER_CPU = 4
"""So many jobs for each processor are handed to Ray before their results are fetched."""


def spread(
    job: Callable[[_Item], _Result],
    items: Sequence[_Item],
    *,
    processes: int | None = None,
    ray: str | None = None,
    chunk: int = 1,
) -> Iterator[_Result]:
    """The results of all items, in order; raises UsageError where Ray is not installed, Unavailable when none answers.

    ``ray`` is the address of a Ray cluster, ``local``, or None for this machine's processes.
    """
    if ray is not None:
        yield from _over_ray(job, items, ray)
        return
    workers = min(processes or os.cpu_count() or 1, len(items))
    if workers <= 1:
        yield from map(job, items)
        return
    with ProcessPoolExecutor(workers, initializer=own_rules.install) as pool:
        yield from pool.map(job, items, chunksize=chunk)


def _over_ray(job: Callable[[_Item], _Result], items: Sequence[_Item], address: str) -> Iterator[_Result]:
    ray = _ray()
    _connect(ray, address)
    try:
        remote = ray.remote(num_cpus=1)(_elsewhere)
        shared = ray.put(job)
        ahead = max(1, int(ray.cluster_resources().get("CPU", 1))) * AHEAD_PER_CPU
        under_way: deque[Any] = deque()
        for item in items:
            under_way.append(remote.remote(shared, item))
            if len(under_way) >= ahead:
                yield _fetched(ray, under_way)
        while under_way:
            yield _fetched(ray, under_way)
    finally:
        ray.shutdown()


def _ray() -> Any:
    try:
        return import_module("ray")
    except ImportError:
        cure = 'Run pip install "interlock[ray]", or leave out --ray to use the processes of this machine.'
        raise UsageError("Ray is not installed here.", cure=cure) from None


def _connect(ray: Any, address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address == LOCAL else None)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        cure = "Start one with `ray start --head` and name its address, or give --ray alone for this machine."
        raise Unavailable(f"no Ray cluster answers at {address}: {first}", cure=cure) from None


def _elsewhere(job: Callable[[Any], Any], item: Any) -> tuple[str, str, Any]:
    """What a machine of the cluster runs: which machine, which code, and the result."""
    own_rules.install()
    return os.uname().nodename, code_digest(), job(item)


def _fetched(ray: Any, under_way: deque[Any]) -> Any:
    machine, code, result = ray.get(under_way.popleft())
    if code != code_digest():
        cure = "Install the same version of Interlock on every machine of the cluster."
        raise UsageError(f"{machine} runs other code than this machine; its results would not be the same.", cure=cure)
    return result


@cache
def code_digest() -> str:
    """A digest of all code that a run depends on."""
    here = Path(__file__).resolve().parent
    digest = blake2b(digest_size=16)
    for folder in (Path(str(import_module("interlock.domain").__file__)).resolve().parent, here):
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(folder)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
