"""Electronic books (EPUB)."""

import zipfile
from pathlib import Path
from posixpath import dirname, join, normpath
from urllib.parse import unquote
from xml.etree import ElementTree as ET

from raft.corpus.readers import Reading, Unreadable, check_archive, decode
from raft.corpus.readers.html import to_markdown


def read(path: Path, *, kind: str, **_others: object) -> list[Reading]:
    """Read a book as one document: its chapters in their order, as pages of HTML are read."""
    check_archive(path)
    left_out: dict[str, int] = {}
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        root = ET.fromstring(archive.read("META-INF/container.xml")).find(".//{*}rootfile")  # noqa: S314  expat is bounded
        if root is None:
            raise Unreadable("It is no book: nothing says where it begins.")
        place = root.get("full-path", "")
        package = ET.fromstring(archive.read(place))  # noqa: S314
        items = {item.get("id"): item for item in package.iterfind("{*}manifest/{*}item")}
        spine = [items.get(one.get("idref")) for one in package.iterfind("{*}spine/{*}itemref")]
        chapters = []
        for item in spine:
            if item is None or "nav" in (item.get("properties") or "").split():
                continue
            name = normpath(join(dirname(place), unquote(item.get("href", ""))))
            if name in names:
                chapters.append(to_markdown(decode(archive.read(name), left_out), left_out)[1])
            else:
                left_out["missing chapters"] = left_out.get("missing chapters", 0) + 1
    title = " ".join((package.findtext(".//{http://purl.org/dc/elements/1.1/}title") or "").split())
    return [Reading(title or path.stem, "\n\n".join(filter(None, chapters)), kind, left_out=left_out)]
