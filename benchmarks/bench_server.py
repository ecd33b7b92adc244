"""How many of a bare app's requests a second does a real server still answer? uvicorn on uvloop, asked by wrk."""

import os
import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
from http.client import HTTPConnection
from itertools import product
from operator import itemgetter
from pathlib import Path
from socket import create_server
from statistics import median
from tempfile import TemporaryDirectory

import uvicorn
from harness import OURS, Contestant, bare_app, need, publish, quietest, table
from peers import PEERS, installed
from plot import bars
from starlette.types import ASGIApp
from tokens import AUDIENCE, SECRET, issuer

from jwt_middleware import JWTMiddleware

CONNECTIONS = 32
LOADS = {"same token": 1, "10,000 tokens": 10_000}
AT_LEAST = {"same token": 95, "10,000 tokens": 90}

# The requests are made beforehand, so that wrk has little to do but send them in turn.
SCRIPT = """\
local requests, number = {}, 0
function init(args)
  for token in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("GET", "/", {Authorization = "Bearer " .. token})
  end
end
function request()
  number = number % #requests + 1
  return requests[number]
end
"""


def contestant(name: str) -> Contestant:
    if name == OURS:
        return Contestant(name, JWTMiddleware(bare_app, key=SECRET, audience=AUDIENCE), bare_app)
    return next(peer for peer in PEERS if peer.name == name).contestant(issuer("HS256"))


def serve(name: str, bare: bool) -> None:
    served = contestant(name)
    run(served.bare if bare else served.app)


def run(app: ASGIApp, *, is_pinned: bool = True) -> None:
    """Serves ``app``, in a process started for it, and prints the port."""
    if is_pinned:
        pin(0)
    with create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(app, loop="uvloop", http="httptools", access_log=False, log_level="error")
        uvicorn.Server(config).run(sockets=[listener])


@dataclass(frozen=True)
class Rate:
    """Requests that a server answered, by the second and by the second of its own processor time."""

    by_clock: float
    by_processor: float

    def per_cent_of(self, other: "Rate") -> "Rate":
        return Rate(100 * self.by_clock / other.by_clock, 100 * self.by_processor / other.by_processor)


@dataclass(frozen=True)
class Server:
    process: int
    port: int

    def processor_seconds(self) -> float:
        user, system = Path(f"/proc/{self.process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def show(self, tokens: Iterable[str]) -> None:
        """Has each of ``tokens`` seen once."""
        client = HTTPConnection("127.0.0.1", self.port)
        for token in tokens:
            client.request("GET", "/", headers={"Authorization": f"Bearer {token}"})
            with client.getresponse() as answer:
                if answer.status != 200:
                    raise SystemExit(f"{answer.status} for a good token: nothing was measured")
        client.close()

    def asked(self, tokens: Path, script: Path, seconds: int) -> Rate:
        how = ["-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script)]
        command = ["wrk", *how, f"http://127.0.0.1:{self.port}/", "--", str(tokens)]
        before = self.processor_seconds()
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        # A server that had no turn at all answered nothing, either.
        taken = max(self.processor_seconds() - before, 1 / os.sysconf("SC_CLK_TCK"))
        counted = re.search(r"(\d+) requests in .*\nRequests/sec:\s+([\d.]+)", output, re.DOTALL)
        if counted is None or "Non-2xx" in output or "Socket errors" in output:
            raise SystemExit(f"wrk could not measure:\n{output}")
        return Rate(float(counted[2]), int(counted[1]) / taken)


@contextmanager
def launched(*arguments: str) -> Iterator[tuple[int, int]]:
    """Start a Python program that calls ``run``; the id of its process, and its port."""
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            process.terminate()


@contextmanager
def running(name: str, *, bare: bool) -> Iterator[Server]:
    with launched(__file__, "--serve", name, *(["--bare"] if bare else [])) as (process, port):
        yield Server(process, port)


def measure(names: Sequence[str], *, rounds: int, seconds: int) -> dict[tuple[str, str], list[Rate]]:
    """What each contestant answered under each load, in per cent of what its bare app did.

    All servers run all the time and are asked in turn, each contestant just after its bare app, this package between
    any three peers. The quieter half of the rounds counts.
    """
    turns = [name for first in range(0, len(names), 3) for name in (OURS, *names[first : first + 3])][1:]
    per_cent: dict[tuple[str, str], list[tuple[float, Rate]]] = {each: [] for each in product(names, LOADS)}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        script = folder / "tokens.lua"
        script.write_text(SCRIPT, encoding="utf-8")
        for load, count in LOADS.items():
            (folder / load).write_bytes(b"\n".join(map(issuer("HS256").token, range(count))) + b"\n")
        servers = {name: [stack.enter_context(running(name, bare=bare)) for bare in (True, False)] for name in names}
        pin(1)
        for load in LOADS:
            # In a second not all would come by. Peers remember none.
            servers[OURS][1].show((folder / load).read_text(encoding="ascii").split())
        for number in range(-1, rounds):
            for name, load in product(turns if number >= 0 else names, LOADS):
                expected, rate = (server.asked(folder / load, script, seconds) for server in servers[name])
                if number >= 0:
                    per_cent[name, load].append((1 / expected.by_clock, rate.per_cent_of(expected)))
    return {each: quietest(samples, of=2) for each, samples in per_cent.items()}


def pin(number: int) -> None:
    """The servers get a processor, and wrk another one, where there are two and they can be given."""
    if hasattr(os, "sched_setaffinity") and len(processors := sorted(os.sched_getaffinity(0))) > 1:
        os.sched_setaffinity(0, {processors[number]})


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=1, help="that each server is asked in a round")
    parser.add_argument("--without-peers", action="store_true", help="only this package; nothing is kept")
    parser.add_argument("--serve", help="(used by the benchmark itself)")
    parser.add_argument("--bare", action="store_true", help="(used by the benchmark itself)")
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.bare)
        return
    need("wrk")
    there, missing = installed()
    names = [OURS, *([] if options.without_peers else [peer.name for peer in there])]
    per_cent = measure(names, rounds=options.rounds, seconds=options.seconds)
    medians = {
        each: Rate(median(rate.by_clock for rate in rates), median(rate.by_processor for rate in rates))
        for each, rates in per_cent.items()
    }
    report = table(
        "Requests a second, in per cent of the bare app's (by CPU: a second of the server's own processor time)",
        ["", *(f"{load}{by}" for load in LOADS for by in ("", ", by CPU"))],
        [[name, *(f"{value:.1f}" for load in LOADS for value in astuple(medians[name, load]))] for name in names],
    )
    targets = [
        [f"{load}{by}", f"{value:.1f}", str(limit), "reached" if value >= limit else "missed"]
        for load, limit in AT_LEAST.items()
        for by, value in zip(("", ", by CPU"), astuple(medians[OURS, load]), strict=True)
    ]
    report += "\n" + table("Targets", ["", "measured", "at least", ""], targets)
    report += f"\nuvicorn on uvloop and httptools, wrk with {CONNECTIONS} connections"
    report += "".join(f"\nNot installed, so not measured: {peer.name}" for peer in missing) + "\n"
    if options.without_peers:
        print(report)
        return
    figures = [
        {"contestant": name, "load": load, "per_cent_of_bare": rates} for (name, load), rates in per_cent.items()
    ]
    packages = [*(peer.package for peer in there), "uvicorn", "uvloop", "httptools"]
    publish("server", report, {"rounds": figures}, packages)
    shown = {name: tuple(medians[name, load].by_clock for load in LOADS) for name in names}
    title = "Requests a second that uvicorn answers, in per cent of the bare app's"
    bars("server", title, sorted(shown.items(), key=itemgetter(1), reverse=True), tuple(LOADS))


if __name__ == "__main__":
    main()
