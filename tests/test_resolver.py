"""Issuers that come while the service runs: a function of the app finds their provider."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette

from jwt_middleware import (
    ConfigurationError,
    JWTMiddleware,
    Provider,
    ProviderResolver,
    Refusal,
    RemoteKeys,
    Token,
    Verifier,
    health_routes,
)
from jwt_middleware.resolver import LIFETIME, MAX_CALLS, MAX_ISSUER, MAX_PROVIDERS, MAX_UNKNOWN, ResolvedHealth
from jwt_middleware.revocation.revoked import Revocations
from jwt_middleware.testing.identity_provider import IdentityProvider, SigningKey, signing_key

from .support import NOW, SECRET, Clock, bare_client, bearer, echo, token
from .support.logs import logged
from .support.steps import steps

OWN, KEY, OTHER = signing_key(kid="own"), signing_key(kid="tenant"), signing_key(kid="other")
pytestmark = pytest.mark.anyio


def issuer(name: str) -> str:
    return f"https://login.example/{name}"


def signed(name: str, key: SigningKey = KEY, **claims: Any) -> str:
    return token(key.private, "ES256", {"kid": key.jwk["kid"]}, iss=issuer(name), **claims)


def provider(tenant: str, key: SigningKey = KEY, **options: Any) -> Provider:
    return Provider(**{"name": "tenant", "issuer": issuer(tenant), "key": key.jwk, "audience": "orders", **options})


class Tenants:
    """A table of tenants, and the questions that it was asked."""

    def __init__(self, **providers: Provider | None) -> None:
        self.providers: dict[str, Any] = {issuer(name): found for name, found in providers.items()}
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.gate: anyio.Event | None = None

    async def __call__(self, iss: str) -> Any:
        self.asked.append(iss)
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.providers.get(iss)


def verifier(
    tenants: Callable[[str], Any], clock: Clock | None = None, *configured: Provider, **options: Any
) -> Verifier:
    resolver = ProviderResolver(tenants, clock=clock or Clock(0))
    return Verifier([*configured, resolver], clock=lambda: NOW, **options)


async def code(asking: Verifier, raw: str) -> str:
    try:
        await asking.verify(raw)
    except Refusal as refusal:
        return refusal.code
    return "good"


async def test_a_tenant_that_signs_up_is_accepted_without_a_restart() -> None:
    tenants = Tenants()
    own = provider("own", OWN, name="own")
    asking = verifier(tenants, None, own)
    assert await code(asking, signed("new")) == "unknown_issuer"
    tenants.providers[issuer("later")] = provider("later")
    assert (await asking.verify(signed("later"))).issuer == issuer("later")
    # Configured issuers come first, and the resolver is not asked about them.
    assert await code(asking, signed("own", OWN)) == "good"
    assert tenants.asked == [issuer("new"), issuer("later")]


async def test_an_answer_is_remembered_for_an_hour() -> None:
    tenants, clock = Tenants(a=provider("a")), Clock(0)
    asking = verifier(tenants, clock)
    for _ in range(5):
        assert await code(asking, signed("a")) == "good"
        assert await code(asking, signed("unknown")) == "unknown_issuer"
    assert sorted(tenants.asked) == [issuer("a"), issuer("unknown")]
    # A tenant that goes is refused an hour later, though its token is remembered.
    tenants.providers = {issuer("unknown"): provider("unknown", OTHER)}
    clock.now = LIFETIME - 1
    assert await code(asking, signed("a")) == "good"
    clock.now = LIFETIME
    assert await code(asking, signed("a")) == "unknown_issuer"
    assert await code(asking, signed("unknown", OTHER)) == "good"
    # The place of the one was given to the other, and what the one had verified did not come with it.
    assert await code(asking, signed("a")) == "unknown_issuer"


async def test_a_provider_is_replaced_by_the_one_that_the_next_answer_brings() -> None:
    tenants, clock = Tenants(a=provider("a")), Clock(0)
    asking = verifier(tenants, clock)
    assert await code(asking, signed("a")) == "good"
    tenants.providers[issuer("a")] = provider("a", OTHER)
    clock.now = LIFETIME
    assert await code(asking, signed("a")) == "unknown_key"
    assert await code(asking, signed("a", OTHER)) == "good"


async def test_a_resolver_may_be_a_plain_function() -> None:
    asking = verifier({issuer("a"): provider("a")}.get)
    assert await code(asking, signed("a")) == "good"
    assert await code(asking, signed("b")) == "unknown_issuer"


async def test_requests_that_come_at_once_ask_once() -> None:
    tenants = Tenants(a=provider("a"))
    tenants.gate = anyio.Event()
    asking, found = verifier(tenants), []
    scopes = [anyio.CancelScope() for _ in range(20)]

    async def ask(scope: anyio.CancelScope) -> None:
        with scope:
            found.append(await code(asking, signed("a")))

    async with anyio.create_task_group() as group:
        for scope in scopes:
            group.start_soon(ask, scope)
        await anyio.sleep(0.05)
        # The one that asked goes away; the others have their answer all the same.
        for scope in scopes[:5]:
            scope.cancel()
        tenants.gate.set()
    assert found == ["good"] * 15
    assert tenants.asked == [issuer("a")]


@pytest.mark.virtual_time
async def test_eight_calls_run_at_once_and_a_ninth_is_a_503_that_is_not_remembered() -> None:
    tenants = Tenants(late=provider("late"))
    tenants.gate = anyio.Event()
    asking, found = verifier(tenants), []

    async def ask(name: str) -> None:
        found.append(await code(asking, signed(name)))

    async with anyio.create_task_group() as group:
        for number in range(MAX_CALLS):
            group.start_soon(ask, str(number))
        await anyio.sleep(0.1)
        assert await code(asking, signed("late")) == "keys_unavailable"
        assert len(tenants.asked) == MAX_CALLS
        # None of them answers in five seconds.
        await anyio.sleep(5)
    assert found == ["keys_unavailable"] * MAX_CALLS
    tenants.gate.set()
    assert await code(asking, signed("late")) == "good"
    assert await code(asking, signed("0")) == "unknown_issuer"
    await asking.stop()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param(OSError("the table is down"), "OSError", id="an error"),
        pytest.param("a text", "ConfigurationError", id="a text"),
        pytest.param(provider("another"), "ConfigurationError", id="a provider of another issuer"),
        pytest.param(provider("a", name="own"), "ConfigurationError", id="a provider of a configured name"),
        pytest.param(
            Provider(name="t", audience="orders", issuer="https://10.0.0.1/a"), "ConfigurationError", id="another host"
        ),
    ],
)
async def test_an_answer_that_is_none_is_a_503_and_not_remembered(
    answer: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    tenants = Tenants()
    if isinstance(answer, Exception):
        tenants.error = answer
    else:
        tenants.providers[issuer("a")] = answer
    asking = verifier(tenants, None, provider("own", OWN, name="own"))
    assert await code(asking, signed("a")) == "keys_unavailable"
    assert message in "".join(text for _, text in logged(caplog))
    tenants.error, tenants.providers = None, {issuer("a"): provider("a")}
    assert await code(asking, signed("a")) == "good"


async def test_a_resolver_is_not_asked_about_an_issuer_that_is_too_long() -> None:
    tenants = Tenants()
    asking = verifier(tenants)
    assert await code(asking, signed("a" * MAX_ISSUER)) == "unknown_issuer"
    assert await code(asking, signed("\N{SNOWMAN}" * (MAX_ISSUER // 3))) == "unknown_issuer"
    assert await code(asking, signed("a" * (MAX_ISSUER - len(issuer(""))))) == "unknown_issuer"
    assert len(tenants.asked) == 1
    for iss in (None, ""):
        assert await code(asking, token(KEY.private, "ES256", {"kid": "tenant"}, iss=iss)) != "good"
    assert len(tenants.asked) == 2


async def test_a_flood_of_unknown_issuers_evicts_no_tenant_and_asks_again_only_about_the_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert MAX_UNKNOWN >= 1000
    most = 50
    monkeypatch.setattr("jwt_middleware.resolver.MAX_UNKNOWN", most)
    tenants = Tenants(a=provider("a"))
    asking = verifier(tenants)
    assert await code(asking, signed("a")) == "good"
    for number in range(most + 10):
        with pytest.raises(Refusal, match="unknown_issuer"):
            await asking.verify(signed(str(number)))
    asked = len(tenants.asked)
    assert await code(asking, signed("a")) == "good"
    assert await code(asking, signed(str(most))) == "unknown_issuer"
    assert len(tenants.asked) == asked
    # The first ones are forgotten.
    assert await code(asking, signed("0")) == "unknown_issuer"
    assert len(tenants.asked) == asked + 1


async def test_the_providers_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jwt_middleware.resolver.MAX_PROVIDERS", 3)
    assert MAX_PROVIDERS >= 10_000
    tenants = Tenants(**{name: provider(name) for name in "abcd"})
    asking = verifier(tenants)
    for name in "abcd":
        assert await code(asking, signed(name)) == "good"
    assert await code(asking, signed("d")) == "good"
    assert len(tenants.asked) == 4
    assert await code(asking, signed("a")) == "good"
    assert len(tenants.asked) == 5


async def test_providers_without_an_issuer_are_tried_where_the_resolver_knows_none() -> None:
    anybody = Provider(name="anybody", key=OTHER.jwk, audience="orders")
    asking = verifier(Tenants(a=provider("a")), None, anybody)
    assert (await asking.verify(signed("b", OTHER))).provider == "anybody"
    assert (await asking.verify(signed("a"))).provider == "tenant"
    # A token of a tenant is verified with the tenant's keys alone.
    assert await code(asking, signed("a", OTHER)) == "unknown_key"


async def test_validators_and_login_age_are_those_of_the_tenant() -> None:
    seen: list[Token] = []

    def refuse(found: Token) -> bool:
        seen.append(found)
        return found.issuer != issuer("b")

    tenants = Tenants(a=provider("a", validate=refuse), b=provider("b", validate=refuse), c=provider("c"))
    asking = verifier(tenants)
    for _ in range(2):
        assert [await code(asking, signed(name)) for name in "abc"] == ["good", "invalid_claim", "good"]
    assert len(seen) == 4
    found = await asking.verify(signed("a", auth_time=NOW - 60))
    assert asking.login_age(found) == 60


async def test_keys_of_a_tenant_are_fetched_when_they_are_needed(identity_provider: IdentityProvider) -> None:
    def resolve(iss: str) -> Provider | None:
        return Provider(name="tenant", issuer=iss, audience="orders") if iss == identity_provider.issuer else None

    confined = Verifier(ProviderResolver(resolve))
    # Its address comes from a token: it must not lead to this machine.
    assert await code(confined, identity_provider.mint(aud="orders")) == "keys_unavailable"
    assert identity_provider.requests == []
    allowed = Verifier(ProviderResolver(resolve, allow_hosts=["127.0.0.1"]))
    await allowed.start()
    raw = identity_provider.mint(aud="orders")
    assert await code(allowed, raw) == "good"
    identity_provider.refuse()
    assert await code(allowed, raw) == "good"
    await allowed.stop()


async def test_fetches_for_a_tenant_are_told_like_all_others(identity_provider: IdentityProvider) -> None:
    told: list[str] = []

    def resolve(iss: str) -> Provider:
        return Provider(name="tenant", issuer=iss, jwks=RemoteKeys(identity_provider.jwks_uri), audience="orders")

    resolver = ProviderResolver(resolve, allow_hosts=["127.0.0.1"])
    middleware = JWTMiddleware(echo, providers=resolver, on_event=lambda event: told.append(type(event).__name__))
    raw = identity_provider.mint(aud="orders", iss="https://login.example/new")
    with bare_client(middleware) as client:
        assert client.get("/", headers=bearer(raw)).status_code == 200
    assert told == ["FetchFinished", "KeysFetched"]


async def test_a_request_does_the_same_work_however_many_tenants_there_are() -> None:
    async def resolve(iss: str) -> Provider:
        return Provider(name="tenant", issuer=iss, key=SECRET, audience="orders")

    asking, raw = verifier(resolve), token(iss=issuer("one")).encode()
    await asking.verify(raw)

    async def work() -> tuple[int, int]:
        await asking.verify(raw)
        return steps(lambda: finish(asking.verify(raw))), steps(lambda: finish(asking.decide(raw, raw)))

    def finish(verifying: Any) -> None:
        """It has nothing to wait for."""
        with pytest.raises(StopIteration):
            verifying.send(None)

    before = await work()
    for number in range(60):
        await asking.verify(token(iss=issuer(str(number))))
    assert await work() == before


async def fail_to_fetch(url: str) -> Any:
    raise OSError(f"no route to {url}")


async def test_the_health_of_many_tenants_is_a_few_numbers() -> None:
    clock = Clock(0)

    def resolve(iss: str) -> Provider | None:
        if iss.endswith("static"):
            return Provider(issuer=iss, key=KEY.jwk, audience="orders")
        keys = RemoteKeys(f"{iss}/jwks", fetch=fail_to_fetch)
        return Provider(name=iss, issuer=iss, jwks=keys, audience="orders")

    asking = verifier(resolve, clock)
    assert asking.resolved_health() == ResolvedHealth(0, 0, {})
    assert await code(asking, signed("static")) == "good"
    async with anyio.create_task_group() as together:
        for number in range(5):
            together.start_soon(code, asking, signed(f"down-{number}"))
    async with anyio.create_task_group() as together:
        for number in range(5, 10):
            together.start_soon(code, asking, signed(f"down-{number}"))
    found = asking.resolved_health()
    assert found is not None
    assert (found.providers, found.failing, len(found.errors)) == (11, 10, 8)
    for iss, error in found.errors.items():
        assert f"no route to {iss}" in error
    # Answers that have expired do not count.
    clock.now += LIFETIME
    assert asking.resolved_health() == ResolvedHealth(0, 0, {})


def test_a_probe_sees_the_tenants_in_its_details_and_is_ready_without_them() -> None:
    middleware = JWTMiddleware(
        Starlette(routes=health_routes(details="health:read")),
        providers=[provider("own", OWN, name="own"), ProviderResolver(Tenants(a=provider("a")))],
        clock=lambda: NOW,
    )
    with bare_client(middleware) as client:
        seen = client.get("/ready", headers=bearer(signed("a", scope="health:read"))).json()
    assert seen["ready"] is True
    assert list(seen["keys"]) == ["own"]
    assert seen["resolved"] == {"providers": 1, "failing": 0, "errors": {}}


async def test_keys_of_a_configured_provider_may_serve_tenants_wherever_they_are(
    identity_provider: IdentityProvider,
) -> None:
    keys = RemoteKeys(identity_provider.jwks_uri)
    own = Provider(name="own", issuer=issuer("own"), jwks=keys, audience="orders")

    def resolve(iss: str) -> Provider:
        return Provider(name="tenant", issuer=iss, jwks=keys, audience="orders")

    asking = Verifier([own, ProviderResolver(resolve)])
    assert await code(asking, identity_provider.mint(aud="orders", iss=issuer("a"))) == "good"


async def test_a_host_that_a_configured_provider_names_may_serve_tenants(identity_provider: IdentityProvider) -> None:
    with IdentityProvider(path="/tenant") as tenant:
        configured = Provider(name="own", issuer=identity_provider.issuer, audience="orders")
        keys = RemoteKeys(tenant.jwks_uri)
        found = Provider(name="tenant", issuer=tenant.issuer, audience="orders", jwks=keys)
        asking = Verifier([configured, ProviderResolver({tenant.issuer: found}.get)])
        assert await code(asking, tenant.mint(aud="orders")) == "good"
        assert await code(asking, identity_provider.mint(aud="orders")) == "good"
        await asking.stop()


class Slow(Revocations):
    """Nothing is revoked, but only ``catch_up`` can tell, and an hour passes meanwhile."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.is_behind = True

    def is_revoked(self, token: Token) -> bool | None:
        return None if self.is_behind else False

    async def catch_up(self) -> None:
        self.clock.now += LIFETIME
        self.is_behind = False

    async def stop(self) -> None: ...


async def test_an_answer_that_expires_while_its_token_waits_for_revocations_is_a_503_and_asked_for_again() -> None:
    seen: list[Token] = []

    def accept(found: Token) -> bool:
        seen.append(found)
        return True

    tenants, clock = Tenants(a=provider("a", validate=accept)), Clock(0)
    asking = verifier(tenants, clock, revocations=Slow(clock))
    assert await code(asking, signed("a")) == "keys_unavailable"
    assert seen == []
    assert await code(asking, signed("a")) == "good"
    assert (len(seen), len(tenants.asked)) == (1, 2)


class Ended(Revocations):
    """Nothing is revoked."""

    def is_revoked(self, token: Token) -> bool | None:
        return False

    async def catch_up(self) -> None: ...

    async def stop(self) -> None: ...


async def test_a_leeway_that_revocations_forbid_is_refused_of_tenants_too() -> None:
    tenants = Tenants(a=provider("a", leeway=3600), b=provider("b"))
    asking = verifier(tenants, None, revocations=Ended())
    assert await code(asking, signed("a")) == "keys_unavailable"
    assert await code(asking, signed("b")) == "good"


@pytest.mark.parametrize(
    ("providers", "message"),
    [
        pytest.param([], "at least one Provider is needed", id="nothing"),
        pytest.param([ProviderResolver(print), ProviderResolver(print)], "one ProviderResolver is enough", id="two"),
    ],
)
async def test_one_resolver_stands_among_the_providers(providers: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Verifier(providers)


@pytest.mark.parametrize(
    "arguments", [{"resolve": 5}, {"resolve": print, "clock": 5}, {"resolve": print, "allow_hosts": "x"}]
)
async def test_a_resolver_is_checked_at_construction(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"^{list(arguments)[-1]}"):
        ProviderResolver(**arguments)


def test_the_middleware_takes_a_resolver_beside_providers() -> None:
    app = JWTMiddleware(
        echo,
        providers=[provider("own", OWN, name="own"), ProviderResolver({issuer("a"): provider("a")}.get)],
        clock=lambda: NOW,
    )
    client = bare_client(app)
    assert client.get("/", headers=bearer(signed("a"))).json()["provider"] == "tenant"
    assert client.get("/", headers=bearer(signed("own", OWN))).json()["provider"] == "own"
    assert client.get("/", headers=bearer(signed("b"))).json()["code"] == "unknown_issuer"


def test_a_call_whose_event_loop_ends_is_made_again_by_the_next(backend: str) -> None:
    tenants = Tenants(a=provider("a"))
    tenants.gate = anyio.Event()
    asking = verifier(tenants)

    async def give_up() -> None:
        with anyio.move_on_after(0.05):
            await asking.verify(signed("a"))

    anyio.run(give_up, backend=backend)
    tenants.gate = None
    assert anyio.run(code, asking, signed("a"), backend=backend) == "good"
