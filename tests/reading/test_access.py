from collections.abc import Iterable
from typing import Any

import pytest
from starlette.types import Scope

from jwt_middleware.errors import ConfigurationError
from jwt_middleware.reading.access import PublicPaths, PublicRequests, is_preflight

from ..support import http, websocket
from ..support.steps import steps

PATHS = ["/health", "/docs/*", "GET /items/*", "POST /login", "/", "/caf\u00e9"]


@pytest.mark.parametrize(
    "scope",
    [
        pytest.param(http("/health"), id="exact"),
        pytest.param(http("/"), id="the root"),
        pytest.param(http("/caf\u00e9", raw_path=b"/caf%C3%A9"), id="not ASCII"),
        pytest.param(http("/health", raw_path=b"/%68ealth"), id="encoded for no reason"),
        pytest.param(http("/health", raw_path=None), id="the server gives no raw path"),
        pytest.param(http("/health", method="DELETE"), id="any method"),
        pytest.param(websocket("/health"), id="a WebSocket"),
        pytest.param(http("/docs/"), id="below, the empty segment"),
        pytest.param(http("/docs/a"), id="below"),
        pytest.param(http("/docs/a/b/c.html"), id="far below"),
        pytest.param(http("/docs/...", raw_path=b"/docs/..."), id="three dots are a name"),
        pytest.param(http("/docs/.well-known"), id="a name that starts with a dot"),
        pytest.param(http("/docs/a..b"), id="dots inside a name"),
        pytest.param(websocket("/docs/a"), id="a WebSocket below"),
        pytest.param(http("/items/1"), id="the method asked for"),
        pytest.param(http("/items/1", method="HEAD"), id="HEAD is like GET"),
        pytest.param(http("/items/1", method="OPTIONS"), id="OPTIONS is like GET"),
        pytest.param(http("/login", method="POST"), id="another method asked for"),
        pytest.param(http("/api/health", root_path="/api"), id="less the root path"),
        pytest.param(http("/api/docs/a", root_path="/api"), id="below, less the root path"),
        pytest.param(http("/health", root_path="/api"), id="the server has cut the root path off"),
        pytest.param(http("/api/", root_path="/api"), id="the root, less the root path"),
    ],
)
def test_a_public_path_is_recognised(scope: Scope) -> None:
    assert scope in PublicPaths(PATHS)


@pytest.mark.parametrize(
    "scope",
    [
        pytest.param(http("/healthz"), id="a longer name"),
        pytest.param(http("/healt"), id="a shorter name"),
        pytest.param(http("/health/"), id="a trailing slash"),
        pytest.param(http("/health/live"), id="below an exact path"),
        pytest.param(http("/Health"), id="another case"),
        pytest.param(http("/admin/health"), id="at the end of another path"),
        pytest.param(http(""), id="empty"),
        pytest.param(http("*", method="OPTIONS"), id="OPTIONS of the server as a whole"),
        pytest.param(http("health"), id="no slash"),
        pytest.param(http("/docs"), id="the prefix without its slash"),
        pytest.param(http("/docsx/a"), id="the prefix as part of a name"),
        pytest.param(http("/items/1", method="POST"), id="another method"),
        pytest.param(http("/items/1", method="get"), id="a method in lower case is another one"),
        pytest.param(http("/login"), id="GET, where POST is public"),
        pytest.param(http("/login", method="OPTIONS"), id="OPTIONS, where POST is public"),
        pytest.param(websocket("/items/1"), id="a WebSocket, where GET is public"),
        pytest.param(http("//health"), id="two slashes before"),
        pytest.param(http("/docs//a"), id="two slashes inside"),
        pytest.param(http("/docs//"), id="two slashes after"),
        pytest.param(http("/docs/../admin"), id="a segment of two dots"),
        pytest.param(http("/docs/.."), id="two dots at the end"),
        pytest.param(http("/docs/./a"), id="a segment of one dot"),
        pytest.param(http("/docs/."), id="one dot at the end"),
        pytest.param(http("/docs/..;/admin"), id="two dots with a path parameter"),
        pytest.param(http("/../health"), id="dots before"),
        pytest.param(http("/docs/..\\admin"), id="a backslash"),
        pytest.param(http("/docs\\a"), id="a backslash for the slash"),
        pytest.param(http("/docs/a\x00"), id="NUL"),
        pytest.param(http("/health\n"), id="a line feed, which a $ in a route lets pass"),
        pytest.param(http("/docs/a\r\nb"), id="a new line"),
        pytest.param(http("/docs/a?b", raw_path=b"/docs/a%3Fb"), id="an encoded question mark"),
        pytest.param(http("/docs/a#b", raw_path=b"/docs/a%23b"), id="an encoded hash"),
        pytest.param(http("/docs/a/b", raw_path=b"/docs/a%2fb"), id="an encoded slash"),
        pytest.param(http("/docs/a/b", raw_path=b"/docs/a%2Fb"), id="an encoded slash in capitals"),
        pytest.param(http("/docs/a\\b", raw_path=b"/docs/a%5cb"), id="an encoded backslash"),
        pytest.param(http("/docs/a", raw_path=b"/docs%5Ca"), id="an encoded backslash that the server made a slash"),
        pytest.param(http("/docs/../admin", raw_path=b"/docs/%2e%2e/admin"), id="encoded dots"),
        pytest.param(http("/docs/%2e%2e/admin", raw_path=b"/docs/%252e%252e/admin"), id="dots encoded twice"),
        pytest.param(http("/docs/a%2Fb", raw_path=b"/docs/a%252Fb"), id="a slash encoded twice"),
        pytest.param(http("/docs/a%5cb", raw_path=b"/docs/a%255cb"), id="a backslash encoded twice"),
        pytest.param(http("/apihealth", root_path="/api"), id="the root path as part of a name"),
        pytest.param(http("/api", root_path="/api"), id="the root path alone"),
        pytest.param(http("/api//health", root_path="/api"), id="two slashes after the root path"),
        pytest.param(http("/api/api/health", root_path="/api"), id="the root path twice"),
        pytest.param(http("/../health", root_path="/.."), id="dots in the root path of a mount"),
    ],
)
def test_what_only_looks_like_a_public_path_is_none(scope: Scope) -> None:
    assert scope not in PublicPaths(PATHS)


@pytest.mark.parametrize("scope", [http("/"), http("/health"), websocket("/")], ids=["root", "path", "websocket"])
def test_without_entries_nothing_is_public(scope: Scope) -> None:
    assert scope not in PublicPaths([])


@pytest.mark.parametrize("entry", ["/items", "GET /items", "/items/*"])
def test_one_entry_opens_nothing_but_itself(entry: str) -> None:
    public = PublicPaths([entry])
    for path in ("/", "/other", "/items2", "/item"):
        assert http(path) not in public


def test_everything_is_public_only_where_an_entry_says_so() -> None:
    assert http("/a/b", method="DELETE") in PublicPaths(["/*"])
    assert http("/a/b", method="DELETE") not in PublicPaths(["GET /*"])


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param(["GET /items", "POST /items"], id="two methods"),
        pytest.param(["POST /items", "GET /items", "GET /items"], id="an entry twice"),
    ],
)
def test_entries_for_the_same_path_add_up(entries: list[str]) -> None:
    public = PublicPaths(entries)
    assert [method for method in ("GET", "POST", "PUT") if http("/items", method=method) in public] == ["GET", "POST"]
    assert websocket("/items") not in public


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        pytest.param(http("/users/7/avatar"), True, id="any segment"),
        pytest.param(http("/users/{id}/avatar"), True, id="its own spelling"),
        pytest.param(http("/users/caf\u00e9/avatar"), True, id="a segment that is not ASCII"),
        pytest.param(http("/users/7/avatar", method="HEAD"), True, id="HEAD"),
        pytest.param(http("/users/7/avatar", method="POST"), False, id="another method"),
        pytest.param(websocket("/users/7/avatar"), False, id="a WebSocket"),
        pytest.param(http("/users//avatar"), False, id="an empty segment"),
        pytest.param(http("/users/avatar"), False, id="no segment"),
        pytest.param(http("/users/7/8/avatar"), False, id="two segments"),
        pytest.param(http("/users/7/avatar/"), False, id="a slash after it"),
        pytest.param(http("/users/7"), False, id="a part of it"),
        pytest.param(http("/users/me/avatar", method="DELETE"), True, id="a literal entry beside it"),
        pytest.param(http("/users/me/settings"), False, id="below the literal entry"),
        pytest.param(http("/tenants/a/docs/"), True, id="below, with nothing more"),
        pytest.param(http("/tenants/a/docs/b/c"), True, id="below"),
        pytest.param(http("/tenants/a/docs"), False, id="not below"),
        pytest.param(http("/tenants//docs/b"), False, id="below, with an empty segment"),
        pytest.param(http("/tenants/../docs/b"), False, id="dots"),
        pytest.param(http("/tenants/a%2Fb/docs/c"), False, id="an encoded slash"),
        pytest.param(http("/files/"), False, id="an empty last segment"),
        pytest.param(http("/files/a"), True, id="a last segment"),
    ],
)
def test_a_name_in_braces_stands_for_one_segment(scope: Scope, expected: bool) -> None:
    entries = ["GET /users/{id}/avatar", "/users/me/avatar", "/tenants/{tenant}/docs/*", "/files/{name}"]
    assert (scope in PublicPaths(entries)) is expected


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/" + "a/" * 30_000, id="many segments"),
        pytest.param("/docs" * 10_000, id="a segment of an entry, many times"),
        pytest.param("/users" + "/7" * 30_000, id="segments that a name in braces matches"),
        pytest.param("/" + "a" * 60_000, id="one long segment"),
    ],
)
def test_a_look_up_never_goes_deeper_than_the_deepest_entry(path: str) -> None:
    public = PublicPaths(["/docs/a/*", "/health", "/users/{a}/{b}/x", "/users/{a}/7/x", "/{x}/7/7/y"])
    scope = http(path)
    assert scope not in public
    assert steps(lambda: scope in public) < 1_000


@pytest.mark.parametrize(
    ("root_path", "entries"),
    [
        pytest.param("/docs", ["/docs/*", "GET /docs/a", "/{any}/b"], id="one segment"),
        pytest.param("/docs/", ["/docs/*", "GET /docs/a", "/{any}/b"], id="with a slash"),
        pytest.param("/docs/a", ["/docs/*"], id="two segments"),
        pytest.param("/other", ["/{any}/b"], id="another"),
        pytest.param("/a/b/c/d", [], id="deeper than all"),
    ],
)
def test_entries_that_an_app_with_a_root_path_serves_under_other_names(root_path: str, entries: list[str]) -> None:
    public = PublicPaths(["/*", "/docs", "/docs/*", "GET /docs/a", "/health", "/{any}/b"])
    assert public.entries_in(root_path) == entries


@pytest.mark.parametrize(
    ("scope", "missed"),
    [
        pytest.param(http("/api/health", root_path="/api"), True, id="an entry with the path of the mount"),
        pytest.param(http("/api/docs/a", root_path="/api"), True, id="below such an entry"),
        pytest.param(http("/api/ok", root_path="/api"), False, id="an entry that matches"),
        pytest.param(http("/api/other", root_path="/api"), False, id="no entry"),
        pytest.param(http("/api/health"), False, id="no mount"),
    ],
)
def test_an_entry_that_misses_only_by_the_path_of_a_mount(scope: Scope, missed: bool) -> None:
    assert PublicPaths(["/api/health", "/api/docs/*", "/ok"]).misses_only_by_root_path(scope) is missed


def test_a_look_up_costs_the_same_however_many_entries_there_are() -> None:
    few, many = (PublicPaths(f"/a/{number}/*" for number in range(size)) for size in (2, 2_000))
    scope = http("/a/b/c")
    assert steps(lambda: scope in many) == steps(lambda: scope in few)


@pytest.mark.parametrize("entries", [["/items", "GET /items"], ["GET /items", "/items"]], ids=["before", "after"])
def test_an_entry_without_a_method_outweighs_one_with(entries: list[str]) -> None:
    assert http("/items", method="DELETE") in PublicPaths(entries)


def test_entries_may_come_from_any_iterable() -> None:
    assert http("/b") in PublicPaths(path for path in ("/a", "/b"))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        pytest.param("/health", "must be a list of paths", id="a string"),
        pytest.param(None, "must be a list of paths", id="None"),
        pytest.param(5, "must be a list of paths", id="a number"),
        pytest.param([5], "must be a string", id="a list of numbers"),
        pytest.param(b"/health", "must be a string", id="bytes"),
        pytest.param([""], "must start with '/'", id="empty"),
        pytest.param(["health"], "must start with '/'", id="no slash"),
        pytest.param(["*"], "must start with '/'", id="a star alone"),
        pytest.param(["https://testserver/health"], "must start with '/'", id="an address"),
        pytest.param(["GET health"], "must start with '/'", id="a method and no slash"),
        pytest.param(["GET"], "must start with '/'", id="a method alone"),
        pytest.param(["/health "], "must start with '/'", id="a space after"),
        pytest.param(["/health GET"], "must start with '/'", id="the method after the path"),
        pytest.param(["get /health"], "a method in capitals", id="a method in lower case"),
        pytest.param([" /health"], "a method in capitals", id="a space before"),
        pytest.param(["GET  /health"], "a method in capitals", id="two spaces"),
        pytest.param(["GET POST /health"], "a method in capitals", id="two methods"),
        pytest.param(["GET,POST /health"], "a method in capitals", id="two methods with a comma"),
        pytest.param(["/a /b"], "a method in capitals", id="two paths"),
        pytest.param(["GET\t/health"], "must start with '/'", id="a tab"),
        pytest.param(["OPTIONS /*"], "allow_preflight", id="OPTIONS, which would have opened every GET"),
        pytest.param(["HEAD /health"], "cannot differ from GET", id="HEAD"),
        pytest.param(["/docs*"], "whole last segment", id="a star in a name"),
        pytest.param(["/*/docs"], "whole last segment", id="a star in the middle"),
        pytest.param(["/docs/**"], "whole last segment", id="two stars"),
        pytest.param(["/*/*"], "whole last segment", id="two star segments"),
        pytest.param(["/items/{id:int}"], "no other pattern", id="a route's parameter with a converter"),
        pytest.param(["/items/{}"], "no other pattern", id="a parameter without a name"),
        pytest.param(["/items/x{id}"], "no other pattern", id="a parameter that is a part of a segment"),
        pytest.param(["/items/{id"], "no other pattern", id="an open brace"),
        pytest.param(["/items/{a}{b}"], "no other pattern", id="two parameters in one segment"),
        pytest.param(["/{a/b}"], "no other pattern", id="a parameter across two segments"),
        pytest.param(["/a//b"], "would never match", id="two slashes"),
        pytest.param(["//*"], "would never match", id="two slashes and a star"),
        pytest.param(["/a/../b"], "would never match", id="two dots"),
        pytest.param(["/a/."], "would never match", id="a dot"),
        pytest.param(["/a\\b"], "would never match", id="a backslash"),
        pytest.param(["/a?b=c"], "would never match", id="a query"),
        pytest.param(["/a#b"], "would never match", id="a fragment"),
        pytest.param(["/a%2fb"], "would never match", id="an encoded slash"),
        pytest.param(["/caf%C3%A9"], "would never match", id="encoded as in an address"),
        pytest.param(["/a\n"], "would never match", id="a line feed"),
    ],
)
def test_an_entry_that_cannot_mean_what_it_says_is_refused(entries: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PublicPaths(entries)


PREFLIGHT = {b"origin": b"https://app.example", b"access-control-request-method": b"DELETE"}


def options(headers: Iterable[tuple[bytes, bytes]]) -> Scope:
    return http("/items/1", method="OPTIONS", headers=list(headers))


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(PREFLIGHT, id="as browsers send it"),
        pytest.param({**PREFLIGHT, b"origin": b"null"}, id="from a sandboxed document"),
        pytest.param(
            {**PREFLIGHT, b"access-control-request-method": b"DELETE \t"}, id="from a server that strips no white space"
        ),
        pytest.param({**PREFLIGHT, b"access-control-request-method": b"PATCH"}, id="for another method"),
        pytest.param({**PREFLIGHT, b"access-control-request-headers": b"authorization"}, id="for a header, too"),
        pytest.param({**PREFLIGHT, b"access-control-request-private-network": b"true"}, id="for a private network"),
    ],
)
def test_a_preflight_is_recognised(headers: dict[bytes, bytes]) -> None:
    assert is_preflight(options(headers.items()))


@pytest.mark.parametrize(
    "scope",
    [
        pytest.param(options([]), id="OPTIONS alone"),
        pytest.param(options([(b"origin", b"https://app.example")]), id="no method asked for"),
        pytest.param(options([(b"access-control-request-method", b"GET")]), id="no origin"),
        pytest.param(options([*PREFLIGHT.items(), (b"origin", b"https://evil.example")]), id="two origins"),
        pytest.param(options([*PREFLIGHT.items(), (b"access-control-request-method", b"GET")]), id="two methods"),
        pytest.param(options({**PREFLIGHT, b"origin": b""}.items()), id="an empty origin"),
        pytest.param(options({**PREFLIGHT, b"access-control-request-method": b""}.items()), id="an empty method"),
        pytest.param(
            options({**PREFLIGHT, b"access-control-request-method": b"GET, PUT"}.items()), id="methods joined"
        ),
        pytest.param(options({**PREFLIGHT, b"access-control-request-method": b"GET\n"}.items()), id="a line feed"),
        pytest.param(options({**PREFLIGHT, b"access-control-request-method": b"\xe9"}.items()), id="not ASCII"),
        pytest.param(options([*PREFLIGHT.items(), (b"authorization", b"Basic Og==")]), id="with Authorization"),
        pytest.param(options([*PREFLIGHT.items(), (b"cookie", b"session=1")]), id="with a cookie"),
        pytest.param({**options(PREFLIGHT.items()), "method": "GET"}, id="GET"),
        pytest.param({**options(PREFLIGHT.items()), "method": "POST"}, id="POST"),
        pytest.param({**options(PREFLIGHT.items()), "method": "options"}, id="a method in lower case"),
        pytest.param(websocket(headers=list(PREFLIGHT.items())), id="a WebSocket"),
    ],
)
def test_what_only_looks_like_a_preflight_is_none(scope: Scope) -> None:
    assert not is_preflight(scope)


# A function


def test_a_function_says_which_requests_are_public() -> None:
    public = PublicRequests(lambda scope: scope["path"] == "/health")
    assert http("/health") in public
    assert http("/orders") not in public


@pytest.mark.parametrize("path", ["/docs/../admin", "//docs", "/docs%2f"])
def test_a_function_is_not_asked_about_a_path_that_never_matches(path: str) -> None:
    asked: list[str] = []

    def ask(scope: Scope) -> bool:
        asked.append(scope["path"])
        return True

    public = PublicRequests(ask)
    assert http(path) not in public
    assert http("/docs", raw_path=b"/a%2f..%2fdocs") not in public
    assert asked == []


@pytest.mark.parametrize("answer", [1, "yes", object(), None, 0, ""])
def test_a_function_must_answer_with_a_bool(answer: Any) -> None:
    with pytest.raises(TypeError, match="must return True or False"):
        PublicRequests(lambda scope: answer).__contains__(http("/"))


async def asynchronous(scope: Any) -> bool:
    return False


class Asynchronous:
    async def __call__(self, scope: Any) -> bool:
        return False


@pytest.mark.parametrize("function", [asynchronous, Asynchronous()], ids=["function", "object"])
def test_a_function_that_would_have_to_be_awaited_is_refused_at_construction(function: Any) -> None:
    with pytest.raises(ConfigurationError, match="public must be a plain function"):
        PublicRequests(function)
