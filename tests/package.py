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
SDIST_FILES = {"CHANGELOG.rst", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.rst", "pyproject.toml", "setup.cfg"}

# Every module, in an environment that holds nothing but what the package asks for; plugin and contract are
# pytest's to import.
IMPORT_ALL = f"""
import importlib, pkgutil, {PACKAGE}
for module in pkgutil.walk_packages({PACKAGE}.__path__, "{PACKAGE}."):
    if not module.name.endswith(("__main__", "pytest_plugin", "issuing.testing", "store_contract")):
        importlib.import_module(module.name)
"""


def main(directory: Path) -> None:
    source, dist = directory / "source", directory / "dist"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "__pycache__"))
    run(sys.executable, "-m", "build", "--outdir", str(dist), str(source))
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist))
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / PACKAGE).rglob("*.py")}
    check_wheel(wheel, modules | {f"{PACKAGE}/py.typed"})
    check_sdist(sdist, modules | {f"{PACKAGE}/py.typed"} | SDIST_FILES)
    for archive in (wheel, sdist):
        check_install(archive, directory / f"venv{archive.suffix}")


def check_wheel(wheel: Path, expected: set[str]) -> None:
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        license_expression = BytesParser().parsebytes(archive.read(metadata))["License-Expression"]
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


def run(*command: str, cwd: Path | None = None) -> None:
    subprocess.run(command, cwd=cwd, check=True)


if __name__ == "__main__":
    main(Path(mkdtemp(dir=sys.argv[1])))
