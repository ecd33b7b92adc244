"""Which servers do the benchmarks start? Redis, Valkey and PostgreSQL, on loopback, with data that is thrown away."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import redis

from jwt_middleware.issuing import RedisStore, SessionStore, SQLiteStore, SQLStore

USER = "owner"
START_SECONDS = 60


@dataclass(frozen=True)
class Server:
    """A redis-server or valkey-server that the benchmark has started."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> Any:
        return redis.Redis(port=self.port)

    def queries(self) -> int:
        """How many commands it has received."""
        with closing(self.client()) as client:
            return int(client.info("stats")["total_commands_processed"])


@contextmanager
def redis_server(directory: Path, program: str = "redis-server") -> Iterator[Server]:
    """A Redis on loopback that keeps nothing on the disk."""
    port = free_port()
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(directory)]
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    try:
        server = Server(port, process)
        with closing(server.client()) as client:
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    time.sleep(0.05)
        yield server
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait()


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL that the benchmark has started."""

    port: int
    process: subprocess.Popen[bytes]

    def url(self, driver: str = "asyncpg") -> str:
        return f"postgresql+{driver}://{USER}@127.0.0.1:{self.port}/postgres"

    def client(self) -> Any:
        """A connection that commits each statement."""
        return psycopg.connect(host="127.0.0.1", port=self.port, user=USER, dbname="postgres", autocommit=True)

    def ask(self, statement: str) -> Any:
        """The first row of what ``statement`` returns."""
        with self.client() as client:
            return client.execute(statement).fetchone()

    def queries(self) -> int:
        """How many statements it has executed, BEGIN and COMMIT included."""
        return int(self.ask("SELECT sum(calls) FROM pg_stat_statements")[0])

    def kill(self) -> float:
        """``kill -9`` all its processes, and return the time. The page cache of the operating system survives."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="ascii")
        killed_at = time.monotonic()
        for process in (self.process.pid, *map(int, children.split())):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()
        return killed_at


@contextmanager
def postgres_data() -> Iterator[Path]:
    """The folder of a new cluster, which ``postgres_server`` may serve several times."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as made:
        folder = Path(made)
        if os.getuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        given = ("--auth=trust", f"--username={USER}", "--no-sync", "--locale=C.UTF-8", "--encoding=UTF8")
        subprocess.run([*_program("initdb"), *given, "-D", folder / "data"], check=True, capture_output=True, cwd="/")
        yield folder / "data"


@contextmanager
def postgres_server(data: Path | None = None, **settings: str) -> Iterator[Postgres]:
    """A PostgreSQL for ``data``, a new cluster by default. It syncs to the disk, and counts its statements."""
    if data is None:
        with postgres_data() as made, postgres_server(made, **settings) as server:
            yield server
        return
    port = free_port()
    given = {
        "port": str(port),
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": str(data),
        "shared_preload_libraries": "pg_stat_statements",
        **settings,
    }
    options = [part for name, value in given.items() for part in ("-c", f"{name}={value}")]
    with (data.parent / "log").open("ab") as log:
        command = [*_program("postgres"), "-D", str(data), *options]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
    server = Postgres(port, process)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                server.ask("SELECT count(*) FROM pg_extension")
                break
            except psycopg.OperationalError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit((data.parent / "log").read_text()) from None
                time.sleep(0.02)
        with server.client() as client:
            client.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait()


def _program(name: str) -> list[str]:
    """The command for a program of PostgreSQL, which does not start as root: then it runs as another user."""
    found = shutil.which(name)
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        raise SystemExit("PostgreSQL is not installed: in most systems, its package is called postgresql")
    program = [str(folders[-1] / name)]
    if os.getuid():
        return program
    nobody = pwd.getpwnam("nobody")
    return ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", *program]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def store_at(where: str) -> SessionStore:
    """The store at the address of a server, or in a file."""
    if where.startswith("postgresql"):
        return SQLStore(where)
    return RedisStore(where) if "://" in where else SQLiteStore(where)
