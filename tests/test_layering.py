"""Dependencies point one way, and a file that says it is pure is."""

import ast
from functools import cache
from pathlib import Path

import pytest

import jwt_middleware

ROOT = Path(jwt_middleware.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

WAITING = {
    *("anyio", "asyncio", "concurrent", "trio"),
    *("http", "httpx", "httpx2", "requests", "select", "selectors", "socket", "ssl", "starlette", "urllib3"),
    *("os", "pathlib", "redis", "sqlite3", "subprocess"),
}
"""What waits, reads or writes: no pure file imports it, nor anything of ours that does."""


ISSUING = ("jwt_middleware.issuing", "jwt_middleware.testing.store_contract")
"""The issuing half, and the contract of its stores."""


def module(path: Path) -> str:
    """The dotted name of the module in ``path``."""
    return ".".join(["jwt_middleware", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


MODULES = {module(path): path for path in FILES}


@cache
def imports(name: str) -> frozenset[str]:
    """Every module that ``name``, one of ours, imports anywhere in its text, by its whole name."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(filter(None, (start, node.module)))
            # `from . import compact` names modules, `from .compact import decode` what is in one.
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found |= (inner & MODULES.keys()) or {base}
    return frozenset(found)


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
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return docstring.partition("\n\n")[0].endswith("Pure.")


PURE = [name for name, path in MODULES.items() if is_pure(path)]


def test_the_core_says_that_it_is_pure() -> None:
    core = {
        "_support.arguments",
        "errors",
        "keys.key_set",
        "keys.loading",
        "keys.signatures",
        "reading.access",
        "reading.origins",
        "reading.sources",
        "revocation.revoked",
        "verifying.claims",
        "verifying.compact",
        "verifying.memory",
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
