"""How likely a causal language model finds a text: log-likelihoods, with as little computed as can be.

Only the logits that predict a continuation are computed (a vocabulary of 49,000 makes them a third of the work of a
small model), and texts that differ in their last token alone, such as the labels of a classification, are read once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from raft.errors import RaftError

BATCH_TOKENS = {"cpu": 2048}
"""Tokens of a batch, padding included, by kind of device; two cores are busy with far fewer than a card."""
BATCH_TOKENS_ELSEWHERE = 16384
_ROWS = 256  # logits turned into float32 at a time: 50 MB with a vocabulary of 49,000
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
    for batch in _batches(guests, most):
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
    contexts = _tokens(tokenizer, [context for context, _ in parts])
    wholes = _tokens(tokenizer, [context + continuation for context, continuation in parts])
    return [_asked(tokenizer, *one, window) for one in zip(contexts, wholes, strict=True)]


def _moved(context: str, continuation: str) -> tuple[str, str]:
    """Move the spaces that end a context: a word's token begins with its space.

    Line ends stay where they are, unlike in the harness: templates of chats end with one.
    """
    kept = context.rstrip(" ")
    return (kept, context[len(kept) :] + continuation) if continuation else (context, continuation)


def _tokens(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    return list(encoded["input_ids"])


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


def _batches(rows: dict[_Tokens, list[int]], most: int) -> Iterator[list[_Tokens]]:
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
    """Return the scores of all that is asked of the rows, row by row."""
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
    likely, norms = [], []
    for part in logits.split(_ROWS):
        likely.append(part.argmax(-1))
        norms.append(part.float().logsumexp(-1))
    spots = torch.tensor(which, device=logits.device)
    targets = torch.tensor(wanted, device=logits.device)
    chosen = (logits[spots, targets].float() - torch.cat(norms)[spots]).tolist()
    greedy = (torch.cat(likely)[spots] == targets).tolist()
    ends = list(accumulate(lengths))
    spans = [(end - length, end) for end, length in zip(ends, lengths, strict=True)]
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
