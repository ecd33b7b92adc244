"""A real browser for tests: Chromium, driven over its DevTools protocol."""

import json
import shutil
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from .processes import need, program

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Each page would otherwise start three more, for an address bar that nobody sees.
    "--disable-features=WebUIOmniboxPopup,WebUIOmniboxAimPopup,WebUIOmniboxFullPopup",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
]
PATIENCE = 20
LISTENS = "DevTools listening on "


class Navigated(AssertionError):
    """The page went elsewhere before it had answered."""


class Page:
    """A page in a browser profile of its own: cookies are shared with no other."""

    def __init__(self, devtools: ClientConnection, profile: str, session: str) -> None:
        self._devtools = devtools
        self._profile = profile
        self._session = session

    def open(self, url: str) -> None:
        """Load ``url``."""
        ask(self._devtools, "Page.navigate", self._session, url=url)
        self.until(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url)})")

    def run(self, script: str) -> Any:
        """What the expression ``script`` gives, awaited where it is a promise."""
        answer = ask(
            self._devtools,
            "Runtime.evaluate",
            self._session,
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def until(self, condition: str, patience: float = PATIENCE) -> None:
        """Wait until the expression ``condition`` is true."""
        deadline = time.monotonic() + patience
        while not self._holds(condition):
            assert time.monotonic() < deadline, f"never came: {condition}\n{self.run('document.body.innerText')}"
            time.sleep(0.05)

    def _holds(self, condition: str) -> bool:
        try:
            return bool(self.run(condition))
        except Navigated:
            # Of the page that comes it is asked again.
            return False

    def text(self, id: str) -> str:
        """What the element ``id`` shows."""
        shown: str = self.run(f"document.getElementById({json.dumps(id)}).textContent")
        return shown

    def shows(self, id: str, text: str, patience: float = PATIENCE) -> None:
        """Wait until the element ``id`` shows ``text``."""
        self.until(f"document.getElementById({json.dumps(id)}).textContent.includes({json.dumps(text)})", patience)

    def click(self, selector: str) -> None:
        """Click the element that ``selector`` finds."""
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def press(self, key: str, text: str = "") -> None:
        """Press a key of the keyboard: ``Tab``, or ``Enter``, or a letter."""
        for kind in ("keyDown", "keyUp"):
            ask(
                self._devtools,
                "Input.dispatchKeyEvent",
                self._session,
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode={"Tab": 9, "Enter": 13}.get(key, 0),
                **({"text": text} if kind == "keyDown" and text else {}),
            )

    def type(self, text: str) -> None:
        """Type ``text`` where the focus is."""
        ask(self._devtools, "Input.insertText", self._session, text=text)

    def resize(self, width: int, height: int) -> None:
        """Be a screen of this many pixels."""
        ask(
            self._devtools,
            "Emulation.setDeviceMetricsOverride",
            self._session,
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def tab(self) -> "Page":
        """Another page in the same profile."""
        return open_page(self._devtools, self._profile)

    def screenshot(self, path: Path) -> None:
        """Keep what it looks like, all of it, as a PNG file."""
        answer = ask(self._devtools, "Page.captureScreenshot", self._session, captureBeyondViewport=True)
        path.write_bytes(b64decode(answer["data"]))

    def cookies(self) -> list[dict[str, Any]]:
        """All cookies of its profile."""
        found: list[dict[str, Any]] = ask(self._devtools, "Storage.getCookies", browserContextId=self._profile)[
            "cookies"
        ]
        return found


class Chromium:
    """A browser that runs."""

    def __init__(self, devtools: ClientConnection) -> None:
        self._devtools = devtools
        self._profiles: list[str] = []

    def page(self) -> Page:
        """A new page, in a new profile."""
        profile = ask(self._devtools, "Target.createBrowserContext")["browserContextId"]
        self._profiles.append(profile)
        return open_page(self._devtools, profile)

    def close_pages(self) -> None:
        """Close every page, and forget its profile."""
        while self._profiles:
            ask(self._devtools, "Target.disposeBrowserContext", browserContextId=self._profiles.pop())


def open_page(devtools: ClientConnection, profile: str) -> Page:
    """A new page in ``profile``."""
    target = ask(devtools, "Target.createTarget", url="about:blank", browserContextId=profile)["targetId"]
    session = ask(devtools, "Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    return Page(devtools, profile, session)


def ask(devtools: ClientConnection, method: str, session: str | None = None, **parameters: Any) -> Any:
    """The result of a command."""
    _numbers.append(len(_numbers))
    command = {"id": len(_numbers), "method": method, "params": parameters}
    devtools.send(json.dumps(command if session is None else {**command, "sessionId": session}))
    while (answer := json.loads(devtools.recv(timeout=PATIENCE))).get("id") != len(_numbers):
        pass
    if "error" in answer:
        message = answer["error"]["message"]
        raise (Navigated if "navigated or closed" in message else AssertionError)(f"{method}: {message}")
    return answer["result"]


_numbers: list[int] = []


@contextmanager
def chromium(folder: Path, *flags: str) -> Iterator[Chromium]:
    """A Chromium with its data and its output in ``folder``. Tests skip themselves if there is none."""
    need("chromium")
    log = folder / "chromium"
    command = [str(shutil.which("chromium")), *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", "about:blank"]
    with program(*command, log=log, ready=lambda output: LISTENS in output):
        address = log.read_text().partition(LISTENS)[2].split()[0]
        with connect(address, proxy=None, max_size=None) as devtools:
            yield Chromium(devtools)
