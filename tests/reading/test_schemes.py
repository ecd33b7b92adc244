"""Is another credential scheme a change in one place? A toy scheme, given to the middleware as a user would give it."""

from collections.abc import Mapping
from typing import Any

import pytest

from jwt_middleware import ConfigurationError, Token, bearer_header, cookie
from jwt_middleware.errors import InvalidToken, Refusal
from jwt_middleware.events import Event, RequestRefused
from jwt_middleware.reading.authorization import authorization_line

from ..support import bearer, client, token

BOUND = {"toy": "the password of ada"}


class InvalidProof(InvalidToken):
    code = "invalid_toy_proof"
    error = "invalid_toy_proof"
    description = "The proof is wrong."
    challenge_scheme = "Toy"


class Toy:
    """``Authorization: Toy <token>``, for tokens whose ``cnf`` names a password that each request must show."""

    name = "Toy"
    confirms = frozenset({"toy"})
    challenge: Mapping[str, str] = {"algs": "none"}

    def __init__(self) -> None:
        self.confirmed = 0

    def find(self, scope: Mapping[str, Any], max_size: int) -> bytes | None:
        line = authorization_line(scope["headers"])
        return line[4:] if line is not None and line.startswith(b"Toy ") else None

    async def confirm(self, token: Token, scope: Mapping[str, Any]) -> None:
        self.confirmed += 1
        proof = dict(scope["headers"]).get(b"toy", b"").decode()
        if token.claims.get("cnf") != {"toy": proof}:
            raise InvalidProof(claim="cnf", expected="the password", found="another")


def toy(raw: str, proof: str = BOUND["toy"]) -> dict[str, str]:
    return {"authorization": f"Toy {raw}", "toy": proof}


def challenge(answer: Any) -> str:
    said: str = answer.headers["www-authenticate"]
    return said


@pytest.fixture
def scheme() -> Toy:
    return Toy()


def test_a_token_that_is_bound_is_good_by_its_scheme(scheme: Toy) -> None:
    with client(sources=[bearer_header(), scheme]) as toys:
        answer = toys.get("/", headers=toy(token(cnf=BOUND)))
    assert (answer.status_code, answer.json()["user"]) == (200, "ada")


def test_the_scheme_is_asked_about_each_request_with_a_remembered_token(scheme: Toy) -> None:
    raw = token(cnf=BOUND)
    with client(sources=[bearer_header(), scheme]) as toys:
        assert [toys.get("/", headers=toy(raw)).status_code for _ in range(3)] == [200, 200, 200]
        assert toys.get("/", headers=toy(raw, "a guess")).status_code == 401
    assert scheme.confirmed == 4


def test_bearer_refuses_the_same_token_although_it_is_remembered(scheme: Toy) -> None:
    raw = token(cnf=BOUND)
    with client(sources=[bearer_header(), scheme, cookie("access")]) as toys:
        assert toys.get("/", headers=toy(raw)).status_code == 200
        for headers in (bearer(raw), {"cookie": f"access={raw}"}, bearer(raw)):
            answer = toys.get("/", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "sender_constrained")
        assert toys.get("/", headers=toy(raw)).status_code == 200


def test_a_token_that_another_method_binds_as_well_is_refused(scheme: Toy) -> None:
    with client(sources=[scheme]) as toys:
        answer = toys.get("/", headers=toy(token(cnf={**BOUND, "jkt": "a thumbprint"})))
    assert answer.json()["code"] == "sender_constrained"


def test_a_plain_token_is_still_good_as_bearer(scheme: Toy) -> None:
    with client(sources=[bearer_header(), scheme]) as toys:
        assert toys.get("/", headers=bearer(token())).status_code == 200
    assert scheme.confirmed == 0


def test_a_challenge_names_every_scheme_of_the_sources(scheme: Toy) -> None:
    with client(sources=[bearer_header(), scheme], challenge={"scope": "orders:read"}) as toys:
        missing, bad = toys.get("/"), toys.get("/", headers=toy("a.b.c"))
    assert challenge(missing) == (
        'Bearer realm="api", scope="orders:read", Toy realm="api", algs="none", scope="orders:read"'
    )
    described = 'error="invalid_token", error_description="The access token is not a well-formed JSON Web Token."'
    assert challenge(bad) == (
        f'Bearer realm="api", {described}, scope="orders:read", '
        f'Toy realm="api", {described}, algs="none", scope="orders:read"'
    )


def test_a_service_without_bearer_does_not_name_it(scheme: Toy) -> None:
    with client(sources=[scheme]) as toys:
        answers = [toys.get("/"), toys.get("/", headers=bearer(token()))]
    for answer in answers:
        assert answer.json()["code"] == "missing_token"
        assert challenge(answer) == 'Toy realm="api", algs="none"'


def test_a_refusal_of_the_scheme_names_that_scheme_alone_and_tells_the_operator(scheme: Toy) -> None:
    heard: list[Event] = []
    with client(sources=[bearer_header(), scheme], on_event=heard.append) as toys:
        answer = toys.get("/", headers=toy(token(cnf=BOUND), "a guess"))
    assert challenge(answer) == (
        'Toy realm="api", error="invalid_toy_proof", error_description="The proof is wrong.", algs="none"'
    )
    (told,) = [event for event in heard if isinstance(event, RequestRefused)]
    assert (told.code, told.subject, told.expected, told.found) == (
        *("invalid_toy_proof", "ada", "the password", "another"),
    )


def test_a_challenge_of_a_scheme_that_is_not_accepted_is_left_alone() -> None:
    class Basic(Refusal):
        challenge_scheme = "Basic"

    def refuse(scope: Mapping[str, Any]) -> None:
        raise Basic

    with client(sources=[bearer_header(), refuse], challenge={"scope": "orders:read"}) as basics:
        assert challenge(basics.get("/")).startswith('Basic realm="api", error="invalid_token"')
        assert "orders:read" not in challenge(basics.get("/"))


def test_two_schemes_at_once_are_ambiguous(scheme: Toy) -> None:
    def query(scope: Mapping[str, Any]) -> bytes | None:
        return b"a.b.c"

    heard: list[Event] = []
    with client(sources=[scheme, query], on_event=heard.append) as toys:
        assert toys.get("/", headers=toy(token(cnf=BOUND))).status_code == 400
    (told,) = [event for event in heard if isinstance(event, RequestRefused)]
    assert told.found == "tokens in the scheme Toy and the result of a function"


def test_the_name_of_a_scheme_is_one_word(scheme: Toy) -> None:
    scheme.name = "two words"
    with pytest.raises(ConfigurationError, match="name of a scheme must hold only letters"):
        client(sources=[scheme])


@pytest.mark.parametrize("name", ["Bearer", "bearer"])
def test_no_other_scheme_is_called_bearer(scheme: Toy, name: str) -> None:
    """A token that it accepts would be recalled as a Bearer token, which no scheme confirms."""
    scheme.name = name
    with pytest.raises(ConfigurationError, match="name of a scheme: Bearer is the scheme of bearer_header"):
        client(sources=[bearer_header(), scheme])


def test_two_schemes_have_two_names(scheme: Toy) -> None:
    other = Toy()
    other.name = "TOY"
    with pytest.raises(ConfigurationError, match="name of a scheme: 'TOY' is used twice"):
        client(sources=[scheme, other])
