"""How are several names put into one line? Pure."""

from collections.abc import Iterable

MAX_LISTED = 5
"""The number of names that an operator is told: more would only make the line longer."""


def list_names(names: Iterable[str]) -> str:
    """Return ``names`` in their order, with commas between them; five at most."""
    several = sorted(names)
    return ", ".join(several[:MAX_LISTED]) + (", ..." if len(several) > MAX_LISTED else "")
