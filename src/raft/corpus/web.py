"""What web servers send: pages that list a folder, names in percent signs, pages in the place of documents."""

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from raft.corpus.readers import MEGABYTE, format_of
from raft.errors import UsageError

_LONGEST = 32 * MEGABYTE
_URL = """(?:"([^"<>]{1,2000})"|'([^'<>]{1,2000})'|([^\\s"'<>]{1,2000}))"""
_LINK = re.compile(r"<a\s[^<>]{0,2000}?\bhref\s*=\s*" + _URL, re.I)
_BARE, _TAG = re.compile(r"https?://[-\w@:%+.~#?&/=]{1,2000}"), re.compile("<[^<>]*>")
_PAGE = re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.{0,500}?-->\s*)?<(!doctype\s+html|html)\b", re.I | re.S)
_PACKED = ("pdf", "docx", "xlsx", "pptx", "epub")
"""Formats that are no text."""


def listed(system: Any, address: str) -> list[dict[str, Any]]:
    """Return what the page of a folder links to below it, as `ls` of fsspec's HTTP file system does."""
    from fsspec.asyn import sync  # noqa: PLC0415  it takes time

    links = _links(address, sync(system.loop, _page, system, address))
    if not links and address.endswith("/"):
        return listed(system, address.rstrip("/"))
    return [{"name": one, "size": None, "type": "directory" if one.endswith("/") else "file"} for one in links]


def endless(what: str) -> UsageError:
    """Return the error of a server whose lists have no end."""
    return UsageError(what, where="corpus", hint="name the files, or a folder of which the server shows a list")


async def _page(system: Any, address: str) -> str:
    session, data = await system.set_session(), bytearray()
    async with session.get(system.encode_url(address)) as reply:
        system._raise_not_found_for_status(reply, address)
        if reply.headers.get("Content-Type", "text/html").partition(";")[0] == "text/html":
            async for piece in reply.content.iter_any():
                data += piece
                if len(data) > _LONGEST:
                    raise endless(f"The page {address} is longer than {_LONGEST // MEGABYTE} MB.")
        return data.decode(reply.charset or "utf-8", "ignore")


def _links(address: str, page: str) -> list[str]:
    base, found = address.rstrip("/") + "/", set[str]()
    for link in [*map("".join, _LINK.findall(page)), *_BARE.findall(_TAG.sub(" ", page))]:
        try:
            found.add(urldefrag(urljoin(base, html.unescape(link).strip()))[0])
        except ValueError:  # it is none
            continue
    return sorted(one for one in found if one.startswith(base) and one != base and "/?" not in one)


def decoded(name: str) -> str:
    """Return a name without percent signs, if it is one that a file can have, and leads nowhere else."""
    try:
        parts = [unquote(part, errors="strict") for part in name.split("/")]
    except UnicodeDecodeError:
        return name
    safe = all(part.isprintable() and "/" not in part and part not in (".", "..") for part in parts)
    return "/".join(parts) if safe else name


def is_page_instead(file: Path, name: str, facts: Mapping[str, Any]) -> bool:
    """Tell whether bytes are a web page where their name says something else; text may show one, if told to be text."""
    kind = format_of(Path(name))
    if kind == "html" or (kind not in _PACKED and facts.get("mimetype") != "text/html"):
        return False
    with file.open("rb") as stream:
        return _PAGE.match(stream.read(2000).removeprefix(b"\xef\xbb\xbf")) is not None
