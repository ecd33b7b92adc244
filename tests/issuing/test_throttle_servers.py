"""A throttle behind real servers and proxies."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from ..support.processes import python
from ..support.redis_server import free_port


@contextmanager
def uvicorn(directory: Path, *arguments: str) -> Iterator[httpx2.Client]:
    """A client of uvicorn with ``arguments``."""
    port = free_port()
    with (
        python("-m", "uvicorn", *arguments, "--port", str(port), log=directory / "log", ready=is_ready),
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
    ):
        yield client


def is_ready(output: str) -> bool:
    return "Uvicorn running" in output


def tried(client: httpx2.Client, number: int, forwarded_for: str) -> bool:
    """Whether a wrong password is tried, for an account that has no other failed login."""
    response = client.post(
        "/login",
        data={"username": f"user{number}", "password": "hunter2"},
        headers={"x-forwarded-for": forwarded_for},
    )
    assert response.status_code in (400, 429)
    return response.status_code == 400


def test_a_thousand_made_up_addresses_buy_no_attempt_through_a_server(tmp_path: Path) -> None:
    with uvicorn(tmp_path, "tests.issuing.throttled:facing", "--no-proxy-headers") as client:
        answers = [tried(client, number, f"198.51.{number // 250}.{number % 250}") for number in range(1_000)]
    assert answers == [True] * 100 + [False] * 900
    log = (tmp_path / "log").read_text()
    assert "hunter2" not in log
    assert "user99" not in log


def test_a_hundred_at_once_are_no_more_through_a_server(tmp_path: Path) -> None:
    with uvicorn(tmp_path, "tests.issuing.throttled:facing") as client, ThreadPoolExecutor(20) as pool:
        wrong = {"username": "ada", "password": "hunter2"}
        answers = pool.map(lambda _: client.post("/login", data=wrong).status_code, range(100))
        assert sorted(answers) == [400] * 10 + [429] * 90
        assert client.post("/login", data={**wrong, "username": "bob"}).status_code == 400


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["tests.issuing.throttled:behind", "--no-proxy-headers"], id="trusted_proxies"),
        pytest.param(["tests.issuing.throttled:facing"], id="uvicorn's own"),
        pytest.param(["tests.issuing.throttled:behind"], id="both"),
    ],
)
def test_behind_a_proxy_clients_are_told_apart_and_made_up_addresses_buy_nothing(
    tmp_path: Path, arguments: list[str]
) -> None:
    with uvicorn(tmp_path, *arguments) as proxy:
        answers = [tried(proxy, number, f"198.51.100.{number}, 203.0.113.9") for number in range(110)]
        assert answers == [True] * 100 + [False] * 10
        assert tried(proxy, 200, "203.0.113.9, 203.0.113.10")
        assert not tried(proxy, 201, "203.0.113.9")
