"""A headless Chromium, where the machine has one, for tests of pages that a person opens from the disk."""

import os
import re
import shutil
import signal
import struct
import subprocess
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
