"""Headless Chromium, driven by its DevTools protocol over a pair of pipes: messages are JSON, each followed by a NUL.

(https://chromedevtools.github.io/devtools-protocol/, the switch ``--remote-debugging-pipe``.)
"""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from typing import Any

__all__ = ["Chromium", "Page", "find_chromium"]

_SECONDS = 20.0
_SWITCHES = (
    "--headless=new", "--remote-debugging-pipe", "--no-first-run", "--no-default-browser-check", "--disable-gpu",
    "--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-sync",
    "--disable-extensions", "--disable-dev-shm-usage", "--metrics-recording-only", "--mute-audio", "--no-proxy-server",
    "--hide-scrollbars", "--disable-background-timer-throttling", "--disable-renderer-backgrounding",
)  # fmt: skip


def find_chromium() -> str | None:
    """The browser's program, if there is one."""
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if name and (path := shutil.which(name))), None)


class Chromium:
    """A browser. :meth:`stop` ends it."""

    def __init__(self, program: str) -> None:
        self._profile = tempfile.mkdtemp(prefix="s3proxy-chromium-")
        theirs, self._to = os.pipe()
        self._from, ours = os.pipe()

        def become_3_and_4() -> None:
            # First out of the way: either may be one of the two numbers.
            read, write = os.dup(theirs), os.dup(ours)
            os.dup2(read, 3)
            os.dup2(write, 4)

        switches = [*_SWITCHES, f"--user-data-dir={self._profile}"]
        if os.geteuid() == 0:
            switches.append("--no-sandbox")
        self._process = subprocess.Popen(
            [program, *switches, "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=become_3_and_4, pass_fds=(3, 4), start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        os.close(ours)
        self._data = b""
        self._number = 0
        self._events: list[dict[str, Any]] = []

    def stop(self) -> None:
        """End the browser and remove its profile."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol.

        :raises RuntimeError: it fails
        """
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + _SECONDS
        while True:
            answer = self._next(end)
            if answer is None:
                raise RuntimeError(f"{method}: no answer")
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._events.append(answer)

    def events(self, session: str) -> list[dict[str, Any]]:
        """The events of a session since the last call."""
        while (event := self._next(time.monotonic())) is not None:
            self._events.append(event)
        found = [event for event in self._events if event.get("sessionId") == session]
        self._events = [event for event in self._events if event.get("sessionId") != session]
        return found

    def _next(self, end: float) -> dict[str, Any] | None:
        while b"\0" not in self._data:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return None
            piece = os.read(self._from, 1 << 20)
            if not piece:
                raise RuntimeError("the browser ended")
            self._data += piece
        message, _, self._data = self._data.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


class Page:
    """A tab.

    :ivar requested: addresses that it asked for
    :ivar complaints: what it wrote to the console as an error or a warning, exceptions, and what the browser refused
    """

    def __init__(self, browser: Chromium, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        self._browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self._target = target
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.requested: list[str] = []
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")
        self.look(width, height, dark=dark)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Another size, and light or dark. Below 700 pixels it is a phone."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 700
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", features=features)

    def open(self, url: str) -> None:
        """Go to an address."""
        self._call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, or of what its promise comes to.

        :raises RuntimeError: it throws
        """
        answer = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression[:200]}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = _SECONDS) -> float:
        """Wait until an expression is true; returns for how long that took.

        :raises TimeoutError: it does not become true
        """
        began = time.monotonic()
        while not self.evaluate(f"Boolean({expression})"):
            if time.monotonic() - began > seconds:
                raise TimeoutError(f"not true after {seconds} s: {expression}; {self.look_at_events()}")
            time.sleep(0.05)
        return time.monotonic() - began

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        code = {"Escape": 27, "Enter": 13}.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if kind == "keyDown" and len(key) == 1 else {}
            self._call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    def picture(self, whole: bool = True) -> bytes:
        """A PNG of the page, beyond the window too."""
        answer = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])

    def look_at_events(self) -> list[str]:
        """Take in what happened; returns the complaints so far."""
        for event in self._browser.events(self._session):
            self._take(event["method"], event["params"])
        return self.complaints

    def _take(self, method: str, found: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requested.append(found["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(found["exceptionDetails"].get("exception", found["exceptionDetails"])))
        elif method == "Runtime.consoleAPICalled" and found["type"] in ("error", "warning", "assert"):
            self.complaints.append(str([each.get("value", each) for each in found["args"]]))
        elif method == "Log.entryAdded" and found["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{found['entry']['text']} {found['entry'].get('url', '')}")

    def close(self) -> None:
        """Close the tab."""
        self._browser.call("Target.closeTarget", targetId=self._target)
