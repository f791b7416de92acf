"""OpenTelemetry spans of a server, off unless `raft serve --spans` is given: one of each question, one of its search.

What was sent away before it became a question (no key, a busy server, no request in OpenAI's form) has none.

Names are those of OpenTelemetry's conventions for generative AI (opentelemetry.io/docs/specs/semconv/gen-ai, which are
in development, so that they stand here alone); what they have no name for begins with `raft.`. No text of a question,
an answer or a document is in a span. Where the spans go is told by OpenTelemetry's own variables
(`OTEL_EXPORTER_OTLP_ENDPOINT`, ...), and a request's `traceparent` is the parent of its span.
"""

# ruff: noqa: PLC0415  OpenTelemetry is imported where spans are wanted

import time
from collections.abc import Mapping
from threading import Thread
from typing import Any, Protocol

from raft.errors import UsageError
from raft.serving import openai
from raft.serving.engine import Answered
from raft.version import __version__

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL, REQUEST_STREAM = "gen_ai.request.model", "gen_ai.request.stream"
RESPONSE_ID, RESPONSE_MODEL = "gen_ai.response.id", "gen_ai.response.model"
INPUT_TOKENS, OUTPUT_TOKENS = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
DATA_SOURCE = "gen_ai.data_source.id"
ERROR = "error.type"
_PATIENCE = 3.0  # seconds in which what is left is sent at the end
_PARENT = ("traceparent", "tracestate")
_SECOND = 1_000_000_000  # nanoseconds, in which OpenTelemetry counts


class Exchange(Protocol):
    """A request that has ended.

    Attributes:
        asked: what was asked.
        reply: the reply to it.
        headers: of the request; `traceparent` and `tracestate` of them count.
        begun: when it was taken on, in seconds of `time.monotonic`.
    """

    asked: openai.Asked
    reply: openai.Reply
    headers: Mapping[str, str]
    begun: float


class Spans:
    """Where a server's spans go.

    Args:
        provider: an `opentelemetry.sdk.trace.TracerProvider`; None: one that exports by OTLP over gRPC.

    Raises:
        UsageError: OpenTelemetry is not installed.
    """

    def __init__(self, provider: Any = None) -> None:
        try:
            from opentelemetry import propagate, trace
        except ImportError:
            raise _missing() from None
        self._trace, self._propagate = trace, propagate
        self._provider = provider or _exporting()
        self._tracer = self._provider.get_tracer("raft", __version__)

    def ended(self, exchange: Exchange, model: str, outcome: str, answered: Answered | None) -> None:
        """Tell of a request that ends now.

        Args:
            exchange: the request.
            model: what the system is called.
            outcome: "answered", or why not (`metrics.Metrics`).
            answered: the answer, None without one.
        """
        end = time.time_ns()
        begun = end - int((time.monotonic() - exchange.begun) * _SECOND)
        facts: dict[str, Any] = {OPERATION: "chat", PROVIDER: "raft", REQUEST_MODEL: model}
        facts |= {REQUEST_STREAM: exchange.asked.streamed, RESPONSE_ID: exchange.reply.id}
        facts |= _answered(answered) if answered else {ERROR: outcome}
        parent = self._propagate.extract({name: exchange.headers[name] for name in _PARENT if name in exchange.headers})
        span = self._tracer.start_span(
            f"chat {model}", parent, self._trace.SpanKind.SERVER, attributes=facts, start_time=begun
        )
        if answered:
            self._searched(answered, end, self._trace.set_span_in_context(span))
        else:
            span.set_status(self._trace.StatusCode.ERROR, outcome)
        span.end(end)

    def _searched(self, answered: Answered, end: int, parent: Any) -> None:
        """Tell of the search of an answer, which ended when its writing began."""
        seconds = answered.answer.seconds
        until = end - int(sum(taken for part, taken in seconds.items() if part != "retrieval") * _SECOND)
        facts: dict[str, Any] = {OPERATION: "retrieval", PROVIDER: "raft", DATA_SOURCE: answered.source.index}
        facts["raft.passages"] = len(answered.answer.passages)
        kind, begun = self._trace.SpanKind.INTERNAL, until - int(seconds.get("retrieval", 0.0) * _SECOND)
        self._tracer.start_span("retrieval", parent, kind, attributes=facts, start_time=begun).end(until)

    def close(self) -> None:
        """Send what is left, for a few seconds: where nothing listens, OpenTelemetry goes on trying for longer."""
        ending = Thread(target=self._provider.shutdown, name="raft-spans", daemon=True)
        ending.start()
        ending.join(_PATIENCE)


def _answered(answered: Answered) -> dict[str, Any]:
    answer, source = answered.answer, answered.source
    known = {
        RESPONSE_MODEL: answer.model,
        INPUT_TOKENS: answer.tokens.get("input"),
        OUTPUT_TOKENS: answer.tokens.get("output"),
        DATA_SOURCE: source.index,
        "raft.adapter": source.adapter_digest,
        "raft.system": source.system,
        "raft.version": source.version,
        "raft.arm": answered.arm,
        "raft.supported": answer.supported,
        "raft.abstained": answer.abstained,
        "raft.waited": answered.waited,
        "raft.cost": answer.cost,
    }
    return {name: value for name, value in known.items() if value is not None}


def _exporting() -> Any:
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise _missing() from None
    named = Resource.create({SERVICE_NAME: "raft"}).merge(OTELResourceDetector().detect())  # a user's name counts
    provider = TracerProvider(resource=named, shutdown_on_exit=False)  # the server ends it, and not for long
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _missing() -> UsageError:
    return UsageError(
        "OpenTelemetry is not installed.",
        where="--spans",
        hint="pip install 'raft-pipeline[spans]', or leave --spans out",
    )
