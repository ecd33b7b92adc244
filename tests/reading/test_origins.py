from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Scope

from jwt_middleware import ConfigurationError
from jwt_middleware.reading.origins import Origins

from ..support import http, websocket

OWN = "https://app.example"


def post(*headers: tuple[str, str], scheme: str = "https", host: str | None = "app.example") -> Scope:
    """The scope of a POST with ``headers``, to app.example over TLS unless told otherwise."""
    lines = [*([] if host is None else [("host", host)]), *headers]
    return http(method="POST", scheme=scheme, headers=[(name.encode(), value.encode()) for name, value in lines])


def vouched_for(*headers: tuple[str, str], origins: Any = (), **request: Any) -> bool:
    return Origins(origins).vouched_for(post(*headers, **request))


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([("sec-fetch-site", "same-origin")], id="same-origin by fetch metadata"),
        pytest.param([("origin", OWN)], id="its own Origin"),
        pytest.param([("origin", "https://app.example:443")], id="its own Origin, with the default port"),
        pytest.param([("origin", OWN), ("sec-fetch-site", "same-origin")], id="both"),
        pytest.param([("origin", f"{OWN} ")], id="its own Origin, from a server that strips no white space"),
        pytest.param([("sec-fetch-site", "same-origin\t")], id="same-origin, from a server that strips no white space"),
        # With Referrer-Policy: no-referrer, browsers send this from the very same page.
        pytest.param([("origin", "null"), ("sec-fetch-site", "same-origin")], id="null, and same-origin"),
    ],
)
def test_a_request_from_the_same_origin_is_vouched_for(headers: list[tuple[str, str]]) -> None:
    assert vouched_for(*headers)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="neither header"),
        pytest.param([("referer", "https://app.example/page")], id="Referer alone"),
        pytest.param([("origin", "null")], id="null"),
        pytest.param([("origin", "null"), ("sec-fetch-site", "cross-site")], id="null, a sandboxed frame"),
        pytest.param([("origin", "")], id="an empty Origin"),
        pytest.param([("sec-fetch-site", "same-site")], id="a sibling"),
        pytest.param([("sec-fetch-site", "cross-site")], id="another site"),
        pytest.param([("sec-fetch-site", "none")], id="the address bar"),
        pytest.param([("sec-fetch-site", "")], id="an empty site"),
        pytest.param([("sec-fetch-site", "Same-Origin")], id="another spelling"),
        pytest.param([("sec-fetch-site", "same-origin, cross-site")], id="two sites in a line"),
        pytest.param([("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")], id="two sites"),
        pytest.param([("origin", OWN), ("origin", OWN)], id="two Origins"),
        pytest.param([("origin", OWN), ("sec-fetch-site", "cross-site")], id="its own Origin, and another site"),
        pytest.param([("origin", f"{OWN} https://evil.example")], id="two Origins in a line"),
        pytest.param([("origin", "http://app.example")], id="another scheme"),
        pytest.param([("origin", "https://app.example:8443")], id="another port"),
        pytest.param([("origin", "https://app.example.evil.example")], id="our name in front"),
        pytest.param([("origin", "https://evilapp.example")], id="our name at the end"),
        pytest.param([("origin", "https://evil.example/app.example")], id="our name in the path"),
        pytest.param([("origin", "https://app.example@evil.example")], id="our name as the user"),
        pytest.param([("origin", "https://app.example.")], id="a dot at the end"),
        pytest.param([("origin", "https://app.example/")], id="a slash at the end"),
        pytest.param([("origin", "https://app.example\n")], id="a line feed at the end"),
        pytest.param([("origin", "https://app.examp1e")], id="a digit for a letter"),
        pytest.param([("origin", "https://\u0430pp.example")], id="a Cyrillic letter"),
        pytest.param([("origin", "https://sub.app.example")], id="a subdomain"),
        pytest.param([("origin", "app.example")], id="no scheme"),
        pytest.param([("origin", "//app.example")], id="no scheme, two slashes"),
        pytest.param([("origin", "file://")], id="a file"),
    ],
)
def test_any_other_request_is_not(headers: list[tuple[str, str]]) -> None:
    assert not vouched_for(*headers)
    assert not vouched_for(*headers, origins=["https://other.example"])


@pytest.mark.parametrize(
    ("configured", "origin"),
    [
        pytest.param("https://pages.example", "https://pages.example", id="host"),
        pytest.param("https://pages.example:443", "https://pages.example", id="the default port, configured"),
        pytest.param("https://Pages.Example", "https://pages.example", id="capitals"),
        pytest.param("http://localhost:5173", "http://localhost:5173", id="port"),
        pytest.param("http://[::1]:5173", "http://[::1]:5173", id="IPv6"),
        pytest.param("capacitor://localhost", "capacitor://localhost", id="the scheme of an app"),
    ],
)
def test_a_configured_origin_is_trusted_whatever_else_the_browser_says(configured: str, origin: str) -> None:
    assert vouched_for(("origin", origin), ("sec-fetch-site", "cross-site"), origins=[configured])
    assert vouched_for(("origin", origin), origins=["https://other.example", configured])


def test_a_configured_origin_does_not_make_two_lines_one() -> None:
    trusted = ("origin", "https://pages.example")
    assert not vouched_for(trusted, trusted, origins=["https://pages.example"])
    assert not vouched_for(trusted, ("origin", "https://evil.example"), origins=["https://pages.example"])


@pytest.mark.parametrize(
    ("scheme", "host", "origin"),
    [
        pytest.param("http", "localhost:8000", "http://localhost:8000", id="a port of its own"),
        pytest.param("http", "app.example:80", "http://app.example", id="the default port"),
        pytest.param("https", "APP.example", "https://app.example", id="capitals"),
        pytest.param("http", "[::1]:8000", "http://[::1]:8000", id="IPv6"),
    ],
)
def test_the_own_origin_is_scheme_and_host(scheme: str, host: str, origin: str) -> None:
    assert vouched_for(("origin", origin), scheme=scheme, host=host)


@pytest.mark.parametrize("host", [None, "", "app.example, evil.example", "evil.example@app.example", "null"])
def test_a_request_without_a_host_of_its_own_has_no_origin_of_its_own(host: str | None) -> None:
    for origin in ("null", "https://", OWN, f"https://{host}"):
        assert not vouched_for(("origin", origin), host=host) or origin == "https://null"


def test_two_hosts_are_none() -> None:
    assert not vouched_for(("origin", OWN), ("host", "evil.example"))
    assert not vouched_for(("origin", "https://evil.example"), ("host", "evil.example"))


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a_safe_method_is_admitted_from_anywhere(method: str) -> None:
    assert Origins([]).admit(http(method=method, headers=[(b"origin", b"https://evil.example")]))


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "PROPFIND", "get", ""])
def test_any_other_method_must_be_vouched_for(method: str) -> None:
    assert not Origins([]).admit(http(method=method))
    assert not Origins([]).admit(http(method=method, headers=[(b"origin", b"https://evil.example")]))
    assert Origins([]).admit(http(method=method, headers=[(b"sec-fetch-site", b"same-origin")]))


@pytest.mark.parametrize(
    ("scheme", "origin", "is_admitted"),
    [
        pytest.param("wss", b"https://testserver", True, id="https over wss"),
        pytest.param("ws", b"http://testserver", True, id="http over ws"),
        pytest.param("wss", b"http://testserver", False, id="http over wss"),
        pytest.param("ws", b"https://testserver", False, id="https over ws"),
        pytest.param("wss", b"wss://testserver", False, id="a scheme that no page has"),
        pytest.param("wss", b"https://evil.example", False, id="another host"),
    ],
)
def test_a_websocket_must_always_be_vouched_for(scheme: str, origin: bytes, is_admitted: bool) -> None:
    headers = [(b"host", b"testserver"), (b"origin", origin)]
    assert Origins([]).admit({**websocket(headers=headers), "scheme": scheme}) is is_admitted
    assert not Origins([]).admit({**websocket(), "scheme": scheme})


def test_a_server_that_names_no_scheme_means_http() -> None:
    headers = [(b"host", b"testserver"), (b"origin", b"http://testserver")]
    scope = websocket(headers=headers)
    del scope["scheme"]
    assert Origins([]).vouched_for(scope)
    assert Origins([]).vouched_for(http(method="POST", headers=headers))


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param("app.example", id="no scheme"),
        pytest.param("https://app.example/", id="a slash at the end"),
        pytest.param("https://app.example/page", id="a path"),
        pytest.param("https://*.app.example", id="a pattern"),
        pytest.param("https://app.example:", id="a colon without a port"),
        pytest.param("https://ada@app.example", id="a user"),
        pytest.param("https://\u212aapp.example", id="a Kelvin sign"),
        pytest.param("https://", id="no host"),
        pytest.param("*", id="a star"),
        pytest.param("null", id="null"),
        pytest.param("", id="nothing"),
        pytest.param(None, id="None"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused_at_construction(entry: Any) -> None:
    with pytest.raises(ConfigurationError, match="origins entry 1 must be a scheme, a host"):
        Origins([entry])


@pytest.mark.parametrize("entries", ["https://app.example", None, 5])
def test_origins_are_a_list(entries: Any) -> None:
    with pytest.raises(ConfigurationError, match="origins must be a list"):
        Origins(entries)


PIECES = [
    "https",
    "http",
    "://",
    ":",
    "/",
    "app.example",
    "evil.example",
    ".",
    "@",
    "443",
    "[::1]",
    "null",
    " ",
    "same-origin",
]
values = st.lists(st.sampled_from(PIECES), max_size=6).map("".join) | st.text(max_size=20)


@given(st.lists(values, max_size=2), st.lists(values, max_size=2))
def test_only_the_very_origins_are_vouched_for_whatever_the_headers_are(origins: list[str], sites: list[str]) -> None:
    headers = [("origin", origin) for origin in origins] + [("sec-fetch-site", site) for site in sites]
    good = len(origins) <= 1 and (sites == ["same-origin"] or (not sites and origins in OWN_SPELLINGS))
    assert vouched_for(*headers) == good


OWN_SPELLINGS = [["https://app.example"], ["https://app.example:443"]]
