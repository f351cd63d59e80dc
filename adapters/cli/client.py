"""The running cluster, as the command line reaches it: over HTTP, with the admin token."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from interlock.domain.errors import Conflict, InterlockError, InvalidSetting, Refused, Unavailable, UsageError

from .options import Place

ENDPOINT = "endpoint.json"
"""The file in the data folder where a running cluster says how it is reached."""
_TIMEOUT_S = 15.0


class Answered(InterlockError):
    """The cluster answered, and the answer is no; the message is its own."""


class Cluster:
    """One cluster's HTTP surface. Raises Unavailable when nothing answers there."""

    def __init__(self, url: str, token: str = "") -> None:
        if not _is_address(url):
            raise InvalidSetting(f"{url!r} is not the address of a cluster.", cure="Use http://HOST:PORT.")
        self.url = url
        self._token = token

    def get(self, path: str) -> Any:
        """A question."""
        return self.send("GET", path)

    def send(self, method: str, path: str, body: object = None, *, timeout_s: float = _TIMEOUT_S) -> Any:
        """A request with JSON in and out; raises the error that the answer means."""
        data = msgspec.json.encode(body) if body is not None else None
        headers = {"Accept": "application/json"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return _json(answer.read())
        except urllib.error.HTTPError as error:
            raise _meaning(error.code, _json(error.read())) from None
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            reason = getattr(error, "reason", error)
            raise Unavailable(
                f"no cluster answers at {self.url}: {reason}.", cure="Start one with `interlock up`, or give --url."
            ) from None

    def lacks(self) -> list[str]:
        """What keeps it from being ready; empty when nothing does."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=_TIMEOUT_S):
                return []
        except urllib.error.HTTPError as error:
            told = _json(error.read())
            reasons = told.get("reasons") if isinstance(told, dict) else None
            return [str(reason) for reason in reasons] if isinstance(reasons, list) else [f"it answers {error.code}."]
        except OSError as error:
            return [f"{getattr(error, 'reason', error)}."]

    def is_run(self, run: str) -> bool:
        """Whether it is that run of a gateway which answers there, and not another program or another cluster."""
        try:
            told = self.get("/livez")
        except InterlockError:
            return False
        return isinstance(told, dict) and told.get("live") is True and told.get("run", "") == run


def _is_address(url: str) -> bool:
    """Whether requests can go there; a path is one that a proxy puts before ours."""
    try:
        found = urlsplit(url)
        _ = (found.port, (found.hostname or "").encode("idna"))
    except ValueError:  # half a pair of brackets, a port that is none, a name that no machine can have
        return False
    if not url.isprintable() or " " in url or "@" in found.netloc or "?" in url or "#" in url:
        return False
    return found.scheme in ("http", "https") and bool(found.hostname) and found.path.isascii()


def part(name: str) -> str:
    """A name as one part of a path. Raises UsageError for what a path takes for something else."""
    if name in ("", ".", ".."):
        raise UsageError(f"{name!r} names nothing.", cure="Give the name or the id as the tables show it.")
    return quote(name, safe="")


def named(place: Place) -> Cluster | None:
    """The cluster that a command is for: named by ``--url``, or running in its data folder; None when there is none.

    A cluster that is named need not be there; one in the folder is asked whether it still lives.
    """
    if place.url:
        return Cluster(place.url, place.admin_token)
    if place.names_store:
        return None
    return running_in(place.data)


def running_in(data: Path) -> Cluster | None:
    """The cluster that runs in this folder; None when none does.

    One that was killed has left its ``endpoint.json``, and another may listen at its address by now: a change that was
    meant for this folder must not reach that one.
    """
    try:
        found = json.loads((data / ENDPOINT).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("url"), str):
        return None
    # What the running cluster says of itself is newer than a file that may have been changed since it started.
    token = os.environ.get("INTERLOCK_ADMIN_TOKEN") or str(found.get("admin_token", ""))
    cluster = Cluster(found["url"], token)
    return cluster if cluster.is_run(str(found.get("run", ""))) else None


def _json(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        return None


_UNAVAILABLE = frozenset({"unavailable", "no_writer", "store_unavailable", "broker_unavailable"})


def _meaning(status: int, body: Any) -> InterlockError:
    """The error behind an HTTP status and its JSON, with the code that it has there."""
    told: Mapping[str, Any] = body.get("error", {}) if isinstance(body, dict) else {}
    message = str(told.get("message") or f"the cluster answered {status}.")
    code, kind = str(told.get("code") or ""), str(told.get("type") or "")
    error = _error(status, kind, code, message)
    error.code = code
    return error


def _error(status: int, kind: str, code: str, message: str) -> InterlockError:
    if status in (401, 403):
        return UsageError(
            message, cure="Set INTERLOCK_ADMIN_TOKEN, or admin_token in interlock.toml, to the cluster's."
        )
    if status == 400:
        return UsageError(message)
    if kind == "unavailable" or code in _UNAVAILABLE:
        return Unavailable(message)
    if kind in ("misconfigured", "waiting", "failed"):
        return Refused(code, message)
    return Conflict(message) if status == 409 else Answered(message)
