"""Which programs and commands do the README and the documentation show?"""

import re
import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest
from starlette.applications import Starlette

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = ("README.rst", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.rst")))

_BLOCK = re.compile(r"^( *)\.\. code-block:: (\w+)\n((?:\1 +:.*\n)*)\n((?:\1 {3,}.*\n|\n)+)", re.MULTILINE)
_INCLUDED = re.compile(r"^\.\. literalinclude:: (\S+)\n +:language: (python)\n +:caption: (main\.py)\n", re.MULTILINE)
_NUMBERS = count(1)


@dataclass(frozen=True, slots=True)
class Block:
    """A literal block: its document, its first line there, its language, its caption (or name) or "", and its text."""

    document: str
    line: int
    language: str
    caption: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def text(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str) -> list[Block]:
    """The blocks of ``document``, in their order."""
    whole = _INCLUDED.sub(lambda match: _shown(document, *match.groups()), text(document))
    found = []
    for match in _BLOCK.finditer(whole):
        caption = re.search(r":(?:caption|name): (.*)", match[3])
        line = whole.count("\n", 0, match.start(4)) + 1
        shown = dedent(match[4]).rstrip("\n") + "\n"
        found.append(Block(document, line, match[2], caption[1] if caption else "", shown))
    return found


def _shown(document: str, path: str, language: str, caption: str) -> str:
    """A file that ``document`` shows, as a block of its own."""
    lines = ((ROOT / document).parent / path).read_text(encoding="utf-8").splitlines()
    return "\n".join(
        [f".. code-block:: {language}", f"    :caption: {caption}", "", *("    " + line for line in lines), ""]
    )


def python_blocks() -> list[Block]:
    return [block for document in DOCUMENTS for block in blocks(document) if block.language == "python"]


def run(block: Block) -> dict[str, Any]:
    """The names that ``block`` defines, copied literally into a module of its own; its app is built as at start-up."""
    # Dataclasses and FastAPI look modules up by their names.
    module = ModuleType(f"shown_{next(_NUMBERS)}")
    sys.modules[module.__name__] = module
    try:
        exec(compile(block.text, str(block), "exec", dont_inherit=True), vars(module))
        app = vars(module).get("app")
        if isinstance(app, Starlette):
            app.build_middleware_stack()
    finally:
        del sys.modules[module.__name__]
    return vars(module)


def example(document: str, *parts: str) -> dict[str, Any]:
    """The names of the one block of ``document`` that has all of ``parts``."""
    fitting = [
        block for block in blocks(document) if block.language == "python" and all(part in block.text for part in parts)
    ]
    if len(fitting) != 1:
        pytest.fail(f"{len(fitting)} blocks of {document} have {parts}")
    return run(fitting[0])
