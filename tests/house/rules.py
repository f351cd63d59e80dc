"""The house rules as functions: each takes one source file and yields a line for every breach.

``test_house_rules.py`` runs them over the tree, and over a planted breach each, so that no rule passes by being blind.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

FUNCTION_LINES_MAX = 55
MODULE_LINES_MAX = 800


@dataclass(frozen=True)
class Source:
    """One Python file: where it is, relative to the top of the repository, and what it says."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @cached_property
    def comments(self) -> dict[int, str]:
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}

    def breach(self, line: int, problem: str) -> str:
        return f"{self.path}:{line}: {problem}"

    def imports(self) -> Iterator[tuple[int, str]]:
        """Every absolute import as (line, dotted name); ``from a import b`` is ``a.b``."""
        for node in self.nodes:
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def dotted(node: ast.AST) -> str:
    """``a.b.c`` for a name or attribute, without the calls and subscripts on the way; else empty."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        left = dotted(node.value)
        return f"{left}.{node.attr}" if left else node.attr
    return ""


# --- The domain is deterministic ------------------------------------------------------------------------------------

IMPURE_MODULES = frozenset({
    "asyncio", "concurrent", "ctypes", "http", "io", "logging", "multiprocessing", "os", "pathlib", "queue",
    "random", "secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess",
    "tempfile", "threading", "time", "urllib", "zoneinfo",
})  # fmt: skip
DOMAIN_LIBRARIES = frozenset({"eventsourcing", "interlock.domain", "msgspec"})
IMPURE_CALLS = re.compile(
    r"(^|\.)(uuid1|uuid4|getnode)$"
    r"|(^|\.)(datetime|date)\.(now|utcnow|today)$"
    r"|^(open|input|print|exec|eval|id|hash|breakpoint)$"
)
NAMES_OF_TIMES = re.compile(
    r"(^|_)(now|at|until|since|instant|time|deadline|delay|interval|duration|timeout|age|lease|residency|silence)$"
    r"|_(s|ms|us|ns|seconds|millis|micros|nanos)$"
)


def imports_only_what_is_pure(source: Source, standard_library: Iterable[str]) -> Iterator[str]:
    for line, name in source.imports():
        root = name.split(".")[0]
        if root in IMPURE_MODULES:
            yield source.breach(line, f"{root} reaches outside the core; time, ids and input come in with the command")
        elif root not in standard_library and not any(f"{name}.".startswith(f"{ok}.") for ok in DOMAIN_LIBRARIES):
            yield source.breach(line, f"{name} is not for the domain: standard library, msgspec and eventsourcing are")


def calls_no_clock_and_no_chance(source: Source) -> Iterator[str]:
    within_hash = {
        id(inner)
        for node in source.nodes
        if isinstance(node, ast.FunctionDef) and node.name == "__hash__"
        for inner in ast.walk(node)
    }
    for node in source.nodes:
        if isinstance(node, ast.Call) and id(node) not in within_hash and IMPURE_CALLS.search(dotted(node.func)):
            yield source.breach(node.lineno, f"{dotted(node.func)}() answers differently from one run to the next")


def is_never_async(source: Source) -> Iterator[str]:
    """No async and no await; a port may say that its method is async, since whoever implements it is outside."""
    signatures = {
        id(member)
        for node in source.nodes
        if isinstance(node, ast.ClassDef) and "Protocol" in [dotted(base).split(".")[-1] for base in node.bases]
        for member in node.body
        if isinstance(member, ast.AsyncFunctionDef)
        and all(isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant) for s in member.body)
    }
    for node in source.nodes:
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith) and (
            id(node) not in signatures
        ):
            yield source.breach(node.lineno, "the domain does not wait: no async, no await")


def counts_time_in_integers(source: Source) -> Iterator[str]:
    for node in source.nodes:
        if isinstance(node, ast.arg):
            name, annotation = node.arg, node.annotation
        elif isinstance(node, ast.AnnAssign):
            name, annotation = dotted(node.target).split(".")[-1], node.annotation
        elif isinstance(node, ast.FunctionDef):
            name, annotation = node.name, node.returns
        else:
            continue
        floats = annotation is not None and re.search(r"\bfloat\b", ast.unparse(annotation))
        if floats and NAMES_OF_TIMES.search(name):
            yield source.breach(node.lineno, f"{name} is a time and a float; the core counts whole microseconds")


def never_walks_a_set_in_hash_order(source: Source) -> Iterator[str]:
    def is_set(node: ast.AST) -> bool:
        made = isinstance(node, ast.Call) and dotted(node.func) in {"set", "frozenset"}
        return made or isinstance(node, ast.Set | ast.SetComp)

    for node in source.nodes:
        walked: list[ast.AST] = []
        if isinstance(node, ast.For):
            walked = [node.iter]
        elif isinstance(node, ast.ListComp | ast.DictComp):
            walked = [generator.iter for generator in node.generators]
        elif isinstance(node, ast.Call) and dotted(node.func) in {"list", "tuple", "enumerate", "iter"}:
            walked = list(node.args)
        for found in filter(is_set, walked):
            yield source.breach(node.lineno, f"{ast.unparse(found)} comes in hash order; sort it")


def says_what_it_is(source: Source) -> Iterator[str]:
    """The module, and each public class and function at its top, has a docstring. An empty file has nothing to say."""
    if not source.tree.body:
        return
    if ast.get_docstring(source.tree) is None:
        yield source.breach(1, "the module has no docstring")
    for node in source.tree.body:
        public = isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
        if public and ast.get_docstring(node) is None:
            yield source.breach(node.lineno, f"{node.name} has no docstring")


# --- Every file is fit to read --------------------------------------------------------------------------------------


def has_functions_that_fit_a_screen(source: Source) -> Iterator[str]:
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield source.breach(node.lineno, f"{node.name} has {lines} lines; at most {FUNCTION_LINES_MAX}")


def is_a_module_of_bearable_length(source: Source) -> Iterator[str]:
    lines = source.text.count("\n")
    if lines > MODULE_LINES_MAX:
        yield source.breach(1, f"the module has {lines} lines; at most {MODULE_LINES_MAX}")


SILENCER = re.compile(
    r"#\s*(?P<what>type:\s*ignore(?P<code>\[[\w\-, ]+\])?"
    r"|(?:ruff:\s*)?noqa(?P<codes>:\s*[A-Z]+[0-9]+(?:[,\s]+[A-Z]+[0-9]+)*)?)(?P<rest>.*)"
)


def silences_a_checker_only_with_a_reason(source: Source) -> Iterator[str]:
    for line, comment in source.comments.items():
        found = SILENCER.search(comment)
        if not found:
            continue
        what = found["what"].strip()
        if not (found["code"] or found["codes"]):
            yield source.breach(line, f"{what!r} names no code")
        if not re.search(r"#\s*\w+\W+\w+", found["rest"]):
            yield source.breach(line, f"{what!r} gives no reason; add one behind it: {what}  # because ...")


def imports_by_full_name(source: Source) -> Iterator[str]:
    for line, name in source.imports():
        root = name.split(".")[0]
        if root in {"domain", "adapters", "simulation"}:
            yield source.breach(line, f"import interlock.{root}: the bare name makes a second copy of every class")
        if root in {"setuptools", "pkg_resources", "distutils"}:
            yield source.breach(line, f"{root} is no part of a running environment; importlib.metadata is")


# --- Errors come from one tree --------------------------------------------------------------------------------------

# Not failures but control flow, or the language's own way to say "to be overridden" and "cannot happen".
RAISED_FREELY = frozenset({
    "AssertionError", "CancelledError", "GeneratorExit", "KeyboardInterrupt", "NotImplementedError",
    "StopAsyncIteration", "StopIteration", "SystemExit",
})  # fmt: skip
# A framework's own vocabulary, spoken to that framework.
FRAMEWORK_ERRORS = re.compile(r"^(click|web|aiohttp\.web)\.")


def error_tree(errors: Source, others: Iterable[Source]) -> frozenset[str]:
    """The names of the classes in domain/errors.py, and of all that derive from them."""
    known = {node.name for node in errors.tree.body if isinstance(node, ast.ClassDef)}
    classes = [node for source in others for node in source.nodes if isinstance(node, ast.ClassDef)]
    while True:
        derived = {node.name for node in classes if any(dotted(b).split(".")[-1] in known for b in node.bases)}
        if derived <= known:
            return frozenset(known)
        known |= derived


def raises_only_errors_of_the_tree(source: Source, tree: frozenset[str]) -> Iterator[str]:
    for node in source.nodes:
        if not isinstance(node, ast.Raise) or node.exc is None:
            continue
        raised = dotted(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
        name = raised.split(".")[-1]
        is_a_class = name[:1].isupper()  # else a caught error on its way on, or a function that makes one
        if not is_a_class or name in tree or name in RAISED_FREELY or FRAMEWORK_ERRORS.match(raised):
            continue
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        if not any(re.search(r"#\s*\w+\W+\w+", source.comments.get(line, "")) for line in lines):
            yield source.breach(node.lineno, f"{raised} is not in domain/errors.py; a comment on the line may say why")


# --- Simulation stays off the network -------------------------------------------------------------------------------

NETWORK_ADAPTERS = ("cli", "gateway", "grpc", "http", "nats", "store.postgres", "worker", "workers")


def imports_no_network_adapter(source: Source) -> Iterator[str]:
    for line, name in source.imports():
        for adapter in NETWORK_ADAPTERS:
            if f"{name}.".startswith(f"interlock.adapters.{adapter}."):
                yield source.breach(line, f"{name} touches a network")


# --- Tests ----------------------------------------------------------------------------------------------------------

CHECKS = re.compile(r"^(assert|check|expect|verify)|^(raises|warns|fail)$", re.IGNORECASE)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def never_sleeps(source: Source) -> Iterator[str]:
    for line, name in source.imports():
        if name == "time.sleep":
            yield source.breach(line, "a test waits for what it needs, not for a length of time")
    for node in source.nodes:
        if isinstance(node, ast.Call) and dotted(node.func) == "time.sleep":
            yield source.breach(node.lineno, "a test waits for what it needs, not for a length of time")


def has_tests_that_assert(source: Source) -> Iterator[str]:
    """Each test asserts, expects an error, or calls something that does: a helper in the file, or one named so."""
    functions = [node for node in source.nodes if isinstance(node, Function)]

    def asserts(function: Function, asserting: set[str]) -> bool:
        for node in ast.walk(function):
            if isinstance(node, ast.Assert):
                return True
            if isinstance(node, ast.Call):
                name = dotted(node.func).split(".")[-1]
                if CHECKS.search(name) or name in asserting or (name.startswith("test") and name != function.name):
                    return True
                if name == function.name and ast.unparse(node.func).startswith("super()"):
                    return True
        return False

    asserting: set[str] = set()
    while more := {f.name for f in functions if f.name not in asserting and asserts(f, asserting)}:
        asserting |= more
    for function in functions:
        if function.name.startswith("test") and not asserts(function, asserting):
            yield source.breach(function.lineno, f"{function.name} asserts nothing")
