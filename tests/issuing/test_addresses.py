from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jwt_middleware.errors import ConfigurationError
from jwt_middleware.issuing.addresses import Proxies

PROXY = ("10.0.0.1", 443)


def scope(client: Any, *forwarded_for: str) -> dict[str, Any]:
    headers = [(b"host", b"testserver"), *((b"x-forwarded-for", line.encode("latin-1")) for line in forwarded_for)]
    return {"type": "http", "client": client, "headers": headers}


def client(peer: Any, *forwarded_for: str, trusted: Any = "10.0.0.0/8") -> str:
    return Proxies(trusted).find_client(scope(peer, *forwarded_for))


@pytest.mark.parametrize("trusted", [(), "192.0.2.0/24", ["192.0.2.7", "unix"]])
def test_only_the_configured_proxies_are_believed(trusted: Any) -> None:
    assert client(PROXY, "203.0.113.9", trusted=trusted) == "10.0.0.1"


@pytest.mark.parametrize("trusted", ["10.0.0.1", "10.0.0.0/8", ["192.0.2.0/24", "10.0.0.1"], ("10.0.0.1/32",)])
def test_a_configured_proxy_is_believed(trusted: Any) -> None:
    assert client(PROXY, "203.0.113.9", trusted=trusted) == "203.0.113.9"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([], "10.0.0.1", id="no header"),
        pytest.param(["203.0.113.9"], "203.0.113.9", id="one"),
        pytest.param(["1.1.1.1, 203.0.113.9"], "203.0.113.9", id="what the client made up stands left"),
        pytest.param(["1.1.1.1,203.0.113.9 , 10.0.0.3,\t10.0.0.2"], "203.0.113.9", id="behind three proxies"),
        pytest.param(["1.1.1.1", "203.0.113.9", "10.0.0.2"], "203.0.113.9", id="several lines are one list"),
        pytest.param(["203.0.113.9", "8.8.8.8"], "8.8.8.8", id="the last line counts"),
        pytest.param(["10.0.0.4, 10.0.0.3"], "10.0.0.4", id="proxies alone: the farthest"),
        pytest.param(["203.0.113.9, unknown, 10.0.0.2"], "10.0.0.2", id="garbage ends the walk"),
        pytest.param(["203.0.113.9, "], "10.0.0.1", id="an empty entry ends the walk"),
        pytest.param([""], "10.0.0.1", id="an empty line"),
        pytest.param([","], "10.0.0.1", id="a comma"),
        pytest.param(["203.0.113.9:4711"], "203.0.113.9", id="a port"),
        pytest.param(["203.0.113.9:99999999"], "10.0.0.1", id="no port"),
        pytest.param(["203.0.113.09"], "10.0.0.1", id="a leading zero, which some read as octal"),
        pytest.param(["203.0.113"], "10.0.0.1", id="three bytes"),
        pytest.param(["3405803785"], "10.0.0.1", id="a number"),
        pytest.param(["203.0.113.9 10.0.0.2"], "10.0.0.1", id="a space between two"),
        pytest.param(["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2::/64", id="IPv6"),
        pytest.param(["[2001:db8:1:2::6]"], "2001:db8:1:2::/64", id="IPv6 in brackets"),
        pytest.param(["[2001:DB8:1:2::6]:443"], "2001:db8:1:2::/64", id="IPv6 with a port"),
        pytest.param(["2001:db8:1:2::6%eth0"], "2001:db8:1:2::/64", id="IPv6 with a zone"),
        pytest.param(["[2001:db8:1:2::6"], "10.0.0.1", id="half a bracket"),
        pytest.param(["::ffff:203.0.113.9"], "203.0.113.9", id="IPv4 in IPv6 clothes"),
        pytest.param(["[::ffff:203.0.113.9]:80"], "203.0.113.9", id="IPv4 in IPv6 clothes with a port"),
        pytest.param(["203.0.113.9, ::ffff:10.0.0.7"], "203.0.113.9", id="a proxy in IPv6 clothes"),
        pytest.param(['"203.0.113.9"'], "10.0.0.1", id="quotes"),
        pytest.param(["for=203.0.113.9"], "10.0.0.1", id="the syntax of RFC 7239"),
        pytest.param(["203.0.113.9\xa0"], "10.0.0.1", id="a byte that is not ASCII"),
        pytest.param(["\xb2\xb2.1.1.1"], "10.0.0.1", id="digits that are not ASCII"),
        pytest.param(["1" * 60_000], "10.0.0.1", id="long"),
        pytest.param(["203.0.113.9," + "10.0.0.2," * 5_000 + "10.0.0.2"], "203.0.113.9", id="many proxies"),
    ],
)
def test_the_client_is_the_first_from_the_right_that_is_no_proxy(lines: list[str], expected: str) -> None:
    assert client(PROXY, *lines) == expected


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        pytest.param(("203.0.113.9", 4711), "203.0.113.9", id="uvicorn"),
        pytest.param(["203.0.113.9", 4711], "203.0.113.9", id="daphne's list"),
        pytest.param(("203.0.113.9", "4711"), "203.0.113.9", id="granian's port"),
        pytest.param(("203.0.113.9", None), "203.0.113.9", id="no port"),
        pytest.param(("2001:db8::1", 4711, 0, 0), "2001:db8::/64", id="an IPv6 socket's name"),
        pytest.param(("fe80::1%eth0", 4711), "fe80::/64", id="a zone"),
        pytest.param(("::ffff:203.0.113.9", 4711), "203.0.113.9", id="IPv4 on an IPv6 socket"),
        pytest.param(("testclient", 50000), "testclient", id="a name"),
        pytest.param(None, "", id="none"),
        pytest.param(("", 0), "", id="an empty name"),
        pytest.param((None, None), "", id="no name"),
        pytest.param([], "", id="an empty list"),
    ],
)
def test_what_servers_call_their_client_is_understood(peer: Any, expected: str) -> None:
    assert client(peer, "198.51.100.1") == expected


def test_a_server_that_says_nothing_of_its_client_has_none() -> None:
    assert Proxies().find_client({"type": "http", "headers": []}) == ""


def test_the_addresses_of_one_ipv6_network_are_one() -> None:
    assert client(("2001:db8::1", 1)) == client(("2001:db8::ffff:1", 1)) != client(("2001:db8:0:1::1", 1))


@pytest.mark.parametrize("peer", [None, ("", 0), ("", None)])
def test_a_proxy_on_a_unix_socket_is_believed_where_that_is_said(peer: Any) -> None:
    assert client(peer, "1.1.1.1, 203.0.113.9, 10.0.0.2", trusted=["unix", "10.0.0.0/8"]) == "203.0.113.9"
    assert client(peer, "unknown", trusted="unix") == ""
    assert client(peer, trusted="unix") == ""
    assert client(("testclient", 1), "203.0.113.9", trusted="unix") == "testclient"


def test_a_peer_in_ipv6_clothes_is_the_proxy_that_it_is() -> None:
    assert client(("::ffff:10.0.0.1", 1), "203.0.113.9") == "203.0.113.9"
    assert client(("2001:db8::1", 1), "203.0.113.9", trusted="2001:db8::/32") == "203.0.113.9"


LINE = st.binary() | st.lists(
    st.sampled_from([b"10.0.0.2", b"203.0.113.9", b"[::1]:80", b"::ffff:10.0.0.2", b"fe80::1%1", b"x", b"", b" "])
).map(b",".join)


@given(peer=st.none() | st.tuples(st.text() | st.none(), st.integers() | st.text()), lines=st.lists(LINE))
def test_whatever_is_sent_there_is_a_client(peer: Any, lines: list[bytes]) -> None:
    headers = [(b"x-forwarded-for", line) for line in lines]
    found = Proxies(["10.0.0.0/8", "unix"]).find_client({"client": peer, "headers": headers})
    assert isinstance(found, str)


@given(made_up=st.lists(LINE))
def test_nothing_that_a_client_makes_up_changes_who_it_is(made_up: list[bytes]) -> None:
    headers = [(b"x-forwarded-for", line) for line in (*made_up, b"203.0.113.7, 10.0.0.2")]
    assert Proxies("10.0.0.0/8").find_client({"client": PROXY, "headers": headers}) == "203.0.113.7"
    one_line = [(b"x-forwarded-for", b",".join([*made_up, b"203.0.113.7"]))]
    assert Proxies("10.0.0.0/8").find_client({"client": PROXY, "headers": one_line}) == "203.0.113.7"


@pytest.mark.parametrize(
    ("trusted", "message"),
    [
        pytest.param("proxy.example", "entry 1 must be an address such as", id="a name"),
        pytest.param("*", "entry 1 must be an address such as", id="a star"),
        pytest.param(["10.0.0.0/8", "10.0.0.1/8"], r"entry 2 must .* \(no bits set", id="an address with a mask"),
        pytest.param("0.0.0.0/0", "entry 1 holds every address", id="every IPv4 address"),
        pytest.param("::/0", "entry 1 holds every address", id="every IPv6 address"),
        pytest.param("::ffff:10.0.0.0/104", "write the IPv4 address", id="IPv4 mapped into IPv6"),
        pytest.param(["10.0.0.0/8", ""], "must be a string that is not empty", id="empty"),
        pytest.param([10], "must be a string", id="a number in it"),
        pytest.param(None, "must be a string", id="None"),
    ],
)
def test_an_entry_that_is_no_proxy_is_refused_by_number(trusted: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^trusted_proxies.*{message}"):
        Proxies(trusted)


def test_no_text_of_a_wrong_entry_is_shown() -> None:
    # It may be a secret in the wrong variable.
    with pytest.raises(ConfigurationError) as info:
        Proxies(["10.0.0.0/8", "hunter2"])
    assert "hunter2" not in f"{info.value} {info.value.__cause__}"
    assert info.value.__suppress_context__
