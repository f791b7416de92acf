"""A local or hosted model asked one question at a time, with no memory: what latency is measured with."""

from collections.abc import Iterable, Iterator

from raft.backends.asking import Model, Reply, entry_of, judge
from raft.backends.flight import Call
from raft.backends.hosted import HostedModel
from raft.ledger import Entry, request_key
from raft.protocols import Completion, Failure, Request
from raft.spending import Purse


class FreshGenerator:
    """A `Generator` that asks anew each time, one request after the other; nothing is looked up.

    Args:
        model: what answers.
        purse: what calls to a hosted model are paid from.
    """

    def __init__(self, model: Model, purse: Purse | None = None) -> None:
        self._model, self._purse = model, purse
        self.identity = model.identity

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion | Failure]:
        """Yield one outcome a request; the next one is taken only then. Connections stay open until the last.

        Raises:
            CapReached: the next call could pass the cap.
            RaftError: the endpoint stays away, or refuses all requests.
        """
        if self._purse is not None and isinstance(self._model, HostedModel):
            yield from self._flown(self._model, self._purse, requests)
            return
        for request in requests:
            for batch in self._model.answer([request], [True]):
                for _, reply in batch:
                    if isinstance(reply, Reply):
                        yield self._judged(request, entry_of(reply, "", request, attempt=0, model=self._model.name))
                    else:
                        yield reply

    def _flown(self, model: HostedModel, purse: Purse, requests: Iterable[Request]) -> Iterator[Completion | Failure]:
        with model.flight(purse) as flight:
            try:
                for request in requests:
                    flight.submit(Call(request_key(request, self.identity, 0), request, 0))
                    for _, outcome in flight.collect():
                        yield self._judged(request, outcome)
            except BaseException:
                flight.drain()  # it is being paid for
                raise

    def _judged(self, request: Request, outcome: Entry | Failure) -> Completion | Failure:
        return judge(request, outcome, False, attempt=0, model=self._model.name)
