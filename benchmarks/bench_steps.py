"""How many bytecodes and calls does a request take, and in which functions? The same on every run and machine.

Microseconds scatter on a busy machine; these counts do not, so a change to the request path is counted first. What C
code does within a call is not seen: for that there are the other benchmarks. Needs Python 3.12 or later.
"""

import sys
from argparse import ArgumentParser
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import CodeType
from typing import Any

from harness import bare_app
from tokens import ALGORITHMS, AUDIENCE, ISSUER, Issuer, forged, http_scope, issuer

from jwt_middleware import JWTMiddleware

CASES = ("remembered", "new", "bad signature", "no token")
MONITORING: Any = getattr(sys, "monitoring", None)
OURS = (__file__, bare_app.__code__.co_filename)
"""The files whose own steps do not count."""


class Steps:
    """Counts bytecodes and calls by function while it is entered."""

    def __init__(self) -> None:
        self.bytecodes: Counter[CodeType] = Counter()
        self.calls: Counter[CodeType] = Counter()

    def __enter__(self) -> "Steps":
        events, tool = MONITORING.events, MONITORING.PROFILER_ID
        MONITORING.use_tool_id(tool, "bench_steps")
        MONITORING.register_callback(tool, events.INSTRUCTION, self._see_instruction)
        MONITORING.register_callback(tool, events.CALL, self._see_call)
        MONITORING.set_events(tool, events.INSTRUCTION | events.CALL)
        return self

    def __exit__(self, *exception: object) -> None:
        MONITORING.set_events(MONITORING.PROFILER_ID, 0)
        MONITORING.free_tool_id(MONITORING.PROFILER_ID)

    def _see_instruction(self, code: CodeType, offset: int) -> object:
        if code.co_filename in OURS:
            return MONITORING.DISABLE
        self.bytecodes[code] += 1
        return None

    def _see_call(self, code: CodeType, offset: int, function: object, argument: object) -> object:
        if code.co_filename in OURS:
            return MONITORING.DISABLE
        self.calls[code] += 1
        return None


async def send(message: object) -> None:
    pass


def count(middleware: JWTMiddleware, token: bytes | None) -> Steps:
    """The steps of one request, from the call of the middleware to its end."""
    never: Any = None
    request = middleware(http_scope(token), never, send)
    with Steps() as steps, suppress(StopIteration):
        request.send(None)
    return steps


def count_cases(signer: Issuer) -> dict[str, Steps]:
    middleware = JWTMiddleware(
        bare_app, key=signer.verifying_key, algorithms=[signer.algorithm], audience=AUDIENCE, issuer=ISSUER
    )
    # The first requests make what is kept: parsed headers, prepared keys, answers.
    bad = forged(signer.token(50))
    for token in (*map(signer.token, range(50)), bad, None):
        count(middleware, token)
    tokens = dict(zip(CASES, (signer.token(7), signer.token(51), bad, None), strict=True))
    return {case: count(middleware, token) for case, token in tokens.items()}


def main() -> None:
    arguments = ArgumentParser(description=__doc__)
    arguments.add_argument("algorithms", nargs="*", default=ALGORITHMS, metavar="ALGORITHM")
    arguments.add_argument("--where", choices=CASES, help="show the functions in which this case spends them")
    given = arguments.parse_args()
    print(f"{'':22} bytecodes  calls")
    for algorithm in given.algorithms:
        for case, steps in count_cases(issuer(algorithm)).items():
            print(f"{algorithm:6} {case:15} {steps.bytecodes.total():9}  {steps.calls.total():5}")
            for code, number in steps.bytecodes.most_common() if case == given.where else ():
                where = f"{Path(code.co_filename).name}:{code.co_qualname}"
                print(f"{'':7}{where:55} {number:9}  {steps.calls[code]:5}")


if __name__ == "__main__":
    main()
