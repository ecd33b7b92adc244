"""Does what we publish install and import? A program, for the tox environment of the same name.

    python tests/package.py DIRECTORY

Builds wheel and sdist in a new directory below DIRECTORY, from a copy of the project: nothing that an earlier build
left gets in.
"""

import shutil
import subprocess
import sys
import tarfile
import venv
from email.parser import BytesParser
from pathlib import Path
from tempfile import mkdtemp
from zipfile import ZipFile

ROOT = Path(__file__).parent.parent
PACKAGE = "jwt_middleware"

MAX_WHEEL = 400 * 1024
"""Bytes: 1 % more than it has. Half of them are verifying alone; what makes it larger is worth a second look."""

MAX_IMPORT = 0.06
"""Seconds of processor time that ``import jwt_middleware`` may take beyond the imports of ``BESIDE``."""

MAX_SHARE = 0.4
"""The same on a slower or busier machine, as a part of what those imports take."""

# What is there anyway: Starlette and PyJWT, as far as we import them, and the event loop of the server.
BESIDE = f"""
import sys, {PACKAGE}
print("import asyncio", *(name for name in sys.modules if name.partition(".")[0] in ("jwt", "starlette")), sep=", ")
"""

TIMED = f"""
import time
started = time.process_time()
{{beside}}
beside = time.process_time() - started
import {PACKAGE}
print(beside, time.process_time() - started - beside)
"""

INTEGRATIONS = (
    "blacksheep",
    "django",
    "fastapi",
    "fastmcp_demands",
    "fastmcp_inner_calls",
    "litestar",
    "mcp",
    "metrics",
    "quart",
    "rest_framework",
    "socketio",
    "strawberry",
    "tracing",
)
"""Modules and folders that are about another package."""

# Every module, in an environment that holds nothing but what the package asks for; some are about another package.
IMPORT_ALL = f"""
import importlib, pkgutil, {PACKAGE}
for module in pkgutil.walk_packages({PACKAGE}.__path__, "{PACKAGE}."):
    name = module.name.removeprefix("{PACKAGE}.")
    if name.partition(".")[0] not in {INTEGRATIONS} and not name.endswith(
        ("__main__", "pytest_plugin", "issuing.testing", "sql_tables", "store_contract")
    ):
        importlib.import_module(module.name)
"""


def main(directory: Path) -> None:
    source, dist = directory / "source", directory / "dist"
    files = tracked()
    for name in files:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--outdir", str(dist), str(source))
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist))
    check_wheel(wheel, {name for name in files if name.startswith(f"{PACKAGE}/")})
    # Whoever has the sdist can run the tests and build the documentation; what is hidden is for the repository.
    check_sdist(sdist, {name for name in files if not name.startswith(".")} | {"PKG-INFO"})
    for archive in (wheel, sdist):
        check_install(archive, directory / f"venv{archive.suffix}")


def tracked() -> set[str]:
    """The files of the project: what an earlier build or a run left behind is none."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).exists()}


def check_wheel(wheel: Path, expected: set[str]) -> None:
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        license_expression = BytesParser().parsebytes(archive.read(metadata))["License-Expression"]
    size = wheel.stat().st_size
    assert size <= MAX_WHEEL, f"{wheel.name} has {size} bytes"
    info = metadata.removesuffix("METADATA")
    same(wheel, {name for name in names if not name.startswith(info)}, expected)
    assert f"{info}licenses/LICENSE" in names, f"{wheel.name} has no LICENSE"
    assert license_expression == "MIT", f"{wheel.name} says License-Expression {license_expression}"


def check_sdist(sdist: Path, expected: set[str]) -> None:
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    same(sdist, {name for name in names if ".egg-info/" not in name}, expected)


def same(archive: Path, found: set[str], expected: set[str]) -> None:
    assert found == expected, (
        f"{archive.name}: missing {expected - found or 'nothing'}, stray {found - expected or '-'}"
    )


def check_install(archive: Path, directory: Path) -> None:
    venv.create(directory, with_pip=True)
    python = str(directory / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(archive))
    run(python, "-m", "pip", "check", "--disable-pip-version-check")
    run(python, "-I", "-W", "error", "-c", IMPORT_ALL, cwd=directory)
    check_import(python)


def check_import(python: str) -> None:
    """Fail if an import takes too long, whenever it is tried: a busy machine makes it slower, and nothing faster."""
    beside = printed(python, BESIDE)
    times = [map(float, printed(python, TIMED.format(beside=beside)).split()) for _ in range(30)]
    theirs, ours = map(min, zip(*times, strict=True))
    said = (
        f"import {PACKAGE}: {ours * 1000:.0f} ms beyond Starlette, PyJWT and asyncio, which take {theirs * 1000:.0f} ms"
    )
    sys.stderr.write(f"{said}\n")
    assert ours <= max(MAX_IMPORT, MAX_SHARE * theirs), said


def printed(python: str, code: str) -> str:
    return subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout


def run(*command: str, cwd: Path | None = None) -> None:
    subprocess.run(command, cwd=cwd, check=True)


if __name__ == "__main__":
    main(Path(mkdtemp(dir=sys.argv[1])))
