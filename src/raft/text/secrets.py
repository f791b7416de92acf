"""Rules that find secrets in text: keys of known form, private keys, and passwords or tokens that are assigned.

Each rule yields (start, end) of what it found.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

_LOG = logging.getLogger("raft")  # what nobody handles goes to stderr, a line each
Spans = Iterator[tuple[int, int]]
ApiBase = str | Sequence[str] | None
"""Where a model is asked: an address, several that answer the same, or None for the provider's own."""

_KEYS = tuple(
    (marker, re.compile(rf"{re.escape(marker)}{rest}"))
    for marker, rest in (
        ("sk-", r"(?:[a-z0-9]{2,10}-){0,2}[A-Za-z0-9_]{16}[\w-]{4,200}"),
        ("sk_", r"(?:live|test)_[0-9A-Za-z]{16,250}"),
        ("rk_", r"(?:live|test)_[0-9A-Za-z]{16,250}"),
        ("AKIA", r"[0-9A-Z]{16}(?![0-9A-Za-z])"),
        ("ASIA", r"[0-9A-Z]{16}(?![0-9A-Za-z])"),
        ("gh", r"[pousr]_[A-Za-z0-9]{30,255}"),
        ("github_pat_", r"\w{22,255}"),
        ("glpat-", r"[\w-]{20,250}"),
        ("xox", r"[abeoprs]-[A-Za-z0-9-]{10,250}"),
        ("hooks.slack.com/services/", r"T\w{6,20}/B\w{6,20}/\w{16,64}"),
        ("AIza", r"[\w-]{35}"),
        ("SG.", r"[\w-]{16,32}\.[\w-]{32,64}"),
        ("npm_", r"[A-Za-z0-9]{36}"),
        ("pypi-", r"[\w-]{80,250}"),
        ("hf_", r"[A-Za-z0-9]{30,64}"),
        ("eyJ", r"[\w-]{10,1000}\.eyJ[\w-]{10,8000}\.[\w-]{10,8000}"),
        ("Bearer ", r"[A-Za-z0-9._~+/-]{20,8000}=*"),
    )
)
"""How keys begin, and how they go on."""

_IN_URL = re.compile(r"://[^\s/:@\[\]<>{}$]{0,64}:([^\s/:@\[\]<>{}$*]{3,128})@(?=[\w.-])")
# the value is looked at, not consumed: it may hold the name of the next one, as links do
_ASSIGNED = re.compile(r"(:=|=>|[=:])[*]{0,2}[ \t]{0,3}([\"'`]?)(?=([^\s\"'`<>{}()\[\],;$|&]{6,200})(?![({\[<]))")
_LABEL = re.compile(
    r"(pass(?:word|wd|phrase|wort)|pwd|kennwort|secret|token|api[_-]?key|access[_-]?key)(?:[_-]?(?:access[_-]?)?key)?"
    r"[\"'`*\]]{0,3}[ \t]{0,3}$",
    re.I,
)
_WORDS = frozenset(("pass", "passwd", "password", "pwd", "secret", "token", "xxx"))
_DIFFERENT = 5
"""Fewest different signs of a secret: `xxxxxxxx` and `********` stand for one."""


def secrets(text: str) -> Spans:
    """Find keys of known form, private keys, and passwords and tokens behind their names or in addresses."""
    yield from _known_keys(text)
    for found in _IN_URL.finditer(text):
        if found[1].lower() not in _WORDS:
            yield found.span(1)
    for found in _ASSIGNED.finditer(text):
        value = found[3].rstrip(".:*_")
        label = _LABEL.search(text[max(0, found.start() - 40) : found.start()]) if re.search(r"\d", value) else None
        if label and _is_secret(value, name=label[1].lower(), loose=found[1] == ":" and not found[2]):
            yield found.start(3), found.start(3) + len(value)
    yield from _private_keys(text)


def _known_keys(text: str) -> Spans:
    for marker, pattern in _KEYS:
        for found in pattern.finditer(text) if marker in text else ():
            secret, before = found[0][len(marker) :], text[found.start() - 1 : found.start()]
            if not before.isalnum() and len(set(secret)) > _DIFFERENT and re.search(r"\d", secret):
                yield found.end() - len(secret) if marker == "Bearer " else found.start(), found.end()


def _is_secret(value: str, *, name: str, loose: bool) -> bool:
    """Tell a secret from a type, a variable, a date or a placeholder; `loose` is `name: value`, as in prose."""
    if len(value) < (8 if loose else 6) or len(set(value)) < _DIFFERENT or "://" in value:
        return False
    if name.startswith(("pass", "pwd", "kenn")) and not loose:
        return True
    return any(map(str.isalpha, value)) and not re.fullmatch(r"[a-z]+[._-]?\d{1,2}", value)


_KEY_BEGINS = re.compile(r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----")
_KEY_BODY = re.compile(r"(?:\s|\\[nr]|[>#*|])*(?:[A-Za-z0-9+/=]{16,}(?:\s|\\[nr]|[>#*|])*)+")
_LONGEST_KEY = 10_000
_SHORTEST_KEY = 32


def _private_keys(text: str) -> Spans:
    """Find private keys from their first line to their last, or as far as their body goes; not the mere mention."""
    end = 0
    for begins in _KEY_BEGINS.finditer(text) if "PRIVATE KEY" in text else ():
        if begins.start() < end:
            continue
        ends = text.find("-----END", begins.end(), begins.end() + _LONGEST_KEY)
        body = text[begins.end() : ends] if ends >= 0 else ""
        spaces = len(body) - len("".join(body.split()))
        # between two mentions stands prose, which has more spaces than a key
        if len(body) - spaces >= _SHORTEST_KEY and spaces * 10 < len(body) and "-----" not in body:
            last = text.find("-----", ends + 8, ends + 60)
            end = last + 5 if last >= 0 else ends
        else:
            run = _KEY_BODY.match(text, begins.end(), begins.end() + _LONGEST_KEY)
            if run is None or len(run[0]) < _SHORTEST_KEY:
                continue
            end = run.end()
        yield begins.start(), end


_USER = re.compile(
    r"(//|(?<=\w\w:)/)(?:[^/?#\s\"'<>]{0,300}"
    r"|[^/?#\s@:]{0,100}:(?!\d*(?:[/?#\s]|$))(?:[^\s\"'<>]|[\"'](?![,;:)\]}>\s])){0,300})@"
)  # a password may hold "/" or "#", or a quote that ends nothing; it ends somewhere, so that no text takes long.
# A path has one "/" of an address that was taken for one.
_NO_USER = r"(?:mailto|acct|sips?|xmpp):[^\s:@]{1,300}@|[^\s@]{1,400}@sha(?:256|384|512):"
"""A name that people are written to at, and the digest of an image."""
_BARE = re.compile(rf"(?<![^\s='\"])(?!{_NO_USER})[^\s/:@='\"<>]{{1,100}}:[^\s/@'\"<>]{{1,300}}@(?=[\w.\[-])", re.I)
_GIVEN = re.compile(r"([?&;#])([^=&;#\s\"'<>]{1,80})=([^&;#\s\"'<>]+)")
_TELLS = re.compile(r"key|token|secret|pass|pwd|auth|cred|sig|sas|jwt|session|^code$", re.I)
HIDDEN = "***"


def shown(text: str) -> str:
    """Return an address, or a text with some in it, without users, passwords and keys: `***` stands in their place."""
    text = _BARE.sub(f"{HIDDEN}@", _USER.sub(rf"\1{HIDDEN}@", text)) if "@" in text else text
    text = _GIVEN.sub(lambda one: f"{one[1]}{one[2]}={HIDDEN}" if _tells(one[2], one[3]) else one[0], text)
    kept = len(text)
    for begin, end in sorted(_known_keys(text), reverse=True):  # a later one may lie in an earlier one
        text, kept = text[:begin] + HIDDEN + text[min(end, kept) :].removeprefix(HIDDEN), begin
    return text


def _tells(name: str, value: str) -> bool:
    return bool(_TELLS.search(unquote(name))) or any(_known_keys(value))


def names_key(setting: str) -> bool:
    """Tell whether a setting that there is none of is called as people call what is secret; "max_token" is none."""
    called = r"(?:^|[\W_]|api)(?:keys?|passwo?r?d|pwd|secret|credentials?)$|(?:^|\W|(?:api|access|auth|hf)_)token$"
    return re.search(called, setting, re.I) is not None


_IN_PATH = re.compile(
    r"(?<![A-Za-z0-9_])(?=\w*\d)(?=\w*[a-z])(?=\w*[A-Z])[A-Za-z0-9_]{20,}"
    r"|(?<=/)(?:g?sk|[pr]k|hf)[-_](?=[\w-]*\d)[\w-]{8,}"
    r"|(?:(?<=/key/)|(?<=/token/)|(?<=/secret/)|(?<=/apikey/)|(?<=/api-key/)|(?<=/api_key/))[^/?#]{8,}"
)


def shown_address(address: str) -> str:
    """Return one address as `shown`, also where it has no scheme, or what looks like a key in its path.

    A part of a path looks like one if it has a key's known form, begins as one, stands behind the word, or is long
    and mixes capitals, small letters and digits. Ids of accounts and of deployments, which mix less, are told.
    """
    if "//" not in address and re.match(rf"[\"']?(?:{_NO_USER})", address, re.I):
        return shown(address)
    bare = "" if "//" in address else "//"
    whole = shown(_PASSWORD.sub(rf"\1{HIDDEN}@", bare + address))
    scheme, _, rest = whole.partition("//")
    host, slash, path = rest.partition("/")
    return f"{scheme}//{host}{_IN_PATH.sub(HIDDEN, slash + path)}".removeprefix(bare)


_PASSWORD = re.compile(r"(//|(?<=\w\w:)/)[^/?#\s@:]{0,100}:(?!\d*(?:[/?#\s]|$))[^\s@]{1,300}@")
_NO_PASSWORD = ("github://", "git://")
"""What has something else behind a colon: github://owner:repository@branch."""


def bears_key(address: str) -> bool:
    """Tell whether an address has a password, a key of known form, or a parameter that is one by its name.

    A user alone, as in sftp://me@host, is none, and neither is a container of Azure's.
    """
    if not address.startswith(_NO_PASSWORD) and _PASSWORD.search(address):
        return True
    return any(_known_keys(address)) or any(_tells(*one.group(2, 3)) for one in _GIVEN.finditer(address))


_WITH_PASSWORD = re.compile(
    r"(?<=\w\w:)(?<!github:)(?<!git:)//?(?!\[)[^/?#\s@:]{0,100}:(?!\d*(?:[/?#\s]|$))[^\s@]{1,300}@"
)


def bears_password(text: str) -> bool:
    """Tell whether an address in a text, which has its protocol before it, has a password."""
    return bool(_WITH_PASSWORD.search(text))


def each_address(given: ApiBase) -> tuple[str, ...]:
    """Return the addresses where one may be given, several, or none."""
    return (given,) if isinstance(given, str) else tuple(given or ())


def shown_addresses(given: ApiBase) -> str:
    """Return one or more addresses as `shown_address`, a comma between them."""
    return ", ".join(map(shown_address, each_address(given)))


def malformed(address: str) -> str | None:
    """Return why no server can be asked at an address, in words that go on from its name; None where one can be."""
    if not address.isprintable() or set(address) & set(" \\"):
        return "has signs in it that no address has"
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError as error:  # the host's brackets, or the port
        return f"is malformed ({error})"
    if parts.scheme not in ("http", "https"):
        return "begins with http:// or https://"
    return None if (parts.hostname or "").strip(".") else "names a host"


_TOLD: set[str] = set()


def tell_in_the_clear(address: str) -> None:
    """Warn, once an address, that a key which is sent there goes unencrypted over a network: http, and not loopback."""
    shown_so = shown_address(address)
    try:
        parts = urlsplit(address if "//" in address else f"//{address}", "http")
        host = (parts.hostname or "").removesuffix(".")
    except ValueError:  # it is refused elsewhere
        return
    if parts.scheme == "http" and host and not is_loopback(host) and shown_so not in _TOLD:
        _TOLD.add(shown_so)
        _LOG.warning("raft: the key goes to %s unencrypted, for all on the way to read: use https", shown_so)


def is_loopback(host: str) -> bool:
    """Tell whether a host's name or number means this machine alone; no name is looked up."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def masked(text: str) -> str:
    """Return a text with `[SECRET]` in the place of each secret, for messages."""
    kept, begin = [], 0
    for start, end in sorted(secrets(text)):
        if start >= begin:
            kept += [text[begin:start], "[SECRET]"]
        begin = max(begin, end)
    return "".join([*kept, text[begin:]])
