"""Which scopes the claims grant: every shape in which providers write them, and what grants nothing."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from jwt_middleware import ConfigurationError
from jwt_middleware.errors import InvalidClaim, UserRefused
from jwt_middleware.verifying.scopes import ScopeRules, close_hierarchy

ZITADEL = "urn:zitadel:iam:org:project:roles"
ORG = {"2231": "org-a.example"}


def read(claims: dict[str, Any], claim: Any = None, **options: Any) -> tuple[str, ...]:
    scopes = ScopeRules(claim, **options).read(claims, partial(dict, claims))
    assert isinstance(scopes, tuple)
    return scopes


@pytest.mark.parametrize(
    ("claims", "claim", "scopes"),
    [
        pytest.param({"roles": "Site Manager"}, "roles", ("Site Manager",), id="a text is one value"),
        pytest.param({"roles": ["Site Manager", "clerk"]}, "roles", ("Site Manager", "clerk"), id="a list"),
        pytest.param({"roles": ["admin read-only"]}, "roles", ("admin read-only",), id="a space in a list"),
        pytest.param({"groups": ["admin", 7, -7, 0]}, "groups", ("admin", "7", "-7", "0"), id="integers in a list"),
        pytest.param({"groups": ["a", True, 1.5, None, "", ["b"]]}, "groups", ("a",), id="other things in a list"),
        pytest.param({"roles": 7}, "roles", (), id="an integer that is not in a list"),
        pytest.param({"roles": None}, "roles", (), id="null"),
        pytest.param({}, "roles", (), id="nothing"),
        pytest.param({ZITADEL: {"admin": ORG, "user": ORG}}, ZITADEL, ("admin", "user"), id="Zitadel"),
        pytest.param({ZITADEL: {}}, ZITADEL, (), id="Zitadel, no roles"),
        pytest.param({ZITADEL: [{"admin": ORG}, {"user": ORG}]}, ZITADEL, ("admin", "user"), id="older Zitadel"),
        pytest.param({"roles": {"admin": True, "user": ORG}}, "roles", ("admin", "user"), id="an object"),
        pytest.param(
            {
                "roles": {
                    "a": False,
                    "b": None,
                    "c": 0,
                    "d": 1,
                    "e": "",
                    "f": "true",
                    "g": [],
                    "h": {},
                    "i": [1],
                    "j": 1.5,
                    "": True,
                }
            },
            "roles",
            (),
            id="an object with nothing that is a clear yes",
        ),
        pytest.param({"roles": [{"admin": True}]}, "roles", (), id="an object in a list"),
        pytest.param({"roles": [{"name": "a", "on": ORG}]}, "roles", (), id="an object in a list with a text"),
        pytest.param({"roles": [{"name": "a"}, {"name": "b"}, {"x": 1}, "c"]}, "roles.name", ("a", "b"), id="a member"),
        pytest.param({"roles": [{"name": ["a", 5]}]}, "roles.name", ("a", "5"), id="a member that is a list"),
        pytest.param(
            {"org": [{"teams": [{"name": "a"}, {"name": "b"}]}, {"teams": []}]},
            "org.teams.name",
            ("a", "b"),
            id="lists",
        ),
        pytest.param(
            {"resource_access": {"web.shop": {"roles": ["a"]}}},
            ("resource_access", "web.shop", "roles"),
            ("a",),
            id="a tuple of names with dots",
        ),
        pytest.param({"resource_access": {"web.shop": ["a"]}}, "resource_access.web.shop", (), id="dots are steps"),
        pytest.param({"a.b": ["x"], "a": {"b": ["y"]}}, ("a.b",), ("x",), id="a tuple of one name"),
        pytest.param({"a.b": ["x"], "a": {"b": ["y"]}}, ("a", "b"), ("y",), id="a tuple never means a name with dots"),
        pytest.param(
            {"scope": "a b", "permissions": ["b", "c"], "roles": "d e"},
            ["scope", "permissions", "roles", "missing"],
            ("a", "b", "c", "d e"),
            id="several claims, united",
        ),
        pytest.param({"scope": "a b"}, ("scope",), ("a", "b"), id="scope as a tuple"),
        pytest.param({"scope": None, "scp": "a b"}, None, ("a", "b"), id="scope is null, so scp"),
        pytest.param({"scope": {"a": True}}, None, ("a",), id="scope is an object"),
        pytest.param({"scope": 5}, None, (), id="scope is a number"),
    ],
)
def test_scopes_are_read_as_providers_write_them(claims: dict[str, Any], claim: Any, scopes: tuple[str, ...]) -> None:
    assert read(claims, claim) == scopes


@pytest.mark.parametrize(
    ("text", "separator", "scopes"),
    [
        ("a,b", ",", ("a", "b")),
        (" a , b,,", ",", ("a", "b")),
        ("Site Manager, clerk", ",", ("Site Manager", "clerk")),
        ("a b", " ", ("a", "b")),
        ("a::b", "::", ("a", "b")),
        ("", ",", ()),
    ],
)
def test_a_text_is_split_where_the_configuration_says_so(text: str, separator: str, scopes: tuple[str, ...]) -> None:
    assert read({"permissions": text}, "permissions", separator={"permissions": separator}) == scopes
    assert read({"a": {"b": text}}, "a.b", separator={"a.b": separator}) == scopes
    assert read({"a": {"b": text}}, ("a", "b"), separator={("a", "b"): separator}) == scopes


def test_a_separator_is_for_its_claim_alone() -> None:
    claims = {"permissions": "a,b", "roles": "c,d", "scope": "e f"}
    scopes = read(claims, ["permissions", "roles", "scope"], separator={"permissions": ","})
    assert scopes == ("a", "b", "c,d", "e", "f")
    assert read({"scope": "e,f g"}, separator={"scope": ","}) == ("e", "f g")


def test_entries_of_a_list_are_not_split() -> None:
    assert read({"permissions": ["a,b"]}, "permissions", separator={"permissions": ","}) == ("a,b",)


def complaints(claims: dict[str, Any], claim: Any = None) -> list[str]:
    told: list[str] = []
    rules = ScopeRules(claim)
    rules.tell = lambda text, error: told.append(text)
    rules.read(claims, dict)
    return told


@pytest.mark.parametrize(
    ("claims", "claim"),
    [
        ({"scope": 5}, None),
        ({"roles": True}, "roles"),
        ({"roles": 1.5}, "roles"),
        ({"roles": ["a", ["b"]]}, "roles"),
        ({"roles": [{"admin": True}]}, "roles"),
        ({"a": {"roles": 7}}, ("a", "roles")),
    ],
)
def test_what_cannot_be_read_is_told(claims: dict[str, Any], claim: Any) -> None:
    (text,) = complaints(claims, claim)
    assert "grants nothing" in text


@pytest.mark.parametrize(
    ("claims", "claim"),
    [({}, None), ({"scope": None}, None), ({"roles": []}, "roles"), ({"roles": {"a": False}}, "roles"), ({}, "a.b")],
)
def test_what_is_absent_or_plainly_grants_nothing_is_not_told(claims: dict[str, Any], claim: Any) -> None:
    assert complaints(claims, claim) == []


def test_a_function_says_which_scopes() -> None:
    def scopes(claims: dict[str, Any]) -> Iterator[str]:
        yield from (f"{app}:{role}" for app, roles in claims["apps"].items() for role in roles)
        yield ""

    assert read({"apps": {"shop": ["a", "b"]}}, scopes) == ("shop:a", "shop:b")


def test_a_function_gets_claims_of_its_own() -> None:
    def spoil(claims: dict[str, Any]) -> list[str]:
        claims["sub"] = "eve"
        return ["a"]

    claims = {"sub": "ada"}
    assert read(claims, spoil) == ("a",)
    assert claims == {"sub": "ada"}


@pytest.mark.parametrize("result", ["admin", b"admin", None, 5, ["a", 5], [None], [["a"]], True], ids=repr)
def test_a_function_returns_texts(result: Any) -> None:
    with pytest.raises(TypeError, match="scope_claim must return"):
        read({}, lambda claims: result)


def test_an_exception_of_a_function_is_a_refusal_and_is_told() -> None:
    told: list[tuple[str, BaseException | None]] = []
    rules = ScopeRules(lambda claims: claims["roles"])
    rules.tell = lambda text, error: told.append((text, error))
    with pytest.raises(InvalidClaim):
        rules.read({}, dict)
    ((text, error),) = told
    assert "the function raised an exception" in text
    assert isinstance(error, KeyError)


def test_a_function_may_refuse_in_its_own_words() -> None:
    def refuse(claims: dict[str, Any]) -> list[str]:
        raise UserRefused

    with pytest.raises(UserRefused):
        read({}, refuse)


HIERARCHY = {"admin": ["orders", "users"], "orders": ["orders:read", "orders:write"], "users": "users:read"}


@pytest.mark.parametrize(
    ("scope", "scopes"),
    [
        ("admin", {"admin", "orders", "users", "orders:read", "orders:write", "users:read"}),
        ("orders", {"orders", "orders:read", "orders:write"}),
        ("users", {"users", "users:read"}),
        ("orders:read", {"orders:read"}),
        ("other", {"other"}),
        ("", set()),
    ],
)
def test_a_scope_grants_what_it_implies(scope: str, scopes: set[str]) -> None:
    found = read({"scope": scope}, implies=HIERARCHY)
    assert (set(found), len(found)) == (scopes, len(scopes))


@pytest.mark.parametrize(
    "implies",
    [
        pytest.param({"a": ["a"]}, id="itself"),
        pytest.param({"a": ["b"], "b": ["a"]}, id="two"),
        pytest.param({"a": ["b"], "b": ["c"], "c": ["d", "a"]}, id="three"),
        pytest.param({"x": ["a"], "a": ["b"], "b": ["a"]}, id="behind another"),
    ],
)
def test_a_hierarchy_has_no_cycles(implies: dict[str, list[str]]) -> None:
    with pytest.raises(ConfigurationError, match=r"scope_implies: '\w' implies itself"):
        close_hierarchy(implies)


def test_a_large_hierarchy_is_closed_in_good_time() -> None:
    layers = {f"{layer}.{n}": [f"{layer + 1}.{m}" for m in range(20)] for layer in range(20) for n in range(20)}
    assert len(close_hierarchy(layers)["0.0"]) == 400


@pytest.mark.parametrize(
    ("may_grant", "scopes"),
    [
        (["orders:read"], ("orders:read",)),
        (["orders"], ("orders",)),
        (["orders", "orders:write"], ("orders", "orders:write")),
        ([], ()),
        (["admin"], ()),
    ],
)
def test_a_provider_grants_only_what_it_may_after_what_is_implied(
    may_grant: list[str], scopes: tuple[str, ...]
) -> None:
    assert read({"scope": "orders"}, implies=HIERARCHY, may_grant=may_grant) == scopes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"claim": ""}, "scope_claim must be the name", id="an empty claim"),
        pytest.param({"claim": 5}, "scope_claim must be the name", id="a number"),
        pytest.param({"claim": ()}, "scope_claim must be the name", id="an empty tuple"),
        pytest.param({"claim": ("a", "")}, "scope_claim must be the name", id="an empty step"),
        pytest.param({"claim": ["a", 5]}, "scope_claim must be the name", id="a number in a list"),
        pytest.param({"claim": [["a"]]}, "scope_claim must be the name", id="a list in a list"),
        pytest.param({"claim": {"a"}}, "scope_claim must be the name", id="a set"),
        pytest.param({"claim": []}, "at least one claim", id="an empty list"),
        pytest.param({"separator": ","}, "scope_separator must be a dict", id="a separator for all"),
        pytest.param({"claim": "roles", "separator": {"groups": ","}}, "names claims that", id="of another claim"),
        pytest.param({"claim": "roles", "separator": {"roles": ""}}, "texts as its values", id="an empty separator"),
        pytest.param({"claim": "roles", "separator": {"roles": 5}}, "texts as its values", id="a number"),
        pytest.param({"implies": ["a"]}, "scope_implies must be a dict", id="a list"),
        pytest.param({"implies": {"a": 5}}, "scope_implies must be a string", id="it implies a number"),
        pytest.param({"implies": {"a": []}}, "scope_implies must be a string", id="it implies nothing"),
        pytest.param({"implies": {5: ["a"]}}, "scope_implies must be a string", id="a number implies"),
        pytest.param({"may_grant": 5}, "may_grant must be a string", id="it may grant a number"),
        pytest.param({"may_grant": [""]}, "may_grant must be a string", id="it may grant nothing"),
    ],
)
def test_rules_that_cannot_work_are_refused_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ScopeRules(**options)


async def waits(claims: dict[str, Any]) -> list[str]:
    return []


class Waits:
    async def __call__(self, claims: dict[str, Any]) -> list[str]:
        return []


@pytest.mark.parametrize("function", [waits, Waits(), partial(waits)])
def test_a_function_must_not_wait(function: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match="scope_claim must be a plain function"):
        ScopeRules(function)
