"""Do all links within the built documentation lead somewhere? A program: python .ci/site.py FOLDER_OF_THE_BUILT_HTML

Pages, anchors, pictures and styles are there. Nothing is loaded from elsewhere. Every picture has a text, every page a
viewport for phones. Sphinx's linkcheck looks at addresses of other sites, which needs the network: tox -e links.
"""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {"img": "src", "script": "src", "iframe": "src", "source": "src", "link": "href", "object": "data"}


class Page(HTMLParser):
    """What a page links to, loads, and can be linked at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.without_text: list[str] = []
        self.fits_a_phone = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids.add(found.get("id", ""))
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if found.get(LOADS.get(tag, "")) and found.get("rel") != "canonical":
            self.loads.append(found[LOADS[tag]])
        if tag == "img" and not found.get("alt", "").strip():
            self.without_text.append(found.get("src", ""))
        self.fits_a_phone |= tag == "meta" and found.get("name") == "viewport"


def complaints(html: Path) -> Iterator[str]:
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(html.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(html)
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loads and parts.scheme != "data":
                    yield f"{name}: {link} is loaded from elsewhere"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                yield f"{name}: {link} leads nowhere"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                yield f"{name}: {link} leads to a page without this anchor"
        for picture in page.without_text:
            yield f"{name}: {picture} has no alt text"
        if not page.fits_a_phone:
            yield f"{name}: it has no viewport for phones"
    for style in html.rglob("*.css"):
        for address in re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//[^)\"']+", style.read_text(encoding="utf-8")):
            yield f"{style.relative_to(html)}: {address} is loaded from elsewhere"
    if not pages:
        yield "there are no pages"


if __name__ == "__main__":
    found = list(complaints(Path(sys.argv[1]).resolve()))
    print(*found, f"{len(found)} complaints", sep="\n")
    sys.exit(bool(found))
