"""Every setting of an experiment, its default and its meaning; the only place where defaults live.

Settings come from a YAML file (`pipelines/*.yaml`), then flags; a key that is not known is an error which names the
nearest one that is.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from raft.errors import UsageError

Kind = Literal["fact", "number", "date", "name", "procedure", "comparison", "decision", "unanswerable"]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


_EXPLAINED = "raft init my-pipeline   (writes a YAML file with every setting explained)"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Chunking(_Section):
    """How documents are cut. Tokens are the embedder's."""

    tokens: Annotated[int, Field(ge=16)] = Field(200, description="about how long a chunk is, in the embedder's tokens")
    overlap: Annotated[int, Field(ge=0)] = Field(0, description="tokens that a chunk repeats of the one before it")
    text_field: str = Field("text", description="the field of JSON records that holds a document's text")


class Index(_Section):
    """Where chunks are looked up."""

    embedder: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2", description="a hub name, a folder, or provider/name"
    )
    api_base: str | None = Field(None, description="address of a self-hosted embedder")
    hybrid: bool = Field(True, description="fuse lexical search (BM25) with the vectors by reciprocal rank")
    k: Count = Field(5, description="chunks retrieved for a question")
    url: str | None = Field(None, description="a Chroma server, http://host:port; none: an index in the run directory")


class Generator(_Section):
    """The cheap model that writes the questions."""

    model: str = Field(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        description="a hub name, a folder, or provider/name for a hosted model (openai/gpt-4o-mini)",
    )
    api_base: str | None = Field(None, description="address of a self-hosted endpoint")
    concurrency: Count = Field(16, description="requests in flight at a hosted model")
    batch: Count = Field(32, description="requests in one batch of a local model")
    attempts: Count = Field(3, description="how often one request is asked before it is recorded as a failure")
    timeout: Annotated[float, Field(gt=0)] = Field(120.0, description="seconds a hosted model may take for one reply")


class Questions(_Section):
    """What is asked of each chunk."""

    way: Literal["auto", "answer_first", "items"] = Field(
        "auto",
        description="answer_first: choose exact facts, ask the model for the question alone (small local models); "
        "items: ask the model for questions, answers and quotes as JSON (capable models); auto: by the model",
    )
    per_chunk: Annotated[float, Field(gt=0)] = Field(1.0, description="questions asked for, a chunk, on average")
    limit: Count | None = Field(None, description="at most so many questions, spread evenly over the documents")
    kinds: tuple[Kind, ...] = Field(
        ("fact", "number", "date", "name"), min_length=1, description="which kinds of question are asked"
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


class Split(_Section):
    """What is held out."""

    unseen: Share = Field(0.1, description="share of the characters held out as whole documents (at most 0.2)")
    seen: Share = Field(0.1, description="share of the other questions held out for evaluation")
    valid: Share = Field(0.1, description="share of the other questions kept for validation during training")


class Examples(_Section):
    """How a training row is put together."""

    documents: Count = Field(5, description="documents in a prompt")
    golden_share: Share = Field(0.8, description="share of rows that show the golden document")
    when_absent: Literal["abstain", "memorise"] = Field(
        "abstain", description="the target of a row without its golden document: say so, or answer all the same"
    )
    random_share: Share = Field(0.25, description="share of the distractors drawn at random, not by the retriever")
    max_tokens: Annotated[int, Field(ge=64)] = Field(2048, description="longest row, in the student's tokens")


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
                raise ValueError(f"it is no JSON schema: {error.message}") from None
        return value


class Settings(_Section):
    """One whole experiment."""

    corpus: tuple[str, ...] = Field((), description="files, folders or globs")
    student: str = Field("HuggingFaceTB/SmolLM2-135M-Instruct", description="the small model that is tuned")
    seed: int = Field(0, description="seed of every random choice")
    prompts: Path | None = Field(None, description="folder whose prompts replace those of the package")
    ledger: Path | None = Field(None, description="the ledger's file; none: ledger.sqlite in the run directory")
    evaluation: Path | None = Field(None, description="your own questions (JSONL), registered before splitting")
    chunking: Chunking = Chunking()
    index: Index = Index()
    generator: Generator = Generator()
    questions: Questions = Questions()
    cleaning: Cleaning = Cleaning()
    split: Split = Split()
    examples: Examples = Examples()
    answer_style: AnswerStyle = AnswerStyle()


def load(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read settings: flags win over the YAML file, the YAML file over the defaults.

    Relative paths in the file (`prompts`, `ledger`, `evaluation`, `corpus`) are taken from the file's folder.

    Args:
        path: a YAML file, or None for the defaults alone.
        overrides: dotted keys to values, e.g. `{"index.k": 8}`.

    Raises:
        UsageError: the file is missing or no YAML, a key is unknown (the nearest known one is named), or a value is
            of the wrong type or out of range.
    """
    return _validated(_read(path) if path else {}, overrides, path)


def load_text(text: str, overrides: Mapping[str, Any] | None = None, *, where: str) -> Settings:
    """Read settings from YAML text; `where` names it in errors.

    Raises:
        UsageError: as `load`.
    """
    return _validated(_parse(text, where), overrides, where)


def _validated(tree: dict[str, Any], overrides: Mapping[str, Any] | None, where: object) -> Settings:
    for key, value in (overrides or {}).items():
        _plant(tree, key, value)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, where) from None


def parse_assignment(text: str) -> tuple[str, Any]:
    """Split `key=value` as typed after `--set`; the value is read as YAML.

    Raises:
        UsageError: there is no `=`, or the value is no YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set takes key=value, and {text!r} is not of that form.", hint="--set index.k=8")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"The value of {key} is no YAML: {error}", where="--set", hint=f"--set '{key}=...'") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError("There is no such pipeline file.", where=path, hint="raft init my-pipeline") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The pipeline file cannot be read: {error}.", where=path, hint=_EXPLAINED) from None
    tree = _parse(text, path)
    for key in ("prompts", "ledger", "evaluation"):
        if isinstance(tree.get(key), str):
            tree[key] = path.parent / tree[key]
    corpus = tree.get("corpus")
    if isinstance(corpus, str):
        corpus = [corpus]
    if isinstance(corpus, list):
        tree["corpus"] = [str(path.parent / str(part)) for part in corpus]
    return tree


def _parse(text: str, where: object) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"The pipeline file is no YAML: {error}", where=where, hint=_EXPLAINED) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UsageError("A pipeline file holds settings as `key: value`.", where=where, hint="raft init my-pipeline")
    return tree


def _plant(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        child = tree.get(section)
        if not isinstance(child, dict):
            child = tree[section] = {}
        tree = child
    tree[name] = value


def _explain(error: ValidationError, where_from: object) -> UsageError:
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            near = get_close_matches(where, known_keys(), n=1, cutoff=0.5)
            lines.append(f"There is no setting {where}." + (f" Did you mean {near[0]}?" if near else ""))
        else:
            lines.append(f"{where}: {problem['msg']} (it is {problem['input']!r}).")
    return UsageError(" ".join(lines), where=where_from or "the command line", hint=_EXPLAINED)


def known_keys(section: type[BaseModel] = Settings, prefix: str = "") -> list[str]:
    """Return the dotted names of all settings, in the order in which they are declared."""
    keys: list[str] = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += known_keys(field.annotation, f"{prefix}{name}.")
    return keys


def commented_yaml(
    values: Mapping[str, Any] | None = None, section: type[BaseModel] = Settings, indent: str = ""
) -> str:
    """Return a YAML file with every setting, its meaning as a comment, and its default or the given value."""
    values = values or {}
    lines: list[str] = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            summary = (kind.__doc__ or "").strip().splitlines()[0]
            lines += ["", f"{indent}# {summary}", f"{indent}{name}:"]
            lines.append(commented_yaml(values.get(name), kind, indent + "  ").rstrip("\n"))
        else:
            value = values.get(name, field.default)
            lines += [f"{indent}# {field.description}", f"{indent}{name}: {_yaml_value(value)}"]
    return "\n".join(lines).lstrip("\n") + "\n"


def _yaml_value(value: Any) -> str:
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = list(value)
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
