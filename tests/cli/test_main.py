"""The command line, called as a program calls it and as people do."""

import io
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from jwt_middleware import JWTMiddleware, Provider, Verifier
from jwt_middleware.cli.inputs import MAX_BYTES
from jwt_middleware.cli.main import main
from jwt_middleware.cli.output import paint, show
from jwt_middleware.testing import IdentityProvider

from ..support import NOW, SECRET, claims, signed, token
from ..support.processes import ROOT


class Result(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*arguments: str, stdin: str | bytes = b"") -> Result:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        try:
            status = main(arguments)
        except SystemExit as exit:
            status = int(exit.code or 0)
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return call


@pytest.fixture
def secret(tmp_path: Path) -> str:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    return f"@{path}"


APP = f"""
from functools import partial
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from jwt_middleware import JWTMiddleware, Provider, ProviderResolver
from jwt_middleware.issuing import MemoryStore, Sessions, TokenIssuer

SETTINGS = {{"key": {SECRET!r}, "audience": "orders"}}
inner = Starlette(routes=[Route("/", lambda request: None)])
app = JWTMiddleware(inner, **SETTINGS)
added = Starlette(middleware=[Middleware(JWTMiddleware, **SETTINGS)])
mounted = Starlette(routes=[Mount("/api", app=app)])
without = inner
def make():
    return added
class Wrapper:
    def __init__(self, inner):
        self.inner, self.itself, self.number = inner, self, 3
    async def __call__(self, scope, receive, send): ...
def closed(inner):
    async def wrapped(scope, receive, send):
        await inner(scope, receive, send)
    def unused():
        return later
    later = None
    del later
    wrapped.unused = unused
    return wrapped
wrapper = Wrapper(closed(partial(Wrapper(app))))
wrong = Starlette(middleware=[Middleware(JWTMiddleware, key="short", audience="orders")])
def needs(argument): ...
def broken():
    raise LookupError("DATABASE_URL is not set")
def several():
    raise ExceptionGroup("settings", [ValueError("DATABASE_URL is not set")])
nameless = JWTMiddleware(inner, subject_claim=None, **SETTINGS)
limited = JWTMiddleware(inner, may_grant=["orders:read"], **SETTINGS)
small = JWTMiddleware(inner, max_token_size=100, **SETTINGS)
async def resolve(issuer):
    return Provider(issuer=issuer, name="tenant", **SETTINGS) if issuer == "https://t1.example" else None
own = Provider(issuer="https://own.example", **SETTINGS)
resolved = JWTMiddleware(inner, providers=[own, ProviderResolver(resolve)])
def by_tenant(token, connection):
    return connection.headers["x-tenant"] == "a"
def without_database(token):
    raise LookupError("no database")
class NoRedis:
    def is_revoked(self, token):
        return None
    async def catch_up(self):
        raise LookupError("no redis")
    async def stop(self): ...
tenants = JWTMiddleware(inner, validate=by_tenant, **SETTINGS)
offline = JWTMiddleware(inner, validate=without_database, **SETTINGS)
redisless = JWTMiddleware(inner, revocations=NoRedis(), **SETTINGS)
twice = Starlette(routes=[Mount("/a", app=app), Mount("/b", app=small)])
tokens = TokenIssuer({SECRET!r}, audience="orders")
remembering = JWTMiddleware(inner, providers=tokens.provider(), revocations=Sessions(MemoryStore(), tokens))
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with apps, in the current directory."""
    name = f"cli_app_{time.monotonic_ns()}"
    (tmp_path / f"{name}.py").write_text(APP)
    (tmp_path / f"{name}_syntax.py").write_text("app = (")
    (tmp_path / f"{name}_exit.py").write_text("import sys; sys.exit(3)")
    (tmp_path / f"{name}_imports.py").write_text("import nothing_there")
    monkeypatch.chdir(tmp_path)
    return name


def test_a_good_token_is_explained_with_status_0(run: Run, secret: str) -> None:
    result = run("explain", "-", "--key", secret, "--audience", "orders", "--at", str(NOW), stdin=token())
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("accepted\n")
    assert 'sub    "ada"' in result.out


@pytest.mark.parametrize(
    ("scope", "granted", "said"),
    [
        pytest.param("orders:read stats", ["orders:read", "stats"], "orders:read, stats", id="scopes"),
        pytest.param(None, [], "none", id="no scopes"),
    ],
)
def test_what_a_good_token_grants_is_shown(
    run: Run, secret: str, scope: str | None, granted: list[str], said: str
) -> None:
    """An endpoint may refuse a good token, and this command knows no endpoints."""
    arguments = ("explain", "--key", secret, "--audience", "orders", "--at", str(NOW))
    result = run(*arguments, stdin=token(scope=scope))
    assert f"The token is good.\n\nThe app sees:\n  provider  jwt\n  subject   ada\n  scopes    {said}\n" in result.out
    assert "insufficient_scope" in result.out
    found = json.loads(run(*arguments, "--json", stdin=token(scope=scope)).out)
    assert found["verified"] == {"provider": "jwt", "subject": "ada", "scopes": granted}
    assert json.loads(run(*arguments, "--json", stdin=token(aud="x")).out)["verified"] is None


def test_a_token_without_a_subject_is_good_where_there_are_none(run: Run, app: str) -> None:
    result = run("explain", "--app", f"{app}:nameless", "--at", str(NOW), stdin=token(sub=None, scope=None))
    assert "  subject   none\n" in result.out


@pytest.mark.parametrize("name", ["app", "tenants"])
def test_whether_a_token_grants_a_scope_can_be_asked(run: Run, app: str, name: str) -> None:
    arguments = ("explain", "--app", f"{app}:{name}", "--at", str(NOW), "--scope")
    good = run(*arguments, "orders:read", "--scope", "orders:write", stdin=token())
    assert good.status == 0
    assert "insufficient_scope" not in good.out
    result = run(*arguments, "orders:read", "--scope", "admin", stdin=token())
    assert result.status == 1
    assert result.out.startswith("insufficient_scope\n")
    assert "STOP  endpoint " in result.out
    assert "   ?  user " in result.out
    assert "needs orders:read admin; the token grants orders:read orders:write." in result.out


def test_a_scope_that_the_provider_may_not_grant_is_a_setting_to_change(run: Run, app: str) -> None:
    result = run("explain", "--app", f"{app}:limited", "--at", str(NOW), "--scope", "orders:write", stdin=token())
    assert "Add 'orders:write' to may_grant of the provider 'jwt'" in result.out


@pytest.mark.parametrize("stdin", ["", " \n"])
@pytest.mark.parametrize("command", [["explain", "--key", SECRET], ["inspect"]])
def test_no_token_at_all_is_wrong_usage(run: Run, command: list[str], stdin: str) -> None:
    result = run(*command, stdin=stdin)
    assert (result.status, result.out) == (2, "")
    assert "there is no token" in result.err


def test_a_refused_token_is_explained_with_status_1(run: Run, secret: str) -> None:
    result = run("explain", "--key", secret, "--audience", "billing", "--at", str(NOW), stdin=token())
    assert result.status == 1
    assert "STOP  claims" in result.out
    assert "The token is for the audience \"orders\"; accepted here: 'billing'." in result.out


def test_an_explanation_is_json_for_programs(run: Run, secret: str) -> None:
    result = run("explain", "--json", "--key", secret, "--at", str(NOW + 1000), stdin=token())
    assert result.status == 1
    assert json.loads(result.out)["code"] == "expired"


def test_a_token_can_be_a_file_or_an_argument(run: Run, secret: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(token())
    for argument in (f"@{path}", token()):
        assert run("explain", argument, "--key", secret, "--at", str(NOW)).status == 0


@pytest.mark.parametrize("name", ["app", "added", "mounted", "make()", "wrapper"])
def test_an_app_brings_its_own_settings(run: Run, app: str, name: str) -> None:
    result = run("explain", "--app", f"{app}:{name}", "--at", str(NOW), stdin=token(aud="billing"))
    assert result.status == 1
    assert "accepted here: 'orders'" in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--app", "{app}"], "needs a module and a name", id="no name"),
        pytest.param(["--app", "no_such_module:app"], "importing no_such_module raised", id="no module"),
        pytest.param(["--app", "{app}:nothing"], "has no 'nothing'", id="no attribute"),
        pytest.param(["--app", "{app}:without"], "there is no JWTMiddleware", id="no middleware"),
        pytest.param(["--app", "{app}:make"], "did you mean '{app}:make()'?", id="a factory"),
        pytest.param(["--app", "{app}:needs"], "there is no JWTMiddleware in {app}:needs\n", id="a function"),
        pytest.param(["--app", "{app}:broken()"], "raised LookupError: DATABASE_URL is not set", id="a broken factory"),
        pytest.param(["--app", "{app}:several()"], "raised ValueError: DATABASE_URL", id="a group of exceptions"),
        pytest.param(["--app", "{app}:wrong"], "raised ConfigurationError: key: the secret has 5", id="a weak secret"),
        pytest.param(["--app", "{app}_syntax:app"], "raised SyntaxError", id="no Python"),
        pytest.param(["--app", "{app}_exit:app"], "raised SystemExit: 3", id="an app that ends the process"),
        pytest.param(["--app", "{app}_imports:app"], "raised ModuleNotFoundError", id="an app without its parts"),
        pytest.param(["--at", "nan"], "is no time", id="not a number"),
        pytest.param(["--at", "1e300"], "is no time", id="the end of time"),
        pytest.param(["--at", "soon"], "is no time", id="a word"),
        pytest.param(["--app", "{app}:app", "--audience", "x"], "leave --issuer", id="both"),
        pytest.param([], "--app main:app", id="nothing"),
        pytest.param(["--key", "short"], "32", id="a weak key"),
        pytest.param(["--key", "@/no/such/file"], "cannot read the key", id="no file"),
        pytest.param(["--key", "@/dev/null"], "there is no key", id="an empty file"),
        pytest.param(["--key", "{{}"], "not a JSON object", id="no JSON"),
    ],
)
def test_wrong_usage_says_what_would_work_with_status_2(run: Run, app: str, arguments: list[str], message: str) -> None:
    result = run("explain", *(argument.replace("{app}", app) for argument in arguments), stdin=token())
    assert (result.status, result.out) == (2, "")
    assert message.replace("{app}", app) in result.err
    assert "Traceback" not in result.err


def test_an_app_is_explained_with_all_of_its_settings(run: Run, app: str) -> None:
    assert "token_too_large" in run("explain", "--app", f"{app}:small", stdin=token()).out
    good = token(iss="https://t1.example")
    assert run("explain", "--app", f"{app}:resolved", "--at", str(NOW), stdin=good).status == 0
    result = run(
        "explain", "--app", f"{app}:resolved", "--at", str(NOW), stdin=token(iss="https://t1.example", aud="x")
    )
    assert "accepted here: 'orders'" in result.out
    result = run("explain", "--app", f"{app}:resolved", "--at", str(NOW), stdin=token(iss="https://t2.example"))
    assert "unknown_issuer" in result.out


def test_a_validate_that_needs_the_request_is_not_checked(run: Run, app: str) -> None:
    result = run("explain", "--app", f"{app}:tenants", "--at", str(NOW), stdin=token())
    assert result.status == 0
    assert "?  validate" in result.out


def test_which_of_several_middlewares_is_used_is_said(run: Run, app: str) -> None:
    result = run("explain", "--app", f"{app}:twice", "--at", str(NOW), stdin=token())
    assert result.status == 0
    assert f"{app}:twice has 2 JWTMiddleware: the settings of the outermost, or first, are used" in result.err
    assert not run("explain", "--app", f"{app}:mounted", "--at", str(NOW), stdin=token()).err


def test_sessions_in_the_memory_of_the_app_are_not_checked(run: Run, app: str) -> None:
    result = run("explain", "--app", f"{app}:remembering", "--at", str(NOW), stdin=token())
    assert result.status == 0
    assert "?  revocation" in result.out


@pytest.mark.parametrize(("name", "error"), [("offline", "no database"), ("redisless", "no redis")])
def test_an_exception_of_the_app_is_named_without_a_traceback(run: Run, app: str, name: str, error: str) -> None:
    result = run("explain", "--app", f"{app}:{name}", "--at", str(NOW), stdin=token())
    assert result.status == 2
    assert f"raised LookupError: {error} (" in result.err
    assert f"{app}.py, line " in result.err


def test_check_names_an_exception_of_the_app_without_a_traceback(run: Run, app: str) -> None:
    result = run("check", "--app", f"{app}:redisless")
    assert result.status == 2
    assert "raised LookupError: no redis (" in result.err


@pytest.mark.parametrize("pasted", ["Authorization: Bearer {}", "authorization:bearer {}", "Bearer {}"])
def test_a_whole_header_may_be_pasted(run: Run, secret: str, pasted: str) -> None:
    result = run("explain", "--key", secret, "--at", str(NOW), stdin=pasted.format(token()))
    assert result.status == 0


ODD = signed(b'{"alg": "HS256"}', b'{"sub": "\\ud800\\u202e zo\xc3\xab", "exp": 1e999, "nbf": NaN}')


@pytest.mark.parametrize("command", [["inspect"], ["explain", "--key", SECRET]])
def test_odd_values_are_json_that_every_program_can_read(run: Run, command: list[str]) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    result = run(*command, "--json", stdin=ODD)
    assert result.out.isascii()
    json.loads(result.out, parse_constant=refuse)


def test_an_output_without_the_letters_shows_them_escaped() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jwt_middleware", "inspect", signed(b'{"alg": "HS256"}', b'{"sub": "zo\xc3\xab"}')],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert r'sub  "zo\xeb"' in done.stdout


def test_a_moment_may_be_a_date(run: Run, secret: str) -> None:
    arguments = ("explain", "--key", secret, "--audience", "orders", "--at")
    assert run(*arguments, "2030-03-17T17:46:40Z", stdin=token()).status == 0
    assert "expired 15 min ago" in run(*arguments, "2030-03-17T18:16:40Z", stdin=token()).out


def test_more_than_a_token_is_not_read(run: Run, secret: str) -> None:
    result = run("explain", "--key", secret, stdin=b"x" * (MAX_BYTES + 1))
    assert result.status == 2
    assert str(MAX_BYTES) in result.err


def test_keys_that_are_fetched_are_named_when_they_fail(run: Run) -> None:
    with IdentityProvider() as provider:
        raw = provider.mint(aud="orders")
        assert run("explain", "--issuer", provider.issuer, "--audience", "orders", stdin=raw).status == 0
        provider.fail()
        result = run("explain", "--issuer", provider.issuer, "--audience", "orders", stdin=raw)
    assert result.status == 1
    assert "500" in result.out


def test_inspect_shows_a_token_and_says_that_nothing_was_verified(run: Run) -> None:
    result = run("inspect", stdin=token(name="Ada\x1b[31m"))
    assert result.status == 0
    assert '"HS256"' in result.out
    assert "2030-03-17" in result.out
    assert "\x1b" not in result.out
    assert "Nothing was verified" in result.err
    assert json.loads(run("inspect", "--json", stdin=token()).out)["claims"] == claims()


def test_an_opaque_text_has_nothing_to_show(run: Run, secret: str) -> None:
    result = run("explain", "opaque", "--key", secret)
    assert result.status == 1
    assert "The token says" not in result.out


def test_inspect_of_no_token_is_wrong_usage(run: Run) -> None:
    result = run("inspect", "opaque")
    assert result.status == 2
    assert "no JSON Web Token" in result.err


@pytest.mark.anyio
async def test_a_minted_token_is_accepted(run: Run, secret: str) -> None:
    result = run(
        "mint", "--key", secret, "--audience", "orders", "--subject", "ada", "--scope", "a", "--claims", '{"n":1}'
    )
    assert result.status == 0
    verified = await Verifier(Provider(key=SECRET, audience="orders")).verify(result.out.strip())
    assert (verified.subject, verified.scopes, verified.claims["n"]) == ("ada", ("a",), 1)


def test_a_minted_token_is_json_for_programs(run: Run, secret: str) -> None:
    result = run("mint", "--json", "--key", secret, "--audience", "orders", "--subject", "ada", "--lifetime", "60")
    assert json.loads(result.out)["expires_in"] == 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--claims", "[]"], "claims is not"), (["--claims", '{"sub": "eve"}'], "sub"), (["--lifetime", "0"], "lifetime")],
)
def test_what_cannot_be_minted_is_wrong_usage(run: Run, secret: str, arguments: list[str], message: str) -> None:
    result = run("mint", "--key", secret, "--audience", "orders", "--subject", "ada", *arguments)
    assert result.status == 2
    assert message in result.err


def test_a_new_secret_is_strong_enough(run: Run) -> None:
    first, second = run("keygen", "secret").out.strip(), json.loads(run("keygen", "secret", "--json").out)["secret"]
    assert first != second
    for secret in (first, second):
        Provider(key=secret, audience="orders")


@pytest.mark.parametrize("kind", ["RSA", "EC", "Ed25519"])
def test_a_new_key_pair_signs_and_verifies(run: Run, kind: str, tmp_path: Path) -> None:
    pems = run("keygen", kind).out.split("\n\n")
    assert [pem.splitlines()[0] for pem in pems] == ["-----BEGIN PRIVATE KEY-----", "-----BEGIN PUBLIC KEY-----"]
    jwks = json.loads(run("keygen", kind, "--jwk").out)
    assert jwks["private"]["kid"] == jwks["public"]["kid"]
    assert "d" not in jwks["public"]
    for private, public in (pems, (json.dumps(jwks["private"]), json.dumps(jwks["public"]))):
        (tmp_path / "private").write_text(private)
        (tmp_path / "public").write_text(public)
        minted = run("mint", "--key", f"@{tmp_path / 'private'}", "--audience", "orders", "--subject", "ada").out
        result = run("explain", "--key", f"@{tmp_path / 'public'}", "--audience", "orders", stdin=minted)
        assert result.status == 0


def test_the_fake_provider_prints_a_token_that_its_settings_accept_until_it_is_interrupted(run: Run) -> None:
    command = [sys.executable, "-u", "-m", "jwt_middleware", "serve-idp", "--audience", "billing", "--scope", "a"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stdout is not None
            settings, _, curl = (serving.stdout.readline() for _ in range(3))
            issuer = settings.partition('issuer="')[2].partition('"')[0]
            raw = curl.partition("Bearer ")[2].partition("'")[0]
            result = run("explain", raw, "--issuer", issuer, "--audience", "billing")
            serving.send_signal(signal.SIGINT)
            assert serving.wait(10) == 0
        finally:
            serving.kill()
    assert result.status == 0
    assert 'scope  "a"' in result.out


def test_an_interrupt_ends_the_fake_provider_without_a_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def wait(self, seconds: float | None) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr("jwt_middleware.cli.serve_idp.Event", Interrupted)
    assert run("serve-idp").status == 0


def test_the_fake_provider_stops_by_itself_where_it_is_told_to(run: Run) -> None:
    assert run("serve-idp", "--seconds", "0").status == 0
    assert set(json.loads(run("serve-idp", "--seconds", "0", "--json").out)) == {"issuer", "audience", "access_token"}


@pytest.mark.parametrize("seconds", ["nan", "-1", "1e300", "soon"])
def test_the_fake_provider_needs_a_time_that_passes(run: Run, seconds: str) -> None:
    result = run("serve-idp", "--seconds", seconds)
    assert result.status == 2
    assert "is no number of seconds" in result.err


def test_the_fake_provider_serves_at_the_port_that_is_asked_for(run: Run) -> None:
    with IdentityProvider() as provider:
        taken = provider.issuer.rpartition(":")[2]
        result = run("serve-idp", "--seconds", "0", "--port", taken)
        assert result.status == 2
        assert f"cannot serve on port {taken}: Address already in use" in result.err
    assert f"http://127.0.0.1:{taken}" in run("serve-idp", "--seconds", "0", "--port", taken).out


@pytest.mark.parametrize("port", ["65536", "-1", "http", "1.5"])
def test_what_cannot_be_a_port_is_wrong_usage(run: Run, port: str) -> None:
    result = run("serve-idp", "--seconds", "0", "--port", port)
    assert result.status == 2
    assert "is not a port" in result.err


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert paint("text", "red", io.StringIO()) == "text"
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert paint("text", "red", Terminal()) == "\x1b[31mtext\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("text", "red", Terminal()) == "text"


def test_a_person_is_asked_to_paste(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO(token().encode())))
    assert main(["inspect"]) == 0
    assert "Paste the token" in capsys.readouterr().err


def test_output_may_go_into_a_stream_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stdout", written)
    assert main(["keygen", "secret"]) == 0
    assert len(written.getvalue()) > 64


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = [sys.executable, "-W", "error", "-m", "jwt_middleware", "keygen", "RSA", "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(10) == 0


def test_a_command_is_needed(run: Run) -> None:
    result = run()
    assert result.status == 2
    assert "COMMAND" in result.err
    assert "explain" in run("--help").out


def test_the_package_is_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["asgi-jwt", "keygen", "secret"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("jwt_middleware", run_name="__main__")
    command = [sys.executable, "-W", "error", "-m", "jwt_middleware", "keygen", "secret"]
    assert len(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout) > 64


def test_what_is_not_printable_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    show("a\u202eb\rc")
    assert capsys.readouterr().out == "a\\u202eb\\rc\n"


def test_a_middleware_is_found_once(app: str) -> None:
    from jwt_middleware.cli.apps import find_middleware, import_app

    outer = import_app(f"{app}:app")
    assert find_middleware(outer, "app") == [outer]
    assert isinstance(outer, JWTMiddleware)


def test_jwks_judges_each_key(run: Run, tmp_path: Path) -> None:
    with IdentityProvider() as provider:
        result = run("jwks", provider.jwks_uri)
        assert (result.status, result.err) == (0, "")
        assert f"kid '{provider.signing_key.jwk['kid']}': ES256" in result.out
        assert run("jwks", provider.issuer, "--issuer").status == 0
        provider.jwks["keys"] = [provider.signing_key.jwk, {"kty": "oct", "k": "c2VjcmV0", "kid": "s"}]
        result = run("jwks", provider.jwks_uri)
        assert result.status == 1
        assert "skip" in result.out
        provider.fail()
        result = run("jwks", "--json", provider.jwks_uri)
        assert result.status == 1
        assert "500" in json.loads(result.out)["error"]
        assert "FAIL" in run("jwks", provider.jwks_uri).out


def test_jwks_of_no_address_is_wrong_usage(run: Run) -> None:
    result = run("jwks", "http://example.com/keys")
    assert result.status == 2
    assert "https" in result.err


CHECKED = f"""
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from jwt_middleware import ANY, JWTMiddleware, LoadBalancerKeys, RemoteKeys, requires

async def endpoint(request):
    return PlainTextResponse("ok")

guarded = requires("admin")(endpoint)
SETTINGS = {{"key": {SECRET!r}, "audience": "orders"}}
ROUTES = [
    Route("/items/{{id}}", endpoint, methods=["GET"]),
    Mount("/docs", routes=[Route("/intro", lambda request: None)]),
    Route("/health", lambda request: None),
    Route("/login", lambda request: None, methods=["POST"]),
    WebSocketRoute("/live", lambda socket: None),
]
PUBLIC = ["/health", "GET /items/{{id}}", "/docs/*", "/docs/intro"]
OPEN = ["/health", "/docs/*", "/docs/intro", "/login", "POST /login", "/live"]
good = JWTMiddleware(Starlette(routes=ROUTES[1:]), public=OPEN, **SETTINGS)
bare = JWTMiddleware(endpoint, public=["/anything"], **SETTINGS)
never = JWTMiddleware(Starlette(routes=ROUTES[1:]), public=["/helth", "POST /live", "GET /login", "/old/*"], **SETTINGS)
bypassed = JWTMiddleware(Starlette(routes=ROUTES), public=PUBLIC, **SETTINGS)
anybody = JWTMiddleware(endpoint, key={SECRET!r}, audience=ANY)
ARN = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/shop/50dc6c495c0c9188"
behind = JWTMiddleware(endpoint, jwks=LoadBalancerKeys(signer=ARN), audience=ANY)
inside = Starlette(middleware=[Middleware(JWTMiddleware, **SETTINGS), Middleware(CORSMiddleware)])
outside = Starlette(middleware=[Middleware(CORSMiddleware), Middleware(JWTMiddleware, **SETTINGS)])
SET = {{"keys": [{{"kty": "oct", "k": "{"QUFB" * 16}", "kid": "a"}}, {{"kty": "oct", "k": "QUFB", "kid": "b"}}]}}
skipped = JWTMiddleware(endpoint, key=SET, audience="orders")
debugged = JWTMiddleware(endpoint, debug=True, **SETTINGS)
from fastapi import APIRouter, Depends, FastAPI
from jwt_middleware.fastapi import Auth
def respond(): ...
fast, mistaken, passed_by = FastAPI(), FastAPI(), FastAPI()
router = APIRouter(prefix="/items")
router.add_api_route("/{{id}}", respond)
for one in (fast, mistaken):
    one.include_router(router, prefix="/v1")
    one.add_api_route("/health", respond, methods=["GET"])
auth = Auth(public=["/health"], **SETTINGS)
auth.install(fast, public=["/v1/items/{{id}}", "GET /v1/items/{{id}}"], docs=True)
auth.install(mistaken, public=["/helth", "POST /v1/items/{{id}}"])
mistaken.add_api_route("/users", respond, dependencies=[Depends(auth.any_of)])
auth.install(passed_by)
passed_by.add_api_route("/admin", endpoint)
away = JWTMiddleware(endpoint, jwks="http://127.0.0.1:9/jwks", audience="orders")
none = Starlette()
"""


@pytest.mark.parametrize(
    ("name", "findings"),
    [
        ("good", []),
        ("bare", []),
        ("outside", []),
        ("behind", []),
        ("never", ["'/helth'", "'POST /live'", "'GET /login'", "'/old/*'"]),
        ("bypassed", ["/items/{id}: @requires"]),
        ("anybody", ["any audience"]),
        ("skipped", ["3 bytes"]),
        ("debugged", ["debug=True"]),
        ("inside", ["CORSMiddleware is inside"]),
        ("fast", []),
        ("mistaken", ["'/helth'", "'POST /v1/items/{id}'", "/users: Depends(auth.any_of) guards nothing"]),
        ("passed_by", ["'/health'", "/admin: the route calls 'endpoint' itself"]),
        ("away", ["does not check the issuer", "cannot be reached"]),
    ],
)
def test_check_says_what_should_be_mended(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, findings: list[str]
) -> None:
    module = f"checked_{time.monotonic_ns()}"
    (tmp_path / f"{module}.py").write_text(CHECKED)
    monkeypatch.chdir(tmp_path)
    result = run("check", "--json", "--app", f"{module}:{name}")
    found = json.loads(result.out)["findings"]
    assert result.status == (1 if findings else 0)
    assert len(found) == len(findings)
    for finding in findings:
        assert any(finding in one for one in found), found
    text = run("check", "--app", f"{module}:{name}").out
    assert text.count("mend  ") == len(findings)


def test_check_of_an_app_without_a_middleware_is_wrong_usage(run: Run, app: str) -> None:
    assert "no JWTMiddleware" in run("check", "--app", f"{app}:without").err
