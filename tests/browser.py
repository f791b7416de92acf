"""A headless Chromium, where the machine has one, for tests of pages that a person opens from the disk."""

import base64
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import threading
import zlib

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-quic"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    "--virtual-time-budget=5000",
)
_LIMIT = 120  # seconds after which a browser that hangs is ended


def _run(folder, *arguments):
    command = [CHROMIUM, *_FLAGS, f"--user-data-dir={folder / 'profile'}", *arguments]
    browser = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder, start_new_session=True
    )
    try:
        return browser.communicate(timeout=_LIMIT)[0].decode("utf-8")
    except subprocess.TimeoutExpired:
        os.killpg(browser.pid, signal.SIGKILL)  # a browser is several processes
        browser.communicate()
        pytest.fail(f"Chromium did not end in {_LIMIT} seconds")


def rendered(page, folder, *, then=""):
    """Return the document that a page becomes, as HTML.

    Args:
        page: the page.
        folder: an empty folder.
        then: a script that runs after the page's own; the page's policy is taken out for it.
    """
    if then:
        page = re.sub(r"<meta http-equiv=.*?>", "", page).replace("</body>", f"<script>{then}</script></body>")
    (folder / "page.html").write_text(page, encoding="utf-8")
    return _run(folder, "--dump-dom", (folder / "page.html").as_uri())


def lines_of_picture(page, folder, *, width, height):
    """Return the lines of pixels of a page's picture, as the PNG filters them; those of a blank page are alike."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    picture = folder / "page.png"
    _run(folder, f"--screenshot={picture}", f"--window-size={width},{height}", (folder / "page.html").as_uri())
    written, place, packed = picture.read_bytes(), 8, b""
    assert written.startswith(b"\x89PNG")
    columns, rows, depth, colours = struct.unpack(">IIBB", written[16:26])
    assert (columns, rows, depth) == (width, height, 8)
    while place < len(written):
        length, kind = struct.unpack(">I4s", written[place : place + 8])
        packed += written[place + 8 : place + 8 + length] if kind == b"IDAT" else b""
        place += length + 12
    pixels, stride = zlib.decompress(packed), 1 + columns * {2: 3, 6: 4}[colours]
    return [pixels[begin : begin + stride] for begin in range(0, rows * stride, stride)]


_KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}


class Driven:
    """A page in a browser that is driven as a person would, by keys; a context manager.

    Args:
        address: of the page.
        folder: where the browser keeps its profile.
        width: of the window, in pixels.
        height: likewise.
        dark: whether the person likes it dark.
    """

    def __init__(self, address, folder, *, width, height, dark=False):
        theirs, self._write = os.pipe()
        self._read, back = os.pipe()
        os.set_inheritable(theirs, True)
        os.set_inheritable(back, True)
        command = [CHROMIUM, *(flag for flag in _FLAGS if "virtual-time" not in flag), "--remote-debugging-pipe"]
        command += [f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}", "about:blank"]
        # the browser reads what it is told from its third file, and answers into its fourth
        shell = ["bash", "-c", f'exec "$@" 3<&{theirs} 4>&{back}', "bash", *command]
        self._browser = subprocess.Popen(
            shell, close_fds=False, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs)
        os.close(back)
        self._rest, self._number, self._session = b"", 0, None
        timer = threading.Timer(_LIMIT, self._end)
        timer.daemon = True
        timer.start()
        self._timer = timer
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        mobile = width < 600
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        if dark:
            self.tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        self.tell("Page.enable")
        self.tell("Page.navigate", url=address)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._timer.cancel()
        self._end()
        self._browser.wait(30)
        os.close(self._read)
        os.close(self._write)

    def _end(self):
        if self._browser.poll() is None:
            os.killpg(self._browser.pid, signal.SIGKILL)

    def tell(self, method, **parameters):
        """Send a command of the DevTools protocol and return its result."""
        self._number += 1
        sent = {"id": self._number, "method": method, "params": parameters}
        sent |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(sent).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                piece = os.read(self._read, 1 << 16)
                if not piece:
                    pytest.fail("Chromium ended")
                self._rest += piece
            line, _, self._rest = self._rest.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def value(self, expression):
        """Return the value of an expression in the page; promises are waited for."""
        result = self.tell("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, expression):
        """Wait until an expression is true; one that fails is not, yet."""
        holds = f"(() => {{ try {{ return Boolean({expression}) }} catch {{ return false }} }})()"
        waited = f"""new Promise((done) => {{ const begun = performance.now(); const look = () =>
            {holds} || performance.now() - begun > 20000 ? done({holds}) : setTimeout(look, 15); look(); }})"""
        assert self.value(waited), f"it never came to be: {expression}"

    def press(self, key, *, control=False):
        """Press a key and let it go."""
        code = _KEYS.get(key) or ord(key.upper())
        text = {} if control or (len(key) > 1 and key != "Enter") else {"text": "\r" if key == "Enter" else key}
        event = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 2 * control}
        self.tell("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        self.tell("Input.dispatchKeyEvent", type="keyUp", **event)

    def write(self, text):
        """Write a text where the cursor is, in the place of what is selected."""
        self.tell("Input.insertText", text=text)

    def picture(self, path):
        """Write a picture of what is seen to a PNG."""
        path.write_bytes(base64.b64decode(self.tell("Page.captureScreenshot")["data"]))
