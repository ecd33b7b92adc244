"""What does the middleware add to a request, warm and cold, and what do its peers add?"""

import asyncio
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from hmac import compare_digest, digest
from itertools import cycle, islice, repeat
from operator import attrgetter
from time import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from harness import OURS, Added, Contestant, Workload, bare_app, measure, publish, table
from peers import installed
from plot import bars
from starlette.types import ASGIApp, Receive, Scope, Send
from tokens import ALGORITHMS, AUDIENCE, MANY_CLAIMS, NOW, Issuer, forged, issuer

from jwt_middleware import JWTMiddleware

LOOK_UP = "bare scan and look-up"
VERIFY = "bare verify of the signature"
PUBLIC = ["/health", "/docs/*", "/openapi.json", "GET /items/*", "/auth/*"]


def workloads(with_peers: bool) -> list[Workload]:
    issuers = {algorithm: issuer(algorithm) for algorithm in ALGORITHMS}
    secret = issuers["HS256"]
    many = [secret.token(number) for number in range(10_000)]
    one, big = secret.token(0), secret.token(0, **MANY_CLAIMS)

    def ours(app: ASGIApp = bare_app, by: Issuer = secret, **options: Any) -> Contestant:
        return Contestant(OURS, JWTMiddleware(app, key=by.text, audience=AUDIENCE, **options), bare_app)

    def peers(algorithm: str = "HS256") -> list[Contestant]:
        there = installed()[0] if with_peers else []
        return [peer.contestant(issuers[algorithm]) for peer in there if algorithm in peer.algorithms]

    return [
        Workload("warm HS256", repeat(one), [Contestant(LOOK_UP, _looks_up(one), bare_app), ours(), *peers()]),
        *(
            Workload(f"warm {algorithm}", repeat(issuers[algorithm].token(0)), [ours(by=issuers[algorithm])])
            for algorithm in ALGORITHMS[1:]
        ),
        Workload("warm, 5 public paths", repeat(one), [ours(public=PUBLIC)]),
        Workload("warm, 10,000 tokens in turn", cycle(many), [ours()], seen=many),
        Workload("warm, the app reads user.claims", repeat(one), [ours(app=_reads_claims)]),
        Workload("warm, 200 claims", repeat(big), [ours()]),
        *(
            Workload(
                f"cold {algorithm}",
                by.new_tokens(),
                [Contestant(VERIFY, _verifies(by), bare_app), ours(by=by), *peers(algorithm)],
            )
            for algorithm, by in issuers.items()
        ),
        Workload("bad signature", map(forged, secret.new_tokens()), [ours(), *peers()], expect=401),
        Workload("no token, refused", repeat(None), [ours()], expect=401),
        Workload("no token, anonymous", repeat(None), [ours(allow_anonymous=True)]),
    ]


async def _reads_claims(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        scope["user"].claims["sub"]
    await bare_app(scope, receive, send)


def _looks_up(token: bytes) -> ASGIApp:
    """Does what a remembered token cannot do without: finds it in the headers and in a dict, and looks at the clock."""
    remembered = {token: (NOW + 3600, object(), object())}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for name, value in scope["headers"]:
                if name == b"authorization":
                    expires_at, user, auth = remembered[value[7:]]
                    if time() < expires_at:
                        scope["user"], scope["auth"] = user, auth
        await bare_app(scope, receive, send)

    return app


def _verifies(by: Issuer) -> ASGIApp:
    """Does the signature's own mathematics and nothing else: by cryptography; HS256 by the standard library."""
    key, verifying_key = by.signing_key, by.verifying_key
    sign, verify = _BARE[by.algorithm]
    data = [token.rpartition(b".")[0] for token in islice(by.new_tokens(), 200)]
    signed = cycle([(each, sign(key, each)) for each in data])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            verify(verifying_key, *next(signed))
        await bare_app(scope, receive, send)

    return app


_ECDSA, _PKCS1, _SHA256 = ECDSA(SHA256()), PKCS1v15(), SHA256()
_BARE: dict[str, tuple[Callable[[Any, bytes], bytes], Callable[[Any, bytes, bytes], object]]] = {
    "HS256": (
        lambda key, data: digest(key, data, "sha256"),
        lambda key, data, signature: compare_digest(digest(key, data, "sha256"), signature),
    ),
    "RS256": (
        lambda key, data: key.sign(data, _PKCS1, _SHA256),
        lambda key, data, signature: key.verify(signature, data, _PKCS1, _SHA256),
    ),
    "ES256": (
        lambda key, data: key.sign(data, _ECDSA),
        lambda key, data, signature: key.verify(signature, data, _ECDSA),
    ),
    "EdDSA": (
        lambda key, data: key.sign(data),
        lambda key, data, signature: key.verify(signature, data),
    ),
}


def against_targets(results: Sequence[Added]) -> list[tuple[str, float, float]]:
    """What was to be reached: the question, what was measured and the most that it may be."""
    added = {(result.workload, result.contestant): result.median for result in results}
    of = {workload: value for (workload, contestant), value in added.items() if contestant == OURS}
    rows = [(f"warm {algorithm}, µs", of[f"warm {algorithm}"], 1.3) for algorithm in ALGORITHMS]
    for peer, limit in (("Starlette + PyJWT", 1 / 30), ("pure ASGI + ryjwt", 1)):
        if ("warm HS256", peer) in added:
            rows.append((f"warm HS256, of {peer}", of["warm HS256"] / added["warm HS256", peer], limit))
    rows += [
        ("warm, 5 public paths, µs", of["warm, 5 public paths"], 1.6),
        ("warm, 10,000 tokens in turn, µs", of["warm, 10,000 tokens in turn"], 1.7),
        ("reading user.claims beyond warm, µs", of["warm, the app reads user.claims"] - of["warm HS256"], 4),
        ("warm, 200 claims, µs", of["warm, 200 claims"], 2.5),
        ("cold HS256, µs", of["cold HS256"], 10),
    ]
    if ("cold HS256", "pure ASGI + PyJWT") in added:
        rows.append(
            ("cold HS256, of pure ASGI + PyJWT", of["cold HS256"] / added["cold HS256", "pure ASGI + PyJWT"], 1 / 4)
        )
    rows += [
        (f"cold {algorithm} beyond bare verify, µs", of[f"cold {algorithm}"] - added[f"cold {algorithm}", VERIFY], 9)
        for algorithm in ALGORITHMS[1:]
    ]
    rows += [
        ("bad signature, of cold HS256", of["bad signature"] / of["cold HS256"], 1),
        ("no token, refused, µs", of["no token, refused"], 0.5),
        ("no token, anonymous, µs", of["no token, anonymous"], 0.5),
    ]
    return rows


COMPARED = ["warm HS256", *(f"cold {algorithm}" for algorithm in ALGORITHMS), "bad signature"]


def report(results: Sequence[Added]) -> str:
    by_name = {(result.workload, result.contestant): result for result in results}
    contestants = list(dict.fromkeys(result.contestant for result in results if result.workload in COMPARED))
    ours = [result for result in results if result.contestant == OURS]

    def row(contestant: str, show: Callable[[Added, Added], str]) -> list[str]:
        found = [(by_name.get((workload, contestant)), by_name[workload, OURS]) for workload in COMPARED]
        return [contestant, *(show(result, own) if result else "-" for result, own in found)]

    return "\n".join(
        [
            table(
                f"{OURS}: microseconds added over the bare app",
                ["", "median", "middle half"],
                [[each.workload, f"{each.median:.2f}", f"{each.low:.2f} to {each.high:.2f}"] for each in ours],
            ),
            table(
                "Targets",
                ["", "measured", "at most", ""],
                [
                    [question, f"{value:.3g}", f"{limit:.3g}", "reached" if value <= limit else "missed"]
                    for question, value, limit in against_targets(results)
                ],
            ),
            table(
                "Microseconds added over the bare app (a framework's, where it brings one)",
                ["", *COMPARED],
                [row(contestant, lambda result, _: f"{result.median:.1f}") for contestant in contestants],
            ),
            table(
                f"The same, in times of what {OURS} adds",
                ["", *COMPARED],
                [
                    row(contestant, lambda result, own: f"{result.median / own.median:.2f}")
                    for contestant in contestants
                ],
            ),
        ]
    )


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--requests", type=int, default=100, help="of each kind in a round")
    parser.add_argument("--without-peers", action="store_true", help="only this package; nothing is kept")
    options = parser.parse_args()
    # joserfc says that the name EdDSA has successors (RFC 9864); the tokens of today carry it.
    warnings.filterwarnings("ignore", message="EdDSA is deprecated")
    there, missing = installed()
    results = asyncio.run(
        measure(workloads(not options.without_peers), rounds=options.rounds, requests=options.requests)
    )
    if options.without_peers:
        print(report(results))
        return
    not_there = "".join(f"Not installed, so not measured: {peer.name}\n" for peer in missing)
    publish("request", report(results) + not_there, {"added_microseconds": results}, [peer.package for peer in there])
    medians = {(each.workload, each.contestant): each.median for each in results}
    shown = [
        (each.contestant, (each.median, medians["cold HS256", each.contestant]))
        for each in sorted(results, key=attrgetter("median"))
        if each.workload == "warm HS256" and each.contestant != LOOK_UP
    ]
    bars("request", "Microseconds added to a request, HS256", shown, ("the same token", "a new token"))


if __name__ == "__main__":
    main()
