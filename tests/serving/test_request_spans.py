"""Spans: what a server tells of a request, in the names of OpenTelemetry's conventions, without a word of its text."""

import threading
from dataclasses import replace

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

from raft.serving import spans
from raft.serving.spans import Spans
from served import Served, Source

GOOD = {"model": "raft", "messages": [{"role": "user", "content": "How long may a parcel be returned?"}]}
PARENT = {"Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


class Quick(Source):
    """Says that it took less time than any request does."""

    def _answer(self, question):
        return replace(super()._answer(question), seconds={"retrieval": 1e-5, "generation": 2e-5})


@pytest.fixture
def told():
    """What tells, and what it has told."""
    found, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    telling = Spans(provider)
    yield telling, found
    telling.close()


def test_an_answer_is_a_span_with_its_search_in_it(told):
    """Model, tokens, index, version and outcome are told; the search is a part of it; no text is."""
    telling, found = told
    with Served(Quick(), spans=telling) as served:
        reply = served.chat("How long may a parcel be returned?", stream=True)[-1]
        status, _, _ = served.ask("/v1/chat/completions", GOOD, headers=PARENT)
    assert status == 200
    search, chat, *_, last = found.get_finished_spans()
    assert (chat.name, chat.kind.name, chat.status.status_code.name) == ("chat handbook", "SERVER", "UNSET")
    assert search.parent.span_id == chat.context.span_id and search.name == "retrieval"
    assert chat.start_time <= search.start_time <= search.end_time <= chat.end_time
    assert search.end_time - search.start_time == pytest.approx(1e4, rel=1e-3)
    known = dict(chat.attributes)
    assert (known["gen_ai.operation.name"], known["gen_ai.response.id"]) == ("chat", reply["id"])
    assert (known["gen_ai.usage.output_tokens"], known["gen_ai.request.stream"]) == (9, True)
    assert (known["gen_ai.data_source.id"], known["raft.adapter"], known["raft.arm"]) == (
        *("a" * 64, "f" * 64),
        "production",
    )
    assert "error.type" not in known and chat.parent is None
    assert f"{last.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{last.parent.span_id:016x}" == "b7ad6b7169203331"
    text = "".join(span.to_json() for span in found.get_finished_spans())
    assert "parcel" not in text and "30 days" not in text and "home page" not in text


def test_a_request_without_an_answer_is_an_error(told):
    """Its outcome is the error's type, and there is no search to tell of."""
    telling, found = told
    source = Source()
    source.reply = {}.__getitem__
    with Served(source, spans=telling) as served:
        assert served.ask("/v1/chat/completions", GOOD)[0] == 500
    (span,) = found.get_finished_spans()
    assert (span.attributes["error.type"], span.status.status_code.name, span.parent) == ("failed", "ERROR", None)


def test_names_are_those_of_the_conventions():
    """Each name that begins with gen_ai is one of the conventions that are installed."""
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    ours = {value for name, value in vars(spans).items() if name.isupper() and str(value).startswith("gen_ai.")}
    assert len(ours) == 9 and ours <= known


def test_what_a_caller_sends_beside_its_trace_is_not_read(told, caplog):
    """A baggage header, which OpenTelemetry complains of where it is malformed, says nothing on the terminal."""
    telling, found = told
    with Served(Source(), spans=telling) as served:
        assert served.ask("/v1/chat/completions", GOOD, headers={**PARENT, "baggage": "=;,\\"})[0] == 200
    assert found.get_finished_spans() and not [one for one in caplog.records if "baggage" in one.name]


@pytest.mark.parametrize("parent", ["nonsense", "00-00-00-00", "00-" + "f" * 5000])
def test_a_parent_that_is_none_begins_a_trace(told, parent):
    """Whatever a caller sends as a parent, the request is answered and has a span."""
    telling, found = told
    with Served(Source(), spans=telling) as served:
        assert served.ask("/v1/chat/completions", GOOD, headers={"traceparent": parent})[0] == 200
    assert found.get_finished_spans()[-1].parent is None


def test_nobody_waits_long_for_spans_that_cannot_be_sent(monkeypatch):
    """Where what they are sent to does not answer, the server ends all the same."""
    monkeypatch.setattr(spans, "_PATIENCE", 0.01)
    provider, over, ended = TracerProvider(), threading.Event(), threading.Event()

    def shutdown():
        assert over.wait(30)
        ended.set()

    monkeypatch.setattr(provider, "shutdown", shutdown)
    Spans(provider).close()
    assert not ended.is_set()
    over.set()
    assert ended.wait(30)
