"""Generation on this machine: transformers in bfloat16, batched, sorted by length.

Equal calls in equal batches give equal replies: batches are composed of a whole window of calls, and sampling is
seeded by what is asked. What the prompts of a batch begin with (instructions, examples) is read once: with the
package's prompts that halves the time of a question.
"""

import copy
import hashlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any

from raft.backends import hub
from raft.backends.asking import Reply, without_system
from raft.backends.local.cpu_inference import read_alone
from raft.backends.local.weights import Weights
from raft.errors import RaftError
from raft.protocols import Failure, Message, Request
from raft.store import adapters
from raft.store.ledger import request_text

BATCH_TOKENS = {"cpu": 2048}
"""Tokens of a batch, padding included, by kind of device; two cores are busy with far fewer than a card."""
BATCH_TOKENS_ELSEWHERE = 16384
_ROWS = 256  # logits turned into float32 at a time: 50 MB with a vocabulary of 49,000
_OPENED = re.compile(r"<(think|thinking)>\s*\Z")
_Tokens = tuple[int, ...]
_Score = tuple[float, bool, int]


@dataclass(frozen=True)
class _Asked:
    """One pair as the model sees it: what it reads, and the tokens that it should predict at the end of it."""

    read: _Tokens
    wanted: _Tokens

    @property
    def places(self) -> range:
        """Positions in `read` whose logits predict `wanted`."""
        return range(len(self.read) - len(self.wanted), len(self.read))


def score(
    model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], *, batch_tokens: int | None = None
) -> list[tuple[float, bool, int]]:
    """Return log-likelihood, greediness and length of each continuation given its context.

    Text is cut into tokens as lm-evaluation-harness does (github.com/EleutherAI/lm-evaluation-harness): spaces that
    end a context belong to the continuation, context and continuation are encoded as one text, and what the context
    alone does not begin with is the continuation. No special tokens are added; a rendered chat brings its own. An empty
    context becomes the token that begins (or else ends) a text. What is longer than the model's window loses the
    beginning of its context.

    Args:
        model: a causal language model of transformers, with or without an adapter, in evaluation mode, on any device.
        tokenizer: its tokenizer.
        pairs: contexts and continuations. Their order does not change any figure.
        batch_tokens: most tokens of a batch, padding included; None for what suits the device.

    Returns:
        For each pair the sum of the log-probabilities of the continuation's tokens in nats, whether each of them is the
        most likely one, and their number; an empty continuation has 0.0, true and 0.

    Raises:
        RaftError: a continuation alone is longer than the model's window, or a context is empty and the tokenizer has
            no token that begins a text.
    """
    import torch

    asked = _encode(tokenizer, pairs, _window(model))
    hosts = _hosts({one.read for one in asked if one.wanted})
    most = batch_tokens or BATCH_TOKENS.get(model.device.type, BATCH_TOKENS_ELSEWHERE)
    guests: dict[_Tokens, list[int]] = {}
    for number, one in enumerate(asked):
        if one.wanted:
            guests.setdefault(hosts[one.read], []).append(number)
    scores: list[_Score] = [(0.0, True, 0)] * len(pairs)
    for batch in batches(guests, most):
        with torch.inference_mode():
            scored = _score_batch(model, batch, [[asked[number] for number in guests[row]] for row in batch])
        numbers = [number for row in batch for number in guests[row]]
        for number, found in zip(numbers, scored, strict=True):
            scores[number] = found
    return scores


def _window(model: Any) -> int | None:
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _encode(tokenizer: Any, pairs: Sequence[tuple[str, str]], window: int | None) -> list[_Asked]:
    if not pairs:
        return []
    parts = [_moved(context, continuation) for context, continuation in pairs]
    contexts = tokens(tokenizer, [context for context, _ in parts])
    control = _controls(tokenizer)
    wholes = tokens(tokenizer, [context + hub.spelled(continuation, control) for context, continuation in parts])
    return [_asked(tokenizer, *one, window) for one in zip(contexts, wholes, strict=True)]


def _moved(context: str, continuation: str) -> tuple[str, str]:
    """Move the spaces that end a context: a word's token begins with its space.

    Line ends stay where they are, unlike in the harness: templates of chats end with one.
    """
    kept = context.rstrip(" ")
    return (kept, context[len(kept) :] + continuation) if continuation else (context, continuation)


def tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the tokens of rendered chats and other texts; none reaches over a `hub.BREAK`, which has none itself."""
    parts = [text.split(hub.BREAK) for text in texts]
    flat = [part for text in parts for part in text]
    encoded = iter(tokenizer(flat, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"])
    return [[token for _ in text for token in next(encoded)] for text in parts]


def _asked(tokenizer: Any, context: list[int], whole: list[int], window: int | None) -> _Asked:
    """Cut a whole text where its context ends; a token that holds the end of one and the beginning of the other counts.

    The harness cuts at the length of the context, which is the same wherever the context's tokens begin the whole.
    """
    cut = next((place for place, (a, b) in enumerate(zip(context, whole, strict=False)) if a != b), len(context))
    wanted = tuple(whole[cut:])
    before = whole[:cut] or [_beginning(tokenizer)]
    if window is not None and len(wanted) > window:
        raise RaftError(
            f"A continuation has {len(wanted)} tokens, and the model reads {window} at most.",
            hint="score shorter continuations, or choose a model with a longer window",
        )
    read = [*before, *wanted][:-1] if wanted else before
    return _Asked(tuple(read[-window:] if window else read), wanted)


def _beginning(tokenizer: Any) -> int:
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise RaftError("A context is empty, and the tokenizer has no token that begins a text.", hint="give a context")


def _hosts(texts: set[_Tokens]) -> dict[_Tokens, _Tokens]:
    """Return for each text a longest one that begins with it: in a causal model, reading that one reads both."""
    hosts: dict[_Tokens, _Tokens] = {}
    after: _Tokens = ()
    for text in sorted(texts, reverse=True):  # where some text begins with this one, the next in order does
        hosts[text] = hosts[after] if after[: len(text)] == text else text
        after = text
    return hosts


def batches(rows: Mapping[_Tokens, Sequence[int]], most: int) -> Iterator[list[_Tokens]]:
    """Yield the rows, longest first, in batches of `most` tokens with their padding; a longer row comes alone."""
    batch: list[_Tokens] = []
    for row in sorted(rows, key=lambda row: (-len(row), row)):
        if batch and len(batch[0]) * (len(batch) + 1) > most:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _score_batch(model: Any, rows: list[_Tokens], asked: list[list[_Asked]]) -> list[_Score]:
    import torch

    needed = {(row, place) for row, guests in enumerate(asked) for one in guests for place in one.places}
    index = {spot: number for number, spot in enumerate(sorted(needed))}
    logits = _logits(model, rows, list(index))
    which: list[int] = []
    wanted: list[int] = []
    lengths: list[int] = []
    for row, guests in enumerate(asked):
        for one in guests:
            which += [index[row, place] for place in one.places]
            wanted += one.wanted
            lengths.append(len(one.wanted))
    likely = logits.argmax(-1)
    norms = torch.cat([part.float().logsumexp(-1) for part in logits.split(_ROWS)])
    spots = torch.tensor(which, device=logits.device)
    targets = torch.tensor(wanted, device=logits.device)
    chosen = (logits[spots, targets].float() - norms[spots]).tolist()
    greedy = (likely[spots] == targets).tolist()
    spans = [(end - length, end) for end, length in zip(accumulate(lengths), lengths, strict=True)]
    return [(sum(chosen[begin:end]), all(greedy[begin:end]), end - begin) for begin, end in spans]


def _logits(model: Any, rows: list[_Tokens], spots: list[tuple[int, int]]) -> Any:
    """Return the logits at some (row, position) as a tensor of shape (spots, vocabulary).

    Rows are padded on the right: no position attends to what follows it, so neither mask nor padding token matters.
    The positions are picked where hidden states enter the output layer, so that whatever a model does to them before
    and to the logits after (scaling, capping) is done.
    """
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row in rows], device=model.device)
    places = torch.tensor(spots).T

    def pick(_layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        row, position = places.to(inputs[0].device)
        return (inputs[0][row, position].unsqueeze(0), *inputs[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        return model(input_ids=ids, use_cache=False).logits[0]
    finally:
        hook.remove()


_WORTH_SHARING = 32
"""Fewest tokens of a common beginning that are read once for a batch; the prompts' examples are some hundreds."""


class LocalModel:
    """A causal language model from a folder or the hub, loaded when it is first asked.

    Args:
        name: a hub name, a folder, or an embedded default.
        batch: how many calls are answered together.
        adapter: the folder of an adapter of this model, or None for the model as it is.
        weights: the model's weights, where several share them.

    Raises:
        MissingExtra: transformers or torch is not installed.
        RaftError: there is no such model, or it is no causal language model.
    """

    WINDOWS = 8

    def __init__(self, name: str, *, batch: int, adapter: Path | None = None, weights: Weights | None = None) -> None:
        self.name = name
        self._batch, self._adapter, self._weights = batch, adapter, weights or Weights(name)
        self.window = batch * self.WINDOWS
        self.identity = f"{hub.identity(name)}:bfloat16" + (f"+{adapters.digest(adapter)}" if adapter else "")
        self._prefix: tuple[tuple[int, ...], Any] | None = None

    def answer(self, calls: Sequence[Request], wanted: Sequence[bool]) -> Iterator[list[tuple[int, Reply | Failure]]]:
        """Answer those `calls` that are `wanted`, a batch at a time, longest first."""
        model, tokenizer = self._weights.use(self._adapter)
        prompts = [render(tokenizer, call.messages) for call in calls]
        for batch in self._batches(prompts, wanted):
            for group in _alike(batch, calls):
                yield list(zip(group, self._generate(model, tokenizer, calls, prompts, group), strict=True))

    def batches(self, calls: Sequence[Request], wanted: Sequence[bool]) -> list[list[int]]:
        """Return the places of the calls that are answered together; each batch may be given to `answer` by itself."""
        tokenizer = self._weights.use(self._adapter)[1]
        return self._batches([render(tokenizer, call.messages) for call in calls], wanted)

    def _batches(self, prompts: Sequence[str], wanted: Sequence[bool]) -> list[list[int]]:
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), prompts[i]))
        parts = (order[begin : begin + self._batch] for begin in range(0, len(order), self._batch))
        return [batch for part in parts if (batch := [i for i in part if wanted[i]])]

    def stream(self, request: Request) -> Iterator[str]:
        """Yield the pieces of one reply while they are written; see `raft.protocols.Streamer`.

        Who stops listening stops the writing.
        """
        from threading import Event, Thread

        import torch
        from transformers import TextIteratorStreamer

        model, tokenizer = self._weights.use(self._adapter)
        ids = torch.tensor(tokens(tokenizer, [render(tokenizer, request.messages)]), device=model.device)
        pieces: Any = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        failed: list[BaseException] = []
        left = Event()

        def write() -> None:
            try:
                with torch.inference_mode():
                    model.generate(
                        input_ids=ids,
                        attention_mask=torch.ones_like(ids),
                        max_new_tokens=request.max_tokens,
                        do_sample=False,
                        pad_token_id=tokenizer.pad_token_id,
                        eos_token_id=ends(model, tokenizer) or None,
                        streamer=pieces,
                        stopping_criteria=[lambda ids, _: torch.full((len(ids),), left.is_set(), device=ids.device)],
                    )
            except BaseException as error:  # carried to the caller's thread
                failed.append(error)
                pieces.end()

        writer = Thread(target=write, daemon=True)
        writer.start()
        try:
            yield from filter(None, pieces)
        finally:
            left.set()
            writer.join()
        if failed:
            raise failed[0]

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool, int]]:
        """Score continuations; see `raft.protocols.Scorer`."""
        return score(*self._weights.use(self._adapter), pairs)

    def render(self, messages: Sequence[Message]) -> str:
        """Return a chat as the text that the model continues."""
        return render(self._weights.use(self._adapter)[1], messages)

    def _generate(
        self, model: Any, tokenizer: Any, calls: Sequence[Request], prompts: Sequence[str], group: Sequence[int]
    ) -> list[Reply]:
        import torch

        begun = time.monotonic()
        first = calls[group[0]]
        ids = tokens(tokenizer, [prompts[i] for i in group])
        shared = _shared(ids)
        sampling: dict[str, Any] = {"do_sample": False}
        if first.temperature > 0:
            sampling = {"do_sample": True, "temperature": first.temperature, "top_p": 0.95}
            torch.manual_seed(_seed([calls[i] for i in group]))
        width = max(map(len, ids))
        pads = [width - len(row) for row in ids]
        prefix = self._read(model, tuple(ids[0][:shared])) if shared else None
        cache = read_alone(model, ids, shared, prefix)
        if cache is None and prefix is not None:
            cache = copy.deepcopy(prefix)
            cache.batch_repeat_interleave(len(ids))
        else:
            shared = 0
        # Padding stands between what was read once for all and the rest, or else in front.
        full = [row[:shared] + [tokenizer.pad_token_id] * n + row[shared:] for row, n in zip(ids, pads, strict=True)]
        mask = [[1] * shared + [0] * n + [1] * (len(row) - shared) for row, n in zip(ids, pads, strict=True)]
        last = ends(model, tokenizer)
        with torch.inference_mode():
            tails = _written(
                model,
                torch.tensor(full, device=model.device),
                torch.tensor(mask, device=model.device),
                cache,
                ends={tokenizer.pad_token_id, *last},
                most=first.max_tokens,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=last or None,
                **sampling,
            )
        seconds = (time.monotonic() - begun) / len(group)
        replies = []
        for prompt, tail in zip(ids, tails, strict=True):
            written = list(takewhile(lambda token: token not in (tokenizer.pad_token_id, *last), tail))
            finish = "stop" if len(written) < first.max_tokens else "length"
            text = tokenizer.decode(written, skip_special_tokens=True)
            replies.append(Reply(text, finish, len(prompt), len(written), 0.0, seconds))
        return replies

    def _read(self, model: Any, prefix: tuple[int, ...]) -> Any:
        """Return keys and values of a prefix; the last one is read only once."""
        import torch
        from transformers import DynamicCache

        if self._prefix is None or self._prefix[0] != prefix:
            inputs = torch.tensor([prefix], device=model.device)
            with torch.inference_mode():
                output = model(inputs, use_cache=True, past_key_values=DynamicCache(config=model.config))
            self._prefix = prefix, output.past_key_values
        return self._prefix[1]


def render(tokenizer: Any, messages: Sequence[Message]) -> str:
    """Return a chat in the model's template, ready for its reply; a last assistant turn is continued.

    It is read by `tokens`: where a turn holds the model's control tokens, there are breaks in it.
    """
    unfinished = messages[-1]["role"] == "assistant"
    if tokenizer.chat_template is None:
        chat = hub.spelled_chat(messages, _controls(tokenizer))
        return "\n\n".join(message["content"] for message in chat) + ("" if unfinished else "\n\n")
    return in_template(tokenizer, messages, add_generation_prompt=not unfinished, continue_final_message=unfinished)


def in_template(tokenizer: Any, messages: Sequence[Message], **options: bool) -> str:
    """Return a chat in the model's template, to be read by `tokens`; options are those of `apply_chat_template`."""
    chat = messages if _takes_system(tokenizer, str(tokenizer.chat_template)) else without_system(messages)
    text = _apply(tokenizer, hub.spelled_chat(chat, _controls(tokenizer)), **options)
    opened = _OPENED.search(text) if options.get("add_generation_prompt") else None
    return f"{text}\n</{opened[1]}>\n\n" if opened else text


def in_text(tokenizer: Any, content: str) -> str:
    """Return what a turn says as `in_template` writes it."""
    return hub.spelled(content, _controls(tokenizer))


def _apply(tokenizer: Any, chat: Sequence[Message], **options: bool) -> str:
    return str(tokenizer.apply_chat_template(list(chat), tokenize=False, **hub.PLAINLY, **options))


@lru_cache(maxsize=8)
def _takes_system(tokenizer: Any, _template: str) -> bool:
    return hub.takes_system(lambda chat: _apply(tokenizer, chat))


@lru_cache(maxsize=8)
def _turn_ends(tokenizer: Any, template: str | None) -> frozenset[int]:
    """Return the control token that a template writes behind a reply; not every model's configuration names it."""
    if template is None:
        return frozenset()
    text = in_template(tokenizer, hub.TRIED)
    ids = tokens(tokenizer, [text[text.rindex(hub.TRIED[-1]["content"]) + len(hub.TRIED[-1]["content"]) :].lstrip()])[0]
    return frozenset(token for token in ids[:1] if token in tokenizer.added_tokens_decoder)


def ends(model: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end a reply: those of the model's configuration, and the end of a turn in its template."""
    end = model.generation_config.eos_token_id
    known = end if isinstance(end, list) else [end]
    return sorted({token for token in known if token is not None} | _turn_ends(tokenizer, tokenizer.chat_template))


def _controls(tokenizer: Any) -> re.Pattern[str] | None:
    return _controls_beside(tokenizer, str(tokenizer.chat_template or ""))


@lru_cache(maxsize=8)
def _controls_beside(tokenizer: Any, template: str) -> re.Pattern[str] | None:
    return hub.controls(tokenizer.added_tokens_decoder.values(), template)


def _alike(batch: Sequence[int], calls: Sequence[Request]) -> Iterable[list[int]]:
    groups: dict[tuple[int, float], list[int]] = {}
    for i in batch:
        groups.setdefault((calls[i].max_tokens, calls[i].temperature), []).append(i)
    return groups.values()


def _written(
    model: Any, ids: Any, mask: Any, cache: Any, *, ends: set[int | None], most: int, do_sample: bool, **options: Any
) -> list[list[int]]:
    """Return the tokens that follow each prompt, up to `most`, an end among them.

    Whenever half of the rows have ended the others go on without them: a row that has ended costs as much as one that
    has not. Rows that are sampled stay together, since otherwise random draws would fall to other rows.
    """
    import torch

    rows, tails = list(range(len(ids))), [[] for _ in ids]  # type: ignore[var-annotated]
    stops = torch.tensor(sorted(token for token in ends if token is not None), dtype=ids.dtype, device=ids.device)
    while True:
        width = ids.shape[1]

        def enough(so_far: Any, _: Any, width: int = width) -> Any:
            ended = torch.isin(so_far[:, width:], stops).any(1)
            return torch.full_like(ended, bool(2 * ended.sum() >= len(ended) > 1))

        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            max_new_tokens=most - len(tails[rows[0]]),
            do_sample=do_sample,
            stopping_criteria=[] if do_sample else [enough],
            return_dict_in_generate=True,
            **options,
        )
        for row, tokens in zip(rows, out.sequences[:, width:].tolist(), strict=True):
            tails[row] += tokens
        going = [place for place, row in enumerate(rows) if len(tails[row]) < most and ends.isdisjoint(tails[row])]
        if not going:
            return tails
        rows = [rows[place] for place in going]
        kept = torch.tensor(going, device=ids.device)
        ids, cache = out.sequences[kept], out.past_key_values
        try:
            cache.batch_select_indices(kept)
        except (AttributeError, NotImplementedError):  # of a kind whose rows cannot be told apart: read anew
            cache = None
        mask = torch.nn.functional.pad(mask[kept], (0, ids.shape[1] - width), value=1)


def _shared(ids: Sequence[Sequence[int]]) -> int:
    """Return how many tokens all prompts begin with, if it is worth the trouble; each keeps one of its own."""
    count, most = 0, min(map(len, ids)) - 1
    while count < most and all(row[count] == ids[0][count] for row in ids):
        count += 1
    return count if len(ids) > 1 and count >= _WORTH_SHARING else 0


def _seed(calls: Sequence[Request]) -> int:
    text = "\n".join(f"{request_text(call)}{call.sample}" for call in calls)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
