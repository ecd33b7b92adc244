"""Does a request cost more when more is configured (keys, issuers, audiences, public paths) or remembered?"""

import asyncio
from argparse import ArgumentParser
from collections.abc import Sequence
from itertools import cycle, repeat
from typing import Any

from harness import OURS, Added, Contestant, Workload, bare_app, measure, publish, table
from tokens import AUDIENCE, ISSUER, SECRET, b64, issuer

from jwt_middleware import JWTMiddleware, Provider

FEW, MANY = 1, 10_000


def workloads() -> list[Workload]:
    made = []
    secret = issuer("HS256")
    for number in (FEW, MANY):
        contestant = Contestant(OURS, JWTMiddleware(bare_app, key=SECRET, audience=AUDIENCE), bare_app)
        tokens = [secret.token(each) for each in range(number)]
        made.append(Workload(f"warm, {number} tokens in turn", cycle(tokens), [contestant], seen=tokens))
    for what in ("kids", "issuers", "audiences", "public paths"):
        for number in (FEW, MANY):
            contestant = Contestant(OURS, JWTMiddleware(bare_app, **_options(what, number)), bare_app)
            # The last of them: what is looked for from the front to the back is found there at its dearest.
            by = issuer("HS256", kid=f"key-{number - 1}") if what == "kids" else secret
            made += [
                Workload(f"warm, {number} {what}", repeat(by.token(0)), [contestant]),
                Workload(f"cold, {number} {what}", by.new_tokens(), [contestant]),
            ]
            if what == "public paths":
                made.append(Workload(f"no token, {number} {what}", repeat(None), [contestant]))
    return made


def _options(what: str, number: int) -> dict[str, Any]:
    numbers = range(number)
    options: dict[str, Any] = {"key": SECRET, "audience": AUDIENCE}
    match what:
        case "kids":
            secrets = [f"another secret of 32 bytes: {each:05}".encode() for each in numbers[:-1]] + [SECRET.encode()]
            jwks = [{"kty": "oct", "kid": f"key-{each}", "k": b64(secrets[each]).decode()} for each in numbers]
            return {**options, "key": {"keys": jwks}}
        case "issuers":
            issuers = [f"https://login-{each}.example" for each in numbers[:-1]] + [ISSUER]
            return {"providers": [Provider(name=each, issuer=each, **options) for each in issuers]}
        case "audiences":
            return {**options, "audience": [f"orders-{each}" for each in numbers[:-1]] + [AUDIENCE]}
        case _:
            return {**options, "public": [f"/open/{each}/*" for each in numbers] + ["/"]}


def report(results: Sequence[Added]) -> str:
    added = {result.workload: result for result in results}
    rows = []
    for name, few in added.items():
        if f" {FEW} " in name:
            many = added[name.replace(f" {FEW} ", f" {MANY} ")]
            rows.append(
                [
                    name.replace(f" {FEW} ", " "),
                    f"{few.median:.2f}",
                    f"{many.median:.2f}",
                    f"{many.median / few.median:.2f}",
                ]
            )
    return table("Microseconds added over the bare app", ["", f"with {FEW:,}", f"with {MANY:,}", "times"], rows)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--requests", type=int, default=100, help="of each kind in a round")
    options = parser.parse_args()
    results = asyncio.run(measure(workloads(), rounds=options.rounds, requests=options.requests))
    publish("growth", report(results), {"added_microseconds": results}, ())


if __name__ == "__main__":
    main()
