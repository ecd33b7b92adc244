import pytest

from jwt_middleware.errors import AmbiguousToken, MalformedToken, Refusal, TokenTooLarge
from jwt_middleware.sources import bearer_header

LIMIT = 100


def found(*authorization: bytes) -> bytes | None:
    return bearer_header([(b"authorization", line) for line in authorization], LIMIT)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"Bearer a.b.c", id="as RFC 6750 writes it"),
        pytest.param(b"bearer a.b.c", id="lower case"),
        pytest.param(b"BEARER a.b.c", id="upper case"),
        pytest.param(b"bEaReR a.b.c", id="mixed case"),
        pytest.param(b"Bearer    a.b.c", id="several spaces"),
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
        pytest.param(b" Bearer a.b.c", id="a space before it, which a server would have cut"),
        pytest.param(b"Basic " + b"x" * 1000, id="another scheme, however long"),
        pytest.param(b"Bearerish " + b"x" * 1000, id="a longer name, however long"),
        pytest.param("B\u0435arer a.b.c".encode(), id="a Cyrillic letter"),
    ],
)
def test_another_scheme_is_no_token(line: bytes) -> None:
    assert found(line) is None


def test_without_an_authorization_header_there_is_no_token() -> None:
    assert bearer_header([], LIMIT) is None
    assert bearer_header([(b"x-authorization", b"Bearer a.b.c"), (b"cookie", b"Bearer=a.b.c")], LIMIT) is None


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"Bearer", id="no token"),
        pytest.param(b"Bearer ", id="no token after a space"),
        pytest.param(b"Bearer    ", id="no token after spaces"),
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
        pytest.param(b"Bearer a.b.c ", b"a.b.c ", id="a trailing space"),
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
    with pytest.raises(AmbiguousToken):
        found(*lines)


def test_two_lines_are_ambiguous_wherever_they_stand() -> None:
    headers = [(b"authorization", b"Bearer a.b.c"), (b"accept", b"*/*"), (b"authorization", b"Bearer a.b.c")]
    with pytest.raises(AmbiguousToken):
        bearer_header(headers, LIMIT)


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
        with pytest.raises(refusal):
            found(line)


def test_spaces_are_no_way_around_the_limit() -> None:
    with pytest.raises(TokenTooLarge):
        found(b"Bearer " + b" " * LIMIT + b"a.b.c")
