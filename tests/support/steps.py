"""How much work is a call? In bytecodes: unlike the time, they are the same on every run and machine."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def steps(function: Callable[[], object]) -> int:
    """The bytecodes that ``function()`` takes. What C code does inside a call does not count."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    def traced(call: Callable[[], object]) -> None:
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            call()
        finally:
            sys.settrace(before)

    # Python 3.12 counts bytecodes only from the second call on.
    traced(lambda: None)
    count = 0
    traced(function)
    return count
