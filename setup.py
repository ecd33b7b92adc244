"""Where is the project found? The one place for its public address; setup.cfg has everything else.

The README links to files and images of the repository by relative paths. Outside the repository these need the address.
"""

import re
from pathlib import Path

# The project has no public address yet. Set it here, without a slash at its end; the metadata and the README follow.
ADDRESS = ""
FILES = f"{ADDRESS}/blob/main"
IMAGES = f"{ADDRESS}/raw/main"

IMAGE = re.compile(r"^( *\.\. image:: )(\S+)((?:\n +:.*|\n {3,}\S.*)*)\n", re.MULTILINE)
LINK = re.compile(r"`([^`<]+) <([\w./-]+\.rst)>`_")


def description(readme: str) -> str:
    """The README as it is shown outside the repository: with absolute addresses, or with none that lead nowhere."""
    if not ADDRESS:
        return LINK.sub(r"\1", IMAGE.sub("", readme))
    return LINK.sub(rf"`\1 <{FILES}/\2>`_", IMAGE.sub(rf"\g<1>{IMAGES}/\2\3\n", readme))


if __name__ == "__main__":
    # Only what builds the package has it.
    from setuptools import setup

    setup(
        long_description=description(Path(__file__).with_name("README.rst").read_text(encoding="utf-8")),
        long_description_content_type="text/x-rst",
        project_urls={
            "Source": ADDRESS,
            "Documentation": f"{FILES}/docs/index.rst",
            "Changelog": f"{FILES}/CHANGELOG.rst",
            "Issues": f"{ADDRESS}/issues",
        }
        if ADDRESS
        else {},
    )
