"""Embedders: sentence-transformers on this machine, or a hosted model through litellm."""

import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from raft.backends import hub
from raft.backends.hosted.endpoints import Standing, Tally
from raft.backends.hosted.errors import AccessDenied, Fault, RateLimited, Transient
from raft.backends.hosted.litellm import was_sent
from raft.backends.hosted.openai_http import retry_after
from raft.backends.hosted.providers import identities_of, price_list, whole_address
from raft.backends.hub import HostedTokenizer, LocalTokenizer
from raft.backends.vendors import import_litellm, quiet
from raft.errors import MissingExtra, RaftError, typed
from raft.protocols import Embedder, Tokenizer
from raft.text import secrets
from raft.text.secrets import ApiBase, each_address, shown_address, shown_addresses

_UNKNOWN_LIMIT = 512
"""Tokens that a text may have when nothing says how many the model takes; all common embedders take as many."""


def open_embedder(name: str, api_base: ApiBase = None, *, known_as: Sequence[str] = ()) -> Embedder:
    """Return the embedder of a folder, a hub name or `provider/name`; nothing heavy is loaded until texts are embedded.

    Raises:
        UsageError: there is no such model.
    """
    hosted = hub.is_hosted(name)
    return HostedEmbedder(name, api_base=api_base, known_as=known_as) if hosted else SentenceEmbedder(name)


class SentenceEmbedder:
    """A sentence-transformers model on this machine, by folder or hub name, loaded when it first embeds.

    Raises:
        UsageError: there is no such model.
    """

    def __init__(self, name: str, *, batch: int = 32) -> None:
        self._name, self._batch = name, batch
        tokenizer = LocalTokenizer(name)
        self.tokenizer: Tokenizer = tokenizer
        self._limit = _length_limit(name)
        self.max_tokens = self._limit - tokenizer.special_tokens
        self.identity = hub.identity(name)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return a float32 array of shape (len(texts), dimensions) whose rows have length 1.

        Raises:
            MissingExtra: sentence-transformers is not installed.
            UsageError: the model's weights are not to be had.
        """
        vectors = self._model.encode(
            list(texts),
            batch_size=self._batch,
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=True,
        )
        return np.asarray(vectors, dtype=np.float32).reshape(len(texts), -1 if texts else self._dimensions)

    def load(self) -> Any:
        """Return the SentenceTransformer itself.

        Raises:
            MissingExtra: sentence-transformers is not installed.
            UsageError: the model's weights are not to be had.
        """
        return self._model

    @property
    def _dimensions(self) -> int:
        return int(self._model.get_embedding_dimension())

    @cached_property
    def _model(self) -> Any:
        quiet()
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            missing = error.name or "sentence_transformers"
            raise MissingExtra(missing, extra="local", why=f"to embed with {self._name} on this machine") from None
        where = hub.resolve(self._name)
        try:
            model = SentenceTransformer(where, revision=hub.revision(where))
        except OSError as error:
            raise hub.unknown_model(self._name, error) from None
        model.max_seq_length = self._limit
        return model


class HostedEmbedder:
    """A model `provider/name` behind an API, asked through litellm; transient errors are retried here and nowhere else.

    Args:
        name: `provider/name`; the provider's key is read from its usual environment variable.
        api_base: address of a self-hosted endpoint, or of several that embed the same.
        known_as: addresses that it has in keys of vectors, as `store.ledger.known_as` says; none: the given ones.
        batch: texts in one request, and so what is paid for and kept before the next one (`window`).
        attempts: how often a request is sent before it fails.
        timeout: seconds that one request may take.

    Attributes:
        identities: names that vectors are looked for under; they are kept under the first, its `identity`.
        tallies: what became of the calls, an endpoint each.
        each_try: sends what it is given, for these texts; whoever pays for each try puts something else here. An error
            with a false `billed` was not charged for.
    """

    def __init__(
        self,
        name: str,
        *,
        api_base: ApiBase = None,
        known_as: Sequence[str] = (),
        batch: int = 128,
        attempts: int = 5,
        timeout: float = 60.0,
    ) -> None:
        self.name, self.window = name, batch
        self.identities = identities_of(name, known_as or api_base)
        self.identity = self.identities[0]
        self.tokenizer: Tokenizer = HostedTokenizer(name)
        self.max_tokens = _hosted_limit(name)
        self._api_base, self._attempts, self._timeout = api_base, attempts, timeout
        self.tallies = tuple(Tally(shown_address(one or name)) for one in each_address(api_base) or ("",))
        self._endpoints = list(zip(each_address(api_base) or (None,), map(Standing, self.tallies), strict=True))
        self.each_try: Callable[[Sequence[str], Callable[[], Any]], Any] = lambda texts, send: send()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return a float32 array of shape (len(texts), dimensions) whose rows have length 1.

        Raises:
            RaftError: the provider refuses (key, model, request), or stays out of reach.
        """
        rows: list[list[float]] = []
        for start in range(0, len(texts), self.window):
            rows += self._ask(list(texts[start : start + self.window]))
        vectors = np.asarray(rows, dtype=np.float32).reshape(len(texts), -1 if texts else 0)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.all(lengths > 0) or not np.all(np.isfinite(lengths)):
            hint = "give another --embedder, and run the same command: what was embedded by this one is kept"
            raise RaftError("The provider sent a vector without a direction.", where=self.identity, hint=hint)
        unit: np.ndarray = vectors / lengths
        return unit

    def _ask(self, texts: list[str]) -> list[list[float]]:
        from openai import OpenAIError
        from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

        retrying = Retrying(
            retry=retry_if_exception(_is_transient),
            wait=wait_exponential_jitter(initial=0.5, max=20, jitter=0.5),
            stop=stop_after_attempt(self._attempts),
            reraise=True,
        )
        try:
            reply = retrying(self._tried, texts)
        except OpenAIError as error:
            raise _refusal(self.identity, error, self._api_base) from None
        vectors = [item["embedding"] for item in sorted(reply.data, key=lambda item: int(item["index"]))]
        if len(vectors) != len(texts):
            raise RaftError(
                f"The provider sent {len(vectors)} vectors for {len(texts)} texts.",
                where=self.identity,
                hint="check that the endpoint serves an embedding model",
            )
        return vectors

    def _tried(self, texts: list[str]) -> Any:
        """Try texts once: at one endpoint after the other, as long as any is left that has not failed and is well."""
        failed: set[int] = set()
        while True:
            place = self._choice(failed)
            address, standing = self._endpoints[place]
            begun, single = time.monotonic(), standing.take()
            try:
                reply = self.each_try(texts, partial(self._send, texts, address))
            except Exception as error:
                fault = _fault_of(error)
                failed.add(place)
                if fault is None:
                    standing.drop(single=single)
                    raise
                standing.fail(time.monotonic(), begun, fault, single=single)
                left = [one for number, (_, one) in enumerate(self._endpoints) if number not in failed]
                denied = isinstance(fault, AccessDenied)
                if not any(one.well or (denied and not one.denied) for one in left):
                    raise
                continue
            standing.answer(time.monotonic(), single=single)
            standing.tally.answered += 1
            return reply

    def _choice(self, failed: set[int]) -> int:
        """Return the number of the endpoint to ask: one that is well, used longest ago, or the first to be so again."""
        now = time.monotonic()

        def rank(number: int) -> tuple[bool, float, bool, int]:
            standing = self._endpoints[number][1]
            return standing.denied, standing.wait(now), number in failed, standing.tally.used

        return min(range(len(self._endpoints)), key=rank)

    def _send(self, texts: list[str], address: str | None) -> Any:
        from openai import OpenAIError

        try:
            return import_litellm().embedding(
                model=self.name,
                input=texts,
                api_base=whole_address(self.name, address),
                timeout=self._timeout,
                encoding_format="float",
                drop_params=True,
                num_retries=0,
                max_retries=0,
            )
        except OpenAIError as error:
            status = getattr(error, "status_code", None) or 0
            error.billed = was_sent(error) and (status == 408 or not 400 <= status < 500)  # type: ignore[attr-defined]
            raise


def _fault_of(error: Exception) -> Fault | None:
    """Return what an error says of the endpoint; None where it is about the request."""
    from litellm import exceptions as of

    words = secrets.masked(str(error))
    if isinstance(error, of.AuthenticationError | of.PermissionDeniedError | of.NotFoundError):
        return AccessDenied(words)
    if isinstance(error, of.RateLimitError):
        headers = getattr(getattr(error, "response", None), "headers", None) or {}
        return RateLimited(words, retry_after=retry_after(headers, words))
    return Transient(words, billed=False, reached=was_sent(error)) if _is_transient(error) else None


def _is_transient(error: BaseException) -> bool:
    from litellm import exceptions as of

    away = of.APIConnectionError | of.BadGatewayError | of.InternalServerError | of.ServiceUnavailableError | of.Timeout
    return isinstance(error, away | of.RateLimitError) and "insufficient_quota" not in str(error)


def _refusal(identity: str, error: Exception, api_base: ApiBase) -> RaftError:
    """The provider's own words, with the next thing to try."""
    from litellm import exceptions

    given = shown_addresses(api_base) or "http://127.0.0.1:8000/v1"
    address = f"--set {typed(f'index.api_base=[{given}]') if ', ' in given else f'index.api_base={given}'}"
    words = secrets.masked(secrets.shown(str(error).strip().partition("\n")[0]))[:500]
    if isinstance(error, exceptions.AuthenticationError | exceptions.PermissionDeniedError):
        what, hint = "The provider refuses the key", "set the provider's key in its environment variable"
    elif isinstance(error, exceptions.NotFoundError | exceptions.BadRequestError):
        what = "The provider refuses the request"
        hint = f"check index.embedder, which is written provider/name, and its address: {address}"
    else:
        what, hint = "The provider does not answer", "run the same command again later: what is done stays done"
        hint = f"check its address, {address}, or {hint}" if api_base else hint
    return RaftError(f"{what}: {words}", where=identity, hint=hint)


def _length_limit(name: str) -> int:
    """Tokens of one input, special tokens included, from the model's files alone.

    Sentence-transformers' own setting wins; without one it takes the smaller of what tokenizer and network allow.
    """
    own = hub.model_json(name, "sentence_bert_config.json").get("max_seq_length")
    if own:
        return int(own)
    limits = (
        hub.model_json(name, "tokenizer_config.json").get("model_max_length"),
        hub.model_json(name, "config.json").get("max_position_embeddings"),
    )
    return min((int(limit) for limit in limits if limit), default=_UNKNOWN_LIMIT)


def _hosted_limit(name: str) -> int:
    entry = price_list().get(name) or price_list().get(name.partition("/")[2]) or {}
    return int(entry.get("max_input_tokens") or _UNKNOWN_LIMIT)
