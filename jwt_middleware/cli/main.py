"""``asgi-jwt``: which command was asked for? Exit status 0: good; 1: refused, or something to mend; 2: wrong usage."""

import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter, _SubParsersAction
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib import import_module
from io import TextIOWrapper
from threading import TIMEOUT_MAX
from typing import Any, TypeAlias

from .inputs import UsageError
from .output import warn

_HISTORY = (
    "Give tokens and keys on standard input (-) or as @FILE: as arguments, the shell's history and the list of "
    "processes would show them."
)

_Commands: TypeAlias = "_SubParsersAction[ArgumentParser]"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` names, by default that of the process; return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # Not every terminal has every letter that a token may hold.
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
    arguments = parser.parse_args(argv)
    # Each command is imported when it is asked for.
    run: Callable[[Any], int] = import_module(f"{__package__}.{arguments.module}").run
    try:
        status = run(arguments)
        sys.stdout.flush()
        return status
    except UsageError as error:
        warn(f"{parser.prog} {arguments.command}: {error}")
        return 2
    except BrokenPipeError:
        # The reader of our output has closed it. Python would complain at exit about what could not be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="asgi-jwt",
        description="Find out why a token is refused, check a service's settings, and make tokens and keys.",
        epilog=f"{_HISTORY} Exit status: 0 good, 1 refused or something to mend, 2 wrong usage.",
        formatter_class=RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_explain(commands)
    _add_inspect(commands)
    _add_jwks(commands)
    _add_check(commands)
    _add_mint(commands)
    _add_keygen(commands)
    _add_serve_idp(commands)
    return parser


def _add(commands: _Commands, name: str, text: str, **defaults: Any) -> ArgumentParser:
    command = commands.add_parser(name, help=text, description=text, epilog=_HISTORY)
    command.set_defaults(module=name.replace("-", "_"), **defaults)
    command.add_argument("--json", action="store_true", help="print JSON for programs")
    return command


def _add_explain(commands: _Commands) -> None:
    explain = _add(commands, "explain", "Say why a token is refused, and what would pass.")
    explain.add_argument("token", nargs="?", help="the token: - for standard input (the default), @FILE, or the text")
    explain.add_argument("--app", help="use the settings of this app, such as main:app; this RUNS the app's code")
    explain.add_argument("--issuer", action="append", default=[], help="the issuer that is accepted; repeatable")
    explain.add_argument("--audience", action="append", default=[], help="the audience that is accepted; repeatable")
    explain.add_argument("--key", help="the key that verifies: @FILE with a secret, a PEM, a JWK or a JWK Set")
    explain.add_argument("--jwks", help="the address or the file of a JWK Set")
    explain.add_argument("--scope", action="append", default=[], help="a scope that the endpoint needs; repeatable")
    explain.add_argument(
        "--at", type=_moment, metavar="TIME", help="judge it at this time: Unix time, or 2030-01-31T12:00:00Z"
    )


def _moment(text: str) -> float:
    try:
        moment = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text).timestamp()
        except ValueError:
            moment = -1
    # Not NaN, and no later than dates go.
    if 0 <= moment < _YEAR_10000:
        return moment
    raise ArgumentTypeError(f"{text!r} is no time; write Unix time in seconds, or 2030-01-31T12:00:00Z")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if 0 <= seconds <= TIMEOUT_MAX:
        return seconds
    raise ArgumentTypeError(f"{text!r} is no number of seconds; write 60, for instance")


def _port(text: str) -> int:
    if text.isdecimal() and int(text) < 65_536:
        return int(text)
    raise ArgumentTypeError(f"{text!r} is not a port; write 9000, for instance")


_YEAR_10000 = 253_402_300_800


def _add_inspect(commands: _Commands) -> None:
    inspect = _add(commands, "inspect", "Show what a token says. Nothing is verified.")
    inspect.add_argument("token", nargs="?", help="the token: - for standard input (the default), @FILE, or the text")


def _add_jwks(commands: _Commands) -> None:
    jwks = _add(commands, "jwks", "Fetch a JWK Set and judge each key as the middleware would.")
    jwks.add_argument("address", help="the https address of a JWK Set, or a file")
    jwks.add_argument("--issuer", action="store_true", help="the address is an issuer's: find its JWK Set")


def _add_check(commands: _Commands) -> None:
    check = _add(commands, "check", "Say what should be mended in an app before it starts. This RUNS the app's import.")
    check.add_argument("--app", required=True, help="the app, such as main:app")


def _add_mint(commands: _Commands) -> None:
    mint = _add(commands, "mint", "Sign a token with a key of your own.")
    mint.add_argument(
        "--key", required=True, help="the key that signs: @FILE with a secret, a private PEM or a private JWK"
    )
    mint.add_argument("--audience", required=True, help="the aud claim")
    mint.add_argument("--subject", required=True, help="the sub claim")
    mint.add_argument("--issuer", help="the iss claim")
    mint.add_argument("--scope", action="append", default=[], help="a scope; repeatable")
    mint.add_argument("--claims", help="further claims, as a JSON object")
    mint.add_argument("--algorithm", help="default: the usual one of the key")
    mint.add_argument("--lifetime", type=int, default=900, metavar="SECONDS", help="default: 900")


def _add_keygen(commands: _Commands) -> None:
    keygen = _add(commands, "keygen", "Make a secret or a key pair.")
    keygen.add_argument("kind", choices=("secret", "RSA", "EC", "Ed25519"))
    keygen.add_argument("--jwk", action="store_true", help="print JWKs with a kid instead of PEM")


def _add_serve_idp(commands: _Commands) -> None:
    serve = _add(commands, "serve-idp", "Serve a fake identity provider on loopback, to try a service.")
    serve.add_argument("--audience", default="orders", help="the aud claim of the token that is printed")
    serve.add_argument("--subject", default="ada", help="its sub claim")
    serve.add_argument("--scope", action="append", default=[], help="a scope of it; repeatable")
    serve.add_argument("--algorithm", choices=("ES256", "RS256", "EdDSA"), default="ES256")
    serve.add_argument("--port", type=_port, default=0, help="the port to serve on; default: any free one")
    serve.add_argument("--seconds", type=_seconds, help="stop by itself after this time")
