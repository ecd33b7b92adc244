"""The picture of the demo's page in the README. A program: python -m tests.support.screenshot"""

from pathlib import Path
from tempfile import TemporaryDirectory

from ..test_demo_page import logged_in
from ..test_examples import address, demo
from .chromium import chromium
from .processes import ROOT

PICTURE = ROOT / "examples" / "demo.png"


def main() -> None:
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with demo(log.parent, "--port", "0", log=log), chromium(log.parent) as browser:
            page = logged_in(browser, address(log))
            page.resize(1280, 900)
            page.run("document.querySelector('details').open = true")
            page.click("#open")
            page.shows("socket-state", "Open")
            page.click("#send")
            page.click("[data-request='POST /orders']")
            page.shows("answers", "Ordered by ada.")
            page.click("[data-token=forged]")
            page.shows("answers", "Somebody changed the token")
            page.run("document.activeElement.blur(), scrollTo(0, 0)")
            page.screenshot(PICTURE)


if __name__ == "__main__":
    main()
