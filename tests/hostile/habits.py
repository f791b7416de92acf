"""Habits of endpoints that people have, one a row: what each does, what must be kept all the same or said, and at what cost.

Each habit answers a request (its body, the items that a good reply holds, how many requests came before) with a status,
a body (JSON, or text as it is) and headers.
"""

# ruff: noqa: E501  one row a habit

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Answer = tuple[int, Any, Mapping[str, str]]
Does = Callable[[Mapping[str, Any], list[dict[str, Any]], int], Answer]

STATED = {
    "harbour": ["The harbour crane lifts 40 tonnes.", "The harbour closes at 22:15.", "Ada Lind runs the harbour."],
    "bakery": ["The bakery oven holds 96 loaves.", "The bakery opens at 05:30.", "Omar Reis runs the bakery."],
}
ANSWERS = [
    ("What does the {} lift or hold?", "number"),
    ("When does the {} close or open?", "date"),
    ("Who runs the {}?", "name"),
]
ITEMS = [
    {"question": asked.format(place), "answer": answer, "quote": quote, "kind": kind}
    for place, quotes in STATED.items()
    for (asked, kind), quote, answer in zip(
        ANSWERS,
        quotes,
        ["40 tonnes", "22:15", "Ada Lind"] if place == "harbour" else ["96 loaves", "05:30", "Omar Reis"],
        strict=True,
    )
]
"""What a good endpoint replies, half of it to each of two requests."""


@dataclass(frozen=True)
class Habit:
    """One habit: of six items `kept` must be questions, or what is said must match all of `says`; `most` requests."""

    name: str
    does: Does
    kept: int = 6
    most: int = 2
    says: Sequence[str] = field(default=())
    directly: bool = False  # what litellm makes of it is its own


def whole(items: Any) -> str:
    """Return items as a good reply has them."""
    return json.dumps({"items": items}, ensure_ascii=False)


def reply(text: Any, finish: str = "stop", **message: Any) -> Answer:
    """Return a completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    usage = {"prompt_tokens": 90, "completion_tokens": 60, "total_tokens": 150}
    return (
        200,
        {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage},
        {},
    )


def error(status: int, message: str, **more: Any) -> Answer:
    """Return an error in OpenAI's form."""
    return (
        status,
        {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **more}},
        {},
    )


def says(write: Callable[[list[dict[str, Any]]], Any], finish: str = "stop", **message: Any) -> Does:
    """Return the habit of replying with what `write` makes of the items."""
    return lambda body, items, number: reply(write(items), finish, **message)


def always(answer: Answer) -> Does:
    """Return the habit of answering in one way."""
    return lambda body, items, number: answer


def refuses(test: Callable[[Mapping[str, Any]], Any], answer: Answer) -> Does:
    """Return the habit of refusing what a test finds in a request."""
    return lambda body, items, number: answer if test(body) else reply(whole(items))


def first(answer: Answer, times: int = 1) -> Does:
    """Return the habit of answering so at first."""
    return lambda body, items, number: answer if number < times else reply(whole(items))


def each(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Does:
    """Return the habit of writing each item in another way."""
    return says(lambda items: whole([change(one) for one in items]))


def room(limit: int, words: str) -> Does:
    """Return the habit of refusing more room for a reply than `limit`; words may name what was sent."""

    def does(body: Mapping[str, Any], items: list[dict[str, Any]], number: int) -> Answer:
        wanted = body.get("max_tokens") or body.get("max_completion_tokens") or 0
        return error(400, words.format(wanted=wanted, all=wanted + 90)) if wanted > limit else reply(whole(items))

    return does


def has(role: str) -> Callable[[Mapping[str, Any]], bool]:
    """Return a test for turns of a role."""
    return lambda body: any(turn["role"] == role for turn in body["messages"])


def bare(value: str) -> Any:
    """Return a text that begins with a whole number as one."""
    return int(value.split(maxsplit=1)[0]) if value.split(maxsplit=1)[0].isdigit() else value


THOUGHT = (
    'Perhaps {"items": [{"question": "draft", "answer": "?", "quote": "?", "kind": "name"}]} or [1, 2]? {braces} "x"'
)
TOOL = [{"id": "t", "type": "function", "function": {"name": "submit", "arguments": "{}"}}]
EVENTS = 'event: message_start\ndata: {"type":"message_start","message":{"role":"assistant"}}\n\n'
LABELS = {"question": "Q", "answer": "A", "quote": "Quote", "kind": "Kind"}
HTML = "<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in to the gateway</body></html>"
NAMES = {"question": "Q", "answer": "response", "quote": "supporting_quote", "kind": "type"}
BAD = {"question": "What?", "answer": None, "quote": "", "kind": "fact"}


def lines(items: list[dict[str, Any]], form: str, between: str = "\n", head: str = "") -> str:
    """Return items as lines, one a field; `form` has its name, its label and its value, `head` the item's number."""
    each = [[form.format(name=name, label=LABELS[name], value=value) for name, value in one.items()] for one in items]
    return between.join(head.format(n=n) + "\n".join(one) for n, one in enumerate(each, 1))


def yaml(items: list[dict[str, Any]]) -> str:
    """Return items as YAML, of which quotes are blocks."""
    fields = ({**one, "quote": f">-\n      {one['quote']}"} for one in items)
    return "items:\n" + "\n".join(
        f"  - question: {one['question']}\n    answer: {json.dumps(one['answer'])}\n    quote: {one['quote']}\n    kind: {one['kind']}"
        for one in fields
    )


def table(items: list[dict[str, Any]]) -> str:
    """Return items as the rows of a table in Markdown."""
    rows = [["#", *map(str.title, items[0])], ["---"] * 5, *([str(n), *one.values()] for n, one in enumerate(items, 1))]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def stream(text: str, *, ends: bool = True) -> Answer:
    """Return a completion as an event stream, whose last piece has its tokens."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": ""},
        *({"content": part} for part in re.findall(r"(?s).{1,40}", text)),
    ]
    pieces = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    pieces.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": None})
    pieces.append({**head, "choices": [], "usage": {"prompt_tokens": 90, "completion_tokens": 60, "total_tokens": 150}})
    told = [": waiting\n\n", *(f"data: {json.dumps(piece)}\n\n" for piece in pieces), "data: [DONE]\n\n"]
    return 200, "".join(told if ends else told[:5]), {"Content-Type": "text/event-stream"}


def streams(cut: int = 0, *, options: bool = True) -> Does:
    """Return the habit of answering in streams alone, the first of which are `cut`; some know no `options` of them."""

    def does(body: Mapping[str, Any], items: list[dict[str, Any]], number: int) -> Answer:
        if not body.get("stream"):
            return error(
                400, "This model only support stream mode, please enable the stream parameter to access the model. "
            )
        if body.get("stream_options") and not options:
            return error(422, "Extra inputs are not permitted", param="stream_options")
        return stream(whole(items), ends=number > cut)

    return does


WRAPPING = [
    Habit("plain", says(whole)),
    Habit("fence", says(lambda items: f"```json\n{whole(items)}\n```")),
    Habit(
        "fence without a language, notes around",
        says(lambda items: f"Here they are:\n\n```\n{whole(items)}\n```\nAny [more]?"),
    ),
    Habit("note before", says(lambda items: f"Sure! Here are {len(items)} questions:\n{whole(items)}")),
    Habit("note behind", says(lambda items: f"{whole(items)}\n\nNote: {{quotes}} are verbatim [1].")),
    Habit("note with a bracket before", says(lambda items: f"[Note: per your {{rules}}]\n{whole(items)}")),
    Habit("thinking", says(lambda items: f"<think>\n{THOUGHT}\n</think>\n\n{whole(items)}")),
    Habit("thinking without its beginning", says(lambda items: f"{THOUGHT}\n</think>\n\n{whole(items)}")),
    Habit("thinking in other tags", says(lambda items: f"[THINK]{THOUGHT}[/THINK]{whole(items)}")),
    Habit(
        "thinking with attributes", says(lambda items: f'<thinking type="plan">{THOUGHT}</thinking>\n{whole(items)}')
    ),
    Habit("scratchpad", says(lambda items: f"<scratchpad>{THOUGHT}</scratchpad>\n<answer>{whole(items)}</answer>")),
    Habit("thinking, then a fence", says(lambda items: f"<think>{THOUGHT}</think>\n```json\n{whole(items)}\n```")),
    Habit(
        "channels",
        says(
            lambda items: (
                f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>"
                f"{whole(items)}<|return|>"
            )
        ),
    ),
    Habit("end of turn in the reply", says(lambda items: f"{whole(items)}<|im_end|>\n<|im_start|>user")),
    Habit("thoughts in a field", says(whole, reasoning_content=THOUGHT)),
    Habit(
        "content in parts",
        says(lambda items: [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": whole(items)}]),
        directly=True,
    ),
    Habit("another name", says(lambda items: json.dumps({"Questions": items}))),
    Habit("a bare list", says(json.dumps)),
    Habit("a list in a list", says(lambda items: json.dumps([items]))),
    Habit("wrapped twice", says(lambda items: json.dumps({"result": {"data": {"qa_pairs": items}}}))),
    Habit("numbered", says(lambda items: json.dumps({f"question_{n}": one for n, one in enumerate(items, 1)}))),
    Habit("each in a wrapper", says(lambda items: json.dumps({"items": [{"item": one} for one in items]}))),
    Habit("JSON in JSON", says(lambda items: json.dumps({"items": json.dumps(items)}))),
    Habit("JSON as a text", says(lambda items: json.dumps(whole(items)))),
    Habit("one object", says(lambda items: json.dumps(items[0])), kept=2),
    Habit("JSON lines", says(lambda items: "\n".join(map(json.dumps, items)))),
    Habit("JSON lines with commas", says(lambda items: ",\n".join(map(json.dumps, items)))),
    Habit("objects one behind the other", says(lambda items: " ".join(json.dumps(one, indent=1) for one in items))),
    Habit(
        "a fence for each",
        says(lambda items: "\n\n".join(f"Question:\n```json\n{json.dumps(one)}\n```" for one in items)),
    ),
    Habit(
        "objects between words",
        says(lambda items: "\n".join(f"{n}. {json.dumps(one)}" for n, one in enumerate(items, 1))),
    ),
    Habit("single quotes", says(lambda items: str({"items": items}))),
    Habit("commas too many", says(lambda items: whole(items).replace("}", ",}").replace("]", ",]"))),
    Habit(
        "keys without quotes",
        says(lambda items: whole(items).replace('"question"', "question").replace('"kind"', "kind")),
    ),
    Habit("comments", says(lambda items: whole(items).replace('{"question"', '\n// the next\n{"question"'))),
    Habit("curly quotes", says(lambda items: re.sub('"([^"]*)"', r"“\1”", whole(items)))),
    Habit("lines within texts", says(lambda items: whole(items).replace("runs the", "runs\nthe"))),
    Habit("escapes that are none", says(lambda items: whole(items).replace("What does", "What\\_ does"))),
    Habit("a mark of byte order", says(lambda items: "\ufeff" + whole(items))),
    Habit("a missing end", says(lambda items: whole(items)[:-2])),
    Habit("cut in its last item", says(lambda items: whole(items)[:-60], "length"), kept=4, most=4),
    Habit("two lists", says(lambda items: f"{json.dumps(items[:1])}\n\n{json.dumps(items[1:])}")),
    Habit("texts in a list", says(lambda items: json.dumps([json.dumps(one) for one in items]))),
    Habit("escaped for a page", says(lambda items: html.escape(whole(items)))),
    Habit("escaped for a page, in one", says(lambda items: f"<pre>{html.escape(json.dumps(items, indent=1))}</pre>")),
    Habit("escaped once too often", says(lambda items: json.dumps(whole(items))[1:-1])),
    Habit(
        "quotes of print, commas in texts",
        says(lambda items: re.sub('"([^"]*)"', r"“\1”", whole(items).replace("?", ", please?"))),
    ),
    Habit("quotes of another language", says(lambda items: re.sub('"([^"]*)"', r"„\1“", whole(items)))),
    Habit("marks of East Asia", says(lambda items: whole(items).replace(", ", "，").replace(": ", "："))),
    Habit("YAML", says(yaml)),
    Habit("YAML in a fence", says(lambda items: f"```yaml\n{yaml(items)}\n```\nShall I write more?")),
    Habit("a table", says(lambda items: f"Here they are:\n\n{table(items)}\n\nThese are all.")),
    Habit("lines with names", says(lambda items: lines(items, "{name}: {value}", "\n\n"))),
    Habit("lines with letters", says(lambda items: lines(items, "{label}: {value}"))),
    Habit("names in bold", says(lambda items: lines(items, "- **{name}:** {value}", "\n\n", "### Item {n}\n"))),
    Habit(
        "names of another language",
        says(
            lambda items: "\n\n".join(
                f"Frage: {one['question']}\nAntwort: {one['answer']}\nZitat: „{one['quote']}“\nArt: {one['kind']}"
                for one in items
            )
        ),
    ),
    Habit(
        "a question and what is below it",
        says(
            lambda items: "\n".join(
                f'{n}. **{one["question"]}**\n   - Answer: {one["answer"]}\n   - Quote: "{one["quote"]}"\n   - Kind: {one["kind"]}'
                for n, one in enumerate(items, 1)
            )
        ),
    ),
    Habit("thinking without an end, then the reply", says(lambda items: f"<think>{THOUGHT}\n\n{whole(items)}")),
    Habit("XML around", says(lambda items: f"<response>\n{whole(items)}\n</response>")),
]
ITEMS_ODD = [
    Habit("numbers", each(lambda one: {**one, "answer": bare(one["answer"])})),
    Habit("capital keys", each(lambda one: {name.upper(): value for name, value in one.items()})),
    Habit("other keys", each(lambda one: {NAMES[name]: value for name, value in one.items()})),
    Habit("kinds in capitals", each(lambda one: {**one, "kind": f" {one['kind'].upper()}. "})),
    Habit("lists for texts", each(lambda one: {**one, "answer": [one["answer"]], "kind": [one["kind"]]})),
    Habit("quotes as objects", each(lambda one: {**one, "quote": {"text": one["quote"]}})),
    Habit("more keys", each(lambda one: {"id": 1, **one, "difficulty": "easy", "distractors": ["a", {"b": 1}]})),
    Habit("one bad item", says(lambda items: whole([BAD, *items[:2]])), kept=4),
    Habit("a text among the items", says(lambda items: whole(["What?", *items[:2]])), kept=4),
    Habit("null among the items", says(lambda items: whole([None, *items[:2]])), kept=4),
    Habit("an unknown kind", says(lambda items: whole([{**items[0], "kind": "riddle"}, *items[1:]])), kept=5),
    Habit("the same twice", says(lambda items: whole([items[0], *items[:2]])), kept=4),
    Habit("no items", says(lambda items: whole([])), kept=0, most=4, says=["no items"]),
    Habit(
        "words alone",
        says(lambda items: "I would ask about the crane."),
        kept=0,
        most=4,
        says=["I would ask|no JSON|no items"],
    ),
]
NO_TEMPERATURE = error(400, "Unsupported value: 'temperature' does not support 0 with this model.", param="temperature")
REFUSED = [
    Habit("temperature", refuses(lambda body: "temperature" in body, NO_TEMPERATURE), most=4),
    Habit("temperature, without a word of it but the field", refuses(lambda body: "temperature" in body, error(422, "Unsupported parameter", param="temperature")), most=4),
    Habit("temperature, as a failure", refuses(lambda body: "temperature" in body, (500, {"detail": "temperature must be strictly positive"}, {})), most=4),
    Habit("system turns", refuses(has("system"), error(400, "System role not supported")), most=4),
    Habit("system turns, as a failure of the template", refuses(has("system"), error(500, "TemplateError: System role not supported")), most=4),
    Habit("system turns, by pydantic", refuses(has("system"), (422, {"detail": [{"loc": ["body", "messages", 0, "role"], "msg": "Input should be 'user' or 'assistant'", "input": "system"}]}, {})), most=4),
    Habit("only two roles", refuses(has("system"), error(400, "Only user and assistant roles are supported!")), most=4),
    Habit("alternating roles", refuses(has("system"), error(400, "After the optional system message, conversation roles must alternate user/assistant/user/assistant/...")), most=4),
    Habit("developer turns", refuses(has("system"), error(400, "Developer instruction is not enabled for this model")), most=4),
    Habit("first turn", refuses(has("system"), error(400, "The first message must be from the user (messages[0].role)")), most=4),
    Habit("max_tokens", refuses(lambda body: "max_tokens" in body, error(400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.", param="max_tokens")), most=4),
    Habit("schemas", refuses(lambda body: "response_format" in body, error(400, "response_format is not supported")), most=4),
    Habit("schemas, as a failure", refuses(lambda body: "response_format" in body, error(500, "Failed to compile grammar for json_schema")), most=4),
    Habit("schemas, by pydantic", refuses(lambda body: "response_format" in body, (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "response_format"], "msg": "Extra inputs are not permitted"}]}, {})), most=4),
    Habit("schemas, by an unsupported word", refuses(lambda body: "response_format" in body, error(400, "Invalid JSON payload received. Unknown name \"additionalProperties\": Cannot find field.")), most=4),
    Habit("schemas, by their kind", refuses(lambda body: "response_format" in body, error(400, "This response_format type is unavailable now")), most=4),
    Habit("schemas, by a parser", refuses(lambda body: "response_format" in body, error(400, "'response_format.type' must be 'text' or 'json_object'")), most=4),
    Habit("three things", lambda body, items, number: (
        NO_TEMPERATURE if "temperature" in body else error(400, "System role not supported") if has("system")(body)
        else error(400, "json_schema is not supported") if "response_format" in body else reply(whole(items))), most=8),
    Habit("more than it may write", room(400, "max_tokens is too large: {wanted}. This model supports at most 400 completion tokens, whereas you provided {wanted}."), most=4),
    Habit("more than it may write, as a range", room(300, "Invalid max_tokens value, the valid range of max_tokens is [1, 300]"), most=4),
    Habit("more than there is room for", room(410, "This model's maximum context length is 500 tokens. However, you requested {all} tokens (90 in the messages, {wanted} in the completion). Please reduce the length of the messages or completion."), most=4),
    Habit("more than there is room for, in other words", room(410, "'max_tokens' or 'max_completion_tokens' is too large: {wanted}. This model's maximum context length is 500 tokens and your request has 90 input tokens ({wanted} > 500 - 90)."), most=4),
    Habit("more room than there is, without a number", room(300, "max_new_tokens exceeds the limit of this deployment"), most=8),
    Habit("too long in itself", always(error(400, "This model's maximum context length is 80 tokens. However, your messages resulted in 90 tokens. Please reduce the length of the messages.", code="context_length_exceeded")), kept=0, most=2, says=["maximum context length"]),
    Habit("too long, by its size", always(error(400, "the request exceeds the available context size (80 tokens), try increasing it")), kept=0, most=2, says=["too long", "context size"]),
    Habit("too long, as a failure", always(error(500, "input is too large to process. increase the physical batch size")), kept=0, most=2, says=["too long", "too large"]),
    Habit("too long, with room named", always(error(400, "This model's maximum context length is 80 tokens. However, you requested 600 tokens (90 in the messages, 510 in the completion).")), kept=0, most=2, says=["maximum context length"]),
    Habit("replies that are no stream", streams(), most=4),
    Habit("replies that are no stream, and options of one", streams(options=False), most=6),
    Habit("replies that are no stream, the first of which breaks off", streams(1), most=5),
    Habit("a bad request", always(error(400, "Invalid value for 'n'")), kept=0, most=2, says=["Invalid value for 'n'"]),
]  # fmt: skip
EMPTY = [
    Habit("a refusal", says(lambda items: None, refusal="I can't help with harbours."), kept=0, says=["refus", "can't help with harbours"]),
    Habit("a filter", says(lambda items: "", "content_filter"), kept=0, says=["filter"]),
    Habit("a filter at the door", always(error(400, "The response was filtered due to the prompt triggering the content management policy.", code="content_filter")), kept=0, says=["content management policy"]),
    Habit("a tool call", says(lambda items: None, "tool_calls", tool_calls=TOOL), kept=0, most=4, says=["tool", "submit"]),
    Habit("a function call", says(lambda items: None, "function_call", function_call={"name": "submit", "arguments": "{}"}), kept=0, most=4, says=["tool|function", "submit"]),
    Habit("all room spent on thinking", says(lambda items: "", "length", reasoning_content=THOUGHT), kept=0, most=6, says=["thinking"]),
    Habit("thinking without an end", says(lambda items: f"<think>{THOUGHT}", "length"), kept=0, most=6, says=["thinking"]),
    Habit("thoughts alone", says(lambda items: None, reasoning=THOUGHT), kept=0, most=4, says=["thinking"]),
    Habit("nothing", says(lambda items: ""), kept=0, most=4, says=["empty reply"]),
    Habit("no choices", always((200, {"id": "c", "object": "chat.completion", "model": "m", "created": 1, "choices": []}, {})), kept=0, most=4, says=["empty reply"]),
    Habit("an error in a choice", always((200, {"id": "c", "object": "chat.completion", "model": "m", "created": 1, "choices": [{"index": 0, "finish_reason": "error", "error": {"code": 502, "message": "Upstream fell over"}, "message": {"role": "assistant", "content": ""}}]}, {})), kept=0, most=20, says=["Upstream fell over"]),
    Habit("an error with a good status", always((200, {"error": {"message": "No credits left", "code": 402}}, {})), kept=0, most=1, says=["No credits left"]),
]  # fmt: skip
ADDRESS = [
    Habit("a page", always((200, HTML, {"Content-Type": "text/html"})), kept=0, most=1, says=["Please sign in", "/v1|api_base"]),
    Habit("a page that is not found", always((404, HTML, {"Content-Type": "text/html"})), kept=0, most=1, says=["api_base", "404"]),
    Habit("a stream that nobody asked for", lambda body, items, number: stream(whole(items)), directly=True),
    Habit("a stream of another protocol", always((200, EVENTS, {"Content-Type": "text/event-stream"})), kept=0, most=1, says=["stream", "message_start"]),
    Habit("a failure in a stream", always((200, 'data: {"error": {"message": "No credits left", "code": 402}}\n\n', {"Content-Type": "text/event-stream"})), kept=0, most=1, says=["No credits left"]),
    Habit("no path", always((404, {"detail": "Not Found"}, {})), kept=0, most=1, says=["Not Found", "api_base"]),
    Habit("no path, in plain words", always((404, "404 page not found", {"Content-Type": "text/plain"})), kept=0, most=1, says=["page not found", "api_base"]),
    Habit("another method", always((405, {"detail": "Method Not Allowed"}, {})), kept=0, most=1, says=["Method Not Allowed", "api_base"]),
    Habit("plain words", always((200, "Ollama is running", {"Content-Type": "text/plain"})), kept=0, most=1, says=["Ollama is running", "api_base"]),
    Habit("other JSON", always((200, {"status": "ok", "service": "gateway"}, {})), kept=0, most=1, says=["gateway|choices", "api_base"]),
    Habit("lines of another protocol", always((200, '{"model":"m","message":{"content":"{"},"done":false}\n{"done":true}\n', {})), kept=0, most=1, says=["done", "api_base"]),
    Habit("a redirect", always((302, "", {"Location": "https://login.example.test/"})), kept=0, most=1, says=["login.example.test", "api_base"], directly=True),
    Habit("no such model", always(error(404, "The model `m` does not exist.", code="model_not_found")), kept=0, most=1, says=["does not exist", "no such model", "/models"], directly=True),
    *(Habit(f"no such model: {words}", always(error(400, words)), kept=0, most=1, says=["no such model"]) for words in (
        "Model Not Exist", "Invalid model: m", "m is not a valid model ID", "Unknown model: m", "Invalid model name passed in model=m",
        "The model m does not exist or your team does not have access to it.", "No models loaded. Please load a model.",
        "The requested model 'm' is not supported by any provider you have enabled.", "The model `m` has been decommissioned.")),
    Habit("no such model, with a good status", always((200, {"object": "error", "message": "The model `m` does not exist.", "code": 404}, {})), kept=0, most=1, says=["no such model"], directly=True),
    Habit("a wrong key, with a good status", always((200, {"error": {"message": "Please sign in first", "code": "401"}}, {})), kept=0, most=1, says=["sign in first", "API_KEY"], directly=True),
    Habit("no balance, for too many requests", always(error(429, "Your account balance is insufficient, please recharge")), kept=0, most=1, says=["balance is insufficient"]),
    Habit("a country", always(error(400, "User location is not supported for the API use.")), kept=0, most=1, says=["location"]),
    Habit("a proxy", always((407, "<html>Proxy Authentication Required</html>", {})), kept=0, most=1, says=["Proxy"]),
    Habit("a port of https", always((400, "<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>", {})), kept=0, most=1, says=["HTTPS port", "api_base=https://"], directly=True),
    Habit("a redirect to https", always((301, "", {"Location": "https://models.example.test/v1/chat/completions"})), kept=0, most=1, says=["api_base=https://models.example.test/v1 "], directly=True),
    Habit("a wrong key", always(error(401, "Incorrect API key provided: sk-none", code="invalid_api_key")), kept=0, most=1, says=["Incorrect API key", "API_KEY"]),
    Habit("no balance", always(error(402, "Insufficient balance")), kept=0, most=1, says=["Insufficient balance"]),
]  # fmt: skip
PASSING = [
    Habit("a failure at first", first(error(500, "oops")), most=3),
    Habit("overloaded at first", first((503, "upstream connect error", {}), 2), most=4),
    Habit("busy at first", first((429, {"error": {"message": "slow down"}}, {"Retry-After": "0"}), 2), most=4),
    Habit(
        "a model that is loading",
        first((503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}, {}), 12),
        most=14,
    ),
    Habit("half a body at first", first((200, '{"id": "c", "choices": [{"mess', {})), most=3),
    Habit("an empty body at first", first((200, "", {})), most=3),
]
HABITS = [*WRAPPING, *ITEMS_ODD, *REFUSED, *EMPTY, *ADDRESS, *PASSING]
