"""headers_for makes tokens that pass every check, and a key that nobody else has. as_user: see tests/fastapi."""

import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Annotated, Any

import jwt
import pytest
from fastapi import Depends, FastAPI, Security
from starlette.testclient import TestClient

from jwt_middleware import (
    ANY,
    ConfigurationError,
    JWTMiddleware,
    JWTUser,
    LoadBalancerKeys,
    Provider,
    ProviderResolver,
    Token,
)
from jwt_middleware.events import Event, LocalKeyMade
from jwt_middleware.fastapi import Auth
from jwt_middleware.fastapi.local_keys import add_local_key
from jwt_middleware.issuing import MemoryStore, Sessions, TokenIssuer
from jwt_middleware.keys.key_set import Key
from jwt_middleware.reading.sources import cookie, subprotocol
from jwt_middleware.testing import IdentityProvider, as_user, headers_for, signing_key

from ..support import NOW, SECRET, Clock, bare_client, echo
from ..support.load_balancer import SIGNER


def make_app(auth: Auth) -> TestClient:
    app = FastAPI()
    auth.install(app)

    @app.get("/me")
    def me(token: Annotated[Token, Depends(auth.token)]) -> Any:
        return [token.subject, token.scopes, token.provider]

    @app.post("/write")
    def write(user: Annotated[JWTUser, Security(auth, scopes=["orders:write"])]) -> str:
        return user.identity

    return bare_client(app)


def make_auth(**options: Any) -> Auth:
    given: dict[str, Any] = {"key": SECRET, "audience": "orders", "clock": lambda: NOW, **options}
    return Auth(**{name: value for name, value in given.items() if value is not None})


PROVIDERS = [
    pytest.param({}, id="audience alone"),
    pytest.param({"issuer": "https://login.example", "audience": ["b", "a"]}, id="issuer, audiences"),
    pytest.param({"issuer": ["https://a.example", "https://b.example"]}, id="issuers"),
    pytest.param({"token_type": "at+jwt"}, id="type"),
    pytest.param({"subject_claim": "email"}, id="subject claim"),
    pytest.param({"scope_claim": "permissions"}, id="scope claim"),
    pytest.param({"scope_claim": "realm_access.roles"}, id="nested scope claim"),
    pytest.param({"scope_claim": "scp"}, id="scp"),
    pytest.param({"max_token_age": 60}, id="age"),
    pytest.param({"algorithms": ["HS512"], "key": SECRET * 2}, id="other algorithms"),
    pytest.param({"allow_weak_keys": True, "key": "weak"}, id="a weak key"),
]


def test_a_load_balancers_token_cannot_be_made() -> None:
    auth = make_auth(key=None, jwks=LoadBalancerKeys(signer=SIGNER), audience=ANY)
    with pytest.raises(ConfigurationError, match=r"load balancer alone.*as_user\(\)"):
        headers_for(auth, "ada")


@pytest.mark.parametrize("options", PROVIDERS)
def test_the_token_is_good_by_the_rules_of_the_provider(options: dict[str, Any]) -> None:
    auth = make_auth(**options)
    service = make_app(auth)
    service.headers.update(headers_for(auth, "ada", scopes=["orders:read", "orders:write"]))
    assert service.get("/me").json() == ["ada", ["orders:read", "orders:write"], "jwt"]
    assert service.post("/write").json() == "ada"
    assert service.post("/write", headers=headers_for(auth, "ada")).status_code == 403


def test_sessions_and_remote_keys_take_it_too() -> None:
    sessions = Sessions(MemoryStore(), TokenIssuer(SECRET, "orders", "https://login.example"))
    auth = Auth(sessions=sessions)
    assert make_app(auth).get("/me", headers=headers_for(auth, "ada")).json()[0] == "ada"
    with IdentityProvider() as provider:
        remote = Auth(issuer=provider.issuer, audience="orders")
        service = make_app(remote)
        with service:
            see_both(service, remote, provider)


def see_both(service: TestClient, remote: Auth, provider: IdentityProvider) -> None:
    assert service.get("/me", headers=headers_for(remote, "ada")).json()[0] == "ada"
    real = {"authorization": f"Bearer {provider.mint(aud='orders')}"}
    assert service.get("/me", headers=real).json()[0] == "ada"
    forged = {"authorization": f"Bearer {provider.mint(aud='orders', header={'kid': 'other'})}"}
    assert service.get("/me", headers=forged).status_code == 401
    assert service.get("/me", headers=headers_for(remote, "grace")).json()[0] == "grace"


def test_one_of_several_providers_can_be_named() -> None:
    providers = [
        Provider(name="users", key=SECRET, audience="orders", issuer="https://users.example"),
        Provider(name="staff", key=SECRET[::-1], audience="orders", issuer="https://staff.example"),
    ]
    auth = Auth(providers=providers, clock=lambda: NOW)
    service = make_app(auth)
    assert service.get("/me", headers=headers_for(auth, "ada")).json()[2] == "users"
    assert service.get("/me", headers=headers_for(auth, "ada", provider="staff")).json()[2] == "staff"
    with pytest.raises(ConfigurationError, match=r"there is no 'other'; .* has 'users', 'staff'"):
        headers_for(auth, "ada", provider="other")


def test_a_resolver_beside_a_provider_changes_nothing() -> None:
    resolver = ProviderResolver(lambda issuer: None)
    auth = Auth(providers=[Provider(key=SECRET, audience="orders"), resolver], clock=lambda: NOW)
    assert make_app(auth).get("/me", headers=headers_for(auth, "ada")).json()[0] == "ada"
    with pytest.raises(ConfigurationError, match="needs a configured provider"):
        headers_for(Auth(providers=resolver), "ada")


def test_scopes_that_a_function_reads_are_given_as_claims() -> None:
    auth = make_auth(scope_claim=lambda claims: claims["grants"])
    with pytest.raises(ConfigurationError, match=r"scope_claim is a function; give what it reads in claims"):
        headers_for(auth, "ada", scopes=["orders:write"])
    headers = headers_for(auth, "ada", claims={"grants": ["orders:write"]})
    assert make_app(auth).post("/write", headers=headers).json() == "ada"


# Every other check


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"iss": "https://evil.example"}, "wrong_issuer"),
        ({"aud": "others"}, "wrong_audience"),
        ({"exp": NOW - 60}, "expired"),
        ({"nbf": NOW + 60}, "not_yet_valid"),
        ({"exp": None}, "missing_claim"),
        ({"cnf": {"jkt": "x"}}, "sender_constrained"),
        ({"org": None}, "missing_claim"),
    ],
)
def test_a_token_that_the_rules_refuse_is_refused_where_it_is_made(claims: dict[str, Any], code: str) -> None:
    auth = make_auth(issuer="https://login.example", required_claims=["org"])
    with pytest.raises(ConfigurationError, match=f"would refuse this token with {code}.*give what it demands"):
        headers_for(auth, "ada", claims={"org": "x", **claims})


def test_the_token_passes_no_check_by_itself() -> None:
    clock = Clock()
    refused = {"revoked": False, "validate": True, "load_user": True}

    class Revocations:
        async def catch_up(self) -> None: ...

        async def stop(self) -> None: ...

        def is_revoked(self, token: Token) -> bool:
            return refused["revoked"]

    auth = make_auth(
        clock=clock,
        revocations=Revocations(),
        validate=lambda token: refused["validate"],
        load_user=lambda token: JWTUser(token) if refused["load_user"] else None,
    )
    service = make_app(auth)
    service.headers.update(headers_for(auth, "ada"))
    assert service.get("/me").status_code == 200
    for name, value, code in (
        ("revoked", True, "revoked"),
        ("validate", False, "invalid_claim"),
        ("load_user", False, "user_refused"),
    ):
        before, refused[name] = refused[name], value
        assert service.get("/me").json()["code"] == code
        refused[name] = before
    clock.now += 1000
    assert service.get("/me").json()["code"] == "expired"


# The key


def raw_of(headers: dict[str, str]) -> str:
    return headers["Authorization"].removeprefix("Bearer ")


GONE = ("unknown_key", "bad_signature")


def test_the_key_is_known_to_this_auth_alone() -> None:
    shared = Provider(key=SECRET, audience="orders")
    auth, another = Auth(providers=shared, clock=lambda: NOW), Auth(providers=shared, clock=lambda: NOW)
    headers = headers_for(auth, "ada")
    assert make_app(auth).get("/me", headers=headers).status_code == 200
    assert make_app(another).get("/me", headers=headers).json()["code"] in GONE
    outside = bare_client(JWTMiddleware(echo, providers=shared, clock=lambda: NOW))
    assert outside.get("/", headers=headers).json()["code"] in GONE
    assert make_app(another).get("/me", headers=headers_for(another, "ada")).status_code == 200
    assert make_app(auth).get("/me", headers=headers_for(another, "ada")).status_code == 401
    assert (
        jwt.get_unverified_header(raw_of(headers))["kid"]
        == jwt.get_unverified_header(raw_of(headers_for(auth, "grace")))["kid"]
    )


def test_before_the_first_call_there_is_no_key() -> None:
    auth = make_auth()
    assert len(auth.providers[0].keys.current.keys) == 1
    headers_for(auth, "ada")
    headers_for(auth, "ada")
    assert len(auth.providers[0].keys.current.keys) == 2


def test_threads_that_make_the_first_call_at_once_get_the_same_key() -> None:
    events: list[Event] = []
    auth = make_auth(on_event=events.append)
    together = Barrier(8)

    def make(_: int) -> str:
        together.wait(10)
        return str(jwt.get_unverified_header(raw_of(headers_for(auth, "ada")))["kid"])

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(make, range(8)))) == 1
    assert len(auth.providers[0].keys.current.keys) == 2
    assert len([event for event in events if isinstance(event, LocalKeyMade)]) == 1


@pytest.mark.parametrize("in_file", [False, True], ids=["fixed keys", "keys of a file"])
def test_the_providers_of_an_auth_bring_no_key_along(in_file: bool, tmp_path: Any) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [signing_key("ES256").jwk]}))
    auth = make_auth(jwks=str(path), key=None) if in_file else make_auth()
    headers = headers_for(auth, "ada")
    another = Auth(providers=auth.providers, clock=lambda: NOW)
    assert make_app(auth).get("/me", headers=headers).status_code == 200
    assert make_app(another).get("/me", headers=headers).status_code == 401
    assert make_app(another).get("/me", headers=headers_for(another, "ada")).status_code == 200
    assert make_app(auth).get("/me", headers=headers).status_code == 200


def test_the_key_is_in_no_jwk_set_store_or_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    issuer = TokenIssuer(SECRET, "orders")
    store = MemoryStore()
    auth = Auth(sessions=Sessions(store, issuer))
    headers = headers_for(auth, "ada")
    (key,) = auth.providers[0].keys.current.keys[1:]
    assert isinstance(key.material, bytes)
    objects = (auth, auth.providers[0].keys.current, vars(store), issuer.jwks())
    shown = caplog.text + "".join(map(repr, objects))
    for secret in (key.material.hex(), repr(key.material), raw_of(headers)):
        assert secret not in shown


def test_the_first_call_is_told_as_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    events: list[Event] = []
    auth = make_auth(name="orders", on_event=events.append)
    for _ in range(3):
        headers_for(auth, "ada")
    (record,) = [record for record in caplog.records if "headers_for" in record.getMessage()]
    assert record.levelno == logging.WARNING
    assert "'orders'" in record.getMessage()
    assert [event for event in events if isinstance(event, LocalKeyMade)] == [LocalKeyMade(provider="orders")]


FORKED = """
import os, sys
from jwt_middleware.events import Event, LocalKeyMade
from jwt_middleware.fastapi import Auth
from jwt_middleware.issuing import TokenIssuer
from jwt_middleware import Provider, RemoteKeys
from jwt_middleware.testing import headers_for
from tests.testing.test_fake_users import make_app

path = sys.argv[1]
for auth in (Auth(sessions=TokenIssuer("x" * 32, "orders")), Auth(jwks=path, audience="orders")):
    headers = headers_for(auth, "ada")
    service = make_app(auth)
    assert service.get("/me", headers=headers).status_code == 200
    child = os.fork()
    if child == 0:
        status = service.get("/me", headers=headers).status_code == 401
        again = service.get("/me", headers=headers_for(auth, "ada")).status_code == 200
        # Unlike os._exit(), it lets coverage write down what ran here.
        sys.exit(0 if status and again else 1)
    assert os.waitpid(child, 0)[1] == 0, "the child knows the key"
    assert service.get("/me", headers=headers).status_code == 200
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_does_not_have_the_key(tmp_path: Any) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [signing_key("ES256").jwk]}))
    command = [sys.executable, "-W", "ignore", "-c", FORKED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_only_the_providers_of_an_auth_take_a_key_of_this_process() -> None:
    provider = Provider(key=SECRET, audience="orders")
    with pytest.raises(TypeError, match="only the providers of an Auth"):
        add_local_key(provider, Key(SECRET[::-1].encode(), ("HS256",), "local"))
    assert [key.kid for key in provider.keys.current.keys] != ["local"]
    assert len(provider.keys.current.keys) == 1


WITHOUT_FORK = """
import fastapi.testclient, os
for name in ("fork", "register_at_fork"):
    if hasattr(os, name):
        delattr(os, name)
from jwt_middleware.testing import headers_for
from tests.testing.test_fake_users import make_app, make_auth

auth = make_auth()
assert make_app(auth).get("/me", headers=headers_for(auth, "ada")).status_code == 200
"""


def test_the_key_needs_no_fork() -> None:
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_FORK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


# Where the token goes


def test_the_headers_are_those_that_the_middleware_reads() -> None:
    auth = make_auth(sources=iter([cookie("__Host-access")]))
    service = make_app(auth)
    assert service.post("/write", headers=headers_for(auth, "ada", scopes=["orders:write"])).json() == "ada"
    with pytest.raises(ConfigurationError, match="no header presents a token"):
        headers_for(make_auth(sources=[subprotocol("bearer")]), "ada")


def test_headers_are_made_for_an_auth_and_not_for_an_app() -> None:
    app: Any = FastAPI()
    with pytest.raises(
        ConfigurationError, match="headers_for\\(\\) needs the Auth that is installed on the app, not FastAPI"
    ):
        headers_for(app, "ada")


@pytest.mark.parametrize("make", [as_user, lambda **each: headers_for(make_auth(), **each)])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"subject": ""}, "subject must be a text", id="empty subject"),
        pytest.param({"subject": 7}, "subject must be a text that is not empty, not int", id="number"),
        pytest.param({"subject": "ada", "scopes": "orders:write"}, r"for instance \['orders:write'\]", id="one text"),
    ],
)
def test_a_fake_user_that_cannot_be_one_is_refused(make: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make(**arguments)
