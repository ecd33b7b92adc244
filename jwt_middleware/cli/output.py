"""How are results shown? As text for people, in colour on a terminal only, or as JSON for programs."""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final, TextIO

_COLOURS: Final = {"green": "32", "red": "31", "yellow": "33", "dim": "2", "bold": "1"}


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """``text`` in ``colour`` if ``stream`` is a terminal and NO_COLOR is not set (https://no-color.org)."""
    shown_on: TextIO = stream or sys.stdout
    if not shown_on.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def show(*lines: str) -> None:
    """Print ``lines``; what is not printable in them is escaped."""
    for line in lines:
        print("".join(c if c.isprintable() or c == "\x1b" else ascii(c)[1:-1] for c in line))  # noqa: T201  # a program


def show_json(value: Mapping[str, Any]) -> None:
    """Print ``value`` as indented JSON, in ASCII: every terminal and every program can read that."""
    print(json.dumps(value, indent=2, default=str))  # noqa: T201  # a program prints


def show_table(rows: Iterable[tuple[str, str]], *, indent: str = "  ") -> None:
    """Print names and values in two columns."""
    several = list(rows)
    width = max((len(name) for name, _ in several), default=0)
    show(*(f"{indent}{name:<{width}}  {value}" for name, value in several))


def warn(line: str) -> None:
    """Print ``line`` to the error stream."""
    print(paint(line, "yellow", sys.stderr), file=sys.stderr)  # noqa: T201  # a program prints
