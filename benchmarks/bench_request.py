"""What does the middleware add to a request, warm and cold, and what do its peers add?"""

import asyncio
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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
from tokens import ALGORITHMS, AUDIENCE, ISSUER, MANY_CLAIMS, NOW, Issuer, forged, issuer

from jwt_middleware import JWTMiddleware, Revocation, RevocationView
from jwt_middleware.revocation.log import RevocationPage

LOOK_UP = "bare scan and look-up"
VERIFY = "bare verify of the signature"
PUBLIC = ["/health", "/docs/*", "/openapi.json", "GET /items/*", "/auth/*"]


def workloads(with_peers: bool) -> list[Workload]:
    issuers = {algorithm: issuer(algorithm) for algorithm in ALGORITHMS}
    secret = issuers["HS256"]
    many = [secret.token(number) for number in range(10_000)]
    of_sessions = [secret.token(number, sid=f"session-{number}") for number in range(10_000)]
    one, big = secret.token(0), secret.token(0, **MANY_CLAIMS)

    def ours(app: ASGIApp = bare_app, by: Issuer = secret, **options: Any) -> Contestant:
        return Contestant(OURS, JWTMiddleware(app, key=by.text, audience=AUDIENCE, **options), bare_app)

    def peers(algorithm: str = "HS256") -> list[Contestant]:
        there = installed()[0] if with_peers else []
        return [peer.contestant(issuers[algorithm]) for peer in there if algorithm in peer.algorithms]

    def bare(*remembered: bytes) -> Contestant:
        return Contestant(LOOK_UP, _looks_up(remembered), bare_app)

    def everything() -> Contestant:
        return ours(public=PUBLIC, revocations=RevocationView(Log()), issuer=ISSUER, max_token_age=3600)

    return [
        Workload("warm HS256", repeat(one), [bare(one), ours(), *peers()]),
        *(
            Workload(f"warm {algorithm}", repeat(issuers[algorithm].token(0)), [ours(by=issuers[algorithm])])
            for algorithm in ALGORITHMS[1:]
        ),
        Workload(
            "warm, 5 public paths and revocation",
            repeat(of_sessions[0]),
            [ours(public=PUBLIC, revocations=RevocationView(Log()))],
        ),
        Workload("warm, 10,000 tokens in turn", cycle(many), [bare(*many), ours()], seen=many),
        Workload(
            "warm, 10,000 in turn, all on", cycle(of_sessions), [bare(*of_sessions), everything()], seen=of_sessions
        ),
        Workload("warm, the app reads user.claims", repeat(one), [ours(app=_reads_claims)]),
        Workload("warm, 200 claims", repeat(big), [bare(big), ours()]),
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


class Log:
    """Tells of sessions and tokens that others have ended: thousands, none of them among those that come here."""

    async def revocations(self, after: str, limit: int) -> RevocationPage:
        position = int(after or 0)
        found = REVOKED[position : position + limit]
        return RevocationPage(str(position + len(found)), found, time())


REVOKED = [
    revocation
    for number in range(5_000)
    for revocation in (
        Revocation("jwt", "sid", f"ended-{number}", NOW + 3600),
        Revocation("jwt", "jti", f"revoked-{number}", NOW + 3600),
    )
]


async def _reads_claims(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        scope["user"].claims["sub"]
    await bare_app(scope, receive, send)


def _looks_up(tokens: Iterable[bytes]) -> ASGIApp:
    """Does what a remembered token cannot do without: finds it in the headers and in a dict, and looks at the clock."""
    remembered = {bytes(bytearray(token)): (NOW + 3600, object(), object()) for token in tokens}

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


@dataclass(frozen=True, slots=True)
class Target:
    """What was to be reached, in microseconds, and in proportion to what the same run measured beside it."""

    question: str
    measured: float
    at_most: float
    of_by_hand: tuple[float, float] | None = None
    """What that is of the microseconds that hand-written code adds, and the most that it may be."""
    of_bare: tuple[float, float] | None = None
    """The same, of the part that cannot be done without."""


BY_HAND = "pure ASGI + PyJWT"

# Microseconds that hand-written code and the bare part added on the machine that the targets were set on. A target is
# the same part of them everywhere.
ON_THAT_MACHINE = {"warm": (39, 0.5), "HS256": (39, 2.6), "RS256": (60, 20.7), "ES256": (82, 52)}
# Not measured there: as with the other algorithms, what hand-written code adds to the mathematics counts.
ON_THAT_MACHINE["EdDSA"] = ON_THAT_MACHINE["RS256"]


def targets(results: Sequence[Added]) -> list[Target]:
    added = {(result.workload, result.contestant): result.median for result in results}
    of = {workload: value for (workload, contestant), value in added.items() if contestant == OURS}

    def warm(workload: str, at_most: float, beyond: str | None = None) -> Target:
        measured = of[workload] - (of[beyond] if beyond else 0)
        there = ON_THAT_MACHINE["warm"]
        by_hand, bare = added.get(("warm HS256", BY_HAND)), added["warm HS256", LOOK_UP]
        return Target(
            f"{workload}, beyond {beyond}" if beyond else workload,
            measured,
            at_most,
            (measured / by_hand, at_most / there[0]) if by_hand else None,
            (measured / bare, at_most / there[1]),
        )

    def cold(algorithm: str) -> Target:
        bare, there = added[f"cold {algorithm}", VERIFY], ON_THAT_MACHINE[algorithm]
        by_hand, measured = added.get((f"cold {algorithm}", BY_HAND)), of[f"cold {algorithm}"] - bare
        return Target(
            f"cold {algorithm}, beyond bare verify",
            measured,
            9,
            (measured / (by_hand - bare), 9 / (there[0] - there[1])) if by_hand else None,
        )

    cold_by_hand = added.get(("cold HS256", BY_HAND))
    return [
        *(warm(f"warm {algorithm}", 1.3) for algorithm in ALGORITHMS),
        warm("warm, 5 public paths and revocation", 1.6),
        warm("warm, 10,000 tokens in turn", 1.7),
        warm("warm, 10,000 in turn, all on", 2.1),
        warm("warm, the app reads user.claims", 4, beyond="warm HS256"),
        warm("warm, 200 claims", 2.5),
        Target(
            "cold HS256",
            of["cold HS256"],
            10,
            (of["cold HS256"] / cold_by_hand, 1 / 4) if cold_by_hand else None,
            (of["cold HS256"] / added["cold HS256", VERIFY], 10 / ON_THAT_MACHINE["HS256"][1]),
        ),
        *map(cold, ALGORITHMS[1:]),
        warm("no token, refused", 0.5),
        warm("no token, anonymous", 0.5),
    ]


def comparisons(results: Sequence[Added]) -> list[tuple[str, float, float]]:
    """The targets that are proportions themselves: the question, what was measured and the most that it may be."""
    added = {(result.workload, result.contestant): result.median for result in results}
    warm = added["warm HS256", OURS]
    rows = [
        (f"warm HS256, of {peer}", warm / added["warm HS256", peer], limit)
        for peer, limit in (("Starlette + PyJWT", 1 / 30), ("pure ASGI + ryjwt", 1))
        if ("warm HS256", peer) in added
    ]
    return [*rows, ("bad signature, of cold HS256", added["bad signature", OURS] / added["cold HS256", OURS], 1)]


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
                ["", "median", "middle half", "bare scan and look-up"],
                [
                    [
                        each.workload,
                        f"{each.median:.2f}",
                        f"{each.low:.2f} to {each.high:.2f}",
                        f"{by_name[each.workload, LOOK_UP].median:.2f}" if (each.workload, LOOK_UP) in by_name else "",
                    ]
                    for each in ours
                ],
            ),
            table(
                "Targets: in microseconds, as part of what pure ASGI + PyJWT adds, and in times of the bare part",
                ["", "µs", "at most", "", "of PyJWT", "at most", "", "of bare", "at most", ""],
                [
                    [
                        target.question,
                        *_verdict((target.measured, target.at_most), ".2f"),
                        *_verdict(target.of_by_hand, ".3f"),
                        *_verdict(target.of_bare, ".2f"),
                    ]
                    for target in targets(results)
                ],
            ),
            table(
                "Targets that are proportions",
                ["", "measured", "at most", ""],
                [[question, *_verdict((value, limit), ".3f")] for question, value, limit in comparisons(results)],
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


def _verdict(found: tuple[float, float] | None, form: str) -> tuple[str, str, str]:
    if found is None:
        return "", "", ""
    measured, at_most = found
    return f"{measured:{form}}", f"{at_most:{form}}", "reached" if measured <= at_most else "missed"


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
    figures = {"added_microseconds": results, "targets": targets(results)}
    publish("request", report(results) + not_there, figures, [peer.package for peer in there])
    medians = {(each.workload, each.contestant): each.median for each in results}
    shown = [
        (each.contestant, (each.median, medians["cold HS256", each.contestant]))
        for each in sorted(results, key=attrgetter("median"))
        if each.workload == "warm HS256" and each.contestant != LOOK_UP
    ]
    bars("request", "Microseconds added to a request, HS256", shown, ("the same token", "a new token"))


if __name__ == "__main__":
    main()
