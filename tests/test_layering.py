"""Dependencies point one way, a file that says it is pure is, and optional packages stay optional."""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from inspect import isclass
from pathlib import Path

import pytest

import jwt_middleware
from jwt_middleware import errors

ROOT = Path(jwt_middleware.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

WAITING = {
    *("anyio", "asyncio", "concurrent", "trio"),
    *("http", "httpx", "httpx2", "requests", "select", "selectors", "socket", "ssl", "starlette", "urllib3"),
    *("asyncpg", "os", "pathlib", "psycopg", "redis", "sqlalchemy", "sqlite3", "subprocess"),
}
"""What waits, reads or writes: no pure file imports it, nor anything of ours that does."""


ALWAYS_THERE = {"anyio", "cryptography", "jwt", "jwt_middleware", "starlette", *sys.stdlib_module_names}
"""What any file may import at its top: the package's declared dependencies and the standard library."""

INTEGRATIONS = {
    "jwt_middleware.blacksheep": {"blacksheep", "guardpost"},
    "jwt_middleware.django": {"asgiref", "django"},
    "jwt_middleware.fastapi": {"fastapi", "pydantic", "typing_extensions"},
    "jwt_middleware.fastmcp_demands": {"fastmcp"},
    "jwt_middleware.fastmcp_inner_calls": {"fastmcp"},
    "jwt_middleware.issuing.stores.sql_tables": {"sqlalchemy"},
    "jwt_middleware.issuing.testing": {"pytest"},
    "jwt_middleware.litestar": {"litestar"},
    "jwt_middleware.mcp": {"mcp", "pydantic"},
    "jwt_middleware.metrics.opentelemetry": {"opentelemetry"},
    "jwt_middleware.metrics.prometheus": {"prometheus_client"},
    "jwt_middleware.pytest_plugin": {"pytest"},
    "jwt_middleware.quart": {"quart", "werkzeug"},
    "jwt_middleware.rest_framework": {"rest_framework"},
    "jwt_middleware.socketio": {"socketio"},
    "jwt_middleware.strawberry": {"graphql", "strawberry"},
    "jwt_middleware.testing.store_contract": {"pytest"},
    "jwt_middleware.tracing": {"opentelemetry"},
}
"""Files and folders that are about an optional package, and what they may import at their top."""

MAX_LINES = 450
CATALOGUES = {"jwt_middleware.events"}
"""Files that may be longer: many small classes, to be looked up and not to be read through."""

ISSUING = (
    "jwt_middleware.issuing",
    "jwt_middleware.fastapi",
    "jwt_middleware.testing",
    "jwt_middleware.pytest_plugin",
    "jwt_middleware.cli",
    "jwt_middleware.__main__",
)
"""The issuing half, and what uses both halves: FastAPI, fakes for tests and the command line."""


def module(path: Path) -> str:
    """The dotted name of the module in ``path``."""
    return ".".join(["jwt_middleware", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


MODULES = {module(path): path for path in FILES}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text("utf-8"))


@cache
def imports(name: str) -> frozenset[str]:
    """Every module that ``name``, one of ours, imports anywhere in its text, by its whole name."""
    return frozenset(imported(name, ast.walk(tree(name))))


@cache
def imports_at_start(name: str) -> frozenset[str]:
    """The modules that are imported as soon as ``name``, one of ours, is."""
    return frozenset(imported(name, at_start(tree(name))))


def at_start(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when ``node`` is imported: all but the bodies of functions, and what is for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from at_start(child)


def imported(name: str, nodes: Iterator[ast.AST]) -> set[str]:
    """The modules that ``nodes`` of ``name`` import."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(filter(None, (start, node.module)))
            # `from . import compact` names modules, `from .compact import decode` what is in one.
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found |= (inner & MODULES.keys()) or {base}
    return found


@cache
def reached(name: str) -> frozenset[str]:
    """What ``name`` imports, and what ours among those import in turn."""
    found: set[str] = set()
    waiting = {name}
    while waiting:
        new = {imported for ours in waiting for imported in imports(ours)} - found
        found |= new
        waiting = new & MODULES.keys()
    return frozenset(found)


def is_pure(path: Path) -> bool:
    docstring = ast.get_docstring(tree(module(path))) or ""
    return docstring.partition("\n\n")[0].endswith("Pure.")


PURE = [name for name, path in MODULES.items() if is_pure(path)]


def test_the_core_says_that_it_is_pure() -> None:
    core = {
        "_support.arguments",
        "_support.redaction",
        "errors",
        "issuers",
        "keys.key_set",
        "keys.source",
        "keys.material",
        "keys.jwk",
        "keys.documents",
        "keys.disguises",
        "keys.algorithms",
        "keys.addresses",
        "keys.loading",
        "keys.schedule",
        "keys.signatures",
        "reading.access",
        "reading.origins",
        "reading.authorization",
        "reading.cookies",
        "reading.other_schemes",
        "reading.sources",
        "revocation.revoked",
        "verifying.claims",
        "verifying.compact",
        "verifying.decision",
        "verifying.memory",
        "verifying.token",
    }
    assert {f"jwt_middleware.{name}" for name in core} <= set(PURE)


@pytest.mark.parametrize("name", PURE)
def test_a_pure_file_imports_nothing_that_waits(name: str) -> None:
    assert not {imported for imported in reached(name) if imported.partition(".")[0] in WAITING}


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith(ISSUING)])
def test_the_verifying_half_does_not_import_the_issuing_half(name: str) -> None:
    assert not {imported for imported in reached(name) if imported.startswith(ISSUING)}


@pytest.mark.parametrize("name", MODULES)
def test_no_file_imports_itself_in_a_circle(name: str) -> None:
    assert name not in reached(name)


def test_the_imports_of_a_file_are_found_in_every_form() -> None:
    assert "jwt_middleware.errors" in imports("jwt_middleware.verifying.compact")
    assert "jwt_middleware.verifying.compact" in imports("jwt_middleware.verifying.verifier")
    assert "jwt_middleware.verifying.compact" in imports("jwt_middleware.issuing.issuer")
    assert "jwt_middleware.issuing.issuer" in imports("jwt_middleware.issuing")
    assert "starlette.requests" in reached("jwt_middleware")


def integration(name: str) -> set[str]:
    """The optional packages that ``name`` is about."""
    about = [packages for ours, packages in INTEGRATIONS.items() if f"{name}.".startswith(f"{ours}.")]
    return set().union(*about)


@pytest.mark.parametrize("name", MODULES)
def test_an_optional_package_is_imported_where_it_is_used(name: str) -> None:
    packages = {each.partition(".")[0] for each in imports_at_start(name)}
    assert packages <= ALWAYS_THERE | integration(name)


@pytest.mark.parametrize("name", [name for name in MODULES if not integration(name)])
def test_nothing_imports_an_integration_unasked(name: str) -> None:
    assert not {imported for imported in imports_at_start(name) & MODULES.keys() if integration(imported)}


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"jwt_middleware.telling"}))
def test_events_alone_are_logged(name: str) -> None:
    assert "getLogger" not in MODULES[name].read_text("utf-8")


@pytest.mark.parametrize("name", sorted(MODULES.keys() - CATALOGUES))
def test_a_file_can_be_read_in_one_sitting(name: str) -> None:
    assert len(MODULES[name].read_text("utf-8").splitlines()) <= MAX_LINES


def test_contributors_learn_which_file_makes_which_refusal() -> None:
    """CONTRIBUTING leads from the code in a log line to the file that raises it. Each code is there."""
    text = (ROOT.parent / "CONTRIBUTING.rst").read_text("utf-8")
    named: set[str] = set()
    for file, codes in re.findall(r"^``(\S+\.py)`` +(``\w+``.*(?:\n {30}.*)*)", text, re.MULTILINE):
        source = (ROOT / file).read_text("utf-8")
        for code in set(re.findall(r"``(\w+)``", codes)) & CLASSES.keys():
            assert re.search(rf"\b{CLASSES[code]}\b(?=[(.]|$|\))", source.partition("\n\n\n")[2], re.MULTILINE), code
            named.add(code)
    assert named == CLASSES.keys() - {"invalid_request", "invalid_token", "refused", "unavailable"}


CLASSES = {kind.code: name for name, kind in vars(errors).items() if isclass(kind) and issubclass(kind, errors.Refusal)}
