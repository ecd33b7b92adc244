"""``jwks``: what is in this JWK Set, and would the middleware use it?"""

from argparse import Namespace

import anyio

from ..errors import ConfigurationError
from ..keys.key_set import Key
from ..keys.remote import RemoteKeys
from ..keys.source import KeysHealth
from .inputs import UsageError
from .output import paint, show, show_json


def run(arguments: Namespace) -> int:
    """Fetch the set and judge each key. Return 0 if every key can be used."""
    try:
        source = RemoteKeys(issuer=arguments.address) if arguments.issuer else RemoteKeys(arguments.address)
    except ConfigurationError as error:
        raise UsageError(str(error)) from None
    keys, health = anyio.run(_fetch, source)
    if arguments.json:
        used = [{"kid": key.kid, "algorithms": list(key.algorithms)} for key in keys]
        show_json({"keys": used, "skipped": list(health.skipped), "error": health.error})
    else:
        for key in keys:
            show(f"{paint('  ok', 'green')}  kid {key.kid!r}: {', '.join(key.algorithms)}")
        for reason in health.skipped:
            show(f"{paint('skip', 'yellow')}  {reason}")
        if health.error is not None:
            show(f"{paint('FAIL', 'red')}  {health.error}")
    return 0 if keys and not health.skipped else 1


async def _fetch(source: RemoteKeys) -> tuple[tuple[Key, ...], KeysHealth]:
    await source.prefetch()
    try:
        return source.current.keys, source.health
    finally:
        await source.stop()
