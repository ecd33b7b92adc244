"""Tests pin promises: none touches a private name of the package, unless a comment says why there is no other way.

Such a comment begins with ``# Private:``, and stands at the end of the line or above it.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

import jwt_middleware

TESTS = Path(__file__).parent
PACKAGE = Path(jwt_middleware.__file__).parent

BY_NAME = {"getattr", "setattr", "hasattr", "delattr"}
"""What takes the name of an attribute as a text: built in, or a method of pytest's ``monkeypatch``."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def private_names(tree: ast.AST) -> set[str]:
    """The private attributes, functions and classes that ``tree`` makes."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
    return {name for name in names if is_private(name)}


def used(tree: ast.AST) -> list[tuple[int, str]]:
    """Every private name that ``tree`` uses of anything but ``self``, with its line."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                continue
            case ast.Attribute(attr=name, end_lineno=int(line)):
                found.append((line, name))
            case ast.ImportFrom(names=aliases, lineno=line):
                found += [(line, alias.name) for alias in aliases]
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr" | "hasattr" | "delattr")
                | ast.Attribute(attr="setattr" | "delattr"),
                args=arguments,
                lineno=line,
            ):
                texts = [argument.value for argument in arguments if isinstance(argument, ast.Constant)]
                found += [(line, text.rpartition(".")[2]) for text in texts if isinstance(text, str)]
    return [(line, name) for line, name in found if is_private(name)]


def unexplained(text: str, private: set[str]) -> list[str]:
    """The uses of ``private`` names in ``text`` that no comment explains."""
    lines = text.splitlines()

    def is_explained(line: int) -> bool:
        above = line - 1
        while above > 0 and lines[above - 1].lstrip().startswith("#"):
            above -= 1
        return any("# Private: " in each for each in lines[above:line])

    uses = sorted(set(used(ast.parse(text))))
    return [f"line {line}: {name}" for line, name in uses if name in private and not is_explained(line)]


@cache
def private_names_of_package() -> set[str]:
    return set().union(*(private_names(ast.parse(path.read_text("utf-8"))) for path in PACKAGE.rglob("*.py")))


@pytest.mark.parametrize("path", [path.relative_to(TESTS).as_posix() for path in sorted(TESTS.rglob("*.py"))])
def test_a_test_touches_no_private_name_without_saying_why(path: str) -> None:
    assert unexplained((TESTS / path).read_text("utf-8"), private_names_of_package()) == []


@pytest.mark.parametrize(
    "text",
    [
        "verifier._memory.clear()",
        "x = 1  # Why not?\nx = verifier._memory",
        "verifier._memory = {}",
        "from jwt_middleware.verifying.verifier import _memory",
        "getattr(verifier, '_memory')",
        "monkeypatch.setattr(verifier, '_memory', {})",
        "monkeypatch.setattr('jwt_middleware.verifying.verifier._memory', {})",
    ],
)
def test_every_use_is_found(text: str) -> None:
    assert len(unexplained(text, {"_memory"})) == 1


@pytest.mark.parametrize(
    "text",
    [
        "verifier.memory",
        "os._exit(0)",
        "self._memory",
        "verifier._memory  # Private: nothing else shows what it holds.",
        "# Private: nothing else shows what it holds,\n# and it must be bounded.\nverifier._memory",
    ],
)
def test_what_is_public_our_own_or_explained_is_not_found(text: str) -> None:
    assert unexplained(text, {"_memory"}) == []
