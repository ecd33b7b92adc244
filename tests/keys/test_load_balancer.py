"""Tokens of an AWS Application Load Balancer: which are accepted, and what anyone can make the service fetch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import anyio
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.routing import Mount

import jwt_middleware.keys.load_balancer as module
from jwt_middleware import (
    ANY,
    ConfigurationError,
    JWTMiddleware,
    LoadBalancerKeys,
    Provider,
    ProviderResolver,
    Refusal,
    Verifier,
    health_routes,
    proxy_header,
)

from ..support import NOW, Clock, bare_client, bearer, echo, token
from ..support.keys import RSA, SIGNERS, pem
from ..support.lives import LIVES, Job
from ..support.load_balancer import CLIENT, ISSUER, KEY, KEYS, KID, SIGNER, made
from ..support.waiting import until

FOREIGN = "arn:aws:elasticloadbalancing:eu-central-1:210987654321:loadbalancer/app/evil/0123456789abcdef"

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture
def anyio_backend() -> str:
    """What depends on the kind of event loop is below: the lives, and a request."""
    return "asyncio"


@dataclass
class Answer:
    status_code: int
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Region:
    """The address of a region's public keys: ``await region(url)``."""

    def __init__(self) -> None:
        self.keys = {KID: pem(KEY)}
        self.missing = Answer(403)
        self.outage: Answer | None = None
        self.asked: list[str] = []

    async def __call__(self, url: str) -> Answer:
        self.asked.append(url.removeprefix(KEYS))
        if self.outage is not None:
            return self.outage
        found = self.keys.get(url.removeprefix(KEYS))
        return self.missing if found is None else Answer(200, found)


def load_balancer(region: Region | None = None, **options: Any) -> Provider:
    keys = {"signer": SIGNER, "cooldown": 0.05, "fetch": Region() if region is None else region}
    mine = {name: options.pop(name) for name in list(options) if name in ("signer", "client", "cooldown", "clock")}
    return Provider(**{"name": "alb", "jwks": LoadBalancerKeys(**{**keys, **mine}), "audience": ANY, **options})


def verifier(*providers: Any, **options: Any) -> Verifier:
    return Verifier(providers or load_balancer(), clock=lambda: NOW, **options)


async def outcome(one: Verifier, raw: str) -> str:
    """The provider that accepts the token, or the code of the refusal."""
    try:
        return (await one.verify(raw)).provider
    except Refusal as refusal:
        return refusal.code


@pytest.mark.anyio
@pytest.mark.parametrize("pad", [pytest.param("=", id="padded, as AWS does"), pytest.param("", id="not padded")])
async def test_its_token_is_good_and_its_key_is_fetched_once(pad: str) -> None:
    region = Region()
    one = verifier(load_balancer(region, issuer=ISSUER, client=CLIENT), cache_size=0)
    raw = made(pad=pad)
    assert pad == "" or [part.endswith("=") for part in raw.split(".")] == [True, True, True]
    for _ in range(3):
        found = await one.verify(raw)
        assert (found.provider, found.subject, found.header["signer"]) == ("alb", "ada", SIGNER)
    assert region.asked == [KID]


@pytest.mark.anyio
async def test_what_is_signed_is_the_padded_text_as_it_was_received() -> None:
    one, raw = verifier(), made()
    assert await outcome(one, raw) == "alb"
    # PyJWT accepts the padding, too, by the same signing input.
    assert jwt.decode(raw, KEY.public_key(), ["ES256"], options={"verify_exp": False})["sub"] == "ada"
    header, payload, signature = raw.split(".")
    assert await outcome(one, f"{header.rstrip('=')}.{payload}.{signature}") == "bad_signature"
    assert await outcome(one, f"{header}.{payload.rstrip('=')}.{signature}") == "bad_signature"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda part: f"{part}=", id="one too many"),
        pytest.param(lambda part: part.removesuffix("="), id="one too few"),
        pytest.param(lambda part: f"{part}====", id="a whole group more"),
        pytest.param(lambda part: f"={part}", id="at the start"),
        pytest.param(lambda part: f"{part[:4]}={part[4:]}", id="inside"),
        pytest.param(lambda part: part.replace("=", "%3D"), id="percent-encoded"),
        pytest.param(lambda part: f"{part} ", id="white space"),
        pytest.param(lambda part: f"{part[:-3]}B==", id="stray bits before it"),
    ],
)
async def test_wrong_padding_is_malformed(spoil: Callable[[str], str]) -> None:
    one = verifier()
    for position in range(3):
        parts = made().split(".")
        assert parts[position].endswith("==")
        parts[position] = spoil(parts[position])
        assert await outcome(one, ".".join(parts)) == "malformed_token"


@pytest.mark.anyio
@pytest.mark.parametrize("raw", ["=", "==.==.==", "a=.b", f"{made()}.", f"a.{made()}"])
async def test_text_with_padding_that_is_no_token_is_malformed(raw: str) -> None:
    assert await outcome(verifier(), raw) == "malformed_token"


@pytest.mark.anyio
async def test_a_foreign_load_balancer_of_the_region_is_refused_although_its_signature_is_good() -> None:
    region = Region()
    with pytest.raises(Refusal) as caught:
        await verifier(load_balancer(region)).verify(made(header={"signer": FOREIGN}))
    assert (caught.value.code, caught.value.expected, caught.value.found) == ("wrong_issuer", SIGNER, FOREIGN)
    assert caught.value.subject is None
    assert region.asked == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("pad", "signer", "code"),
    [
        pytest.param("=", None, "malformed_token", id="none, padded"),
        pytest.param("", None, "wrong_issuer", id="none"),
        pytest.param("=", [SIGNER], "malformed_token", id="a list"),
        pytest.param("", SIGNER.upper(), "wrong_issuer", id="another case"),
        pytest.param("", f"{SIGNER}/", "wrong_issuer", id="longer"),
        pytest.param("", "", "wrong_issuer", id="empty"),
    ],
)
async def test_a_token_without_the_signer_is_refused(pad: str, signer: Any, code: str) -> None:
    region = Region()
    raw = made(pad=pad, header={"signer": signer})
    assert await outcome(verifier(load_balancer(region)), raw) == code
    assert region.asked == []


ODD_KEY_IDS = ["a/b", "..", "../x", "a%2fb", "a%2Fb", "a?b", "a#b", "a\n", "a b", "ä", "", "a" * 65, "a.b", "@", "\\"]


@pytest.mark.anyio
async def test_a_key_id_that_could_lead_elsewhere_is_never_asked_for() -> None:
    region = Region()
    one = verifier(load_balancer(region))
    for kid in (*ODD_KEY_IDS, None):
        assert await outcome(one, made(header={"kid": kid})) == "unknown_key"
        # Nor where the keys are asked by themselves.
        assert not (await one.providers[0].keys.refreshed(kid, "ES256")).keys
    assert region.asked == []


@pytest.mark.anyio
@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES384"])
async def test_no_other_algorithm_is_accepted(algorithm: str) -> None:
    region = Region()
    region.keys[KID] = pem(RSA)
    raw = made(SIGNERS[algorithm], header={"alg": algorithm})
    assert await outcome(verifier(load_balancer(region)), raw) == "algorithm_not_allowed"
    assert region.asked == []


@pytest.mark.anyio
async def test_a_key_of_another_kind_at_the_address_verifies_nothing() -> None:
    region = Region()
    region.keys[KID] = pem(RSA)
    assert await outcome(verifier(load_balancer(region)), made()) == "unknown_key"
    assert region.asked == [KID]


@pytest.mark.anyio
async def test_text_at_the_address_that_is_not_a_key_is_named() -> None:
    region = Region()
    region.keys[KID] = b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"
    provider = load_balancer(region)
    assert await outcome(verifier(provider), made()) == "unknown_key"
    assert KID in provider.health.skipped[0]
    region.keys[KID] = b"<html>log in first</html>"
    provider = load_balancer(region)
    assert await outcome(verifier(provider), made()) == "keys_unavailable"
    assert "no PEM" in str(provider.health.error)


@pytest.mark.anyio
async def test_another_client_of_the_load_balancer_is_another_audience() -> None:
    region = Region()
    one = verifier(load_balancer(region, client=[CLIENT, "5gnw"]))
    for client in ("other", None, [CLIENT]):
        assert await outcome(one, made(header={"client": client})) == "wrong_audience"
    assert region.asked == []
    assert await outcome(one, made(header={"client": "5gnw"})) == "alb"


@pytest.mark.anyio
async def test_another_issuer_than_the_configured_one_is_refused() -> None:
    one = verifier(load_balancer(issuer=ISSUER))
    for iss in ("https://login.example", None, 7):
        with pytest.raises(Refusal) as caught:
            await one.verify(made(iss=iss))
        assert (caught.value.code, caught.value.provider, caught.value.kid) == ("wrong_issuer", "alb", KID)
        assert caught.value.subject is None


@pytest.mark.anyio
async def test_a_token_by_another_key_is_a_forgery() -> None:
    one = verifier()
    assert await outcome(one, made()) == "alb"
    assert await outcome(one, made(ec.generate_private_key(ec.SECP256R1()))) == "bad_signature"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("changes", "code"),
    [({"exp": NOW - 60}, "expired"), ({"exp": None}, "missing_claim"), ({"sub": ""}, "invalid_claim")],
)
async def test_its_claims_are_checked_like_all_others(changes: dict[str, Any], code: str) -> None:
    assert await outcome(verifier(), made(**changes)) == code


# Beside other providers.

SECRET = "a secret that has thirty-two bytes or more"


@pytest.mark.anyio
async def test_only_its_own_tokens_may_be_padded() -> None:
    secret = Provider(name="secret", key=SECRET, issuer=ISSUER, audience="orders")
    bare = jwt.encode({"sub": "ada", "iss": ISSUER, "aud": "orders", "exp": NOW + 99}, SECRET)
    header, payload, signature = bare.split(".")
    padded = f"{header}{'=' * (-len(header) % 4)}.{payload}{'=' * (-len(payload) % 4)}.{signature}="
    for providers in ([secret], [load_balancer(), secret]):
        one = verifier(*providers)
        assert await outcome(one, bare) == "secret"
        assert await outcome(one, padded) == "malformed_token"
        assert await outcome(one, f"{bare}=") == "malformed_token"


@pytest.mark.anyio
async def test_the_same_issuer_may_have_a_provider_of_its_own() -> None:
    region = Region()
    direct = Provider(name="direct", key=SECRET, issuer=ISSUER, audience="orders")
    one = verifier(load_balancer(region, issuer=ISSUER), direct)
    assert await outcome(one, made()) == "alb"
    claims = {"sub": "ada", "iss": ISSUER, "aud": "orders", "exp": NOW + 99}
    assert await outcome(one, jwt.encode(claims, SECRET)) == "direct"
    # Neither is verified by the keys of the other, whatever its header says.
    assert await outcome(one, jwt.encode(claims, SECRET, headers={"signer": SIGNER, "kid": KID})) == (
        "algorithm_not_allowed"
    )
    assert await outcome(one, made(header={"signer": FOREIGN})) == "wrong_issuer"
    assert await outcome(one, made(pad="", header={"signer": None})) == "algorithm_not_allowed"


@pytest.mark.anyio
async def test_a_provider_without_an_issuer_is_not_tried_for_its_tokens() -> None:
    one = verifier(Provider(name="any", key=pem(KEY), audience=ANY), load_balancer(issuer=ISSUER))
    assert await outcome(one, made()) == "alb"
    assert await outcome(one, made(header={"signer": FOREIGN})) == "wrong_issuer"
    assert await outcome(one, made(header={"client": "x", "signer": None}, pad="")) == "any"


@pytest.mark.anyio
async def test_a_resolver_is_not_asked_about_its_tokens() -> None:
    asked: list[str] = []

    def resolve(issuer: str) -> None:
        asked.append(issuer)

    one = verifier(load_balancer(), ProviderResolver(resolve))
    assert await outcome(one, made()) == "alb"
    assert await outcome(one, made(pad="")) == "alb"
    assert await outcome(one, made(header={"signer": FOREIGN})) == "wrong_issuer"
    assert asked == []
    assert await outcome(one, token(iss="https://new.example")) == "unknown_issuer"
    assert asked == ["https://new.example"]


@pytest.mark.anyio
async def test_a_resolver_cannot_return_it() -> None:
    one = verifier(ProviderResolver(lambda issuer: load_balancer(issuer=issuer)))
    assert await outcome(one, token(iss="https://new.example")) == "keys_unavailable"


# What is fetched.


@pytest.mark.anyio
async def test_a_flood_of_unknown_key_ids_causes_few_fetches() -> None:
    region = Region()
    provider = load_balancer(region, cooldown=0.1)
    one = verifier(provider)
    assert await outcome(one, made()) == "alb"
    before, codes = anyio.current_time(), []

    async def flood(number: int) -> None:
        codes.append(await outcome(one, made(header={"kid": f"unknown-{number}"})))

    async with anyio.create_task_group() as together:
        for number in range(200):
            together.start_soon(flood, number)
        # Meanwhile known keys go on without waiting.
        assert await outcome(one, made()) == "alb"
    attempts = 2 + (anyio.current_time() - before) / 0.1
    assert len(region.asked) <= 1 + 8 * attempts
    # What was asked for is unknown; about what was not asked for, nothing is known.
    assert codes.count("unknown_key") == len(region.asked) - 1
    assert codes.count("keys_unavailable") == 200 - codes.count("unknown_key")
    assert await outcome(one, made()) == "alb"


@pytest.mark.anyio
async def test_an_unknown_key_id_is_asked_for_once_a_minute() -> None:
    region, clock = Region(), Clock(1000)
    one = verifier(load_balancer(region, clock=clock))
    raw = made(header={"kid": "later"})
    for _ in range(5):
        clock.now += 10
        assert await outcome(one, raw) == "unknown_key"
    assert region.asked == ["later"]
    clock.now += 60
    region.keys["later"] = pem(KEY)
    assert await outcome(one, raw) == "alb"


@pytest.mark.anyio
async def test_the_oldest_unknown_key_id_is_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MISSING", 4)
    region, clock = Region(), Clock(1000)
    one = verifier(load_balancer(region, clock=clock))
    for kid in ("0", "1", "2", "3", "4", "4", "3", "0", "1"):
        clock.now += 0.05
        assert await outcome(one, made(header={"kid": kid})) == "unknown_key"
    assert region.asked == ["0", "1", "2", "3", "4", "0", "1"]


@pytest.mark.anyio
async def test_the_number_of_keys_that_are_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FOUND", 4)
    region, clock = Region(), Clock(1000)
    region.keys = {f"key-{number}": pem(KEY) for number in range(6)}
    provider = load_balancer(region, clock=clock)
    one = verifier(provider)
    for kid in region.keys:
        clock.now += 0.05
        assert await outcome(one, made(header={"kid": kid})) == "alb"
    assert provider.health.keys == 4
    clock.now += 0.05
    assert await outcome(one, made(header={"kid": "key-0"})) == "alb"


@pytest.mark.anyio
async def test_two_new_keys_at_once_are_both_fetched_within_one_wait() -> None:
    region = Region()
    region.keys["second"] = pem(KEY)
    one = verifier(load_balancer(region, cooldown=0.15))
    found: list[str] = []

    async def ask(raw: str, wait: float) -> None:
        await anyio.sleep(wait)
        found.append(await outcome(one, raw))

    async with anyio.create_task_group() as together:
        together.start_soon(ask, made(), 0)
        together.start_soon(ask, made(header={"kid": "second"}), 0.05)
    assert found == ["alb", "alb"]


async def look_until(condition: Callable[[], bool], provider: Provider) -> None:
    with anyio.fail_after(10):
        while not condition():
            _ = provider.keys.current
            await anyio.sleep(0.01)


@pytest.mark.anyio
async def test_a_key_that_is_removed_verifies_nothing_within_an_hour() -> None:
    region, clock = Region(), Clock(1000)
    provider = load_balancer(region, clock=clock)
    one = verifier(provider)
    assert await outcome(one, made()) == "alb"
    del region.keys[KID]
    clock.now += 1200
    await look_until(lambda: len(region.asked) == 2 and provider.health.keys == 0, provider)
    assert await outcome(one, made()) == "unknown_key"
    # The last key is gone: nothing is left to refresh.
    clock.now += 7200
    _ = provider.keys.current
    await anyio.sleep(0.05)
    assert len(region.asked) == 2


@pytest.mark.anyio
async def test_keys_outlive_an_outage_for_a_day() -> None:
    region, clock = Region(), Clock(1000)
    provider = load_balancer(region, clock=clock)
    one = verifier(provider)
    assert await outcome(one, made()) == "alb"
    region.outage = Answer(503)
    clock.now += 1200
    await look_until(lambda: provider.health.error is not None, provider)
    assert "503" in str(provider.health.error)
    assert await outcome(one, made()) == "alb"
    assert await outcome(one, made(header={"kid": "new"})) == "keys_unavailable"
    clock.now += 24 * 3600
    assert await outcome(one, made()) == "keys_unavailable"
    region.outage = None
    clock.now += 1
    assert await outcome(one, made()) == "alb"


@pytest.mark.anyio
async def test_one_key_that_is_not_answered_stops_no_other() -> None:
    region, clock = Region(), Clock(1000)
    region.keys["second"] = pem(KEY)

    class Partly(Region):
        async def __call__(self, url: str) -> Answer:
            answer = await region(url)
            return Answer(429) if url.endswith(KID) else answer

    one = verifier(load_balancer(Partly(), clock=clock))
    assert await outcome(one, made()) == "keys_unavailable"
    clock.now += 1
    assert await outcome(one, made(header={"kid": "second"})) == "alb"


@pytest.mark.anyio
async def test_it_is_ready_before_any_token_has_come() -> None:
    region = Region()
    middleware = JWTMiddleware(
        Starlette(routes=[Mount("/health", routes=health_routes())]),
        providers=load_balancer(region),
        public=["/health/*"],
    )
    # A load balancer sends no one to a target that is not ready.
    with bare_client(middleware) as client:
        assert client.get("/health/ready").status_code == 200
    assert region.asked == []


@pytest.mark.parametrize("backend", ["trio"])
def test_with_a_lifespan_its_keys_are_kept_fresh(backend: str) -> None:
    region, clock = Region(), Clock(1000)
    provider = load_balancer(region, clock=clock)
    middleware = JWTMiddleware(echo, providers=provider, clock=lambda: NOW)
    with bare_client(middleware, backend=backend) as client:
        assert client.get("/", headers=bearer(made())).status_code == 200
        clock.now += 1200

        assert client.portal is not None
        client.portal.call(until, lambda: len(region.asked) == 2)
    assert region.asked == [KID, KID]


@pytest.fixture
def address() -> Iterator[str]:
    """The public keys at a real address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == f"/{KID}"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(pem(KEY) if found else b"")

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("live", LIVES)
def test_it_works_in_every_life_of_an_event_loop(live: Callable[[Job, str], None], address: str, backend: str) -> None:
    keys = LoadBalancerKeys(signer=SIGNER, address=address, cooldown=0.05)
    one = verifier(Provider(jwks=keys, audience=ANY, name="alb"))

    async def job() -> None:
        assert await outcome(one, made()) == "alb"

    live(job, backend)
    anyio.run(outcome, one, made(header={"kid": "unknown"}), backend=backend)


# In a request.


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_header_of_the_load_balancer_counts_like_a_cookie(backend: str) -> None:
    middleware = JWTMiddleware(
        echo, providers=load_balancer(), sources=[proxy_header("X-Amzn-Oidc-Data")], clock=lambda: NOW
    )
    one = bare_client(middleware, backend=backend, base_url="https://shop.example")
    headers = {"x-amzn-oidc-data": made()}
    assert one.get("/", headers=headers).json()["user"] == "ada"
    assert one.post("/", headers=headers).json()["code"] == "cross_site"
    for other in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}):
        assert one.post("/", headers={**headers, **other}).json()["code"] == "cross_site"
    for own in ({"sec-fetch-site": "same-origin"}, {"origin": "https://shop.example"}):
        assert one.post("/", headers={**headers, **own}).status_code == 200


# The configuration.


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("signer", "address"),
    [
        (SIGNER, "https://public-keys.auth.elb.eu-central-1.amazonaws.com/"),
        (
            SIGNER.replace("aws:", "aws-us-gov:", 1).replace("eu-central-1", "us-gov-west-1"),
            "https://s3-us-gov-west-1.amazonaws.com/aws-elb-public-keys-prod-us-gov-west-1/",
        ),
        (
            SIGNER.replace("aws:", "aws-cn:", 1).replace("eu-central-1", "cn-north-1"),
            "https://public-keys.auth.elb.cn-north-1.amazonaws.com.cn/",
        ),
    ],
)
async def test_the_region_of_the_arn_has_the_keys(signer: str, address: str) -> None:
    asked = []

    async def fetch(url: str) -> Answer:
        asked.append(url)
        return Answer(200, pem(KEY))

    one = verifier(Provider(jwks=LoadBalancerKeys(signer=signer, fetch=fetch), audience=ANY, name="alb"))
    assert await outcome(one, made(header={"signer": signer})) == "alb"
    assert asked == [f"{address}{KID}"]
    assert repr(one.providers[0].keys) == f"LoadBalancerKeys({address!r})"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"signer": "shop"}, "signer must be the ARN"),
        ({"signer": SIGNER.replace("/app/", "/net/")}, "signer must be the ARN"),
        ({"signer": [SIGNER, SIGNER.replace("eu-central-1", "eu-west-1")]}, "several regions"),
        ({"signer": SIGNER.replace("aws:", "aws-iso:", 1)}, "address: where"),
        ({"signer": SIGNER, "address": "http://keys.example/"}, "address: "),
        ({"signer": SIGNER, "client": []}, "client"),
        ({"signer": []}, "signer"),
        ({"signer": SIGNER, "fetch": "x"}, "fetch"),
        ({"signer": SIGNER, "clock": 1}, "clock"),
    ],
)
def test_what_cannot_work_is_an_error_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        LoadBalancerKeys(**options)


def test_signers_are_required_and_unique_and_audiences_explained() -> None:
    with pytest.raises(TypeError, match="signer"):
        LoadBalancerKeys()  # type: ignore[call-arg]  # without a signer
    with pytest.raises(ConfigurationError, match="'alb' and 'other' both have the signer"):
        verifier(load_balancer(), load_balancer(name="other"))
    with pytest.raises(ConfigurationError, match="audience=ANY, and client="):
        Provider(jwks=LoadBalancerKeys(signer=SIGNER))
    with pytest.raises(ConfigurationError, match="template"):
        load_balancer(issuer="https://login.microsoftonline.com/{tenantid}/v2.0", tenants=ANY)
