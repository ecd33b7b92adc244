"""How our own client asks: what a name resolves to, whose certificates it trusts, where a bearer token goes."""

import datetime
import ipaddress
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpcore2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from jwt_middleware import ConfigurationError, RemoteKeys
from jwt_middleware.keys.addresses import Hosts
from jwt_middleware.keys.http import FetchError, OwnClient, UserClient
from jwt_middleware.testing.identity_provider import IdentityProvider

from .test_remote import ADDRESS, Fetcher

pytestmark = pytest.mark.anyio


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What names resolve to; others resolve as ever."""
    found: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if host not in found:
            return real(host, port, *arguments, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found[host]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return found


async def ask(client: OwnClient, url: str) -> int:
    await client.prepare()
    async with client.open() as asking:
        return (await asking(url, None)).status_code


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1%lo", "::ffff:10.0.0.1"]
)
@pytest.mark.parametrize("others", [[], ["8.8.8.8"]], ids=["alone", "beside a public one"])
async def test_a_name_that_resolves_into_the_network_is_not_asked(
    names: dict[str, list[str]], address: str, others: list[str]
) -> None:
    names["metadata.example"] = [*others, address]
    with pytest.raises(FetchError, match="resolves to an address inside this network"):
        await ask(OwnClient(Hosts()), "https://metadata.example/jwks")


async def test_a_host_that_the_configuration_names_may_resolve_to_any_address(
    names: dict[str, list[str]], identity_provider: IdentityProvider
) -> None:
    names["keycloak"] = ["127.0.0.1"]
    port = identity_provider.jwks_uri.split(":")[2].split("/")[0]
    address = f"http://keycloak:{port}/jwks"
    with pytest.raises(ConfigurationError, match=r'allow_http=\["keycloak"\]'):
        RemoteKeys(address)
    keys = RemoteKeys(address, allow_http=["keycloak"])
    await keys.prefetch()
    assert (keys.health.keys, keys.health.error) == (1, None)


async def test_metadata_may_lead_to_a_name_inside_only_where_that_is_allowed(
    names: dict[str, list[str]], identity_provider: IdentityProvider
) -> None:
    names["keys.example"] = names["login.example"] = ["127.0.0.1"]
    port = identity_provider.jwks_uri.split(":")[2].split("/")[0]
    issuer = f"http://login.example:{port}"
    identity_provider.metadata |= {"issuer": issuer, "jwks_uri": f"http://keys.example:{port}/jwks"}
    options: Any = {"issuer": issuer, "allow_http": ["login.example"]}
    keys = RemoteKeys(**options)
    await keys.prefetch()
    assert "must start with https://" in str(keys.health.error)
    allowed = RemoteKeys(issuer=issuer, allow_http=["login.example", "keys.example"])
    await allowed.prefetch()
    assert (allowed.health.keys, allowed.health.error) == (1, None)


async def test_the_next_address_of_a_name_is_asked_where_one_does_not_answer(
    names: dict[str, list[str]], identity_provider: IdentityProvider
) -> None:
    names["keycloak"] = ["127.0.0.2", "127.0.0.1"]
    port = identity_provider.jwks_uri.split(":")[2].split("/")[0]
    hosts = Hosts(named=frozenset({"keycloak"}))
    assert await ask(OwnClient(hosts), f"http://keycloak:{port}/jwks") == 200
    names["keycloak"] = []
    with pytest.raises(Exception, match="the name has no address"):
        await ask(OwnClient(hosts), f"http://keycloak:{port}/jwks")
    identity_provider.refuse()
    names["keycloak"] = ["127.0.0.1"]
    with pytest.raises(Exception, match="connection attempts failed"):
        await ask(OwnClient(hosts), f"http://keycloak:{port}/jwks")


async def test_every_public_address_of_a_name_that_others_chose_is_asked(
    names: dict[str, list[str]], identity_provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    backend: Any = httpcore2.AnyIOBackend
    connect = backend.connect_tcp

    async def answer_at_the_second(self: Any, host: str, *arguments: Any, **options: Any) -> Any:
        asked.append(host)
        if host == "8.8.8.8":
            raise httpcore2.ConnectError("no route")
        return await connect(self, "127.0.0.1", *arguments, **options)

    monkeypatch.setattr(httpcore2.AnyIOBackend, "connect_tcp", answer_at_the_second)
    names["keys.example"] = ["8.8.8.8", "1.1.1.1"]
    port = identity_provider.jwks_uri.split(":")[2].split("/")[0]
    assert await ask(OwnClient(Hosts()), f"http://keys.example:{port}/jwks") == 200
    assert asked == ["8.8.8.8", "1.1.1.1"]


def make_certificate(path: Path) -> None:
    """Write a certificate for 127.0.0.1 that only this file vouches for, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + signed.public_bytes(Encoding.PEM))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[IdentityProvider, Path, Path]]:
    """A provider behind a certificate authority of its own, and the files that a pod has: authority and token."""
    ca_file, token_file = tmp_path / "ca.crt", tmp_path / "token"
    make_certificate(ca_file)
    token_file.write_text("first-token\n")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(ca_file)
    with IdentityProvider(tls=tls) as provider:
        yield provider, ca_file, token_file


async def test_kubernetes_takes_two_files_which_are_read_again_when_they_rotate(
    cluster: tuple[IdentityProvider, Path, Path],
) -> None:
    provider, ca_file, token_file = cluster
    options: Any = {"cooldown": 0, "refresh_after": 0, "refresh_limits": (0, 0)}
    keys = RemoteKeys(issuer=provider.issuer, ca_file=ca_file, token_file=token_file, **options)
    await keys.prefetch()
    assert (keys.health.keys, keys.health.error) == (1, None)
    assert {asked.headers["authorization"] for asked in provider.requests} == {"Bearer first-token"}
    provider.requests.clear()
    token_file.write_text("second-token")
    await keys.refreshed(None, "ES256")
    assert {asked.headers["authorization"] for asked in provider.requests} == {"Bearer second-token"}
    # Another authority: the provider's certificate is no longer trusted.
    make_certificate(ca_file)
    os.utime(ca_file, ns=(1, 1))
    with pytest.raises(Exception, match="keys_unavailable"):
        await keys.refreshed(None, "ES256")
    assert "CERTIFICATE_VERIFY_FAILED" in str(keys.health.error)
    assert "token" not in str(keys.health.error).lower()


async def test_a_token_goes_to_the_configured_origin_only(cluster: tuple[IdentityProvider, Path, Path]) -> None:
    provider, ca_file, token_file = cluster
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(ca_file)
    with IdentityProvider(tls=tls) as other:
        provider.metadata["jwks_uri"] = other.jwks_uri
        keys = RemoteKeys(issuer=provider.issuer, ca_file=ca_file, token_file=token_file)
        await keys.prefetch()
        assert keys.health.keys == 1
        assert "authorization" in provider.requests[0].headers
        assert all("authorization" not in asked.headers for asked in other.requests)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "holds no bearer token", id="empty"),
        pytest.param(b"two words", "holds no bearer token", id="two words"),
        pytest.param(b"a\r\nX-Evil: 1", "holds no bearer token", id="a header line"),
        pytest.param(b"x" * 20_000, "holds no bearer token", id="too long"),
        pytest.param(b"\xff\xfe", "is not ASCII text", id="not ASCII"),
        pytest.param(None, "cannot be read (No such file", id="no file"),
    ],
)
async def test_a_file_without_a_token_is_a_failed_attempt(
    cluster: tuple[IdentityProvider, Path, Path], content: bytes | None, message: str
) -> None:
    provider, ca_file, token_file = cluster
    token_file.unlink() if content is None else token_file.write_bytes(content)
    keys = RemoteKeys(issuer=provider.issuer, ca_file=ca_file, token_file=token_file)
    await keys.prefetch()
    assert message in str(keys.health.error)
    assert provider.requests == []


async def test_an_authority_that_vanishes_later_is_a_failed_attempt(
    cluster: tuple[IdentityProvider, Path, Path],
) -> None:
    provider, ca_file, _ = cluster
    keys = RemoteKeys(issuer=provider.issuer, ca_file=ca_file)
    ca_file.unlink()
    await keys.prefetch()
    assert f"ca_file: {ca_file} cannot be read (No such file or directory)" in str(keys.health.error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"token_file": "token"}, "a token is sent over https only", id="a token over http"),
        pytest.param({"token_file": 5}, "token_file must be the path of a file, not 5", id="a number"),
        pytest.param({"ca_file": ""}, "ca_file must be the path of a file", id="an empty path"),
        pytest.param({"ca_file": "no/such/file"}, "ca_file: no/such/file cannot be read", id="no file"),
        pytest.param({"ca_file": "setup.cfg"}, "it holds no certificates", id="no certificates"),
        pytest.param({"ca_file": "x", "fetch": Fetcher()}, "ca_file cannot stand beside fetch=", id="beside fetch"),
        pytest.param({"allow_http": "x"}, "allow_http must be a list", id="allow_http"),
        pytest.param({"allow_hosts": "x"}, "allow_hosts must be a list", id="allow_hosts"),
    ],
)
async def test_a_setting_that_cannot_work_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        RemoteKeys("http://127.0.0.1/jwks", **arguments)
    assert message in str(refused.value)


async def test_a_file_takes_no_settings_of_addresses(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ca_file: jwks is the path of a file"):
        RemoteKeys(tmp_path / "jwks.json", ca_file="x")


async def test_a_fetcher_that_cannot_be_referred_to_weakly_works() -> None:
    class Slotted:
        __slots__ = ("fetch",)
        __hash__ = None  # type: ignore[assignment]  # as in a dataclass

        async def __call__(self, url: str) -> Any:
            return await Fetcher()(url)

    async with UserClient(Slotted()).open() as asking:
        assert (await asking(ADDRESS, None)).status_code == 200


def test_an_attempt_on_another_loop_is_made_again_where_the_client_fails(backend: str) -> None:
    asked: list[str] = []

    class Client:
        """Fails once on every loop but the first, as one does that kept a connection."""

        async def get(self, url: str) -> Any:
            asked.append(url)
            if len(asked) == 2:
                raise RuntimeError("Event loop is closed")
            return await Fetcher()(url)

    client = UserClient(Client().get)

    async def job() -> int:
        async with client.open() as asking:
            return (await asking(ADDRESS, None)).status_code

    assert [anyio.run(job, backend=backend) for _ in range(2)] == [200, 200]
    assert len(asked) == 3
