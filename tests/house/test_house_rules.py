"""What this house asks of every file, beyond what ruff, mypy and import-linter can say. The rules are in rules.py."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.house import rules
from tests.house.rules import Source
from tests.house.tree import PACKAGES, sources, texts

TO_CHANGE = "\n| to change | touch |\n|---|---|\n| "
STANDARD_LIBRARY = frozenset(sys.stdlib_module_names)


def assert_none(breaches: Iterable[str]) -> None:
    found = list(breaches)
    assert not found, f"{len(found)} found:\n" + "\n".join(found)


def over(checked: Iterable[Source], rule: Callable[[Source], Iterator[str]]) -> Iterator[str]:
    for source in checked:
        yield from rule(source)


def is_pure(source: Source) -> Iterator[str]:
    return rules.imports_only_what_is_pure(source, STANDARD_LIBRARY)


# --- domain ---------------------------------------------------------------------------------------------------------


def test_the_domain_imports_only_what_is_pure() -> None:
    assert_none(over(sources("domain/"), is_pure))


def test_the_domain_has_no_clock_and_no_randomness() -> None:
    assert_none(over(sources("domain/"), rules.calls_no_clock_and_no_chance))


def test_the_domain_never_waits() -> None:
    assert_none(over(sources("domain/"), rules.is_never_async))


def test_the_domain_counts_time_in_integers() -> None:
    assert_none(over(sources("domain/"), rules.counts_time_in_integers))


def test_nothing_in_the_domain_depends_on_hash_order() -> None:
    assert_none(over(sources("domain/"), rules.never_walks_a_set_in_hash_order))


def test_everything_public_in_the_domain_says_what_it_is() -> None:
    assert_none(over(sources("domain/"), rules.says_what_it_is))


# --- code -----------------------------------------------------------------------------------------------------------


def test_every_function_fits_a_screen() -> None:
    outside_tests = [source for source in sources() if not source.path.startswith("tests/")]
    assert_none(over(outside_tests, rules.has_functions_that_fit_a_screen))


def test_no_module_is_endless() -> None:
    assert_none(over(sources(), rules.is_a_module_of_bearable_length))


def test_a_checker_is_silenced_only_with_a_reason() -> None:
    assert_none(over(sources(), rules.silences_a_checker_only_with_a_reason))


def test_errors_are_raised_only_from_the_tree() -> None:
    code = sources(*(f"{package}/" for package in PACKAGES))
    errors = next(source for source in code if source.path == "domain/errors.py")
    tree = rules.error_tree(errors, code)
    assert_none(over(code, lambda source: rules.raises_only_errors_of_the_tree(source, tree)))


def test_simulation_imports_no_adapter_that_touches_a_network() -> None:
    assert_none(over(sources("simulation/"), rules.imports_no_network_adapter))


def test_packages_are_imported_by_their_full_names_and_setuptools_not_at_all() -> None:
    assert_none(over(sources(), rules.imports_by_full_name))
    assert not {"setup.py", "setup.cfg", "MANIFEST.in"} & texts().keys()


def test_every_package_explains_itself_in_a_readme_and_says_what_to_touch_for_what() -> None:
    packages = {os.path.dirname(path) for path in texts() if path.endswith("/__init__.py")}
    explained = [path for path in packages if path in PACKAGES or re.fullmatch(r"adapters/\w+", path)]
    assert_none(f"{path} has no README.md" for path in sorted(explained) if f"{path}/README.md" not in texts())
    assert_none(
        f"{path}/README.md has no table of what to touch for what"
        for path in sorted(explained)
        if TO_CHANGE not in texts()[f"{path}/README.md"]
    )


# --- tests ----------------------------------------------------------------------------------------------------------


def test_tests_never_sleep() -> None:
    assert_none(over(sources("tests/"), rules.never_sleeps))


def test_every_test_asserts_something() -> None:
    written = [source for source in sources("tests/") if re.search(r"/(test_\w+|\w+_test)\.py$", source.path)]
    assert_none(over(written, rules.has_tests_that_assert))


# --- text -----------------------------------------------------------------------------------------------------------

# Put together from parts, so that this file keeps its own rules.
LATER = re.compile(rf"\b({'TO' + 'DO'}|{'FIX' + 'ME'})\b")
MACHINE_PATHS = re.compile(rf"(?<![\w.~\-])/({'|'.join(['work', 'root', 'Users', 'home'])})/\w")
REGISTRIES = re.compile("|".join(["https?://[^/ ]*py" + "pi", "python" + "hosted", "--(extra-)?" + "index-url"]))


def lines_with(pattern: re.Pattern[str], skip: str = r"(?!)") -> list[str]:
    return [
        f"{path}:{number}: {line.strip()[:120]}"
        for path, text in texts().items()
        if not re.search(skip, path)
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]


def test_nothing_is_left_for_later() -> None:
    assert_none(lines_with(LATER))


def test_no_file_names_a_path_of_one_machine() -> None:
    assert_none(lines_with(MACHINE_PATHS, skip="^deploy/"))  # a container has a /root and a /home of its own


def test_no_file_names_a_package_registry() -> None:
    assert_none(lines_with(REGISTRIES))


def test_every_extra_that_somebody_is_told_to_install_is_there() -> None:
    extras = tomllib.loads(texts()["pyproject.toml"])["project"]["optional-dependencies"]
    told = {name: path for path, text in texts().items() for name in re.findall(r"\binterlock\[(\w+)\]", text)}
    assert {"parquet", "ray"} <= told.keys()
    assert_none(f"{path}: interlock[{name}]" for name, path in told.items() if name not in extras)


def test_every_toml_file_parses() -> None:
    breaches = []
    for path, text in texts().items():
        if path.endswith(".toml"):
            try:
                tomllib.loads(text)
            except tomllib.TOMLDecodeError as problem:
                breaches.append(f"{path}: {problem}")
    assert_none(breaches)


def test_every_bundled_scenario_is_called_as_its_file_is() -> None:
    breaches = []
    for path, text in texts().items():
        if re.fullmatch(r"simulation/scenarios/[^/]+\.toml", path):
            scenario = tomllib.loads(text)
            if scenario.get("schema") != 1 or scenario.get("name") != Path(path).stem:
                breaches.append(f"{path}: schema = 1 and name = {Path(path).stem!r} are missing")
            if not scenario.get("description"):
                breaches.append(f"{path}: no description")
    assert_none(breaches)


def test_decision_records_are_numbered_once_each() -> None:
    records = sorted(path for path in texts() if re.match(r"docs/decisions/\d", path))
    numbers = [Path(path).name[:4] for path in records]
    assert records, "no decision record found"
    assert len(set(numbers)) == len(numbers), f"two records share a number: {numbers}"
    titled = [f"# {Path(path).name[:4]}: " for path in records]
    assert_none(p for p, title in zip(records, titled, strict=True) if not texts()[p].startswith(title))


# --- configuration --------------------------------------------------------------------------------------------------


def test_every_ignore_in_the_configuration_has_its_reason_beside_it() -> None:
    breaches, inside = [], False
    for number, line in enumerate(texts()["pyproject.toml"].splitlines(), start=1):
        opens = re.match(r'(ignore\w*|extend-exclude|exclude|"[^"]+\*\*") = (\[$)?', line)
        if (inside or (opens and not opens[2])) and line != "]" and "# " not in line:
            breaches.append(f"pyproject.toml:{number}: {line.strip()}")
        inside = (inside or bool(opens and opens[2])) and line != "]"
    assert_none(breaches)


def test_the_linter_and_these_rules_agree_on_what_is_impure() -> None:
    contracts = tomllib.loads(texts()["pyproject.toml"])["tool"]["importlinter"]["contracts"]
    (forbidden,) = [c["forbidden_modules"] for c in contracts if c.get("source_modules") == ["interlock.domain"]]
    assert set(forbidden) >= rules.IMPURE_MODULES


def test_the_lock_pins_everything_that_is_asked_for_by_hash() -> None:
    project = tomllib.loads(texts()["pyproject.toml"])
    asked = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    extras = project["project"]["optional-dependencies"]
    # What the lock pins is installed for everybody; who sweeps over machines or exports to Parquet installs these.
    heavy = [extras.pop(name) for name in ("ray", "parquet")]
    assert all(heavy)
    for group in (*extras.values(), *project["dependency-groups"].values()):
        asked += group
    pins = re.findall(
        r"^([A-Za-z0-9][\w.\-]*)==\S+(?: ;.*)? \\\n    --hash=sha256:", texts()["requirements.lock"], re.M
    )
    assert len(pins) == len(re.findall(r"^[A-Za-z0-9]", texts()["requirements.lock"], re.M))
    names = {re.split(r"[^\w.\-]", requirement)[0].lower() for requirement in asked}
    assert_none(f"{name} is not in requirements.lock; run: make lock" for name in sorted(names - set(pins)))


# --- the rules themselves -------------------------------------------------------------------------------------------

SILENT_TYPE = "x = f()  # type: " + "ignore"
SILENT_RUFF = "x = 1  # no" + "qa: E501"
TREE = frozenset({"Refused"})


def raises_from_tree(source: Source) -> Iterator[str]:
    return rules.raises_only_errors_of_the_tree(source, TREE)


PLANTED: list[tuple[Callable[[Source], Iterator[str]], str, str]] = [
    (is_pure, "import time", "import msgspec\nfrom datetime import UTC\nfrom . import errors"),
    (is_pure, "from uvloop import run", "from eventsourcing.domain import Aggregate"),
    (is_pure, "from interlock.adapters import store", "from interlock.domain import errors"),
    (rules.calls_no_clock_and_no_chance, "uuid.uuid4()", "uuid.uuid5(space, name)"),
    (rules.calls_no_clock_and_no_chance, "datetime.now(UTC)", "datetime.fromtimestamp(at, UTC)"),
    (rules.calls_no_clock_and_no_chance, "x = hash(y)", "class A:\n def __hash__(self): return hash(self.x)"),
    (rules.is_never_async, "async def f(): pass", "def f(): pass"),
    (rules.is_never_async, "class A:\n async def f(self): ...", "class A(Protocol):\n async def f(self): ..."),
    (rules.is_never_async, "class A(Protocol):\n async def f(self): await g()", "class A: pass"),
    (rules.counts_time_in_integers, "def f(now: float): pass", "def f(now: int, share: float): pass"),
    (rules.counts_time_in_integers, "class A:\n retry_at: float | None = None", "class A:\n retry_at: int = 0"),
    (rules.never_walks_a_set_in_hash_order, "for x in set(y): pass", "for x in sorted(set(y)): pass"),
    (rules.never_walks_a_set_in_hash_order, "x = [a for a in {b, c}]", "x = {a for a in {b, c}}"),
    (rules.says_what_it_is, "def f(): pass", ""),
    (rules.says_what_it_is, '"""A."""\nclass B: pass', '"""A."""\nclass B:\n "It is B."\ndef _c(): pass'),
    (rules.has_functions_that_fit_a_screen, "def f():\n" + " x()\n" * 55, "def f():\n" + " x()\n" * 54),
    (rules.is_a_module_of_bearable_length, "x = 1\n" * 801, "x = 1\n" * 800),
    (rules.silences_a_checker_only_with_a_reason, SILENT_TYPE, f"{SILENT_TYPE}[no-any-return]  # the library lies"),
    (rules.silences_a_checker_only_with_a_reason, SILENT_RUFF, f"{SILENT_RUFF}  # a URL in one piece"),
    (rules.imports_by_full_name, "from domain.errors import Refused", "from interlock.domain.errors import Refused"),
    (rules.imports_by_full_name, "import setuptools", "from importlib import metadata"),
    (raises_from_tree, "raise ValueError('x')", "raise ValueError('x')  # msgspec wants this one"),
    (raises_from_tree, "raise RuntimeError", "raise Refused('x')\nraise errors.Refused('x')\nraise problem\nraise"),
    (rules.imports_no_network_adapter, "import interlock.adapters.nats.client", "from interlock.adapters import sql"),
    (rules.never_sleeps, "time.sleep(1)", "await asyncio.sleep(0)"),
    (rules.has_tests_that_assert, "def test_a(): run()", "def run(): assert x\ndef test_a(): run()"),
    (rules.has_tests_that_assert, "def test_a(): pass", "def test_a():\n with pytest.raises(E): f()"),
]


@pytest.mark.parametrize(("rule", "breach", "well"), PLANTED, ids=[f"{r.__name__}-{b[:24]!r}" for r, b, _ in PLANTED])
def test_each_rule_sees_a_planted_breach(rule: Callable[[Source], Iterator[str]], breach: str, well: str) -> None:
    assert len(list(rule(Source("planted.py", breach)))) >= 1
    assert list(rule(Source("planted.py", well))) == []


def test_an_error_that_derives_from_the_tree_belongs_to_it() -> None:
    errors = Source("domain/errors.py", "class Root(Exception): pass")
    adapter = Source(
        "adapters/a.py", "class Mid(errors.Root): pass\nclass Leaf(Mid): pass\nclass Other(Exception): pass"
    )
    assert rules.error_tree(errors, [errors, adapter]) == {"Root", "Mid", "Leaf"}
