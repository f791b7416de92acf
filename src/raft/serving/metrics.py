"""What a server counts, in the text format that Prometheus reads."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from raft.serving.engine import Answered

TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)


class Metrics:
    """The counts of one server.

    Outcomes of requests are answered, invalid (no request that can be honoured, or no right to ask), busy (sent away),
    late (not answered in time), failed and gone (the caller hung up).
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own: dict[str, Any] = {"namespace": "raft", "registry": self._registry}
        self._requests = Counter("requests", "Requests for an answer, by outcome.", ["outcome"], **own)
        self._seconds = Histogram("seconds", "Seconds of an answer, by part.", ["part"], buckets=_SECONDS, **own)
        self._tokens = Counter("tokens", "Tokens that models read (input) and wrote (output).", ["kind"], **own)
        who = ["arm", "version"]
        self._answers = Counter("answers", "Answers, by who gave them.", who, **own)
        self._abstentions = Counter("abstentions", "Answers that say that the documents do not answer.", who, **own)
        self._unsupported = Counter("unsupported_answers", "Answers that no document supports.", who, **own)
        self._cost = Counter("cost_dollars", "Dollars that answers cost.", **own)
        self._waiting = Gauge("waiting", "Questions that wait for the model.", **own)
        self._refreshed = Counter("refreshes", "Finished builds that were taken over.", **own)

    def ended(self, outcome: str) -> None:
        """Count a request that has come to an end."""
        self._requests.labels(outcome).inc()

    def answered(self, answered: Answered) -> None:
        """Count an answer."""
        answer, who = answered.answer, (answered.arm, answered.source.version)
        for part, seconds in {"queue": answered.waited, **answer.seconds}.items():
            self._seconds.labels(part).observe(seconds)
        for kind, count in answer.tokens.items():
            self._tokens.labels(kind).inc(max(0, count))
        self._cost.inc(answer.cost or 0)
        self._answers.labels(*who).inc()
        self._abstentions.labels(*who).inc(answer.abstained)
        self._unsupported.labels(*who).inc(answer.supported is False)

    def refreshed(self) -> None:
        """Count a build that was taken over."""
        self._refreshed.inc()

    def text(self, waiting: int) -> bytes:
        """Return all counts; `waiting` questions wait now."""
        self._waiting.set(waiting)
        return generate_latest(self._registry)
