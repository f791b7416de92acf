"""What web servers send: pages that list a folder, names in percent signs, pages in the place of documents."""

import html
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from raft.corpus.readers import MEGABYTE, format_of
from raft.errors import UsageError

_SILENT = 30.0
"""Seconds without a byte after which a web server is given up."""
_LONGEST = 32 * MEGABYTE
_URL = """(?:"([^"<>]{1,2000})"|'([^'<>]{1,2000})'|([^\\s"'<>]{1,2000}))"""
_LINK = re.compile(r"<a\s[^<>]{0,2000}?\bhref\s*=\s*" + _URL, re.I)
_BARE, _TAG = re.compile(r"https?://[-\w@:%+.~#?&/=]{1,2000}"), re.compile("<[^<>]*>")
_PAGE = re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.{0,500}?-->\s*)?<(!doctype\s+html|html)\b", re.I | re.S)
_PAGES, _OTHER = ("text/html", "application/xhtml+xml"), re.compile("^https?://", re.I)
_PACKED = ("pdf", "docx", "xlsx", "pptx", "epub")
"""Formats that are no text."""


def is_web(address: str) -> bool:
    """Tell whether an address is a web server's."""
    return address.startswith(("http://", "https://"))


def options() -> dict[str, Any]:
    """Return what fsspec's configuration says of the web, and that a server which is silent for so long is given up."""
    from aiohttp import ClientTimeout  # noqa: PLC0415  it takes time
    from fsspec.config import conf  # noqa: PLC0415

    timeout = ClientTimeout(total=None, sock_connect=_SILENT, sock_read=_SILENT)  # and not after five minutes a file
    given = [conf.get(protocol, {}).get("client_kwargs", {}) for protocol in ("http", "https")]
    return {"client_kwargs": {"timeout": timeout, "raise_for_status": _check_whole, **given[0], **given[1]}}


async def _check_whole(reply: Any) -> None:
    """Refuse a reply that is neither what was asked for nor an error: its body, if any, is no document, or a part."""
    from aiohttp import ClientResponseError  # noqa: PLC0415  it takes time

    if 200 < reply.status < 400:
        why = "no document, or a part of one"
        raise ClientResponseError(reply.request_info, reply.history, status=reply.status, message=why)


def listed(system: Any, address: str) -> list[dict[str, Any]]:
    """Return what the page of a folder links to below it, as `ls` of fsspec's HTTP file system does."""
    from fsspec.asyn import sync  # noqa: PLC0415  it takes time

    links = _links(address, sync(system.loop, _page, system, address))
    if not links and address.endswith("/"):
        return listed(system, address.rstrip("/"))
    return [{"name": one, "size": None, "type": "directory" if one.endswith("/") else "file"} for one in links]


def fitting(found: Mapping[str, Mapping[str, Any]], root: str, pattern: str) -> dict[str, Mapping[str, Any]]:
    """Return the files, by their paths, that a pattern below `root` means; it is read as fsspec reads one."""
    from fsspec.utils import glob_translate  # noqa: PLC0415  it takes time

    fits = re.compile(glob_translate(pattern))
    return {path: facts for path, facts in found.items() if fits.match(path.removeprefix(f"{root}/"))}


def endless(what: str) -> UsageError:
    """Return the error of a server whose lists have no end."""
    return UsageError(what, where="corpus", hint="name the files, or a folder of which the server shows a list")


async def _page(system: Any, address: str) -> str:
    session, data = await system.set_session(), bytearray()
    async with session.get(system.encode_url(address), **system.kwargs) as reply:
        system._raise_not_found_for_status(reply, address)
        if reply.headers.get("Content-Type", "text/html").partition(";")[0].strip().lower() in _PAGES:
            async for piece in reply.content.iter_any():
                data += piece
                if len(data) > _LONGEST:
                    raise endless(f"The page {address} is longer than {_LONGEST // MEGABYTE} MB.")
    try:
        return data.decode(reply.charset or "utf-8", "ignore")
    except LookupError:  # nobody knows the charset
        return data.decode("utf-8", "ignore")


def _links(address: str, page: str) -> list[str]:
    base, found = address.rstrip("/") + "/", set[str]()
    scheme = base.partition("://")[0] + "://"  # a server's pages may name it by either
    for link in [*map("".join, _LINK.findall(page)), *_BARE.findall(_TAG.sub(" ", page))]:
        try:
            found.add(_OTHER.sub(scheme, urldefrag(urljoin(base, html.unescape(link).strip()))[0]))
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


def named(names: Mapping[str, str], known: Callable[[str], bool]) -> dict[str, str]:
    """Return what documents are called, by their addresses: decoded, but where another one might be called so, too.

    What is `known` by its raw name keeps it.
    """
    times = Counter(one for name in names.values() for one in {name, decoded(name)})
    return {path: name if known(name) or times[decoded(name)] > 1 else decoded(name) for path, name in names.items()}


def instead(file: Path, name: str, facts: Mapping[str, Any]) -> str:
    """Return what bytes are instead, if they are a web page and their name says something else; text may show one."""
    kind = format_of(Path(name))
    if kind == "html" or (kind not in _PACKED and str(facts.get("mimetype")).strip().lower() not in _PAGES):
        return ""
    with file.open("rb") as stream:
        if _PAGE.match(stream.read(2000).removeprefix(b"\xef\xbb\xbf")) is None:
            return ""
    return f"a web page came in the place of a {Path(name).suffix} (where one has to log in, perhaps)"
