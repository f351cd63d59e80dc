"""One backend process: ``python -m interlock.adapters.backends.server --backend echo --port 50051 --model m``.

Started by the worker, one per replica. It tells the descriptor ``--ready-fd`` when its port answers, exits with
``PORT_TAKEN`` when the port is somebody else's, and dies with the worker that started it (``--parent``).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from interlock.adapters.grpc import methods as m
from interlock.domain.errors import BackendFailed

from . import registry
from .base import Backend
from .lifeline import die_with
from .service import BackendService

PORT_TAKEN = 98
NO_BACKEND = 78
_STOP_GRACE_S = 1.0


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop; returns the exit status."""
    given = _parser().parse_args(arguments)
    if given.parent and not die_with(given.parent, signal.SIGKILL):
        return 0
    try:
        backend = registry.make(given.backend)
    except BackendFailed as error:
        sys.stderr.write(f"{error}\n")
        return NO_BACKEND
    return asyncio.run(_serve(given, backend))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="interlock-backend", description="Serve one model over gRPC.")
    parser.add_argument("--backend", required=True, help="its name among the entry points interlock.backends")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at")
    parser.add_argument("--port", type=int, required=True, help="the port to listen at; 0 takes a free one")
    parser.add_argument("--model", default="", help="the model that this process is for")
    parser.add_argument("--replica", default="", help="the replica that this process is for")
    parser.add_argument("--index", type=int, default=0, help="the replica's index; shown in the process list")
    parser.add_argument("--process", default="", help="the worker's id for this process; shown in the process list")
    parser.add_argument("--epoch", type=int, default=0, help="the writer's epoch; older writers may not load")
    parser.add_argument("--models", type=Path, default=None, help="where staged models lie")
    parser.add_argument("--parent", type=int, default=0, help="the process to die with; standard input is its lifeline")
    parser.add_argument("--ready-fd", type=int, default=-1, help="a descriptor to tell when the port answers")
    return parser


async def _serve(given: argparse.Namespace, backend: Backend) -> int:
    service = BackendService(backend, model=given.model, replica=given.replica, epoch=given.epoch, models=given.models)
    # Without so_reuseport=0 two processes could listen at one port and share its calls.
    server = grpc.aio.server(
        options=(
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", 64 * 2**20),
            ("grpc.max_send_message_length", 64 * 2**20),
        )
    )
    server.add_generic_rpc_handlers((service.handlers(),))
    health_pb2_grpc.add_HealthServicer_to_server(service.health, server)
    await service.health.set("", health_pb2.HealthCheckResponse.SERVING)
    await service.health.set(m.SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
    try:
        port = server.add_insecure_port(f"{given.host}:{given.port}")
    except RuntimeError as error:
        sys.stderr.write(f"port {given.port}: {error}\n")
        return PORT_TAKEN
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await server.start()
    if given.ready_fd >= 0:
        os.write(given.ready_fd, f"{port}\n".encode())
        os.close(given.ready_fd)
    await stop.wait()
    await server.stop(_STOP_GRACE_S)
    return 0


if __name__ == "__main__":
    sys.exit(main())
