from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Scope

from jwt_middleware import ConfigurationError, bearer_header, cookie, proxy_header, subprotocol
from jwt_middleware.errors import AmbiguousToken, MalformedToken, Refusal, TokenTooLarge
from jwt_middleware.reading.authorization import read_bearer
from jwt_middleware.reading.sources import Sources

from ..support import http, websocket
from ..support.steps import steps

LIMIT = 100


def found(*authorization: bytes) -> bytes | None:
    return read_bearer([(b"authorization", line) for line in authorization], LIMIT)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"Bearer a.b.c", id="as RFC 6750 writes it"),
        pytest.param(b"bearer a.b.c", id="lower case"),
        pytest.param(b"BEARER a.b.c", id="upper case"),
        pytest.param(b"bEaReR a.b.c", id="mixed case"),
        pytest.param(b"Bearer    a.b.c", id="several spaces"),
        pytest.param(b"Bearer a.b.c ", id="a space after it, from a server that strips no white space"),
        pytest.param(b"Bearer a.b.c \t ", id="tabs and spaces after it"),
        pytest.param(b" \tBearer a.b.c", id="white space before it"),
        pytest.param(b" Bearer a.b.c" + b" " * 1000, id="any amount of white space around it"),
    ],
)
def test_the_token_is_found_however_its_scheme_is_spelled(line: bytes) -> None:
    assert found(line) == b"a.b.c"


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"Basic dXNlcjpwYXNz", id="Basic"),
        pytest.param(b"Basic Og==", id="the empty Basic of Swagger UI"),
        pytest.param(b"Bearerish a.b.c", id="a longer name"),
        pytest.param(b"Bearer-Token a.b.c", id="a name that goes on after a hyphen"),
        pytest.param(b"Bearer_ a.b.c", id="a name that goes on with an underscore"),
        pytest.param(b"Bearer2 a.b.c", id="a name that goes on with a digit"),
        pytest.param(b"Beare a.b.c", id="a shorter name"),
        pytest.param(b"DPoP a.b.c", id="DPoP"),
        pytest.param(b"a.b.c", id="a token alone"),
        pytest.param(b"Basic " + b"x" * 1000, id="another scheme, however long"),
        pytest.param(b"Bearerish " + b"x" * 1000, id="a longer name, however long"),
        pytest.param("B\u0435arer a.b.c".encode(), id="a Cyrillic letter"),
    ],
)
def test_another_scheme_is_no_token(line: bytes) -> None:
    assert found(line) is None


def test_without_an_authorization_header_there_is_no_token() -> None:
    assert read_bearer([], LIMIT) is None
    assert read_bearer([(b"x-authorization", b"Bearer a.b.c"), (b"cookie", b"Bearer=a.b.c")], LIMIT) is None


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"Bearer", id="no token"),
        pytest.param(b"Bearer ", id="no token after a space"),
        pytest.param(b"Bearer    ", id="no token after spaces"),
        pytest.param(b"Bearer \t ", id="no token among white space"),
        pytest.param(b"Bearer:", id="a colon"),
        pytest.param(b"Bearer: a.b.c", id="a colon and a token"),
        pytest.param(b"Bearer\ta.b.c", id="a tab"),
        pytest.param(b"Bearer,a.b.c", id="a comma"),
        pytest.param(b"Bearer=a.b.c", id="an equals sign"),
        pytest.param(b'Bearer"a.b.c"', id="quotes"),
        pytest.param(b"Bearer\x00a.b.c", id="NUL"),
        pytest.param(b"Bearer\xa0a.b.c", id="a no-break space"),
        pytest.param(b"Bearer\xe9 a.b.c", id="a byte over 127"),
    ],
)
def test_a_bearer_scheme_without_a_token_behind_it_is_malformed(line: bytes) -> None:
    with pytest.raises(MalformedToken):
        found(line)


@pytest.mark.parametrize(
    ("line", "token"),
    [
        pytest.param(b"Bearer a.b.c\n", b"a.b.c\n", id="a line feed after it"),
        pytest.param(b"Bearer a.b.c\xa0", b"a.b.c\xa0", id="a no-break space after it"),
        pytest.param(b"Bearer  \ta.b.c", b"\ta.b.c", id="a tab after the spaces"),
        pytest.param(b"Bearer a.b.c, Bearer d.e.f", b"a.b.c, Bearer d.e.f", id="two joined by a comma"),
        pytest.param(b"Bearer a.b.c d.e.f", b"a.b.c d.e.f", id="two words"),
        pytest.param(b"Bearer Bearer a.b.c", b"Bearer a.b.c", id="the scheme twice"),
        pytest.param(b"Bearer \xff\xfe", b"\xff\xfe", id="bytes over 127"),
    ],
)
def test_what_follows_the_scheme_is_left_as_it_is_for_the_parser_to_refuse(line: bytes, token: bytes) -> None:
    assert found(line) == token


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param((b"Bearer a.b.c", b"Bearer d.e.f"), id="two tokens"),
        pytest.param((b"Bearer a.b.c", b"Bearer a.b.c"), id="one token twice"),
        pytest.param((b"Basic Og==", b"Bearer a.b.c"), id="Basic, then Bearer"),
        pytest.param((b"Bearer a.b.c", b"Basic Og=="), id="Bearer, then Basic"),
        pytest.param((b"Basic Og==", b"Basic Og=="), id="no Bearer among them"),
        pytest.param((b"", b""), id="empty lines"),
    ],
)
def test_two_authorization_lines_are_ambiguous(lines: tuple[bytes, ...]) -> None:
    with pytest.raises(AmbiguousToken) as error:
        found(*lines)
    assert error.value.found == "two Authorization headers"


def test_two_lines_are_ambiguous_wherever_they_stand() -> None:
    headers = [(b"authorization", b"Bearer a.b.c"), (b"accept", b"*/*"), (b"authorization", b"Bearer a.b.c")]
    with pytest.raises(AmbiguousToken):
        read_bearer(headers, LIMIT)


@pytest.mark.parametrize(
    ("size", "refusal"),
    [
        pytest.param(LIMIT, None, id="at the limit"),
        pytest.param(LIMIT + 1, TokenTooLarge, id="one byte over it"),
        pytest.param(1_000_000, TokenTooLarge, id="1 MB"),
    ],
)
def test_the_size_of_a_token_is_limited(size: int, refusal: type[Refusal] | None) -> None:
    line = b"Bearer " + b"x" * size
    if refusal is None:
        assert found(line) == b"x" * size
    else:
        with pytest.raises(refusal) as error:
            found(line)
        assert (error.value.expected, error.value.found) == (f"{LIMIT} bytes at most", f"{size} bytes")


def test_spaces_are_no_way_around_the_limit() -> None:
    with pytest.raises(TokenTooLarge):
        found(b"Bearer " + b" " * LIMIT + b"a.b.c")


def places(*sources: Any) -> Sources:
    return Sources(sources)


def handshake(*subprotocols: str, headers: Any = (), **changes: Any) -> Scope:
    """The scope of a WebSocket handshake that offers ``subprotocols``, as servers make it."""
    lines = [(b"sec-websocket-protocol", ", ".join(subprotocols).encode())] if subprotocols else []
    return {**websocket(headers=[*headers, *lines], **changes), "subprotocols": list(subprotocols)}


def cookies(*lines: str) -> list[tuple[bytes, bytes]]:
    return [(b"cookie", line.encode("latin-1")) for line in lines]


def raw(sources: Sources, scope: Scope) -> bytes | None:
    presented = sources.find(scope, LIMIT)
    return None if presented is None else presented.raw


@pytest.mark.parametrize(
    ("lines", "token"),
    [
        pytest.param([], None, id="no cookies"),
        pytest.param(["access=a.b.c"], b"a.b.c", id="alone"),
        pytest.param(["theme=dark; access=a.b.c; lang=en"], b"a.b.c", id="among others"),
        pytest.param(["theme=dark;access=a.b.c"], b"a.b.c", id="without a space"),
        pytest.param(["theme=dark", "access=a.b.c"], b"a.b.c", id="in a line of its own, as over HTTP/2"),
        pytest.param(["access=a=b="], b"a=b=", id="with equals signs"),
        pytest.param(['access="a.b.c"'], b'"a.b.c"', id="quoted, for the parser to refuse"),
        pytest.param(["access="], None, id="empty"),
        pytest.param(["access"], None, id="without an equals sign"),
        pytest.param(["Access=a.b.c"], None, id="in another case"),
        pytest.param(["access2=a.b.c; xaccess=a.b.c"], None, id="longer names"),
        pytest.param(["access =a.b.c"], None, id="a space before the equals sign"),
        pytest.param(["theme=access=a.b.c"], None, id="in another's value"),
        pytest.param([";;; =x; ; access=a.b.c;"], b"a.b.c", id="among debris"),
        pytest.param([f"theme={'x' * 1000}; access=a.b.c"], b"a.b.c", id="beside a large one"),
        pytest.param(["access=a.b.c \t"], b"a.b.c", id="with white space after it"),
        pytest.param([" \t access=a.b.c \t ; lang=en"], b"a.b.c", id="with white space around it"),
        pytest.param(["access ; lang=en"], None, id="without an equals sign, with white space"),
        pytest.param(["lang=en x access=a.b.c"], None, id="after a space in another's value"),
        pytest.param(["accessaccess=a.b.c; access=d.e.f"], b"d.e.f", id="after a name that repeats it"),
    ],
)
def test_a_cookie_is_found_by_its_name(lines: list[str], token: bytes | None) -> None:
    assert raw(places(cookie("access")), http(headers=cookies(*lines))) == token


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["access=a.b.c; access=d.e.f"], id="two tokens"),
        pytest.param(["access=a.b.c; access=a.b.c"], id="one token twice"),
        pytest.param(["access=a.b.c", "access=d.e.f"], id="in two lines"),
        pytest.param(["access=; access=a.b.c"], id="an empty one, then a token"),
        pytest.param(["access=a.b.c; access"], id="a token, then a bare name"),
        pytest.param(["access=a.b.c; access "], id="a token, then a bare name and a space"),
    ],
)
def test_a_cookie_that_stands_twice_is_ambiguous(lines: list[str]) -> None:
    with pytest.raises(AmbiguousToken) as error:
        raw(places(cookie("access")), http(headers=cookies(*lines)))
    assert error.value.found == "two cookies named access"


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(";" * 100_000, id="semicolons"),
        pytest.param("; " * 100_000, id="empty pairs"),
        pytest.param("a=b; " * 100_000, id="other cookies"),
        pytest.param("a=" * 100_000, id="equals signs"),
    ],
)
def test_a_long_cookie_header_is_no_work(line: str) -> None:
    scope = http(headers=cookies(line, f"{line};access=a.b.c"))
    sources = places(cookie("access"))
    assert raw(sources, scope) == b"a.b.c"
    assert steps(lambda: raw(sources, scope)) < 1_000


@pytest.mark.parametrize(
    "line", [pytest.param("access=", id="names"), pytest.param("  access", id="names and white space")]
)
def test_a_cookie_header_that_imitates_the_name_takes_linear_time(line: str) -> None:
    sources = places(cookie("access"))
    short, long = (http(headers=cookies(f"x{line * size}")) for size in (100, 1_000))
    assert raw(sources, long) is None
    assert steps(lambda: raw(sources, long)) < 11 * steps(lambda: raw(sources, short))


@pytest.mark.parametrize(
    ("offered", "token"),
    [
        pytest.param([], None, id="none"),
        pytest.param(["chat", "superchat"], None, id="others"),
        pytest.param(["bearer", "a.b.c"], b"a.b.c", id="first"),
        pytest.param(["chat", "bearer", "a.b.c"], b"a.b.c", id="last"),
        pytest.param(["v2", "bearer", "a.b.c", "v1"], b"a.b.c", id="in the middle"),
        pytest.param(["Bearer", "a.b.c"], None, id="another case"),
        pytest.param(["bearer a.b.c"], None, id="in one word"),
        pytest.param(["bearer", ""], b"", id="an empty one, for the parser to refuse"),
        pytest.param(["bearer", "chat", "a.b.c"], b"chat", id="not the next, for the parser to refuse"),
    ],
)
def test_a_subprotocol_is_followed_by_the_token(offered: list[str], token: bytes | None) -> None:
    assert raw(places(subprotocol("bearer")), handshake(*offered)) == token


@pytest.mark.parametrize(
    ("offered", "refusal"),
    [
        pytest.param(["bearer"], MalformedToken, id="nothing follows"),
        pytest.param(["a.b.c", "bearer"], MalformedToken, id="the wrong way round"),
        pytest.param(["bearer", "a.b.c", "bearer", "d.e.f"], AmbiguousToken, id="two tokens"),
        pytest.param(["bearer", "bearer"], AmbiguousToken, id="twice, and no token"),
        pytest.param(["bearer", "\u00e9.b.c"], MalformedToken, id="not ASCII"),
        pytest.param(["bearer", "x" * (LIMIT + 1)], TokenTooLarge, id="too large"),
    ],
)
def test_a_subprotocol_list_of_an_odd_shape_is_refused(offered: list[str], refusal: type[Refusal]) -> None:
    with pytest.raises(refusal):
        raw(places(subprotocol("bearer")), handshake(*offered))


@pytest.mark.parametrize("scope", [http(subprotocols=["bearer", "a.b.c"]), {"type": "websocket", "headers": []}])
def test_without_a_handshake_that_offers_some_there_is_no_subprotocol(scope: Scope) -> None:
    assert raw(places(subprotocol("bearer")), scope) is None


@pytest.mark.parametrize(
    ("offered", "rest", "answer"),
    [
        pytest.param(["bearer", "a.b.c"], [], "bearer", id="alone"),
        pytest.param(["v2", "bearer", "a.b.c", "v1"], ["v2", "v1"], "bearer", id="among others"),
        pytest.param(["bearer"], [], "bearer", id="nothing follows"),
        pytest.param(["bearer", "a.b.c", "bearer", "d.e.f", "v1"], ["v1"], "bearer", id="two tokens"),
        pytest.param(["bearer", "bearer", "a.b.c", "v1"], ["v1"], "bearer", id="the name twice"),
        pytest.param(["jwt", "a.b.c", "bearer", "d.e.f"], [], "jwt", id="two names, both ours"),
        pytest.param(["v2", "v1"], ["v2", "v1"], None, id="others"),
    ],
)
def test_the_token_is_taken_out_of_what_the_handshake_offers(
    offered: list[str], rest: list[str], answer: str | None
) -> None:
    scope = handshake(*offered, headers=[(b"host", b"app.example")])
    assert places(subprotocol("bearer"), subprotocol("jwt")).take_out(scope) == answer
    assert scope["subprotocols"] == rest
    assert dict(scope["headers"]).get(b"sec-websocket-protocol", b"") == ", ".join(rest).encode()
    assert scope["headers"][0] == (b"host", b"app.example")


def test_the_token_is_taken_out_of_every_header_line() -> None:
    lines = [(b"sec-websocket-protocol", b"v1,bearer"), (b"sec-websocket-protocol", b"a.b.c")]
    scope = {**websocket(headers=lines), "subprotocols": iter(["v1", "bearer", "a.b.c"])}
    places(subprotocol("bearer")).take_out(scope)
    assert scope["headers"] == [(b"sec-websocket-protocol", b"v1")]


def from_query(scope: Scope) -> str | None:
    query: bytes = scope["query_string"]
    return query.decode() or None


HEADER = (b"authorization", b"Bearer h.e.a")
EVERYWHERE: dict[str, tuple[Any, dict[str, Any], bytes]] = {
    "header": (bearer_header(), {"headers": [HEADER]}, b"h.e.a"),
    "subprotocol": (subprotocol("bearer"), {"subprotocols": ["bearer", "s.u.b"]}, b"s.u.b"),
    "function": (from_query, {"query_string": b"f.u.n"}, b"f.u.n"),
    "cookie": (cookie("access"), {"headers": cookies("access=c.o.o")}, b"c.o.o"),
    "another cookie": (cookie("old"), {"headers": cookies("old=o.l.d")}, b"o.l.d"),
    "header of a proxy": (proxy_header("X-Data"), {"headers": [(b"x-data", b" p.r.o\t")]}, b"p.r.o"),
}


def presenting(*names: str) -> Scope:
    """The scope of a handshake that has tokens in the places ``names``."""
    scope = websocket(headers=[line for name in names for line in EVERYWHERE[name][1].get("headers", ())])
    for name in names:
        scope.update({key: value for key, value in EVERYWHERE[name][1].items() if key != "headers"})
    return scope


ALL = [place for place, _, _ in EVERYWHERE.values()]


@pytest.mark.parametrize("name", EVERYWHERE)
def test_a_token_is_found_in_each_place_and_only_there(name: str) -> None:
    place, _, token = EVERYWHERE[name]
    for sources in (places(place), places(*ALL), places(*reversed(ALL))):
        assert raw(sources, presenting(name)) == token
    assert raw(places(*(other for other in ALL if other is not place)), presenting(name)) is None


@pytest.mark.parametrize(("one", "other"), list(combinations(["header", "subprotocol", "function"], 2)))
def test_two_explicit_tokens_are_ambiguous(one: str, other: str) -> None:
    for sources in (places(*ALL), places(*reversed(ALL))):
        with pytest.raises(AmbiguousToken):
            raw(sources, presenting(one, other))


@pytest.mark.parametrize(
    "cookies", [["cookie"], ["another cookie"], ["cookie", "another cookie"], ["cookie", "header of a proxy"]]
)
@pytest.mark.parametrize("explicit", ["header", "subprotocol", "function"])
def test_an_explicit_token_beats_cookies(explicit: str, cookies: list[str]) -> None:
    for sources in (places(*ALL), places(*reversed(ALL))):
        presented = sources.find(presenting(explicit, *cookies), LIMIT)
        assert presented is not None
        assert (presented.raw, presented.is_ambient) == (EVERYWHERE[explicit][2], False)


def test_an_explicit_token_beats_cookies_that_are_ambiguous() -> None:
    scope = http(headers=[HEADER, *cookies("access=a.b.c; access=d.e.f")])
    assert raw(places(*ALL), scope) == b"h.e.a"


def test_of_two_cookies_the_one_that_is_named_first_is_good() -> None:
    scope = presenting("another cookie", "cookie")
    assert raw(places(*ALL), scope) == b"c.o.o"
    assert raw(places(*reversed(ALL)), scope) == b"o.l.d"
    presented = places(*ALL).find(scope, LIMIT)
    assert presented is not None
    assert presented.is_ambient


@pytest.mark.parametrize(
    ("given", "token"),
    [
        pytest.param(None, None, id="None"),
        pytest.param("a.b.c", b"a.b.c", id="str"),
        pytest.param(b"a.b.c", b"a.b.c", id="bytes"),
        pytest.param("", b"", id="an empty one, for the parser to refuse"),
        pytest.param(" a.b.c\t", b"a.b.c", id="the value of a header with white space around it"),
    ],
)
def test_a_function_gives_a_token_or_none(given: Any, token: bytes | None) -> None:
    assert raw(places(lambda scope: given), http()) == token


@pytest.mark.parametrize(
    ("given", "error"),
    [
        pytest.param("\u00e9", MalformedToken, id="not ASCII"),
        pytest.param("x" * (LIMIT + 1), TokenTooLarge, id="too large"),
        pytest.param(5, TypeError, id="not a text"),
    ],
)
def test_what_a_function_gives_is_checked(given: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        raw(places(lambda scope: given), http())


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        pytest.param([(b"authorization", b"Bearer " + b"x" * (LIMIT + 1))], bearer_header(), id="header"),
        pytest.param(cookies(f"access={'x' * (LIMIT + 1)}"), cookie("access"), id="cookie"),
        pytest.param([(b"x-data", b"x" * (LIMIT + 1))], proxy_header("x-data"), id="header of a proxy"),
    ],
)
def test_a_token_is_limited_in_every_place(lines: Any, place: Any) -> None:
    with pytest.raises(TokenTooLarge):
        raw(places(place), http(headers=lines))


async def waits(scope: Scope) -> str | None:
    return None


class Waiting:
    async def __call__(self, scope: Scope) -> str | None: ...


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        pytest.param([], "at least one source", id="none"),
        pytest.param("bearer", "sources must be a list", id="a string"),
        pytest.param(None, "sources must be a list", id="None"),
        pytest.param(bearer_header(), "sources must be a list", id="one, without a list"),
        pytest.param([bearer_header], "bearer_header must be called", id="not called"),
        pytest.param([cookie], "cookie must be called", id="a cookie, not called"),
        pytest.param([proxy_header], "proxy_header must be called", id="a proxy's header, not called"),
        pytest.param(["access"], r"sources: each must be callable as \(scope\)", id="a name"),
        pytest.param([waits], "sources: each must be a plain function", id="an async function"),
        pytest.param([Waiting()], "sources: each must be a plain function", id="an object that is an async function"),
        pytest.param([cookie("a"), bearer_header(), cookie("a")], "listed twice", id="one place twice"),
        pytest.param([from_query, from_query], "listed twice", id="one function twice"),
    ],
)
def test_sources_that_cannot_work_are_refused(sources: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Sources(sources)


@pytest.mark.parametrize("make", [cookie, proxy_header, subprotocol])
@pytest.mark.parametrize("name", ["", "a b", "a=b", "a;b", "a,b", "\u00e9", "a\n", None])
def test_a_place_needs_a_name_that_can_be_sent(make: Any, name: Any) -> None:
    with pytest.raises(ConfigurationError, match="must hold only letters"):
        make(name)


def test_a_header_of_a_proxy_that_is_sent_twice_is_ambiguous() -> None:
    # The client may have sent one of them.
    with pytest.raises(AmbiguousToken):
        raw(places(proxy_header("x-data")), http(headers=[(b"x-data", b"a.b.c"), (b"x-data", b"a.b.c")]))


def test_an_empty_header_of_a_proxy_is_no_token() -> None:
    assert raw(places(proxy_header("x-data")), http(headers=[(b"x-data", b" ")])) is None


@pytest.mark.parametrize(("name", "instead"), [("Authorization", "bearer_header"), ("cookie", "cookie")])
def test_headers_with_sources_of_their_own_are_no_proxys(name: str, instead: str) -> None:
    with pytest.raises(ConfigurationError, match=instead):
        proxy_header(name)


pieces = st.sampled_from(
    ["bearer", "jwt", "a.b.c", "access", "=", ";", ",", " ", "\t", "", '"', "v1", "\u00e9", "\x00"]
)
lines = st.lists(st.lists(pieces, max_size=8).map("".join) | st.text(max_size=20), max_size=5)


@given(lines, lines)
def test_whatever_a_request_brings_it_is_a_token_or_a_refusal(cookie_lines: list[str], offered: list[str]) -> None:
    headers = [(b"cookie", line.encode()) for line in cookie_lines]
    sources = places(cookie("access"), subprotocol("bearer"), subprotocol("jwt"))
    try:
        presented = sources.find(handshake(*offered, headers=headers), LIMIT)
    except (AmbiguousToken, MalformedToken, TokenTooLarge):
        return
    assert presented is None or len(presented.raw) <= LIMIT


@given(lines)
def test_nothing_that_may_be_a_token_is_left_for_the_app(offered: list[str]) -> None:
    scope = handshake(*offered)
    answer = places(subprotocol("bearer"), subprotocol("jwt")).take_out(scope)
    names = {"bearer", "jwt"}
    assert answer == next((protocol for protocol in offered if protocol in names), None)
    assert not names.intersection(scope["subprotocols"])
    # What is left stood behind none of the names.
    left = iter(scope["subprotocols"])
    before = ["", *offered]
    assert all(
        protocol == next(left) for last, protocol in zip(before, offered, strict=False) if not {last, protocol} & names
    )
