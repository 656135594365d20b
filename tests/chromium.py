"""A headless Chromium, driven from the standard library: JSON that ends with a zero byte, through two pipes.

with Chromium() as browser:
    browser.open("page.html", width=390)
    assert browser.run("document.title") == "walk" and not browser.errors

Tests are skipped where there is no `chromium` on PATH. The protocol: https://chromedevtools.github.io/devtools-protocol
"""

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import tempfile
from pathlib import Path

import pytest
from waiting import LIMIT, until

KEYS = {"Tab": ("\t", 9), "Enter": ("\r", 13), "ArrowRight": ("", 39), "ArrowLeft": ("", 37)}


class Chromium:
    """A browser with one page; `errors` and `requests` are those since the last `open()`. It takes switches."""

    def __init__(self, *switches):
        program = shutil.which("chromium")
        if program is None:
            pytest.skip("needs the browser `chromium` on PATH, as the package chromium of Debian has it")
        import fcntl  # Windows has none

        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        pipes = [[fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in os.pipe()] for _ in range(2)]
        (theirs, self.input), (self.output, answers) = pipes  # what they read; what we read
        words = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
        words += ["--remote-debugging-pipe", f"--user-data-dir={self.folder.name}", *switches, "about:blank"]
        files = [(os.POSIX_SPAWN_DUP2, theirs, 3), (os.POSIX_SPAWN_DUP2, answers, 4)]
        files += [(os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]
        self.process = os.posix_spawn(program, words, os.environ, file_actions=files)
        os.close(theirs), os.close(answers)
        self.left, self.numbers, self.session, self.loaded = b"", itertools.count(1), None, False
        self.errors, self.asked = [], []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.session = None
        with contextlib.suppress(OSError, EOFError):
            self.ask("Browser.close")
        os.waitpid(self.process, 0)
        os.close(self.input), os.close(self.output)
        self.folder.cleanup()

    def ask(self, method, **params):
        """The answer to a command; events that come before it are noted."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.input, data) :]
        while True:
            answer = self.read()
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def read(self):
        """The next message."""
        while b"\0" not in self.left:
            if not select.select([self.output], [], [], LIMIT)[0]:
                raise TimeoutError("the browser does not answer")
            if not (more := os.read(self.output, 1 << 20)):
                raise EOFError("the browser has ended")
            self.left += more
        one, _, self.left = self.left.partition(b"\0")
        self.note(message := json.loads(one))
        return message

    def note(self, message):
        """Keep what an event says."""
        about = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self.loaded = True
            case "Network.requestWillBeSent":
                self.asked.append((about["requestId"], about["request"]["url"]))
            case "Network.loadingFailed" if about.get("blockedReason"):
                self.asked = [one for one in self.asked if one[0] != about["requestId"]]
            case "Runtime.exceptionThrown":
                self.errors.append(about["exceptionDetails"])
            case "Runtime.consoleAPICalled" if about["type"] in ("error", "warning", "assert"):
                self.errors.append(about["args"])
            case "Log.entryAdded" if about["entry"]["level"] in ("error", "warning"):
                self.errors.append(about["entry"]["text"])

    @property
    def requests(self):
        """The files that were asked for, without those that a policy of the page forbids."""
        return [address for _, address in self.asked if not address.startswith("data:")]

    def open(self, page, fragment="", *, width=1280, height=800, angle=0):
        """Open a file or an address on a screen of this size in pixels, turned by an angle; wait until it is loaded."""
        about = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        about["screenOrientation"] = {"type": "landscapePrimary" if angle else "portraitPrimary", "angle": angle}
        self.ask("Emulation.setDeviceMetricsOverride", **about)
        self.go("about:blank")  # a page that only gets another fragment would not be loaded
        self.errors, self.asked = [], []
        self.go((page if "://" in str(page) else Path(page).resolve().as_uri()) + fragment)

    def go(self, address):
        self.loaded = False
        self.ask("Page.navigate", url=address)
        while not self.loaded:
            self.read()

    def run(self, code):
        """The value of an expression of JavaScript in the page; a promise is awaited."""
        found = self.ask("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, code):
        """Wait until an expression is true; return its value, which is read in the same call."""
        return until(lambda: self.run(code))

    def press(self, key, shift=False):
        text, code = KEYS[key]
        about = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 * shift}
        self.ask("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **about)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **about)

    def is_wider_than_the_screen(self):
        """Whether anything has to be scrolled to the right, but what is in a frame of its own for that (.wide)."""
        return self.run(
            "document.documentElement.scrollWidth > innerWidth || "
            "[...document.querySelectorAll('body *:not(svg *, .wide *)')]"
            ".some(one => one.getBoundingClientRect().right > innerWidth + 0.5)"
        )

    def screenshot(self, path):
        """Write the whole page as PNG."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        found = self.ask("Page.captureScreenshot", captureBeyondViewport=True, clip={**size, "scale": 1})
        Path(path).write_bytes(base64.b64decode(found["data"]))

    def processor_seconds(self):
        """Processor time of all its processes so far."""
        session, self.session = self.session, None
        found = self.ask("SystemInfo.getProcessInfo")["processInfo"]
        self.session = session
        return sum(one["cpuTime"] for one in found)
