"""``explain``: why is this token refused, and what would pass?"""

import time
from argparse import Namespace
from collections.abc import Sequence

import anyio

from ..debugging import describe_provider
from ..errors import ConfigurationError, Refusal
from ..explanation import Explanation, explain, read_loosely
from ..provider import ANY, Provider
from ..revocation.revoked import Revocations
from ..verifying.verifier import Verifier
from .apps import the_middleware
from .inputs import UsageError, read_key, read_text
from .output import paint, show, show_json, show_table

_MARKS = {
    "passed": ("ok", "green"),
    "stopped": ("STOP", "red"),
    "not reached": ("-", "dim"),
    "not checked": ("?", "yellow"),
}


def run(arguments: Namespace) -> int:
    """Explain the token. Return 0 for a good one, 1 for a refused one."""
    providers, revocations = _settings(arguments)
    token = read_text(arguments.token, "token").strip()
    now = time.time() if arguments.at is None else arguments.at
    explanation = anyio.run(_explained, token, providers, revocations, now)
    if arguments.json:
        show_json(explanation.as_json())
    else:
        _show(explanation)
    return 0 if explanation.code == "accepted" else 1


async def _explained(
    token: str, providers: Sequence[Provider], revocations: Revocations | None, now: float
) -> Explanation:
    verifier = Verifier(providers, cache_size=0, revocations=revocations, clock=lambda: now)
    refusal: Refusal | None = None
    await verifier.start()
    try:
        await verifier.verify(token)
    except Refusal as raised:
        refusal = raised
    finally:
        await verifier.stop()
    facts = [describe_provider(provider) for provider in providers]
    # Only the app itself should ask its own database.
    unchecked = {"user"} | ({"revocation"} if revocations is None else set())
    size = verifier.max_token_size
    return explain(read_loosely(token), refusal, facts, now, max_token_size=size, unchecked=unchecked)


def _settings(arguments: Namespace) -> tuple[Sequence[Provider], Revocations | None]:
    if arguments.app is not None:
        if arguments.issuer or arguments.audience or arguments.key or arguments.jwks:
            raise UsageError("--app brings its own settings; leave --issuer, --audience, --key and --jwks out")
        verifier = the_middleware(arguments.app).verifier
        return verifier.providers, verifier.revocations
    if not (arguments.issuer or arguments.key or arguments.jwks):
        raise UsageError("say what the token is checked against: --app main:app, or --issuer, --key or --jwks")
    try:
        provider = Provider(
            issuer=arguments.issuer or None,
            audience=arguments.audience or ANY,
            key=None if arguments.key is None else read_key(arguments.key),
            jwks=arguments.jwks,
        )
    except ConfigurationError as error:
        raise UsageError(str(error)) from None
    return [provider], None


def _show(explanation: Explanation) -> None:
    good = explanation.code == "accepted"
    show(paint(explanation.code, "green" if good else "red"), "")
    for step in explanation.steps:
        mark, colour = _MARKS[step.outcome]
        show(f"  {paint(f'{mark:>4}', colour)}  {step.name:<10}  {step.asks}")
    show("", explanation.cause)
    if explanation.cure:
        show(explanation.cure)
    if explanation.facts:
        show("", "The token says" + (":" if good else ", verified or not:"))
        show_table(explanation.facts)
