"""What is built is whole: wheel and sdist hold every file of the three packages, and the wheel installs."""

from __future__ import annotations

import email
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.house.tree import PACKAGES, ROOT, files

NOT_SHIPPED = {"__pycache__", ".mypy_cache", ".ruff_cache"}

# One worker builds once for all of these.
pytestmark = pytest.mark.xdist_group("packaging")


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Built:
    """What one build made, and the files that it was made from, as paths below ``interlock/``."""

    sdist: Path
    wheel: Path
    sources: frozenset[str]

    def in_wheel(self) -> set[str]:
        return set(zipfile.ZipFile(self.wheel).namelist())

    def in_sdist(self) -> set[str]:
        with tarfile.open(self.sdist) as archive:
            return {name.partition("/")[2] for name in archive.getnames()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Built as an index would get it: the sdist from the checkout, the wheel from the sdist; nothing is downloaded."""
    out = tmp_path_factory.mktemp("dist")
    sources = frozenset(name for name in files() if name.split("/")[0] in PACKAGES)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return Built(sdist, wheel, sources)


def test_the_wheel_holds_every_file_of_the_packages(built: Built) -> None:
    missing = {name for name in built.sources if f"interlock/{name}" not in built.in_wheel()}
    assert missing == set()


def test_the_sdist_holds_every_file_of_the_packages(built: Built) -> None:
    assert built.sources - built.in_sdist() == set()
    assert {"pyproject.toml", "README.md", "LICENSE"} <= built.in_sdist()


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_is_there_with_its_types_and_its_words(built: Built, package: str) -> None:
    assert {f"interlock/{package}/{name}" for name in ("__init__.py", "py.typed", "README.md")} <= built.in_wheel()


def test_data_files_travel_with_the_code(built: Built) -> None:
    """Queries, scenarios, the wire format, the dashboard: read from the package when it runs."""
    data = {name for name in built.sources if name.endswith((".sql", ".toml", ".proto", ".html", ".md"))}
    assert {f"interlock/{name}" for name in data} <= built.in_wheel()
    assert "domain/README.md" in data


def test_nothing_else_is_in_the_wheel(built: Built) -> None:
    tops = {name.split("/")[0] for name in built.in_wheel()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"interlock"}
    assert not [name for name in built.in_wheel() if NOT_SHIPPED & set(name.split("/"))]
    assert not [name for name in built.in_wheel() if name.startswith("interlock/.dev")]


def test_the_wheel_states_its_command_its_licence_and_what_it_is_for(built: Built) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = f"interlock-{project['version']}.dist-info"
    with zipfile.ZipFile(built.wheel) as archive:
        assert "interlock = interlock.adapters.cli:main" in archive.read(f"{info}/entry_points.txt").decode()
        metadata = email.message_from_string(archive.read(f"{info}/METADATA").decode())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Summary"] == project["description"]
    assert sorted(metadata["Keywords"].split(",")) == project["keywords"]
    assert metadata.get_all("Classifier") == project["classifiers"]
    assert metadata.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_wheel_installs_and_imports_from_where_it_is_installed(built: Built, tmp_path: Path) -> None:
    target = tmp_path / "site"
    quiet = ("--quiet", "--disable-pip-version-check", "--no-index")
    run(sys.executable, "-m", "pip", "install", *quiet, "--no-deps", "--no-compile", "--target", target, built.wheel)
    program = (
        f"import sys; sys.path.insert(0, {str(target)!r})\n"
        "import interlock.domain, interlock.adapters, interlock.simulation\n"
        "print(interlock.domain.__file__, interlock.adapters.__file__, interlock.simulation.__file__, sep='\\n')"
    )
    places = run(sys.executable, "-I", "-c", program, cwd=tmp_path).splitlines()
    assert places == [str(target / "interlock" / package / "__init__.py") for package in PACKAGES]


def test_the_editable_installation_reads_the_checkout() -> None:
    program = "import interlock.domain; print(interlock.domain.__file__)"
    place = Path(run(sys.executable, "-I", "-c", program).strip())
    assert place.resolve() == ROOT / "domain" / "__init__.py"
