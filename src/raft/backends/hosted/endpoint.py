"""Asking a server of raft's (`raft serve`) as its users do: one request a connection, patiently where it is busy."""

import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from queue import SimpleQueue
from threading import Thread, Timer
from typing import Any
from urllib.parse import urlsplit

from raft.errors import NotMeasured, UsageError
from raft.text import from_json
from raft.text.secrets import shown_address, tell_in_the_clear

URL = "http://127.0.0.1:8080/v1"
"""Where a server listens that nothing else is said of."""
AT_ONCE = 4
"""Questions in flight: users ask the same server."""
_SECONDS = 180.0  # a server itself gives up after two minutes
_TRIES = 4
_WAIT_AT_MOST = 30.0
_LARGEST = 16 << 20
_LONGEST = 4_096  # characters of a version, a digest or a model's name
_AGAIN = (408, 409, 429, 500, 502, 503, 504)


class Endpoint:
    """A server's address, and the key for it.

    Args:
        url: such as http://127.0.0.1:8080/v1.
        key: sent as `Authorization: Bearer KEY`; nothing else is told of it, but that it goes over http where it does.
            None: nobody asks for one.
        mend: commands by what they mend: "run" (nothing listens), "key" (a key is needed).
        wait: waits so many seconds before another try.

    Raises:
        UsageError: it is no address.
    """

    def __init__(
        self, url: str, key: str | None, *, mend: Mapping[str, str], wait: Callable[[float], object] = time.sleep
    ) -> None:
        self.shown = shown_address(url)
        try:
            place = urlsplit(url)
            self._host, self._port, self._secure = place.hostname, place.port, place.scheme == "https"
        except ValueError:
            place = urlsplit("")
            self._host = None
        if place.scheme not in ("http", "https") or not self._host or place.username or place.query:
            bare = re.fullmatch(r"([\w.-]+(?::\d{1,5})?)(?:/v1)?/?", url)  # its scheme was left out
            hint = f"--url http://{bare[1] if bare else '127.0.0.1:8080'}/v1   (where raft serve says that it listens)"
            raise UsageError("That is no address of a server.", where=f"--url {self.shown}", hint=hint)
        path = place.path.rstrip("/")
        self._path = path if path.endswith("/v1") else f"{path}/v1"
        self._key, self._mend, self._wait = key, mend, wait
        if key:
            tell_in_the_clear(url)

    def models(self) -> list[dict[str, Any]]:
        """Return the models that there are, each with its object `raft`.

        Raises:
            NotMeasured: nothing answers, a key is needed, or no server of raft's is there.
        """
        reply = self._patiently("GET", "/models")
        listed = reply.get("data")
        if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
            raise self._no_raft()
        found = [one for one in listed if isinstance(one.get("id"), str) and _is_told(one.get("raft"))]
        if not found:
            raise self._no_raft()
        return found

    def ask_all(self, model: str, questions: Iterable[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
        """Yield the number of each question, as they are answered, with the reply, or why there is none.

        They say that they are probes, so that production answers, and nobody takes them for users.

        Raises:
            NotMeasured: nothing answers any more, or a key is needed.
        """
        asked, said = list(questions), SimpleQueue[tuple[int, dict[str, Any] | str | BaseException]]()

        def ask(place: int) -> None:
            try:
                said.put((place, self._ask(model, asked[place])))
            except BaseException as error:
                said.put((place, error))

        for start in range(0, len(asked), AT_ONCE):
            some = range(start, min(start + AT_ONCE, len(asked)))
            for place in some:  # who is stopped does not wait for what is under way
                Thread(target=ask, args=(place,), name="raft-monitor", daemon=True).start()
            for _ in some:
                place, reply = said.get()
                if isinstance(reply, BaseException):
                    raise reply
                yield place, reply

    def _ask(self, model: str, question: str) -> dict[str, Any] | str:
        body = {"model": model, "messages": [{"role": "user", "content": question}], "raft": {"probe": True}}
        try:
            reply = self._patiently("POST", "/chat/completions", body)
            message, told = reply["choices"][0]["message"]["content"], reply["raft"]
            if not isinstance(message, str) or not isinstance(told, dict):
                raise TypeError
            return {"answer": message, "raft": told}
        except _Status as error:
            return str(error)
        except (KeyError, IndexError, TypeError, ValueError):
            return "the reply is not of raft's form"

    def _patiently(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        for left in reversed(range(_TRIES)):
            try:
                return self._sent(method, path, body)
            except _Status as error:
                if error.status in (401, 403):
                    raise NotMeasured(str(error), where=self.shown, hint=self._mend["key"]) from None
                if not left or error.status not in _AGAIN:
                    if method == "GET":
                        raise self._no_raft(str(error)) from None
                    raise
                self._wait(min(_WAIT_AT_MOST, error.after or 2.0 ** (_TRIES - left - 1)))
            except (OSError, http.client.HTTPException) as error:
                if not left or method == "GET":
                    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
                    raise NotMeasured(
                        f"Nothing answers there: {why}.", where=self.shown, hint=self._mend["run"]
                    ) from None
                self._wait(2.0 ** (_TRIES - left - 1))
        raise AssertionError

    def _sent(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        assert self._host is not None
        made: http.client.HTTPConnection
        if self._secure:
            made = http.client.HTTPSConnection(
                self._host, self._port, timeout=_SECONDS, context=ssl.create_default_context()
            )
        else:
            made = http.client.HTTPConnection(self._host, self._port, timeout=_SECONDS)
        headers = {"Accept": "application/json", "User-Agent": "raft-monitor"}
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        headers |= {"Content-Type": "application/json"} if body is not None else {}
        with closing(made), _in_time(made):
            made.request(method, self._path + path, None if body is None else json.dumps(body), headers)
            answer = made.getresponse()
            text = answer.read(_LARGEST)
        try:
            value = from_json(text)
        except ValueError:
            value = None
        if answer.status != 200:
            said = value.get("error") if isinstance(value, dict) else None
            why = said.get("message") if isinstance(said, dict) else answer.reason
            raise _Status(answer.status, str(why)[:300], answer.headers.get("Retry-After"))
        if not isinstance(value, dict):
            raise self._no_raft()
        return value

    def _no_raft(self, why: str = "") -> NotMeasured:
        told = f" ({why})" if why else ""
        what = f"What answers there is no server of raft's, or one of before raft told which version answers{told}."
        return NotMeasured(what, where=self.shown, hint=self._mend["run"])


def _is_told(raft: Any) -> bool:
    """Tell whether an object `raft` names what answers in texts, as a server of raft's does: they are kept for good."""
    names = ("version", "adapter_digest", "index", "model")
    return isinstance(raft, dict) and all(
        isinstance(raft.get(name, ""), str | None) and len(raft.get(name) or "") <= _LONGEST for name in names
    )


@contextmanager
def _in_time(made: http.client.HTTPConnection) -> Iterator[None]:
    """Connect, and hang up on whoever takes longer than `_SECONDS` for all, however steadily it drips."""
    made.connect()
    line = made.sock  # which a reply to be ended by hanging up takes from the connection

    def hang_up() -> None:
        with suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)

    timer = Timer(_SECONDS, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class _Status(Exception):
    """An answer that is none: its status, and for how many seconds the server asks to wait."""

    def __init__(self, status: int, why: str, after: str | None) -> None:
        super().__init__(f"it answers {status}: {why}")
        self.status = status
        self.after = float(after) if after and re.fullmatch(r"[0-9]{1,9}", after) else None
