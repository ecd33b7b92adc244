"""Where do the microseconds go? Those of a new token, step by step, and those of a remembered one inside a server."""

import asyncio
import json
import subprocess
import sys
from argparse import ArgumentParser
from binascii import a2b_base64
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from shutil import which
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter_ns, time
from typing import Any
from urllib.request import urlopen

from bench_server import CONNECTIONS, contestant, pin, run
from harness import OURS, Added, Contestant, Workload, bare_app, measure, publish, table
from peers import installed
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from tokens import ALGORITHMS, AUDIENCE, Issuer, issuer

from jwt_middleware import JWTMiddleware, Provider, Token, Verifier
from jwt_middleware.identity import JWTCredentials, JWTUser
from jwt_middleware.reading.authorization import authorization_line
from jwt_middleware.refuser import Refuser
from jwt_middleware.verifying.compact import decode, json_object
from jwt_middleware.verifying.token import Facts

STEPS = [
    "the signature, by the prepared key",
    "base64 and JSON, as C reads them",
    "one spelling only, no name twice",
    "which key; the claims",
    "user and credentials",
    "the decision over providers, and memory",
    "the ASGI shell",
]
"""What each adds to those before it."""


def steps(by: Issuer) -> list[Contestant]:
    verifier = Verifier(Provider(key=by.text, audience=AUDIENCE))
    (provider,) = verifier.providers
    keys, rules, refuser = provider.keys.current, provider.rules, Refuser()
    (key,) = keys.keys
    segment, known, *_ = decode(by.token(0))
    headers = {segment: known}
    prepared = [decode(token) for token in islice(by.new_tokens(), 200)]
    signed = cycle((signing_input, signature) for _, _, _, signing_input, signature in prepared)
    scan = json.JSONDecoder().raw_decode

    def verify(line: bytes, scope: Scope) -> None:
        key.verifies(by.algorithm, *next(signed))

    def read(line: bytes, scope: Scope) -> None:
        signing_input, _, signature = line[7:].rpartition(b".")
        payload = signing_input.partition(b".")[2]
        if key.verifies(by.algorithm, signing_input, a2b_base64(signature.translate(_STANDARD) + b"==")):
            claims, _ = scan(a2b_base64(payload.translate(_STANDARD) + b"==").decode())
            scope["user"] = claims

    def read_strictly(line: bytes, scope: Scope) -> None:
        _, _, payload, signing_input, signature = decode(line[7:], headers)
        scope["user"] = json_object(payload)
        key.verifies(by.algorithm, signing_input, signature)

    def judge(line: bytes, scope: Scope) -> Facts:
        _, header, payload, signing_input, signature = decode(line[7:], headers)
        claims = json_object(payload)
        for candidate in keys.find(header.kid, header.algorithm):
            candidate.verifies(header.algorithm, signing_input, signature)
        _, facts = rules.check(header, payload, claims, time())
        return facts

    def attach(line: bytes, scope: Scope) -> None:
        token = Token(judge(line, scope))
        scope["auth"], scope["user"] = JWTCredentials(token, refuser), JWTUser(token)

    def decide(line: bytes, scope: Scope) -> None:
        token = verifier.judge(line[7:], line)
        assert isinstance(token, Token)
        scope["auth"], scope["user"] = JWTCredentials(token, refuser), JWTUser(token)

    apps = [_that_does(step) for step in (verify, read, read_strictly, judge, attach, decide)]
    apps.append(JWTMiddleware(bare_app, key=by.text, audience=AUDIENCE))
    return [Contestant(step, app, bare_app) for step, app in zip(STEPS, apps, strict=True)]


_STANDARD = bytes.maketrans(b"-_", b"+/")


def _that_does(step: Callable[[bytes, Scope], object]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            line = authorization_line(scope["headers"])
            assert line is not None
            step(line, scope)
        await bare_app(scope, receive, send)

    return app


def by_step(results: Sequence[Added]) -> list[list[str]]:
    """A row for each step: what it adds to those before it, by algorithm."""
    rows = []
    for number, step in enumerate(STEPS):
        found = [result.median for result in results if result.contestant == step]
        before = [result.median for result in results if number and result.contestant == STEPS[number - 1]]
        rows.append([step, *(f"{a - b:.1f}" for a, b in zip(found, before or [0.0] * len(found), strict=True))])
    rows.append(["together", *(f"{result.median:.1f}" for result in results if result.contestant == STEPS[-1])])
    return rows


# Each request asks for the next of the apps, so that whatever disturbs the machine falls on all of them.
SCRIPT = """\
local requests, number = {}, 0
function init(args)
  for place = 2, #args do
    requests[#requests + 1] = wrk.format("GET", "/" .. args[place], {Authorization = "Bearer " .. args[1]})
  end
end
function request()
  number = number % #requests + 1
  return requests[number]
end
"""

INSIDE = [OURS, "pure ASGI + ryjwt", "pure ASGI + PyJWT"]


def serve(names: Sequence[str]) -> None:
    """Serves, in a process started for it, and times each request; ``/found`` answers with the times."""
    apps = [bare_app, *(contestant(name).app for name in names)]
    taken: list[list[int]] = [[] for _ in apps]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await bare_app(scope, receive, send)
            return
        if scope["path"] == "/found":
            bare, *others = (median(each) / 1e3 for each in taken)
            await JSONResponse([bare, *(each - bare for each in others)])(scope, receive, send)
            return
        place = int(scope["path"][1:])
        start = perf_counter_ns()
        await apps[place](scope, receive, send)
        taken[place].append(perf_counter_ns() - start)

    run(app)


def inside(names: Sequence[str], seconds: int) -> list[float]:
    """Microseconds that the bare app takes inside a server, and those that each of ``names`` adds to it."""
    command = [sys.executable, __file__, "--serve", *names]
    with TemporaryDirectory() as folder, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            script = Path(folder) / "apps.lua"
            script.write_text(SCRIPT, encoding="utf-8")
            pin(1)
            how = ["-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script)]
            places = [str(place) for place in range(len(names) + 1)]
            token = issuer("HS256").token(0).decode("ascii")
            subprocess.run(
                ["wrk", *how, f"http://127.0.0.1:{port}/", "--", token, *places], capture_output=True, check=True
            )
            with urlopen(f"http://127.0.0.1:{port}/found") as answer:
                found: list[float] = json.load(answer)
            return found
        finally:
            process.terminate()


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--requests", type=int, default=100, help="of each kind in a round")
    parser.add_argument("--seconds", type=int, default=15, help="that the server is asked")
    parser.add_argument("--serve", nargs="+", help="(used by the benchmark itself)")
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    workloads = []
    for algorithm in ALGORITHMS:
        by = issuer(algorithm)
        workloads.append(Workload(f"cold {algorithm}", by.new_tokens(), steps(by)))
    results = asyncio.run(measure(workloads, rounds=options.rounds, requests=options.requests))
    report = table(
        "A new token: microseconds that each step adds to those before it", ["", *ALGORITHMS], by_step(results)
    )
    figures: dict[str, Any] = {"steps": results}
    if which("wrk") is None:
        report += "wrk is not installed: nothing was measured inside a server\n"
    else:
        there = {OURS, *(peer.name for peer in installed()[0])}
        names = [name for name in INSIDE if name in there]
        bare, *added = figures["inside"] = inside(names, options.seconds)
        report += "\n" + table(
            "A remembered token, inside uvicorn: microseconds from the call of the app until it returns",
            ["", "median"],
            [["bare app", f"{bare:.1f}"], *([name, f"+{each:.1f}"] for name, each in zip(names, added, strict=True))],
        )
    publish("profile", report, figures, ["uvicorn", "uvloop", "httptools"])


if __name__ == "__main__":
    main()
