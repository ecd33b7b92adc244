"""Which addresses may be asked: hosts of the configuration anywhere, hosts of others on the public internet only."""

from typing import Any

import pytest

from jwt_middleware.errors import ConfigurationError
from jwt_middleware.keys.addresses import (
    Hosts,
    check_hosts,
    describe_inside,
    is_loopback,
    issuer_of_metadata,
    origin_of,
    well_known_addresses,
)

NAMED = Hosts(named=frozenset({"login.example"}))

LOOPBACK = [
    *(
        "127.0.0.1",
        "127.8.9.10",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
    ),
    *(
        "0x7f.1",
        "0177.0.0.1",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
    ),
    *("[64:ff9b::7f00:1]", "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]", "[0:0:0:0:0:0:0:1]"),
]
PRIVATE = [
    *("10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0xa000001", "167772161", "012.0.0.1"),
    *("10.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "[fd00::1]", "[fe80::1]", "[fec0::1]", "[ff02::1]"),
    *(
        "[::ffff:10.0.0.1]",
        "[::10.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b:1::1]",
        "[2002:a9fe:a9fe::]",
        "[2001:db8::1]",
    ),
]
PUBLIC = ["8.8.8.8", "login.other.example", "[2606:4700::1]", "[64:ff9b::808:808]", "1.2.3.256.example", "0x7f.example"]
# No resolver reads these as addresses: a number is too large.
NAMES_OF_NUMBERS = ["127.0.0.256", "256.0.0.1", "10.16777216", "4294967296"]


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_is_seen_in_every_notation(host: str) -> None:
    assert is_loopback(host.strip("[]"))
    assert "leads to this machine" in (NAMED.find_fault_of_foreign(f"https://{host}/jwks") or "")


@pytest.mark.parametrize("host", PRIVATE)
def test_a_private_network_is_seen_in_every_notation(host: str) -> None:
    assert not is_loopback(host.strip("[]"))
    assert "leads to a private network" in (NAMED.find_fault_of_foreign(f"https://{host}/jwks") or "")


@pytest.mark.parametrize("host", PUBLIC + NAMES_OF_NUMBERS)
def test_the_public_internet_may_be_asked(host: str) -> None:
    assert describe_inside(host.strip("[]")) is None
    assert NAMED.find_fault_of_foreign(f"https://{host}/jwks") is None


@pytest.mark.parametrize("url", [f"https://{host}/jwks" for host in PRIVATE + LOOPBACK + PUBLIC])
def test_the_configuration_may_name_any_host(url: str) -> None:
    assert NAMED.find_fault(url) is None


@pytest.mark.parametrize("host", ["10.0.0.1", "[fd00::1]", "169.254.169.254"])
def test_a_host_that_is_allowed_by_name_may_be_named_by_metadata(host: str) -> None:
    hosts = Hosts(named=check_hosts("allow_hosts", [host]))
    assert hosts.find_fault_of_foreign(f"https://{host}:6443/jwks") is None
    assert hosts.find_fault_of_foreign("https://10.0.0.2/jwks") is not None
    assert not hosts.needs_check(host.strip("[]"))
    assert hosts.needs_check("other.example")


def test_an_issuer_on_this_machine_may_name_other_services_on_it() -> None:
    assert Hosts(named=frozenset({"127.0.0.1"})).find_fault_of_foreign("http://localhost:9000/jwks") is None


@pytest.mark.parametrize("url", ["https://127.0.0.1%00.example/", "https://[fe80::1%25eth0]/", "https://loc%61lhost/"])
def test_a_percent_sign_in_a_host_is_refused(url: str) -> None:
    assert "percent sign" in (NAMED.find_fault(url) or "")


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://keycloak:8080/realms/shop", True),
        ("http://KEYCLOAK./", True),
        ("http://keycloak.evil.example/", False),
        ("http://evil.example/keycloak", False),
        ("http://login.example/", False),
        ("https://login.example/", True),
        ("http://127.0.0.1:1/", True),
        ("ftp://keycloak/", False),
    ],
)
def test_http_is_for_hosts_that_are_named_and_for_loopback(url: str, allowed: bool) -> None:
    hosts = Hosts(http=check_hosts("allow_http", ["keycloak"]))
    fault = hosts.find_fault(url)
    assert (fault is None) is allowed
    assert allowed or "must start with https://" in str(fault)


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        pytest.param("keycloak", "allow_http must be a list of host names", id="a string"),
        pytest.param(True, "allow_http must be a list of host names", id="True"),
        pytest.param(["http://keycloak"], "not an address", id="an address"),
        pytest.param(["keycloak:8080"], "a str that is no host name", id="a port"),
        pytest.param(["*.example"], "a str that is no host name", id="a pattern"),
        pytest.param([""], "a str that is no host name", id="nothing"),
        pytest.param([None], "a NoneType that is no host name", id="None"),
    ],
)
def test_hosts_are_exact_names(hosts: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_hosts("allow_http", hosts)


@pytest.mark.parametrize(
    ("url", "issuer"),
    [
        ("https://a.example/.well-known/openid-configuration", "https://a.example"),
        ("https://a.example/b/.well-known/openid-configuration", "https://a.example/b"),
        ("https://a.example/b/.well-known/openid-configuration/", "https://a.example/b"),
        ("https://a.example/.well-known/oauth-authorization-server/b", "https://a.example/b"),
        ("https://a.example/.well-known/jwks.json", None),
        ("https://a.example/b", None),
    ],
)
def test_the_address_of_metadata_is_recognised(url: str, issuer: str | None) -> None:
    assert issuer_of_metadata(url) == issuer
    if issuer is not None:
        assert url.rstrip("/") in well_known_addresses(issuer)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://A.example./x", ("https", "a.example", 443)),
        ("http://a.example", ("http", "a.example", 80)),
        ("https://a.example:8443", ("https", "a.example", 8443)),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, origin: tuple[str, str, int]) -> None:
    assert origin_of(url) == origin
