from typing import Any

import pytest

from jwt_middleware import ConfigurationError, JWTMiddleware, Provider, Revocation, Token, Verifier
from jwt_middleware.errors import InvalidClaim, RevocationsUnavailable, Revoked
from jwt_middleware.keys.key_set import KeySet, load_keys
from jwt_middleware.revocation.revoked import SWEEP, RevokedTokens

from ..support import NOW, SECRET, bearer, client, token
from ..support.tokens import verified


def seen(provider: str = "jwt", session: str | None = None, id: str | None = None) -> Token:
    return verified(provider=provider, session_id=session, id=id, expires_at=NOW)


@pytest.mark.parametrize(
    ("revocation", "ended", "not_ended"),
    [
        pytest.param(
            Revocation("jwt", "sid", "s", NOW + 1),
            [seen(session="s"), seen(session="s", id="a"), seen(session="s", id="b")],
            [seen(), seen(session="t"), seen(id="s"), seen("other", session="s")],
            id="a session ends with all its tokens",
        ),
        pytest.param(
            Revocation("jwt", "jti", "a", NOW + 1),
            [seen(id="a"), seen(session="s", id="a")],
            [seen(), seen(id="b"), seen(session="a"), seen("other", id="a")],
            id="a token ends by itself",
        ),
    ],
)
def test_a_revocation_ends_what_it_names_and_nothing_else(
    revocation: Revocation, ended: list[Token], not_ended: list[Token]
) -> None:
    known = RevokedTokens()
    assert not any(token in known for token in [*ended, *not_ended])
    known.add([revocation], NOW)
    assert all(token in known for token in ended)
    assert not any(token in known for token in not_ended)


def test_revocations_are_forgotten_when_they_are_over() -> None:
    known = RevokedTokens()
    known.add([Revocation("jwt", "sid", name, NOW + 10) for name in "abc"], NOW)
    known.add([Revocation("jwt", "sid", "d", NOW + 20)], NOW + 9)
    assert len(known) == 4
    known.add([], NOW + 10)
    assert len(known) == 1
    known.add([Revocation("jwt", "sid", "e", NOW + 9)], NOW + 10)
    assert len(known) == 1


def test_a_revocation_can_be_prolonged_and_not_shortened() -> None:
    known = RevokedTokens()
    for until in (NOW + 10, NOW + 30, NOW + 20):
        known.add([Revocation("jwt", "sid", "s", until)], NOW)
    known.add([], NOW + 29)
    assert seen(session="s") in known
    known.add([], NOW + 30)
    assert seen(session="s") not in known


def test_a_session_and_a_token_of_one_name_end_apart() -> None:
    known = RevokedTokens()
    known.add([Revocation("jwt", "sid", "s", NOW + 10), Revocation("jwt", "jti", "s", NOW + 20)], NOW)
    assert seen(session="s") in known
    known.add([], NOW + 10)
    assert seen(session="s") not in known
    assert seen(id="s") in known
    known.add([], NOW + 20)
    assert seen(id="s") not in known


def test_a_revocation_of_one_issuer_leaves_the_others_alone() -> None:
    def issued(issuer: str) -> Token:
        return verified(provider="entra", issuer=issuer, id="a", session_id="s")

    known = RevokedTokens()
    known.add([Revocation("entra", "jti", "a", NOW + 10, "https://a.example")], NOW)
    assert [issued(f"https://{name}.example") in known for name in "ab"] == [True, False]
    known.add([Revocation("entra", "sid", "s", NOW + 10)], NOW)
    assert issued("https://b.example") in known


def test_a_revocation_is_kept_by_another_clock_and_for_a_while_at_least() -> None:
    known = RevokedTokens()
    known.add([Revocation("jwt", "sid", "s", NOW + 10)], 100, shift=100 - NOW)
    known.add([Revocation("jwt", "sid", "t", NOW - 10)], 100, shift=100 - NOW, at_least=20)
    known.add([], 110)
    assert [seen(session=name) in known for name in "st"] == [False, True]
    known.add([], 120)
    assert seen(session="t") not in known


def test_many_that_are_over_are_forgotten_in_small_steps() -> None:
    known = RevokedTokens()
    known.add([Revocation("jwt", "jti", f"{number}", NOW + 1 + number % 3) for number in range(2 * SWEEP + 10)], NOW)
    left = []
    for _ in range(4):
        known.add([], NOW + 10)
        left.append(len(known))
    assert left == [SWEEP + 10, 10, 0, 0]


class Told:
    """``Revocations`` that answer as they are told, one answer after the other, and count who waits."""

    def __init__(self, *answers: bool | None, refusal: Exception | None = None) -> None:
        self.answers: list[bool | None] = list(answers)
        self.refusal = refusal
        self.caught_up = self.stopped = 0

    def __len__(self) -> int:
        """As a set of what is revoked has one, and is false while it is empty."""
        return 0

    def is_revoked(self, token: Token) -> bool | None:
        return self.answers.pop(0)

    async def catch_up(self) -> None:
        self.caught_up += 1
        if self.refusal is not None:
            raise self.refusal

    async def stop(self) -> None:
        self.stopped += 1


@pytest.mark.parametrize(
    ("answers", "code", "waits"),
    [
        pytest.param([False], None, 0, id="it is not"),
        pytest.param([True], "revoked", 0, id="it is"),
        pytest.param([None, False], None, 1, id="it is not, as turns out"),
        pytest.param([None, True], "revoked", 1, id="it is, as turns out"),
        pytest.param([None, None], "revocations_unavailable", 1, id="nobody can tell"),
    ],
)
@pytest.mark.parametrize("is_remembered", [False, True])
def test_a_good_token_is_refused_when_it_is_revoked(
    backend: str, answers: list[bool | None], code: str | None, waits: int, is_remembered: bool
) -> None:
    told = Told()
    app = client(revocations=told, backend=backend)
    headers = bearer(token())
    if is_remembered:
        told.answers = [False]
        assert app.get("/", headers=headers).status_code == 200
    told.answers = [*answers]
    response = app.get("/", headers=headers)
    assert response.json().get("code") == code
    assert response.status_code == {None: 200, "revoked": 401, "revocations_unavailable": 503}[code]
    assert (told.caught_up, told.answers) == (waits, [])


def test_what_catch_up_raises_is_answered_and_says_whose_token_it_was(backend: str) -> None:
    refusal = RevocationsUnavailable(retry_after=7)
    response = client(revocations=Told(None, refusal=refusal), backend=backend).get("/", headers=bearer(token()))
    assert (response.status_code, response.headers["retry-after"]) == (503, "7")
    assert (refusal.provider, refusal.subject) == ("jwt", "ada")


def test_only_good_tokens_are_asked_about(backend: str) -> None:
    app = client(revocations=Told(), public=["/public"], backend=backend)
    assert app.get("/", headers=bearer(token("another secret of thirty-two bytes"))).json()["code"] == "bad_signature"
    assert app.get("/").json()["code"] == "missing_token"
    assert app.get("/public").status_code == 200


def test_a_revoked_token_is_anonymous_on_a_public_path(backend: str) -> None:
    app = client(revocations=Told(True), public=["/public"], backend=backend)
    assert app.get("/public", headers=bearer(token())).json()["user"] == ""


class Rotated:
    """Keys of a provider that has another one since, which is had when it is asked for."""

    def __init__(self) -> None:
        self.current = KeySet(load_keys(SECRET[::-1]))

    async def refreshed(self, kid: str | None, algorithm: str) -> KeySet:
        self.current = KeySet(load_keys(SECRET))
        return self.current


def rotated(**options: Any) -> Provider:
    provider = Provider(key=SECRET, audience="orders", **options)
    provider.keys = Rotated()
    return provider


@pytest.mark.anyio
async def test_a_revoked_token_is_refused_when_its_key_had_to_be_asked_for() -> None:
    with pytest.raises(Revoked):
        await Verifier(rotated(), revocations=Told(True), clock=lambda: NOW).verify(token())


@pytest.mark.anyio
async def test_a_token_is_revoked_in_time_when_its_key_had_to_be_asked_for() -> None:
    told = Told(None, True)
    with pytest.raises(Revoked):
        await Verifier(rotated(), revocations=told, clock=lambda: NOW).verify(token())
    assert told.caught_up == 1


@pytest.mark.anyio
async def test_validate_is_asked_when_the_key_had_to_be_asked_for() -> None:
    with pytest.raises(InvalidClaim):
        await Verifier(rotated(validate=lambda token: False), clock=lambda: NOW).verify(token())


@pytest.mark.anyio
async def test_validate_is_asked_when_revocations_had_to_be_waited_for() -> None:
    refusing = Provider(key=SECRET, audience="orders", validate=lambda token: False)
    with pytest.raises(InvalidClaim):
        await Verifier(refusing, revocations=Told(None, False), clock=lambda: NOW).verify(token())


@pytest.mark.anyio
async def test_revocation_comes_before_validate() -> None:
    def validate(token: Token) -> bool:
        raise AssertionError("a revoked token came to validate")

    provider = Provider(key=SECRET, audience="orders", validate=validate)
    with pytest.raises(Revoked) as refused:
        await Verifier(provider, revocations=Told(True), clock=lambda: NOW).verify(token())
    assert (refused.value.provider, refused.value.subject) == ("jwt", "ada")


@pytest.mark.parametrize("refusal", [None, RevocationsUnavailable()])
def test_revocations_are_read_at_start_and_their_reading_ends_at_shutdown(
    backend: str, refusal: Exception | None
) -> None:
    told = Told(refusal=refusal)
    with client(revocations=told, backend=backend):
        assert (told.caught_up, told.stopped) == (1, 0)
    assert (told.caught_up, told.stopped) == (1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"revocations": set()}, "revocations must have a method is_revoked", id="no revocations"),
        pytest.param(
            {"revocations": Told(), "leeway": 601},
            "leeway must be 600 or less together with revocations=",
            id="a long leeway",
        ),
    ],
)
def test_what_cannot_work_is_said_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        JWTMiddleware(lambda scope, receive, send: None, key=SECRET, audience="orders", **options)  # type: ignore[arg-type, return-value]  # never called
