"""Write ``backend_pb2.py`` and its types anew from ``backend.proto``: ``python -m interlock.adapters.grpc.generate``.

Needs grpcio-tools, which the development environment has. No ``_pb2_grpc`` module is made: it refuses to run with a
grpcio older than the generator and carries no types; ``methods.py`` takes its place.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from interlock.domain.errors import UnreadableFile

HERE = Path(__file__).resolve().parent
PROTO = "interlock/adapters/grpc/backend.proto"
GENERATED = ("backend_pb2.py", "backend_pb2.pyi")


def generate(target: Path) -> None:
    """Write the generated modules into ``target``; raises UnreadableFile when the proto file does not parse."""
    protoc = import_module("grpc_tools.protoc")
    # The path under which the file is known decides its module's name, so the compiler is shown that path.
    root = target / "root"
    place = root / PROTO
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes((HERE / "backend.proto").read_bytes())
    arguments = ["protoc", f"-I{root}", f"--python_out={root}", f"--pyi_out={root}", PROTO]
    if protoc.main(arguments) != 0:
        raise UnreadableFile("backend.proto does not compile; the compiler has said where.")
    for name in GENERATED:
        (place.parent / name).replace(target / name)


def main() -> int:
    """Generate in place."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        for name in GENERATED:
            (HERE / name).write_bytes((Path(folder) / name).read_bytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
