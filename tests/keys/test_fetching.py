"""Over real HTTP: what is read at most, what is refused, where metadata lies."""

import asyncio
import datetime
import ipaddress
import json
import os
import socket
import ssl
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from jwt_middleware import ConfigurationError, Provider, Verifier
from jwt_middleware.errors import KeysUnavailable
from jwt_middleware.keys.addresses import Hosts, host_of, well_known_addresses
from jwt_middleware.keys.documents import DocumentError, read_keys
from jwt_middleware.keys.fetching import Address, Discovery, File
from jwt_middleware.keys.http import Fetch, FetchError, OwnClient, UserClient
from jwt_middleware.keys.key_set import load_foreign_keys
from jwt_middleware.keys.remote import RemoteKeys
from jwt_middleware.testing.identity_provider import IdentityProvider

from ..support import NOW, until
from ..support.keys import ED25519, RSA, SIGNERS, pem, private_pem, token_by
from ..support.keys import certificate as certificate_of
from .test_remote import ADDRESS, OLD, Answer

JWKS = json.dumps({"keys": [OLD.jwk]}).encode()
ISSUER = "https://login.example"


def address(url: str, fetch: Fetch | None = None) -> Address:
    hosts = Hosts(named=frozenset({host_of(url)}))
    return Address(url, OwnClient(hosts) if fetch is None else UserClient(fetch), hosts)


def discovery(issuer: str, fetch: Fetch) -> Discovery:
    return Discovery(issuer, UserClient(fetch), Hosts(named=frozenset({host_of(issuer)})))


async def error(source: Address | Discovery | File) -> str:
    with pytest.raises((FetchError, DocumentError)) as failed:
        await source.fetch(None)
    return str(failed.value)


@pytest.mark.anyio
async def test_a_jwk_set_is_fetched_and_asked_for_again_by_its_etag(identity_provider: IdentityProvider) -> None:
    identity_provider.headers["Cache-Control"] = "max-age=77"
    source = address(identity_provider.jwks_uri)
    first = await source.fetch(None)
    assert first.body == json.dumps({"keys": [identity_provider.signing_key.jwk]}).encode()
    assert first.max_age == 77
    second = await source.fetch(first.validator)
    assert (second.body, second.validator, second.max_age) == (None, first.validator, 77)
    identity_provider.rotate()
    third = await source.fetch(second.validator)
    assert third.body is not None
    assert third.validator != first.validator
    asked = [request.headers.get("if-none-match") for request in identity_provider.requests]
    assert asked[0] is None
    assert asked[1] == asked[2] is not None


@pytest.mark.anyio
async def test_what_is_not_changed_stays_in_force(identity_provider: IdentityProvider) -> None:
    keys = RemoteKeys(identity_provider.jwks_uri, cooldown=0, refresh_after=0.01, keys_max_stale=0.2)
    await keys.prefetch()
    first = keys.current
    await anyio.sleep(0.3)
    await keys.refreshed(None, "ES256")
    # Even after they were too old: the answer was 304, which has no keys in it.
    assert keys.current is first
    assert identity_provider.fetches >= 2
    await keys.stop()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "headers",
    [{"Content-Type": "application/jwk-set+json"}, {"Content-Type": "text/plain"}, {}],
    ids=["application/jwk-set+json", "text/plain", "none"],
)
async def test_the_content_types_of_the_real_world_are_accepted(
    identity_provider: IdentityProvider, headers: dict[str, str]
) -> None:
    identity_provider.answer(JWKS, headers=headers)
    assert (await address(identity_provider.jwks_uri).fetch(None)).body == JWKS


@pytest.mark.anyio
@pytest.mark.parametrize(("encoding", "wbits"), [("gzip", 31), ("deflate", 15), (" GZip", 31), ("x-gzip", 31)])
async def test_an_answer_that_only_exists_compressed_is_read(
    identity_provider: IdentityProvider, encoding: str, wbits: int
) -> None:
    compressor = zlib.compressobj(wbits=wbits)
    identity_provider.answer(
        compressor.compress(JWKS) + compressor.flush(), headers={"Content-Encoding": encoding}, at="jwks"
    )
    assert (await address(identity_provider.jwks_uri).fetch(None)).body == JWKS
    assert identity_provider.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.anyio
@pytest.mark.parametrize("encoding", ["", "Identity"])
async def test_an_answer_that_is_not_encoded_may_say_so(identity_provider: IdentityProvider, encoding: str) -> None:
    identity_provider.answer(JWKS, headers={"Content-Encoding": encoding})
    assert (await address(identity_provider.jwks_uri).fetch(None)).body == JWKS


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("headers", "max_age"),
    [
        pytest.param({"Cache-Control": f"max-age={'9' * 10}"}, 2**31, id="ten digits"),
        pytest.param({"Cache-Control": f"max-age={'9' * 5000}"}, 2**31, id="5,000 digits"),
        pytest.param({"Cache-Control": "max-age=60", "Age": "9" * 5000}, 0, id="an age of 5,000 digits"),
    ],
)
async def test_the_longest_ages_count_as_68_years(
    identity_provider: IdentityProvider, headers: dict[str, str], max_age: float
) -> None:
    identity_provider.headers.update(headers)
    assert (await address(identity_provider.jwks_uri).fetch(None)).max_age == max_age


@pytest.mark.anyio
async def test_proxies_of_the_environment_are_not_used(
    identity_provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with IdentityProvider() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.issuer)
        monkeypatch.setenv("ALL_PROXY", proxy.issuer)
        assert (await address(identity_provider.jwks_uri).fetch(None)).body is not None
        assert proxy.requests == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Content-Encoding": "br"}, "its content encoding is 'br', which was not asked for"),
        ({"Content-Encoding": "gzip"}, "it is not the gzip that it is said to be"),
    ],
)
async def test_an_encoding_that_cannot_be_read_is_an_error(
    identity_provider: IdentityProvider, headers: dict[str, str], message: str
) -> None:
    identity_provider.answer(JWKS, headers=headers)
    assert await error(address(identity_provider.jwks_uri)) == message


@pytest.mark.anyio
@pytest.mark.parametrize("status", [201, 204, 301, 302, 304, 307, 401, 404, 429, 500, 503])
async def test_any_other_status_than_200_is_an_error(identity_provider: IdentityProvider, status: int) -> None:
    identity_provider.fail(status)
    found = await error(address(identity_provider.jwks_uri + "?password=hunter2"))
    assert found.startswith(f"{identity_provider.jwks_uri} answered {status}")


@pytest.mark.anyio
@pytest.mark.parametrize("at", ["jwks", "metadata"])
async def test_no_connection_is_made_to_where_a_redirect_leads(identity_provider: IdentityProvider, at: Any) -> None:
    with IdentityProvider() as other:
        identity_provider.redirect(other.jwks_uri, at=at)
        keys = RemoteKeys(issuer=identity_provider.issuer)
        with pytest.raises(KeysUnavailable):
            await keys.refreshed(None, "ES256")
        assert other.requests == []
        assert "answered 302: redirects are not followed" in str(keys.health.error)


@pytest.mark.anyio
@pytest.mark.parametrize("fault", ["flood", "gzip_bomb"])
async def test_of_a_hundred_megabytes_half_a_megabyte_is_kept(identity_provider: IdentityProvider, fault: str) -> None:
    getattr(identity_provider, fault)()
    source = address(identity_provider.jwks_uri)
    # The certificates are loaded once; they are not what is measured.
    assert await error(source) == "it has more than 512 KiB"
    tracemalloc.start()
    try:
        assert await error(source) == "it has more than 512 KiB"
        assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.anyio
async def test_a_stream_that_decompresses_to_nothing_comes_to_an_end(identity_provider: IdentityProvider) -> None:
    compressor = zlib.compressobj(wbits=31)
    nothing = compressor.flush(zlib.Z_FULL_FLUSH) + b"\0\0\0\xff\xff" * 200_000
    identity_provider.answer(nothing, headers={"Content-Encoding": "gzip"})
    assert await error(address(identity_provider.jwks_uri)) == "it has more than 512 KiB"


@pytest.mark.anyio
@pytest.mark.parametrize("fault", ["stall", "drip"])
async def test_an_answer_that_does_not_come_is_given_up_in_time(
    identity_provider: IdentityProvider, fault: str
) -> None:
    getattr(identity_provider, fault)()
    await gives_up(identity_provider.jwks_uri)


@pytest.mark.anyio
async def test_headers_that_come_a_byte_at_a_time_are_given_up_in_time() -> None:
    server = DrippingHeaders()
    try:
        await gives_up(server.address)
    finally:
        server.close()


async def gives_up(address: str) -> None:
    keys = RemoteKeys(address, timeout=0.5)
    start = time.monotonic()
    await keys.prefetch()
    assert 0.4 < time.monotonic() - start < 3
    await until(lambda: keys.health.error is not None)
    assert keys.health.error == "no complete answer within 0.5 s"


class DrippingHeaders:
    """A server that sends its headers a byte at a time."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}/"
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100:
                if self._closed.wait(0.05):
                    return
                try:
                    connection.send(bytes([byte]))
                except OSError:
                    return

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        self._socket.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody has signed, and its key, in one PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + signed.public_bytes(Encoding.PEM)
    )
    return path


@pytest.fixture
def https_provider(certificate: Path) -> Iterator[IdentityProvider]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with IdentityProvider(tls=tls) as provider:
        yield provider


@pytest.mark.anyio
async def test_a_certificate_that_nobody_vouches_for_is_refused(https_provider: IdentityProvider) -> None:
    keys = RemoteKeys(issuer=https_provider.issuer)
    await keys.prefetch()
    assert "CERTIFICATE_VERIFY_FAILED" in str(keys.health.error)
    assert https_provider.requests == []


@pytest.mark.anyio
async def test_certificates_proxies_and_headers_are_the_matter_of_the_fetcher(
    https_provider: IdentityProvider, certificate: Path
) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with httpx2.AsyncClient(verify=trusting, headers={"x-gateway": "1"}) as client:
        keys = RemoteKeys(issuer=https_provider.issuer, fetch=client.get)
        await keys.prefetch()
    assert keys.health.keys == 1
    assert https_provider.requests[0].headers["x-gateway"] == "1"


class Metadata:
    """A fetcher of metadata and a JWK Set, which keeps what it was asked for."""

    def __init__(self, *places: str, **document: Any) -> None:
        self.places = places
        self.document = {"issuer": ISSUER, "jwks_uri": ADDRESS, **document}
        self.elsewhere = Answer(404, b"")
        self.asked: list[str] = []

    async def __call__(self, url: str) -> Answer:
        self.asked.append(url)
        if url == self.document["jwks_uri"]:
            return Answer(200, JWKS)
        return Answer(200, json.dumps(self.document).encode()) if url in self.places else self.elsewhere


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("issuer", "place", "tried"),
    [
        pytest.param(ISSUER, f"{ISSUER}/.well-known/openid-configuration", 1, id="OpenID Connect"),
        pytest.param(f"{ISSUER}/", f"{ISSUER}/.well-known/openid-configuration", 1, id="OpenID Connect, with a slash"),
        pytest.param(ISSUER, f"{ISSUER}/.well-known/oauth-authorization-server", 2, id="RFC 8414"),
        pytest.param(f"{ISSUER}/a/b", f"{ISSUER}/a/b/.well-known/openid-configuration", 1, id="OpenID Connect, a path"),
        pytest.param(f"{ISSUER}/a/", f"{ISSUER}/a/.well-known/openid-configuration", 1, id="a path with a slash"),
        pytest.param(f"{ISSUER}/a", f"{ISSUER}/.well-known/oauth-authorization-server/a", 2, id="RFC 8414, a path"),
        pytest.param(f"{ISSUER}/a", f"{ISSUER}/.well-known/openid-configuration/a", 3, id="RFC 8414 5, a path"),
    ],
)
@pytest.mark.parametrize("elsewhere", [Answer(404, b""), Answer(200, b"<html>"), Answer(403, b"{}"), Answer(500, b"")])
async def test_metadata_is_found_in_each_of_its_places(issuer: str, place: str, tried: int, elsewhere: Answer) -> None:
    fetch = Metadata(place, issuer=issuer)
    fetch.elsewhere = elsewhere
    source = discovery(issuer, fetch)
    assert (await source.fetch(None)).body == JWKS
    assert (len(fetch.asked), fetch.asked[-2:]) == (tried + 1, [place, ADDRESS])
    # The next time it is looked for there first.
    await source.fetch(None)
    assert fetch.asked[-2:] == [place, ADDRESS]
    assert len(fetch.asked) == tried + 3


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("document", "message"),
    [
        pytest.param({"issuer": "https://evil.example"}, "issuer 'https://evil.example', not", id="evil"),
        pytest.param({"issuer": f"{ISSUER}/"}, "they differ by a trailing slash only", id="a trailing slash"),
        pytest.param({"issuer": ISSUER.upper()}, "names the issuer", id="case"),
        pytest.param({"issuer": None}, "names the issuer 'None', not", id="none"),
        pytest.param({"issuer": [ISSUER]}, "names the issuer", id="a list"),
        pytest.param({"jwks_uri": None}, "names no jwks_uri", id="no jwks_uri"),
        pytest.param({"jwks_uri": "http://login.example/jwks"}, "must start with https://", id="plain http"),
        pytest.param({"jwks_uri": "file:///etc/passwd"}, "names no host", id="a file"),
        pytest.param({"jwks_uri": "http://127.0.0.1:9200/"}, "leads to this machine", id="a loopback service"),
        pytest.param({"jwks_uri": "https://localhost/"}, "leads to this machine", id="localhost"),
        pytest.param({"jwks_uri": "https://a.localhost./"}, "leads to this machine", id="a name for localhost"),
        pytest.param({"jwks_uri": "https://[::1]/"}, "leads to this machine", id="IPv6 loopback"),
        pytest.param({"jwks_uri": "https://[::ffff:127.0.0.1]/"}, "leads to this machine", id="mapped loopback"),
        pytest.param({"jwks_uri": "https://0.0.0.0/"}, "leads to this machine", id="unspecified"),
        pytest.param({"jwks_uri": "https://2130706433/"}, "leads to this machine", id="loopback as a number"),
        pytest.param({"jwks_uri": "https://127.1/"}, "leads to this machine", id="loopback, short"),
        pytest.param({"jwks_uri": "https://0x7f.0.0.1/"}, "leads to this machine", id="loopback, hexadecimal"),
        pytest.param({"jwks_uri": "//login.example/jwks"}, "must start with https://", id="no scheme"),
        pytest.param({"jwks_uri": "https://a@login.example/jwks"}, "a user in it", id="a user"),
    ],
)
async def test_metadata_that_leads_astray_is_refused(document: dict[str, Any], message: str) -> None:
    fetch = Metadata(f"{ISSUER}/.well-known/openid-configuration", **document)
    assert message in await error(discovery(ISSUER, fetch))
    # Metadata was looked for, and nothing else was.
    assert all("/.well-known/" in url for url in fetch.asked)


@pytest.mark.anyio
@pytest.mark.parametrize("status", [429, 500, 503])
async def test_every_place_is_tried_before_an_outage_is_told(status: int) -> None:
    fetch = Metadata()
    fetch.elsewhere = Answer(status, b"")
    assert await error(discovery(ISSUER, fetch)) == f"{ISSUER}/.well-known/openid-configuration answered {status}"
    assert fetch.asked == list(well_known_addresses(ISSUER))


@pytest.mark.anyio
@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_outage_at_one_place_is_told_rather_than_that_the_others_are_empty(status: int) -> None:
    first, second, third = well_known_addresses(f"{ISSUER}/a")
    answers = {first: Answer(404, b""), second: Answer(status, b""), third: Answer(404, b"")}

    async def fetch(url: str) -> Answer:
        return answers[url]

    assert await error(discovery(f"{ISSUER}/a", fetch)) == f"{second} answered {status}"


@pytest.mark.anyio
async def test_of_several_reasons_the_one_of_a_document_is_told() -> None:
    fetch = Metadata(f"{ISSUER}/.well-known/openid-configuration", issuer="https://evil.example")
    assert "names the issuer" in await error(discovery(ISSUER, fetch))
    fetch = Metadata()
    assert await error(discovery(ISSUER, fetch)) == f"{ISSUER}/.well-known/openid-configuration answered 404"


@pytest.mark.anyio
async def test_another_address_is_not_asked_with_the_etag_of_the_one_before() -> None:
    seen = []

    class Tagged(Metadata):
        async def __call__(self, url: str) -> Answer:
            answer = await super().__call__(url)
            seen.append(url)
            return Answer(answer.status_code, answer.content, {"ETag": '"1"'})

    fetch = Tagged(f"{ISSUER}/.well-known/openid-configuration")
    source = discovery(ISSUER, fetch)
    first = await source.fetch(None)
    assert first.validator == (ADDRESS, '"1"')
    fetch.document["jwks_uri"] = f"{ADDRESS}2"
    assert (await source.fetch(first.validator)).validator == (f"{ADDRESS}2", '"1"')


def test_httpx2_is_needed_only_where_it_fetches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    (tmp_path / "jwks").write_bytes(JWKS)
    RemoteKeys(tmp_path / "jwks")
    RemoteKeys(ADDRESS, fetch=Metadata())
    with pytest.raises(ConfigurationError, match=r"install asgi-jwt-middleware\[remote\], or give RemoteKeys a fetch="):
        RemoteKeys(ADDRESS)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigurationError, match="it is not a file"):
        RemoteKeys(tmp_path / "pipe")


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jwks").write_bytes(JWKS + b" " * 512 * 1024)
    with pytest.raises(ConfigurationError, match="it has more than 512 KiB"):
        RemoteKeys(tmp_path / "jwks")


def test_a_client_of_an_ended_event_loop_is_not_used_again(identity_provider: IdentityProvider) -> None:
    source = address(identity_provider.jwks_uri)
    for _ in range(2):
        assert asyncio.run(source.fetch(None)).body is not None


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("https://user:s3cret@host:99999/j", id="a port"),
        pytest.param("https://user:s3cret@[bad/j", id="a bracket"),
        pytest.param("https://user:s3 cret@h/j", id="a space"),
        pytest.param("https://user:s3cr\u00e9t@host/j", id="not ASCII"),
        pytest.param("https://user:s3?cr@host/j", id="a question mark"),
        pytest.param("https://h/\u00e9?key=s3cret", id="a query"),
        pytest.param("https://h:99999/#key=s3cret", id="a fragment"),
        pytest.param("ftp://h/j?key=s3cret", id="a scheme"),
    ],
)
@pytest.mark.parametrize("argument", ["jwks", "issuer"])
def test_an_address_that_is_refused_keeps_its_secrets(argument: str, url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        RemoteKeys(jwks=url) if argument == "jwks" else RemoteKeys(issuer=url)
    assert "s3" not in str(refused.value)


def test_an_issuer_with_a_query_keeps_its_secrets() -> None:
    with pytest.raises(ConfigurationError, match="issuer: 'https://h' has a query or a fragment"):
        RemoteKeys(issuer="https://h?key=s3cret")


@pytest.mark.parametrize("url", well_known_addresses(f"{ISSUER}/shop"))
def test_the_address_of_metadata_given_as_an_issuer_is_refused_with_the_issuer(url: str) -> None:
    with pytest.raises(ConfigurationError, match=f"is the address of the metadata.*'{ISSUER}/shop'"):
        RemoteKeys(issuer=url)


@pytest.mark.anyio
async def test_certificates_by_their_key_ids_are_fetched_like_a_jwk_set() -> None:
    # Firebase publishes the keys of its session cookies in this form alone.
    document = {"8c9eb9": certificate_of(RSA).decode(), "0a1b2c": pem(SIGNERS["ES256"]).decode(), "x": "-----BEGIN x"}

    async def fetch(url: str) -> Any:
        return Answer(200, json.dumps(document).encode())

    asking = Verifier(Provider(jwks=RemoteKeys(f"{ISSUER}/x509", fetch=fetch), audience="orders"), clock=lambda: NOW)
    for kid, algorithm in (("8c9eb9", "RS256"), ("0a1b2c", "ES256")):
        assert (await asking.verify(token_by(algorithm, header={"kid": kid}))).kid == kid
    assert asking.health()["jwt"].skipped == ("key 3 (kid 'x'): the PEM text cannot be loaded",)


@pytest.mark.parametrize("beside", [{"key": "a secret that has thirty-two bytes or more"}, {"jwks": f"{ISSUER}/jwks"}])
@pytest.mark.parametrize("several", [[], ["https://other.example"]])
def test_the_address_of_metadata_given_as_an_issuer_is_refused_wherever_the_keys_come_from(
    beside: Any, several: list[str]
) -> None:
    with pytest.raises(ConfigurationError, match=f"issuer: .* is the address of the metadata.*issuer='{ISSUER}'"):
        Provider(issuer=[*several, f"{ISSUER}/.well-known/openid-configuration"], audience="orders", **beside)


def test_the_address_of_metadata_given_as_jwks_is_refused_with_the_issuer() -> None:
    for end in ("", "/"):
        with pytest.raises(ConfigurationError, match=f"jwks: .* is the address of the metadata.*issuer='{ISSUER}'"):
            RemoteKeys(f"{ISSUER}/.well-known/openid-configuration{end}")
    # Some have their keys below it.
    assert RemoteKeys(f"{ISSUER}/.well-known/openid-configuration/jwks").health.error is None


def test_an_address_is_shown_without_its_secrets() -> None:
    assert str(address("https://h/j?key=s3cret", Metadata())) == "https://h/j"
    assert str(address("https://h/j#frag=s3cret", Metadata())) == "https://h/j"


def test_a_file_is_not_read_again_once_it_is_settled(tmp_path: Path) -> None:
    path = tmp_path / "jwks"
    path.write_bytes(JWKS)
    file = File(path, clock=lambda: time.time() + 3)
    first = file.read()
    assert first.validator is not None
    assert file.read(first.validator).body is None
    # Rewritten in place: as large, and as old, as before.
    stat = path.stat()
    time.sleep(0.02)
    path.write_bytes(JWKS.swapcase())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.read(first.validator).body == JWKS.swapcase()


def test_a_file_that_was_just_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "jwks"
    path.write_bytes(JWKS)
    assert File(path).read().validator is None


@pytest.mark.parametrize("name", ["a\0b", "\ud800x"], ids=["a null byte", "a surrogate"])
def test_a_name_that_no_file_has_is_an_error_like_others(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"it cannot be read"):
        RemoteKeys(name)


def test_a_path_may_be_of_bytes(tmp_path: Path) -> None:
    class BytesPath(os.PathLike[Any]):
        def __fspath__(self) -> bytes:
            return os.fsencode(tmp_path / "jwks")

    (tmp_path / "jwks").write_bytes(JWKS)
    assert str(File(BytesPath())) == str(tmp_path / "jwks")
    assert File(BytesPath()).read().body == JWKS


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param('{"kty": "EC", "kty": "EC"}', id="a name twice"),
        pytest.param('{"kty": "x", "d": {"a": 1, "a": 1}}', id="a name twice, within"),
        pytest.param('{"kty": "x", "d": 1e999}', id="a number too large"),
        pytest.param('{"kty": "x", "d": %s}' % ("9" * 5000), id="a number of 5,000 digits"),
        pytest.param('{"kty": "x", "d": NaN}', id="NaN"),
        pytest.param('{"kty": "x", "kid": "\\ud800"}', id="a surrogate"),
        pytest.param('{"kty": "x", "d": %s}' % ("[" * 70 + "]" * 70), id="70 levels"),
        pytest.param("7", id="a number"),
    ],
)
def test_a_broken_entry_leaves_the_others_alone(entry: str) -> None:
    found = read_keys(b'{"keys": [%s, %s]}' % (entry.encode(), json.dumps(OLD.jwk).encode()))
    assert found == [None, OLD.jwk]
    keys, skipped = load_foreign_keys(found)
    assert (len(keys), [one.reason for one in skipped]) == (1, ["key 1: it is not an object"])


@pytest.mark.parametrize("document", [b'{"keys": [], "keys": []}', b"\xff", b'{"keys": ' + b"[" * 100_000])
def test_a_broken_set_is_an_error(document: bytes) -> None:
    with pytest.raises(DocumentError, match="it is not a JSON object"):
        read_keys(document)


def test_an_object_of_key_ids_and_pem_texts_is_a_set_of_keys() -> None:
    document = json.dumps({"a": pem(RSA).decode(), "b": pem(ED25519).decode()}).encode()
    keys, skipped = load_foreign_keys(read_keys(document))
    assert [(key.kid, key.material) for key in keys] == [("a", RSA.public_key()), ("b", ED25519.public_key())]
    assert skipped == ()


def test_a_private_key_in_pem_that_is_published_is_not_used() -> None:
    document = json.dumps({"good": pem(RSA).decode(), "leaked": private_pem(ED25519).decode()}).encode()
    keys, skipped = load_foreign_keys(read_keys(document))
    assert [key.kid for key in keys] == ["good"]
    assert [one.reason for one in skipped] == ["key 2 (kid 'leaked'): it is a private key, and published"]
    assert skipped[0].is_broken
