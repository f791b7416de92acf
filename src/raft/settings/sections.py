"""Every setting of an experiment, its default and its meaning; the only place where defaults live."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from raft.kinds import KINDS, Kind
from raft.prompts import Where
from raft.text import at_home
from raft.text.secrets import shown_address


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):  # else it counts as 1
        raise ValueError("is a number")
    return value


def _path(value: Any) -> Any:
    if not isinstance(value, str | PathLike) or not str(value).strip():
        raise ValueError("is the path of a file or a folder")
    return value


def _places(value: Any) -> Any:
    if value is None:
        return ()
    return value if isinstance(value, list | tuple) else (_path(value),)


def _as_given(places: tuple[Path, ...]) -> str | list[str] | None:
    told = [*map(str, places)]
    return told if len(told) > 1 else next(iter(told), None)


def _named(value: str) -> str:
    if not value.strip():
        raise ValueError("is the name of a model")
    return value


_Number = BeforeValidator(_no_bool)
Model = Annotated[str, AfterValidator(_named)]
Share = Annotated[float, Field(ge=0, le=1), _Number]
Count = Annotated[int, Field(ge=1, le=10**9), _Number]
Positive = Annotated[float, Field(gt=0, le=10**9), _Number]
Price = Annotated[float, Field(ge=0, le=10**9), _Number]
Place = Annotated[Path, BeforeValidator(_path), AfterValidator(at_home)]
Places = Annotated[tuple[Place, ...], BeforeValidator(_places), PlainSerializer(_as_given)]
"""Paths, of which one may be given by itself; it is written down as it was when there could be no more."""

TRAINERS = {"peft": "sft:PeftTrainer", "unsloth": "unsloth:UnslothTrainer"}
"""What `training.backend` may name, with the class in `raft.backends.trainers` that it stands for."""

LAYERS: Mapping[str, tuple[str, ...]] = {
    "all": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "qv": ("q_proj", "v_proj"),
}
"""What `training.layers` may name, with the linear layers of a block that carry the adapter: all, as QLoRA found to be
needed (arXiv 2305.14314, section 4); those of attention; or the two that LoRA chose (arXiv 2106.09685, section 7.1)."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Chunking(_Section):
    """How documents are cut. Tokens are the embedder's."""

    tokens: Annotated[int, Field(ge=16), _Number] = Field(
        200, description="about how long a chunk is, in the embedder's tokens"
    )
    overlap: Annotated[int, Field(ge=0), _Number] = Field(
        0, description="tokens that a chunk repeats of the one before it"
    )
    text_field: str = Field("text", description="the field of JSON records that holds a document's text")
    templates: Literal["keep", "drop"] = Field(
        "keep", description="template syntax ({{ }}, {% %}) in Markdown and HTML: keep it as text, or drop it"
    )


Address = Annotated[str, PlainSerializer(shown_address, when_used="json")]
"""Where a model or an index is asked; what is written down of it is without passwords and keys."""


def _addresses(value: Any) -> Any:
    told = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not all(isinstance(one, str) for one in told):
        raise ValueError("is an address, or a list of addresses")
    return told[0] if len(told) == 1 else told


def _shown_addresses(value: str | tuple[str, ...]) -> str | list[str]:
    return shown_address(value) if isinstance(value, str) else [*map(shown_address, value)]


Addresses = Annotated[
    str | tuple[str, ...], PlainValidator(_addresses), PlainSerializer(_shown_addresses, when_used="json")
]
"""Where a model is asked: an address, or several that answer the same; a list of one is that one."""


class Index(_Section):
    """Where chunks are looked up."""

    embedder: Model = Field(
        "sentence-transformers/all-MiniLM-L6-v2", description="a hub name, a folder, or provider/name"
    )
    api_base: Addresses | None = Field(
        None, description="address of a self-hosted embedder, or a list of several that embed the same"
    )
    input_price: Price | None = Field(None, description="dollars per million tokens embedded; none: litellm's list")
    hybrid: bool = Field(True, description="fuse lexical search (BM25) with the vectors by reciprocal rank")
    k: Count = Field(5, description="chunks retrieved for a question")
    url: Address | None = Field(
        None, description="a Chroma server, http://host:port; none: an index in the run directory"
    )


class Generator(_Section):
    """The cheap model that writes the questions."""

    model: Model = Field(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        description="a hub name, a folder, or provider/name for a hosted model (openai/gpt-4o-mini)",
    )
    api_base: Addresses | None = Field(
        None, description="address of a self-hosted endpoint, or a list of several that serve the same model"
    )
    concurrency: Count = Field(
        64, description="most requests in flight at a hosted model, at each of its endpoints, of each shard"
    )
    requests_per_minute: Count | None = Field(
        None, description="most requests a minute at each endpoint; none: what it takes"
    )
    tokens_per_minute: Count | None = Field(
        None, description="most tokens a minute at each endpoint; none: what it takes"
    )
    batch: Count = Field(32, description="requests in one batch of a local model")
    attempts: Count = Field(3, description="how often one request is asked before it is recorded as a failure")
    timeout: Positive = Field(120.0, description="seconds a hosted model may take for one reply")
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = Field(
        None, description="how long a reasoning model thinks before it writes; none given: as little as it can"
    )
    max_cost: Positive | None = Field(None, description="dollars that the run may cost in all, over all its builds")
    input_price: Price | None = Field(None, description="dollars per million tokens read; none: litellm's list")
    output_price: Price | None = Field(None, description="dollars per million tokens written; none: litellm's list")
    confirm_above: Price = Field(1.0, description="dollars; a build that may cost more asks for a max_cost first")
    max_failures: Share = Field(0.5, description="share of requests without a usable reply at which a build stops")
    batch_endpoint: bool = Field(False, description="use the provider's batch endpoint: cheaper, and hours slower")


class Engine(_Section):
    """Where the work of a build is done; what it makes is the same."""

    kind: Literal["local", "ray"] = Field(
        "local", description="local: in this process; ray: by the shards of a Ray cluster, or of Ray on this machine"
    )
    address: Address | None = Field(
        None, description="host:port of a Ray cluster that this machine is a node of; none: Ray on this machine"
    )
    shards: Annotated[int, Field(ge=1, le=10_000), _Number] | None = Field(
        None, description="how many processes share the work; none: one for each processor core of the machine"
    )
    cards: Annotated[float, Field(ge=0, le=64), _Number] = Field(
        0.0, description="graphics cards that each shard needs, as of a local generator or embedder; 0: none"
    )


class Privacy(_Section):
    """What becomes of personal data and secrets in the documents."""

    found: Literal["ignore", "warn", "redact", "refuse"] = Field(
        "warn", description="ignore them, name the documents, replace them before anything is read on, or stop"
    )


class Questions(_Section):
    """What is asked of each chunk."""

    way: Literal["auto", "rules", "rules_first", "answer_first", "spans", "items"] = Field(
        "auto",
        description="rules: make the question of the sentence itself, without a model; rules_first: a model is asked, "
        "as in answer_first, for facts of which rules make none; answer_first: choose exact facts, ask the model for "
        "the question alone (small local models); "
        "spans: choose a sentence, have the model copy an answer from it and ask for it (local models from 0.5B); "
        "items: ask the model for questions, answers and quotes as JSON (capable models); auto: by the model",
    )
    per_chunk: Annotated[float, Field(gt=0, le=1000), _Number] = Field(
        1.0, description="questions asked for, a chunk, on average; with `keep`, at most so many in the first round"
    )
    limit: Annotated[int, Field(ge=0, le=10**9), _Number] | None = Field(
        None, description="at most so many questions, spread evenly over the documents; 0 with `qa`: its pairs alone"
    )
    keep: Count | None = Field(
        None,
        description="so many questions that pass all rules are wanted: rounds ask for more until there are so many, or "
        "nothing is left to ask; of more, those stay that cover most of the documents",
    )
    candidates: Annotated[int, Field(ge=1, le=10), _Number] = Field(
        1,
        description="how often a model is asked for each question (but items), and each rewording; of several wordings "
        "of one question that pass all rules the one that repeats least of its chunk stays",
    )
    titled: bool = Field(
        False,
        description="complete a question that names nothing of what its document is about with the document's title",
    )
    reword: Share = Field(
        0.0, description="share of the questions that the generator words anew, as people would; 0: none"
    )
    like: Place | None = Field(
        None,
        description="10 to 20 questions as people ask them, one a line: examples for the generator, and for keep the "
        "first words and lengths to prefer; never those of --eval",
    )
    qa: Places = Field(
        (),
        description="a file of questions and answers that you have already (CSV, JSON, JSONL, or what raft feedback "
        "--export writes), or a list of them, to learn from as well",
    )
    kinds: tuple[Kind, ...] = Field(
        ("fact", "number", "date", "name"),
        min_length=1,
        description=f"which kinds of question are asked: {', '.join(KINDS)}",
    )


class Cleaning(_Section):
    """Which questions are dropped."""

    min_words: Count = Field(4, description="fewest words in a question")
    max_words: Count = Field(40, description="most words in a question")
    max_answer_words: Count = Field(60, description="most words in an answer")
    similarity: Share = Field(0.92, description="cosine from which two questions with one answer are duplicates")
    round_trip: Count | None = Field(None, description="the golden chunk must be among so many results; none: index.k")
    judge: bool = Field(False, description="have the generator mark each question with the rubric in prompts/judge.md")
    judge_minimum: Share = Field(0.6, description="lowest mark that is kept")
    reader: bool = Field(False, description="have the generator answer each question again from its golden chunk")
    reader_minimum: Share = Field(0.5, description="least F1 of that answer that is kept; exact facts must be the same")
    rubric: str | None = Field(
        None,
        description="a file of yes/no questions, one a line, that the generator answers about each; default: "
        "those in prompts/rubric.yaml; a no drops it",
    )
    learned: str | None = Field(
        None,
        description="drop what a local model finds likely wrong: smollm2-135m, qwen2.5-coder-1.5b (tells far better), "
        "or a file that raft review --learn wrote",
    )
    closed_book_share: Share = Field(
        1.0, description="share kept of what the generator answers rightly without any document; 1: it is not asked"
    )


class Split(_Section):
    """What is held out."""

    unseen: Share = Field(0.1, description="share of the characters held out as whole documents (at most 0.2)")
    seen: Share = Field(0.1, description="share of the other questions held out for evaluation")
    valid: Share = Field(0.1, description="share of the other questions kept for validation during training")
    hold_out: tuple[str, ...] = Field(
        (),
        description="documents (globs over their paths) that are held out besides; no question is written about them",
    )


class Examples(_Section):
    """How a training row is put together."""

    documents: Count = Field(5, description="documents in a prompt")
    golden_share: Share = Field(0.8, description="share of rows that show the golden document")
    when_absent: Literal["abstain", "memorise"] = Field(
        "abstain", description="the target of a row without its golden document: say so, or answer all the same"
    )
    random_share: Share = Field(0.25, description="share of the distractors drawn at random, not by the retriever")
    quotes: Where = Field(
        "last", description="where an answer's quotes stand: last (small models are right more often so), first, none"
    )
    order: Literal["shuffled", "retrieved"] = Field(
        "shuffled", description="order of a row's documents: shuffled, or as the retriever ranks them for inference"
    )
    per_question: Annotated[int, Field(ge=1, le=100), _Number] = Field(
        1, description="training rows of one question, each with distractors of its own"
    )
    max_tokens: Annotated[int, Field(ge=64), _Number] = Field(2048, description="longest row, in the student's tokens")


class StyleExample(_Section):
    """One question with its answer in the wanted style."""

    question: str
    answer: str


class AnswerStyle(_Section):
    """How answers are to be worded; it shapes training rows, answers and every contender of a benchmark alike."""

    tone: str | None = Field(None, description='for example "friendly, one sentence"')
    format: str | dict[str, Any] | None = Field(None, description="words that describe the form, or a JSON schema")
    examples: tuple[StyleExample, ...] = Field((), max_length=2, description="up to two questions with their answers")

    @field_validator("format")
    @classmethod
    def _is_schema(cls, value: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
        if isinstance(value, dict):
            from jsonschema import SchemaError, validators  # noqa: PLC0415  only where a schema is given

            try:
                validators.validator_for(value).check_schema(value)
            except SchemaError as error:
                raise ValueError(f"is no JSON schema: {error.message}") from None
        return value


class Training(_Section):
    """How the student is tuned."""

    backend: str = Field(
        "auto", description="auto takes unsloth where a CUDA device and the package are present, else peft"
    )
    rank: Count = Field(16, description="rank of the adapter's matrices (LoRA)")
    alpha: Count = Field(32, description="scale of the adapter, in the unit of its rank")
    learning_rate: Positive = Field(2e-4, description="highest learning rate")
    epochs: Positive = Field(3.0, description="how often every row is seen, unless the validation loss stops falling")
    batch: Count = Field(8, description="rows of one optimiser step")
    evaluations: Count = Field(2, description="how often an epoch the validation loss is measured")
    patience: Count = Field(2, description="measurements without a lower validation loss after which training ends")
    checkpoint_minutes: Positive = Field(10.0, description="minutes between two checkpoints that training resumes from")
    layers: Literal["all", "attention", "qv"] = Field("all", description="layers of a block that the adapter changes")
    bits: Literal[4, 16] = Field(16, description="bits of a weight of the base model during training; 4 is QLoRA")
    rehearsal: Annotated[float, Field(ge=0, lt=1), _Number] = Field(
        0.1, description="share of general instruction rows mixed in, against forgetting; less than 1"
    )
    rehearsal_file: Place | None = Field(None, description="a file of such rows (chat JSONL)")
    rehearsal_replies: Literal["file", "own"] = Field("file", description="the file's, or the untuned student's own")
    kl: Annotated[float, Field(ge=0, le=1000), _Number] = Field(
        0.0, description="weight of how far the student strays from the untuned one in what it rehearses; 0: none"
    )

    @field_validator("backend")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in ("auto", *TRAINERS):
            raise PydanticKnownError("literal_error", {"expected": ", ".join(("auto", *TRAINERS))})
        return value


class Answering(_Section):
    """How a question is answered."""

    max_tokens: Count = Field(192, description="longest answer, quotes included, in the student's tokens")
    batch: Count = Field(16, description="questions that a local model answers together")
    min_relevance: Share = Field(
        0.0,
        description="how much the chunks found must be about a question, by words and sense; below it no model is "
        "asked, and the answer is that the documents don't say. At 0.6 most short questions are refused",
    )
    false_answers: Annotated[float, Field(ge=0, lt=1), _Number] = Field(
        0.0,
        description="share of the questions that the documents don't answer which may be answered all the same: the "
        "refusal head (raft train RUN --part refusal) sets its threshold by it; 0: min_relevance decides",
    )
    when_unsupported: Literal["mark", "retry", "refuse"] = Field(
        "mark",
        description="an answer whose figures do not stand beside words of the question in what it rests on, or whose "
        "quotes stand nowhere: mark it, ask once more, or refuse",
    )


class Larger(_Section):
    """A larger model that the benchmark compares with; prices are dollars per million tokens."""

    model: Model = Field(description="a hub name, a folder, or provider/name")
    api_base: Addresses | None = Field(
        None, description="address of a self-hosted endpoint, or a list of several that serve the same model"
    )
    input_price: Price | None = Field(None, description="dollars per million input tokens")
    output_price: Price | None = Field(None, description="dollars per million output tokens")


class Judge(Larger):
    """A model that compares answers; prices are dollars per million tokens."""

    rubric: str = Field(
        "default", description="a file of yes/no questions, one a line; default: prompts/preference.yaml"
    )
    questions: Count = Field(100, description="on how many questions it compares the two answers, in both orders")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        return {"model": given} if isinstance(given, str) else given


class Benchmark(_Section):
    """What is measured, against what, and from when on tuning is worth it."""

    contenders: Literal["all", "verdict"] = Field(
        "all",
        description="who is asked: all, or those alone that the verdict needs (plain RAG, the tuned model) and that "
        "you name; verdict takes about half the time, and once there is an adapter says nothing of headroom, nor of "
        "the tuned model alone",
    )
    withheld: Share = Field(0.2, description="share of the questions that are also asked without what bears the answer")
    min_gain: Share = Field(0.05, description="least gain over the best untuned contender at which tuning pays")
    latency_questions: Count = Field(50, description="questions asked one at a time, to measure latency")
    exemplars: tuple[Annotated[int, Field(ge=0), _Number], ...] = Field(
        (0, 2, 4),
        min_length=1,
        description="numbers of worked examples tried for the few-shot contender; the best on valid is taken",
    )
    tuning_questions: Count = Field(60, description="questions of valid that the number of examples is chosen with")
    capability: tuple[str, ...] = Field(
        (), description="sets that general capability is checked with: a JSONL file or a hub name"
    )
    larger: tuple[Larger, ...] = Field(
        (),
        description="larger models to compare with: model, api_base, and input_price and output_price in dollars "
        "per million tokens",
    )
    bleu: bool = Field(False, description="also measure BLEU, for those who compare with figures that have it")
    other_adapter: Place | None = Field(None, description="an adapter tuned on another corpus's rows")
    judge: Judge | None = Field(
        None,
        description="a model that compares the tuned model's answers with the baseline's by a rubric of yes/no "
        "questions, as the generator is named, or a section: model, api_base, rubric, questions, input_price, "
        "output_price; what it says is shown, and decides nothing",
    )


class Serving(_Section):
    """What a server keeps of what it is asked; privacy.found says what becomes of personal data in it."""

    traffic: bool = Field(True, description="keep questions, answers and feedback in traffic.sqlite")
    retention_days: Annotated[float, Field(gt=0, le=36500), _Number] = Field(
        90.0, description="days after which they are deleted, but for feedback that was accepted"
    )
    rewrite: Model | None = Field(
        None,
        description="a hosted model (provider/name) that words a follow-up so that it stands alone; null: it is "
        "searched with the turns before it",
    )


class Monitor(_Section):
    """From when on a fall of what production answers is told, and what counts as slow."""

    look: Share = Field(0.03, description="fall of the score from which one looks into it, where it is certain")
    act: Share = Field(0.05, description="fall from which one retrains or goes back, where it is certain")
    slow: Positive = Field(10.0, description="seconds from which a reply to a user counts as slow")

    @model_validator(mode="after")
    def _in_order(self) -> "Monitor":
        if self.act < self.look:
            raise ValueError(f"act is at least look, and it is {self.act} with look {self.look}")
        return self


class Settings(_Section):
    """One whole experiment."""

    corpus: tuple[str, ...] = Field((), description="files, folders or globs")
    student: Model = Field("HuggingFaceTB/SmolLM2-135M-Instruct", description="the small model that is tuned")
    seed: Annotated[int, Field(ge=0, lt=2**32), _Number] = Field(0, description="seed of every random choice")
    prompts: Place | None = Field(None, description="folder whose prompts replace those of the package")
    ledger: Place | None = Field(None, description="the ledger's file; none: ledger.sqlite in the run directory")
    evaluation: Place | None = Field(None, description="your own questions (JSONL), registered before splitting")
    decisions: Place | None = Field(None, description="what people decided on rows (JSONL), as raft review writes it")
    local_only: bool = Field(False, description="refuse every model, index and download that is not on this machine")
    privacy: Privacy = Privacy()
    chunking: Chunking = Chunking()
    index: Index = Index()
    generator: Generator = Generator()
    engine: Engine = Engine()
    questions: Questions = Questions()
    cleaning: Cleaning = Cleaning()
    split: Split = Split()
    examples: Examples = Examples()
    answer_style: AnswerStyle = AnswerStyle()
    training: Training = Training()
    answering: Answering = Answering()
    benchmark: Benchmark = Benchmark()
    serving: Serving = Serving()
    monitor: Monitor = Monitor()
