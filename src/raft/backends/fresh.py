"""A local or hosted model asked one question at a time, with no memory: what latency is measured with."""

from collections.abc import Iterable, Iterator

from raft.backends.asking import Model, Reply, without_thoughts
from raft.protocols import Completion, Failure, Request


class FreshGenerator:
    """A `Generator` that asks anew each time, one request after the other; nothing is looked up or kept.

    Args:
        model: what answers.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self.identity = model.identity

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion | Failure]:
        """Yield one outcome a request."""
        for request in requests:
            for batch in self._model.answer([request], [True]):
                for _, reply in batch:
                    yield self._outcome(reply)

    def _outcome(self, reply: Reply | Failure) -> Completion | Failure:
        if isinstance(reply, Failure):
            return reply
        return Completion(
            text=without_thoughts(reply.text),
            model=self._model.name,
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            cost=reply.cost,
            seconds=reply.seconds,
            finish_reason=reply.finish_reason,
        )
