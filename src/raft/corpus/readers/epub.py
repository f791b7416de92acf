"""Electronic books (EPUB)."""

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import Any
from urllib.parse import unquote

from raft.corpus.readers import MEGABYTE, Reading, Unreadable, check_archive, decode, require
from raft.corpus.readers.html import to_markdown

_PAGES = re.compile(r"application/xhtml\+xml|text/.*html.*|text/x-oeb1-document|application/.*xml", re.IGNORECASE)
_NAMED_SO = (".xhtml", ".html", ".htm", ".xml")
"""How files that hold pages are named, whatever they are said to be."""
_FONTS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")
"""How fonts are scrambled, which hides no text."""
_STYLES = re.compile(r"<link\b[^<>]{0,500}\bhref\s*=\s*[\"']([^\"'<>]{1,500}\.css)[\"'][^<>]{0,500}>", re.IGNORECASE)
_MEDIA = re.compile(r"\bmedia\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*')", re.IGNORECASE)
_ALTERNATE = re.compile(r"\brel\s*=\s*[\"']?[^\"'<>]*\balternate\b", re.IGNORECASE)
_BEGIN = 500
"""Characters of a chapter among which its name is looked for."""
_EDGES = re.compile(r"(</?)(?:header|footer)\b", re.IGNORECASE)


def read(path: Path, *, kind: str, **_others: object) -> list[Reading]:
    """Read a book as one document: its chapters in their order, as pages of HTML are read."""
    check_archive(path)
    left_out: dict[str, int] = {}
    with zipfile.ZipFile(path) as archive:
        place = _package(archive)
        package = _xml(archive.read(place))
        if package is None:
            raise Unreadable("It is no book: nothing says what is in it.")
        items = {item.get("id"): item for item in package.iterfind("{*}manifest/{*}item")}
        spine = [items.get(one.get("idref")) for one in package.iterfind("{*}spine/{*}itemref")]
        named, secret = _Names(archive, place), _secret(archive)
        titles = _titles(archive, named, items.values())
        chapters = []
        for item in spine:
            if item is None or "nav" in (item.get("properties") or "").split():
                continue
            name = named.of(item.get("href", ""))
            kept = _chapter(archive, named, item, secret=name in secret, left_out=left_out)
            said = titles.get(name, "")
            if kept and said.casefold() not in kept[:_BEGIN].casefold() and not re.search("^#", kept, re.MULTILINE):
                kept = f"# {said}\n\n{kept}"
            chapters.append(kept)
        if not any(chapters) and "encrypted chapters" in left_out:
            raise Unreadable("The book is protected (DRM).")
    found = (
        " ".join("".join(one.itertext()).split())
        for one in package.iterfind(".//{http://purl.org/dc/elements/1.1/}title")
    )
    title = next(filter(None, found), path.stem)
    return [Reading(title, "\n\n".join(filter(None, chapters)), kind, left_out=left_out)]


def _xml(data: bytes) -> Any:
    """Return the root of XML, read as far as it can be; None of what is no XML at all."""
    etree = require("lxml.etree", why="to read EPUB files")
    try:
        return etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True, recover=True))
    except etree.XMLSyntaxError:  # there is nothing in it
        return None


def _package(archive: zipfile.ZipFile) -> str:
    """Return the name of what says what is in a book."""
    names, container = archive.namelist(), "META-INF/container.xml"
    root = _xml(archive.read(container)) if container in names else None
    said = [] if root is None else [one.get("full-path", "").lstrip("/") for one in root.iterfind(".//{*}rootfile")]
    found = [name for name in (*said, *names) if name.lower().endswith(".opf") and name in names]
    return next((name for name in [*found, *said] if name in names), container)


class _Names:
    """The files of a book by what its package calls them."""

    def __init__(self, archive: zipfile.ZipFile, package: str) -> None:
        self._names = set(archive.namelist())
        self._folded = {name.casefold(): name for name in self._names}
        self._folder = dirname(package)

    def of(self, href: str, beside: str | None = None) -> str:
        """Return the name of what a reference means, "" where there is no such file."""
        folder = self._folder if beside is None else dirname(beside)
        whole = (unquote(href), href, unquote(href.partition("#")[0]))
        asked = [normpath(join("/", folder, one)).lstrip("/") for one in whole]
        exact = [name for name in asked if name in self._names]
        return next((name for name in [*exact, *(self._folded.get(one.casefold(), "") for one in asked)] if name), "")


def _secret(archive: zipfile.ZipFile) -> set[str]:
    """Return the names of what is encrypted, but for fonts."""
    name = "META-INF/encryption.xml"
    root = _xml(archive.read(name)) if name in archive.namelist() else None
    found = set()
    for one in root.iterfind(".//{*}EncryptedData") if root is not None else ():
        method, reference = one.find(".//{*}EncryptionMethod"), one.find(".//{*}CipherReference")
        if reference is not None and (method is None or method.get("Algorithm") not in _FONTS):
            found.add(unquote(reference.get("URI", "")).lstrip("/"))
    return found


def _titles(archive: zipfile.ZipFile, named: _Names, items: Iterable[Any]) -> dict[str, str]:
    """Return by its name what the table of contents calls a chapter."""
    titles: dict[str, str] = {}
    for item in items:
        name = named.of(item.get("href", ""))
        nav = "nav" in (item.get("properties") or "").split()
        root = _xml(archive.read(name)) if name and (nav or name.endswith(".ncx")) else None
        for entry in root.iter("{*}navPoint", "{*}a") if root is not None else ():
            place, label = (entry.find("{*}content"), entry.find("{*}navLabel")) if not nav else (entry, entry)
            others = " ".join(kind for one in entry.iterancestors("{*}nav") for kind in one.attrib.values())
            if place is not None and label is not None and not re.search("page-?list|landmarks", others):
                target = named.of((place.get("src") or place.get("href", "")).partition("#")[0], beside=name)
                titles.setdefault(target, " ".join("".join(label.itertext()).split()))
    return {name: title for name, title in titles.items() if name and title}


def _chapter(archive: zipfile.ZipFile, named: _Names, item: Any, *, secret: bool, left_out: dict[str, int]) -> str:
    """Return a chapter as Markdown, "" for one that cannot be read, and count that."""
    name = named.of(item.get("href", ""))
    kind = item.get("media-type") or "application/xhtml+xml"
    why = "encrypted chapters" if secret else "" if name else "missing chapters"
    if not why and not _PAGES.match(kind) and not name.lower().endswith(_NAMED_SO):
        why = "pictures without text" if kind.startswith("image/") else "chapters that cannot be read"
    if not why:
        try:
            return to_markdown(_styled(archive, named, name, decode(archive.read(name), left_out)), left_out)[1]
        except Unreadable:
            why = "chapters that cannot be read"
    left_out[why] = left_out.get(why, 0) + 1
    return ""


def _styled(archive: zipfile.ZipFile, named: _Names, name: str, page: str) -> str:
    """Return a page with the styles that it refers to in it, and its edges as parts of the text."""

    def style(link: re.Match[str]) -> str:
        found = named.of(link[1], beside=name)
        if not found or _ALTERNATE.search(link[0]) or archive.getinfo(found).file_size > MEGABYTE:
            return ""
        css = archive.read(found).decode("utf-8", "replace").replace("<", " ")
        media = _MEDIA.search(link[0])
        return f"<style {media[0] if media else ''}>{css}</style>"

    return _EDGES.sub(r"\1div", _STYLES.sub(style, page))
