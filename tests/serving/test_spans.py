"""Spans: what a server tells of a request, in the names of OpenTelemetry's conventions, without a word of its text."""

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

import served
from raft.serving import spans
from raft.serving.spans import Spans

PARENT = {"Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


@pytest.fixture
def told():
    """What tells, and what it has told."""
    found, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    telling = Spans(provider)
    yield telling, found
    telling.close()


def test_an_answer_is_a_span_with_its_search_in_it(told):
    """Model, tokens, index, adapter and outcome are told; the search is a part of it; no text is."""
    telling, found = told
    source = served.Source()
    answer = source.ask("How long may a parcel be returned?", searched="parcel", on_event=lambda piece: None)
    telling.ended(
        seconds=2.0, headers=PARENT, model="handbook", streamed=True, outcome="answered", reply_id="chatcmpl-1",
        answer=answer, source=source, waited=0.5,
    )  # fmt: skip
    search, chat = found.get_finished_spans()
    assert (chat.name, chat.kind.name, chat.status.status_code.name) == ("chat handbook", "SERVER", "UNSET")
    assert f"{chat.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{chat.parent.span_id:016x}" == "b7ad6b7169203331"
    assert search.parent.span_id == chat.context.span_id and search.name == "retrieval"
    assert chat.end_time - chat.start_time == pytest.approx(2e9)
    assert search.start_time - chat.start_time == pytest.approx(0.5e9)
    assert search.end_time - search.start_time == pytest.approx(answer.seconds["retrieval"] * 1e9, rel=1e-3)
    said = dict(chat.attributes)
    assert said["gen_ai.operation.name"] == "chat" and said["gen_ai.response.id"] == "chatcmpl-1"
    assert said["gen_ai.usage.output_tokens"] == answer.tokens["output"]
    assert said["gen_ai.data_source.id"] == source.index and said["raft.adapter"] == source.adapter_digest
    assert "error.type" not in said
    text = f"{chat.to_json()}{search.to_json()}"
    assert "parcel" not in text and "30 days" not in text and "home page" not in text


def test_a_request_without_an_answer_is_an_error(told):
    """Its outcome is the error's type, and there is no search to tell of."""
    telling, found = told
    telling.ended(seconds=0.1, headers={}, model="raft", streamed=False, outcome="late")
    (span,) = found.get_finished_spans()
    assert (span.attributes["error.type"], span.status.status_code.name, span.parent) == ("late", "ERROR", None)


def test_names_are_those_of_the_conventions():
    """Each name that begins with gen_ai is one of the conventions that are installed."""
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    ours = {value for name, value in vars(spans).items() if name.isupper() and str(value).startswith("gen_ai.")}
    assert len(ours) == 9 and ours <= known


@pytest.mark.parametrize("parent", ["", "nonsense", "00-00-00-00", "\u2028" * 9, "00-" + "f" * 5000])
def test_a_parent_that_is_none_begins_a_trace(told, parent):
    """Whatever a caller sends as a parent, the request has a span."""
    telling, found = told
    telling.ended(seconds=0.1, headers={"traceparent": parent}, model="raft", streamed=False, outcome="gone")
    (span,) = found.get_finished_spans()
    assert span.parent is None
