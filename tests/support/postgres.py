"""A PostgreSQL of the tests' own: on loopback, in a folder that is thrown away, stalled and killed on command."""

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest

from .processes import need, program
from .redis_server import free_port

USER = "owner"
PASSWORD = "the password of this database"
STRICT = "strict"
"""A role that must show a password, once a test has made it."""


@dataclass
class PostgresServer:
    port: int
    data: Path
    process: subprocess.Popen[bytes]
    options: tuple[str, ...] = ()
    database: str = field(default="postgres", kw_only=True)

    def url(self, driver: str, *, port: int | None = None) -> str:
        password = PASSWORD.replace(" ", "%20")
        return f"postgresql+{driver}://{USER}:{password}@127.0.0.1:{port or self.port}/{self.database}"

    def connect(self, **arguments: Any) -> Any:
        """A connection of psycopg outside all pools, which commits each statement."""
        given = {"host": "127.0.0.1", "port": self.port, "user": USER, "password": PASSWORD, "dbname": self.database}
        return psycopg.connect(**{**given, **arguments}, autocommit=True)

    def processes(self) -> list[int]:
        """The server's processes, each of which is the leader of a session of its own."""
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, check=False)
        return [self.process.pid, *map(int, listed.stdout.split())]

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """It takes connections and answers nothing."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def signal(self, number: int) -> None:
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def kill(self) -> None:
        """End the server at once, as the machine's power does."""
        self.signal(signal.SIGKILL)
        self.process.wait()


def binaries() -> Path:
    """Where the programs of PostgreSQL are; skips where they are not installed, which is a failure in CI."""
    found = shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("postgres is not installed")
    return folders[-1]


def unprivileged(*command: str) -> list[str]:
    """``command`` as another user where we are root: PostgreSQL does not start as root."""
    if os.getuid():
        return list(command)
    nobody = pwd.getpwnam("nobody")
    return ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", *command]


@contextmanager
def folder() -> Iterator[Path]:
    """An empty folder that the server may write to. pytest's own are for its user alone."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as made:
        path = Path(made)
        if os.getuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        path.chmod(0o700)
        yield path


def initialise(data: Path) -> None:
    """Make a cluster in ``data``."""
    password = data.parent / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)
    given = ("--auth=trust", f"--username={USER}", f"--pwfile={password}", "--no-sync", "--locale=C.UTF-8")
    command = unprivileged(str(binaries() / "initdb"), "--encoding=UTF8", *given, "-D", str(data))
    subprocess.run(command, check=True, capture_output=True, cwd="/")
    # Passwords take time, so one role alone needs its own.
    rules = data / "pg_hba.conf"
    rules.write_text(f"host all {STRICT} 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")


@contextmanager
def serving(data: Path, *options: str, port: int | None = None) -> Iterator[PostgresServer]:
    """A server for the cluster in ``data``, with ``name=value`` settings.

    By default it syncs nothing: that is for the disk of a machine whose power fails, and no test takes it away. A
    process that is killed loses nothing that it has written.
    """
    port = port or free_port()
    defaults = ("fsync=off", "listen_addresses=127.0.0.1", f"unix_socket_directories={data}", "shared_buffers=32MB")
    settings = [part for option in (*defaults, f"port={port}", *options) for part in ("-c", option)]
    command = unprivileged(str(binaries() / "postgres"), "-D", str(data), *settings)
    log = data.parent / f"postgres-{port}.log"
    with program(*command, log=log, ready=lambda text: "ready to accept" in text, folder=Path("/")) as process:
        yield PostgresServer(port, data, process, options)


@contextmanager
def postgres_server(*options: str) -> Iterator[PostgresServer]:
    """A new server."""
    binaries()
    with folder() as made:
        initialise(made / "data")
        with serving(made / "data", *options) as running:
            yield running


@contextmanager
def pg_bouncer(server: PostgresServer) -> Iterator[int]:
    """PgBouncer in transaction mode before ``server``, with two connections; its port."""
    need("pgbouncer")
    port = free_port()
    with folder() as made:
        settings = made / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port} user={USER}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\npool_mode = transaction\nauth_type = any\n"
            "default_pool_size = 2\nunix_socket_dir =\nignore_startup_parameters = extra_float_digits\n"
        )
        settings.chmod(0o644)
        command = unprivileged(shutil.which("pgbouncer") or "", str(settings))
        with program(*command, log=made / "log", ready=lambda text: "process up" in text, folder=Path("/")):
            yield port
