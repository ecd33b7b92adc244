"""How many requests, refreshes and logins a second does one worker answer over each store? (needs wrk)"""

import os
import shutil
from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TypeAlias

from bench_server import CONNECTIONS, SCRIPT, Server, pin
from harness import need, publish, table
from servers import postgres_server, redis_server
from services import PASSWORD, USERS, Service, running

FORM = '{["Content-Type"] = "application/x-www-form-urlencoded"}'

LOGIN = f"""\
local names, number = {{}}, 0
function init(args)
  for name in io.lines(args[1]) do
    names[#names + 1] = name
  end
end
function request()
  number = number % #names + 1
  local body = "password={PASSWORD}&username=" .. names[number]
  return wrk.format("POST", "/auth/login", {FORM}, body)
end
"""

# Each refresh presents a token that no other one presents. The token that it gets is for a later refresh.
REFRESH = f"""\
local tokens, first, last = {{}}, 1, 0
local function keep(token)
  last = last + 1
  tokens[last] = token
end
function init(args)
  for token in io.lines(args[1]) do
    keep(token)
  end
end
function request()
  local token = tokens[first]
  tokens[first] = nil
  first = first + 1
  return wrk.format("POST", "/auth/refresh", {FORM}, "refresh_token=" .. token)
end
function response(status, headers, body)
  keep(body:match('"refresh_token":"([^"]+)"'))
end
"""

REQUESTS, REFRESHES, LOGINS = "requests", "refreshes", "logins"
SCRIPTS = {REQUESTS: SCRIPT, REFRESHES: REFRESH, LOGINS: LOGIN}


@dataclass(frozen=True)
class Contestant:
    name: str
    service: Service
    answers: tuple[str, ...] = (REQUESTS, REFRESHES, LOGINS)
    queries: Callable[[], int] | None = None
    """Returns how many queries its store has received."""


def start(stack: ExitStack, folder: Path) -> list[Contestant]:
    def serve(kind: str, where: str) -> Service:
        return stack.enter_context(running(kind, where, is_pinned=True))

    found = [
        Contestant("no check", serve("bare", ""), (REQUESTS,)),
        Contestant("SQLiteStore", serve("ours", str(folder / "sessions.db"))),
    ]
    programs = {"Redis": "redis-server", "Valkey": os.environ.get("VALKEY_SERVER", "valkey-server")}
    for name, program in programs.items():
        if shutil.which(program) is None:
            print(f"Not installed, so not measured: {name}")
            continue
        redis = stack.enter_context(redis_server(folder, program))
        found.append(Contestant(f"RedisStore, {name}", serve("ours", redis.url), queries=redis.queries))
    for driver in ("asyncpg", "psycopg"):
        postgres = stack.enter_context(postgres_server())
        service = serve("ours", postgres.url(driver))
        found.append(Contestant(f"SQLStore, {driver}", service, queries=postgres.queries))
    postgres = stack.enter_context(postgres_server())
    service = serve("fastapi-users", postgres.url())
    found.append(Contestant("fastapi-users, database", service, (REQUESTS, LOGINS), postgres.queries))
    return found


Figures: TypeAlias = dict[str, dict[str, list[float]]]
"""By contestant and by what was measured: a figure for each round."""


def measure(contestants: list[Contestant], folder: Path, rounds: int, seconds: int) -> Figures:
    """How much each contestant answered per second in each round, and how many queries a request took.

    All of them run all the time, and take turns.
    """
    scripts = {what: folder / f"{what}.lua" for what in SCRIPTS}
    for what, script in scripts.items():
        script.write_text(SCRIPTS[what], encoding="ascii")
    (folder / "names").write_text("\n".join(USERS) + "\n", encoding="ascii")
    (folder / "nobody").write_text("none\n" * 100, encoding="ascii")
    access = {one.name: folder / "nobody" for one in contestants}
    for one in contestants:
        if LOGINS in one.answers:
            access[one.name] = folder / f"access of {one.name}"
            tokens = [one.service.log_in(username)["access_token"] for username in USERS[:100]]
            access[one.name].write_text("\n".join(tokens) + "\n", encoding="ascii")
    pin(1)
    measured: Figures = {one.name: {} for one in contestants}
    for number in range(-1, rounds):
        for what, one in ((what, one) for what in SCRIPTS for one in contestants if what in one.answers):
            given = {REQUESTS: access[one.name], LOGINS: folder / "names", REFRESHES: folder / "refresh"}[what]
            if what == REFRESHES:
                opened = [one.service.log_in(username)["refresh_token"] for username in USERS[: 2 * CONNECTIONS]]
                given.write_text("\n".join(opened) + "\n", encoding="ascii")
            before = one.queries() if one.queries else 0
            rate = Server(one.service.process, one.service.port).asked(given, scripts[what], seconds).by_clock
            if number >= 0:
                measured[one.name].setdefault(what, []).append(rate)
                if what == REQUESTS and one.queries:
                    asked = (one.queries() - before) / max(rate * seconds, 1)
                    measured[one.name].setdefault("queries a request", []).append(asked)
    return measured


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="for each service and kind of request in a round")
    options = parser.parse_args()
    need("wrk", "redis-server")
    with TemporaryDirectory() as name, ExitStack() as stack:
        contestants = start(stack, Path(name))
        measured = measure(contestants, Path(name), options.rounds, options.seconds)
    rows = []
    for name, found in measured.items():
        rates = [
            f"{median(found[what]):,.0f} ({min(found[what]):,.0f}-{max(found[what]):,.0f})" if what in found else "-"
            for what in SCRIPTS
        ]
        queries = found.get("queries a request")
        rows.append([name, *rates, f"{median(queries):.3f}" if queries else "-"])
    report = table(
        f"One worker, a second: the median of {options.rounds} rounds (lowest-highest)",
        ["", *SCRIPTS, "queries a request"],
        rows,
    )
    report += (
        f"\nFastAPI, uvicorn on uvloop and httptools, {CONNECTIONS} connections of wrk. The worker has one processor; "
        "wrk has the other one, and\nshares it with the servers of the stores. PostgreSQL syncs each commit, SQLite "
        "too; Redis and Valkey keep nothing on the disk.\n"
    )
    packages = ["fastapi", "fastapi-users", "sqlalchemy", "asyncpg", "psycopg", "redis", "uvicorn", "uvloop"]
    publish("stores", report, {"a second": measured}, packages)


if __name__ == "__main__":
    main()
