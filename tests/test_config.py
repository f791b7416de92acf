"""Settings: one default each, one precedence, and errors that say what to type."""

import json
import shlex
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from raft import prompts
from raft import settings as config
from raft.api import training
from raft.errors import RaftError, UsageError, names_run
from raft.kinds import KINDS


def write(path, text):
    """Write a pipeline file and return its path."""
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_needs_to_be_set():
    """Without file and flags every setting has its default."""
    assert config.load() == config.Settings()
    assert config.load().examples.golden_share == 0.8


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    """Precedence is flag, then YAML, then default."""
    path = write(tmp_path / "p.yaml", "seed: 3\nindex: {k: 7, hybrid: false}\n")
    settings = config.load(path, {"index.k": 9})
    assert (settings.seed, settings.index.k, settings.index.hybrid, settings.chunking.tokens) == (3, 9, False, 200)


def test_paths_in_a_file_are_relative_to_it(tmp_path):
    """Paths are taken from the folder of the file that names them; absolute ones stay."""
    path = write(
        tmp_path / "p.yaml", f"corpus: docs\nledger: l.sqlite\nprompts: {tmp_path / 'x'}\nevaluation: e.jsonl\n"
    )
    settings = config.load(path)
    assert settings.corpus == (str(tmp_path / "docs"),)
    assert (settings.ledger, settings.evaluation) == (tmp_path / "l.sqlite", tmp_path / "e.jsonl")
    assert settings.prompts == tmp_path / "x"


def test_paths_in_a_section_are_relative_to_the_file_too(tmp_path):
    """Paths of a section follow the file; an entry that may be a name is a path where there is such a file."""
    write(tmp_path / "arc.jsonl", "")
    write(tmp_path / "own.json", "")
    settings = config.load(
        write(
            tmp_path / "p.yaml",
            "training: {rehearsal_file: r.jsonl}\n"
            f"benchmark: {{other_adapter: {tmp_path / 'a'}, capability: [arc.jsonl, org/lambada]}}\n"
            "cleaning: {learned: own.json, rubric: none.yaml}\n",
        )
    )
    assert (settings.cleaning.learned, settings.cleaning.rubric) == (str(tmp_path / "own.json"), "none.yaml")
    assert settings.training.rehearsal_file == tmp_path / "r.jsonl"
    assert settings.benchmark.other_adapter == tmp_path / "a"
    assert settings.benchmark.capability == (str(tmp_path / "arc.jsonl"), "org/lambada")


@pytest.mark.parametrize("text", ["training: 3\n", "training: [rehearsal_file]\n", "benchmark: {capability: {a: b}}\n"])
def test_a_section_of_another_shape_is_a_usage_error(tmp_path, text):
    """Where a section or list is expected, anything else is an error that names the key."""
    with pytest.raises(UsageError, match=text.partition(":")[0]):
        config.load(write(tmp_path / "p.yaml", text))


def test_rows_cannot_all_be_general():
    """A mixture of general rows alone would teach nothing of the corpus: a share of 1 is refused where it is set."""
    assert config.load(overrides={"training.rehearsal": 0.9}).training.rehearsal == 0.9
    with pytest.raises(UsageError, match=r"training\.rehearsal"):
        config.load(overrides={"training.rehearsal": 1.0})


def test_larger_models_have_prices():
    """A larger model is given by its name, with prices where they are known."""
    larger = [{"model": "openai/gpt-4o"}, {"model": "openai/o", "input_price": 2.5, "output_price": 10}]
    first, second = config.load(overrides={"benchmark.larger": larger}).benchmark.larger
    assert (first.model, first.input_price, second.output_price) == ("openai/gpt-4o", None, 10.0)


@pytest.mark.parametrize(
    ("key", "near"),
    [("index.kk", "index.k"), ("chuncking.tokens", "chunking"), ("examples.goldenshare", "golden_share")],
)
def test_an_unknown_setting_names_the_nearest(key, near):
    """A mistyped key is an error that says which one was meant."""
    with pytest.raises(UsageError, match=near) as caught:
        config.load(overrides={key: 1})
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("index.k", 0),
        ("split.unseen", 1.5),
        ("chunking.tokens", "many"),
        ("questions.kinds", ["riddle"]),
        ("questions.kinds", []),
        ("examples.when_absent", "guess"),
        ("generator.timeout", 0),
        ("training.bits", 8),
        ("training.backend", "magic"),
        ("training.learning_rate", 0),
        ("answering.when_unsupported", "shrug"),
        ("benchmark.min_gain", 5),
        ("benchmark.exemplars", []),
        ("benchmark.larger", [{"input_price": 1}]),
    ],
)
def test_a_value_out_of_range_is_named(key, value):
    """A value of the wrong type or out of range is an error that names its key."""
    with pytest.raises(UsageError, match=key.replace(".", r"\.")):
        config.load(overrides={key: value})


def test_settings_cannot_be_changed_later():
    """Settings stay as they were read."""
    with pytest.raises(ValueError):
        config.load().index.k = 3


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "just words"])
def test_a_file_that_is_no_mapping_is_an_error(tmp_path, text):
    """A pipeline file is YAML with keys and values."""
    with pytest.raises(UsageError):
        config.load(write(tmp_path / "p.yaml", text))


def test_an_empty_file_means_the_defaults_and_a_missing_one_is_an_error(tmp_path):
    """An empty pipeline file sets nothing; one that is not there is named."""
    assert config.load(write(tmp_path / "p.yaml", "")) == config.Settings()
    with pytest.raises(UsageError, match=r"nowhere\.yaml"):
        config.load(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("index.k=8", ("index.k", 8)), ("a=", ("a", None)), ("a = x=y", ("a", "x=y")), ("a=[1, b]", ("a", [1, "b"]))],
)
def test_assignments_are_read_as_yaml(text, expected):
    """What is typed after --set is a key and a YAML value."""
    assert config.parse_assignment(text) == expected


@pytest.mark.parametrize("text", ["index.k", "=3", "a=[1"])
def test_a_wrong_assignment_is_an_error(text):
    """An assignment without key, sign or readable value is refused."""
    with pytest.raises(UsageError):
        config.parse_assignment(text)


def test_the_commented_file_holds_every_setting_and_reads_back():
    """The file that is written for a new pipeline names each setting with its meaning, and means the defaults."""
    text = config.commented_yaml()
    assert config.Settings.model_validate(yaml.safe_load(text)) == config.Settings()
    for key in config.known_keys():
        assert f"{key.rsplit('.', 1)[-1]}:" in text
    assert text.count("# ") >= len(config.known_keys())


def test_given_values_stand_in_the_commented_file():
    """Values replace the defaults in the file, in sections too, and paths are written as text."""
    text = config.commented_yaml({"seed": 7, "index": {"k": 9}, "ledger": Path("l.sqlite"), "corpus": ("a", "b")})
    settings = config.Settings.model_validate(yaml.safe_load(text))
    assert (settings.seed, settings.index.k, settings.ledger, settings.corpus) == (7, 9, Path("l.sqlite"), ("a", "b"))


def test_every_setting_says_what_it_means():
    """Each setting has a description, and each section a sentence."""

    def sections(section):
        yield section
        for field in section.model_fields.values():
            if isinstance(field.annotation, type) and issubclass(field.annotation, config.BaseModel):
                yield from sections(field.annotation)

    for section in sections(config.Settings):
        assert section.__doc__
        for field in section.model_fields.values():
            nested = isinstance(field.annotation, type) and issubclass(field.annotation, config.BaseModel)
            assert nested or field.description


def test_a_new_name_of_a_setting_means_the_one_that_runs_keep(tmp_path):
    """`questions.strategy` is `questions.way`, in a file or after `--set`; what is set wins over the file."""
    for overrides in ({"questions.strategy": "spans"}, {"questions.way": "spans"}):
        assert config.load(overrides=overrides).model_dump()["questions"]["way"] == "spans"
    file = write(tmp_path / "p.yaml", "questions: {strategy: items}\n")
    assert config.load(file).questions.way == "items"
    assert config.load(file, {"questions.way": "spans"}).questions.way == "spans"
    assert config.changed(config.load(file), {"questions.strategy": "spans"}).questions.way == "spans"


def test_one_setting_under_both_its_names_is_an_error(tmp_path):
    """Whoever gives a setting under its new and its old name at once is told that they are one."""
    file = write(tmp_path / "p.yaml", "questions: {strategy: items, way: items}\n")
    both = {"questions.strategy": "spans", "questions.way": "spans"}
    for given in ({"path": file}, {"overrides": both}):
        with pytest.raises(UsageError, match=r"questions\.strategy and questions\.way are one"):
            config.load(**given)


def test_half_an_emoji_in_a_setting_is_made_whole():
    """Text of a setting can be stored, whether it was typed or stands in a file."""
    assert config.load(None, {"prompts": None, "answer_style.tone": "kind \ud83d"}).answer_style.tone == "kind "
    assert config.load_text('answer_style: {tone: "kind \\ud83d"}', where="x").answer_style.tone == "kind "


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("1e3", 1000),
        ("1.5e3", 1500),
        ("2E2", 200),
        ("1,000", 1000),
        ("-1 000", -1000),
        ("1k", 1000),
        (1e3 + 0.5, None),
        ("1,5", None),
        ("1e-3", None),
        ("many", None),
        ("1e99", None),
    ],
)
def test_a_whole_number_that_yaml_does_not_read_is_written_out_in_the_hint(tmp_path, value, written):
    """Typed or in a file, the hint says which whole number is meant, where one is."""
    with pytest.raises(UsageError, match=r"index\.k is a whole number") as typed:
        config.load(None, {"index.k": value})
    with pytest.raises(UsageError, match=r"index\.k is a whole number") as filed:
        config.load(
            write(
                tmp_path / "p.yaml",
                f"index: {{k: '{value}'}}\n" if isinstance(value, str) else f"index: {{k: {value}}}\n",
            )
        )
    if written is None:
        assert typed.value.hint == filed.value.hint and typed.value.hint.startswith("raft init")
        return
    assert typed.value.hint == f"--set index.k={written}"
    assert filed.value.hint == f"index: {{k: {written}}}"


@pytest.mark.parametrize(
    ("given", "file", "hint"),
    [
        ({"indx.k": 7}, None, "--set index.k=7"),
        ({"indx.kk": 7, "indx.hybrd": False}, None, "--set index.k=7 --set index.hybrid=false"),
        ({"index": {"kk": 7, "hybrid": False}}, None, "--set index.hybrid=false --set index.k=7"),
        ({"benchmark.judge": {"model": "a/b", "rubrik": "r"}}, None, "raft init my-pipeline"),
        ({"questions.kinds": ["dat", "name", "nam"]}, None, "--set 'questions.kinds=[date, name, name]'"),
        ({"questions.strategy": "spanss"}, None, "--set questions.way=spans"),
        ({"training.bits": 17}, None, "--set training.bits=16"),
        ({}, "engine: {kind: rya}", "engine: {kind: ray}"),
        ({}, "indx: {k: 7}", "index: {k: 7}"),
        ({}, "questions: {kinds: [date, nam]}", "questions: {kinds: [date, name]}"),
        ({}, "engine: {kind: rya}\nindex: {k: 1k}", "{engine: {kind: ray}, index: {k: 1000}}"),
        ({"engine.kind": "rya"}, "index: {k: 1k}", "--set engine.kind=ray"),
        ({"indx": 3}, None, "raft init my-pipeline"),
        ({"benchmark.larger": [{"model": "a/b", "modl": 3}]}, None, "raft init my-pipeline"),
    ],
)
def test_a_correction_can_be_typed_as_it_stands(given, file, hint):
    """What is suggested is an option, or YAML, that is read without an error: all of it, and never a mix of the two."""
    with pytest.raises(UsageError) as caught:
        config.load_text(file or "", given, where="p.yaml")
    said = caught.value.hint.partition("   (")[0]
    assert said == hint
    if said.startswith("--set "):
        config.load(None, config.parse_assignments(shlex.split(said)[1::2]))
    elif file:
        config.load_text(said, where="p.yaml")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("index.api_bas", "https://u:secretpw@h/v1"),
        ("generator.api_basis", "https://h/v1?api_key=secretpw"),
        ("generator", {"api_basis": "https://u:secretpw@h/v1"}),
        ("generator.api_basis", "sk-proj-abcDEFsecretpw1234567890"),
    ],
)
def test_a_hint_shows_no_secret(key, value):
    """What is suggested has no password and no key in it, as all else that an error says."""
    with pytest.raises(UsageError) as caught:
        config.load(None, {key: value})
    assert "api_base" in caught.value.hint and "secretpw" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("engine.kind", "ada:secretpw1@h"),
        ("questions.way", ["ada:secretpw1@h"]),
        ("training.backend", "sk-proj-abcDEFsecretpw1234567890"),
        ("index.k", {"url": "ada:secretpw1@h"}),
        ("ledger", "https://ada:secretpw1@h/ledger.sqlite"),
        ("benchmark.capability", ["https://ada:secretpw1@h/x.jsonl"]),
        ("generator.model", "https://ada:secretpw1@h/v1"),
    ],
)
def test_a_password_that_slipped_into_a_setting_is_not_shown(tmp_path, key, value):
    """A password or key that was given for another setting is refused and stands nowhere in what is said of it."""
    path = write(tmp_path / "raft.yaml", f"{key.partition('.')[0]}: {json.dumps(value)}\n" if "." not in key else "")
    for given in ((None, {key: value}), *[(path, {})][: "." not in key]):
        with pytest.raises(UsageError) as caught:
            config.load(*given)
        assert "secretpw1" not in str(caught.value) and key in str(caught.value)


def test_what_only_looks_like_a_password_is_no_fault():
    """Documents of a repository, a path with two slashes and an address of IPv6 are taken as they are."""
    held = ["github://o:r@main/docs/*", "archive//a:b@c/*"]
    assert list(config.load(None, {"split.hold_out": held}).split.hold_out) == held
    assert config.load(None, {"index.url": "http://[::1]:8080/v1@x"}).index.url == "http://[::1]:8080/v1@x"


def test_the_address_of_a_cluster_is_written_down_without_its_password():
    """What a run remembers of its engine's address has no password, with a scheme or without."""
    for address in ("ray://ada:secretpw1@h:1", "ada:secretpw1@h:1"):
        chosen = config.load(None, {"engine.address": address})
        assert chosen.engine.address == address and "secretpw1" not in chosen.model_dump_json()


def test_what_was_written_is_no_suggestion():
    """Where the nearest value is what was typed, nothing is suggested."""
    with pytest.raises(UsageError, match="is at least 1") as caught:
        config.load(None, {"index.k": 0})
    assert caught.value.hint.startswith("raft init")
    for key, value, hint in (
        ("questions.kinds", [1], "'questions.kinds=[fact]'"),
        ("training.bits", "16", "training.bits=16"),
    ):
        with pytest.raises(UsageError, match="is one of") as caught:
            config.load(None, {key: value})
        assert caught.value.hint.startswith(f"--set {hint}")


def test_every_setting_that_is_a_whole_number_has_that_hint():
    """It is said of each such setting, also where the number may be none or has rules of its own."""
    found = 0
    for key in config.known_keys():
        for value, wanted in (("1e1", "10"), ("1k", "1000")):
            with suppress(UsageError):
                config.load(None, {key: int(wanted)})
                with suppress(UsageError):
                    config.load(None, {key: 10.5})
                    continue  # a fraction will do
                with pytest.raises(UsageError) as told:
                    config.load(None, {key: value})
                assert told.value.hint.startswith(f"--set {key}={wanted}"), (key, told.value.hint)
                found += 1
    assert found > 20


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("index.k", 0, "index.k is at least 1, and it is 0."),
        ("index.k", "many", "index.k is a whole number"),
        ("index.kk", 1, "There is no setting index.kk. Did you mean index.k?"),
        ("nothing.here", 1, "There is no setting nothing."),
        ("index", 3, "index is a section"),
        ("cleaning.judge", "maybe", "cleaning.judge is true or false"),
        ("questions.kinds", ["dates"], "questions.kinds[0] is one of 'fact', 'number', 'date'"),
        ("questions.kinds", [], "questions.kinds has at least 1 entry"),
        ("generator.timeout", float("inf"), "generator.timeout is a number with an end"),
        ("training.backend", "magic", "training.backend is one of auto, peft, unsloth, and it is 'magic'."),
        ("benchmark.larger", [{}], "benchmark.larger[0].model has to be given."),
        ("split.unseen", 0.9, "split.unseen is at most 0.2, and it is 0.9."),
        ("questions.keep", True, "questions.keep is a number, and it is True."),
        ("questions.limit", False, "questions.limit is a number, and it is False."),
        ("split.unseen", True, "split.unseen is a number, and it is True."),
        ("questions.qa", [{"question": "Who?"}], "questions.qa[0] is the path of a file or a folder, and it is {"),
        ("questions.qa", "", "questions.qa is the path of a file or a folder, and it is ''."),
        ("benchmark.judge", "", "benchmark.judge.model is the name of a model, and it is ''."),
        ("student", " ", "student is the name of a model, and it is ' '."),
    ],
)
def test_an_error_names_what_was_typed(tmp_path, key, value, said):
    """What is wrong is said in words of ours, with the words that were typed, also where there is a file besides."""
    with pytest.raises(UsageError) as caught:
        config.load(write(tmp_path / "p.yaml", "seed: 3\n"), {key: value})
    assert said in caught.value.what
    assert caught.value.where.removeprefix("--set ").strip("'").startswith(f"{key}=")
    assert "Input" not in str(caught.value)


def test_an_error_in_a_file_names_the_file(tmp_path):
    """What stands in the file is not said to have been typed."""
    path = write(tmp_path / "p.yaml", "index: {k: 0}\n")
    with pytest.raises(UsageError, match=r"index\.k is at least 1") as caught:
        config.load(path, {"seed": 3})
    assert caught.value.where == str(path)


def test_the_kinds_of_question_stand_in_a_new_pipeline():
    """Whoever opens a new pipeline file sees which kinds of question there are."""
    assert all(kind in config.commented_yaml() for kind in KINDS)


def test_a_sentence_ends_with_one_full_stop():
    """What a library said keeps its ellipsis, and no second full stop comes behind its own."""
    error = RaftError("It cannot be read: no such thing.. Or is it... so")
    assert error.what == "It cannot be read: no such thing. Or is it... so"
    assert RaftError("There is no ../a..b.").what == "There is no ../a..b."


@pytest.mark.parametrize("name", prompts.packaged("pipelines"))
def test_each_packaged_pipeline_is_made_of_settings_there_are(name):
    """A pipeline that comes with the package can be read, asks for kinds that there are, and names its embedder."""
    chosen = config.load_text(prompts.packaged("pipelines")[name], {}, where=name)
    assert set(chosen.questions.kinds) <= set(KINDS)
    assert ("multilingual" in name) == (chosen.index.embedder != config.Settings().index.embedder)


def test_a_run_of_before_may_hold_out_more():
    """What an earlier raft was told holds where something else is changed."""
    before = config.Settings.model_validate({"split": {"unseen": 0.5}})
    assert config.changed(before, {"index.k": 3}).split.unseen == 0.5
    with pytest.raises(UsageError, match="at most"):
        config.changed(before, {"split.unseen": 0.5})


def test_a_user_that_is_not_known_is_no_traceback():
    """`~name` of nobody here stays as it is written."""
    assert config.load(None, {"ledger": "~nosuchuser/l"}).ledger == Path("~nosuchuser/l")


MALFORMED = ["http://[::1/v1", "http://host:99999/v1", "http://host:port", "http:///v1", "host:8000/v1", "ftp://host"]


@pytest.mark.parametrize("key", ["generator.api_base", "index.api_base", "index.url"])
@pytest.mark.parametrize(
    "address", [*MALFORMED, "http://a host/v1", "http://host\\v1", "http://host/\u202ev1", "http://."]
)
def test_an_address_where_nobody_can_be_asked_is_named(key, address):
    """A malformed address is told when it is read, with its setting and what was typed."""
    with pytest.raises(UsageError) as caught:
        config.load(None, {key: address})
    assert str(caught.value).startswith(f"{key} ")
    assert "--set" in str(caught.value.where)
    assert "http://host:port" in caught.value.hint


def test_a_malformed_address_in_a_file_or_a_list_names_its_place(tmp_path):
    """A file's address names the file, a larger model's the entry; a password in it is not shown."""
    path = tmp_path / "raft.yaml"
    path.write_text("index: {url: 'http://user:pass1word@host:99999'}\n")
    with pytest.raises(UsageError, match=r"index\.url") as caught:
        config.load(path)
    assert str(path) in str(caught.value)
    assert "pass1word" not in str(caught.value)
    larger = [{"model": "openai/a"}, {"model": "openai/b", "api_base": "http://[/v1"}]
    with pytest.raises(UsageError, match=r"benchmark\.larger\[1\]"):
        config.load(None, {"benchmark.larger": larger})


@pytest.mark.parametrize(
    "address", ["http://[::1]:8000/v1", "https://***@host/v1", "http://käse.example/v1?key=***", ""]
)
def test_an_address_where_somebody_may_be_asked_is_taken(address):
    """IPv6, names of any script, what was kept without its key, and an unset variable are no errors."""
    assert config.load(None, {"generator.api_base": address}).generator.api_base == address


def test_a_run_of_before_may_have_a_malformed_address(tmp_path):
    """What an earlier raft wrote down is read, and other settings of it can be changed."""
    kept = config.of_manifest({"generator": {"api_base": "http://[::1/v1"}}, tmp_path)
    assert config.changed(kept, {"index.k": 3}).index.k == 3
    with pytest.raises(UsageError, match="malformed"):
        config.changed(kept, {"generator.api_base": "http://[::1/v1"})


def test_what_knows_no_run_is_told_with_the_run_in_its_hint(tmp_path):
    """What a trainer raises names the run that is trained, or exported, in its hint, as it is typed."""

    @names_run
    def train(folder, **_options):
        raise RaftError("It fails.", hint="raft train RUN --set training.bits=16")

    for given, options in (((tmp_path / "my run",), {}), ((), {"folder": tmp_path / "my run"})):
        with pytest.raises(RaftError) as told:
            train(*given, **options)
        assert told.value.hint == f"raft train '{tmp_path / 'my run'}' --set training.bits=16"
    assert all(hasattr(one, "__wrapped__") for one in (training.train, training.export_model))


KEYS = ["generator.api_key", "generator.key", "generator.api_token", "index.password", "hf_token", "OPENAI_API_KEY"]


@pytest.mark.parametrize("name", KEYS)
def test_a_key_that_is_set_is_neither_shown_nor_suggested(tmp_path, name):
    """Who sets a key is told where keys are read from; it is shown nowhere, and nothing is to be set to it instead."""
    section, _, key = name.rpartition(".")
    file = write(tmp_path / "raft.yaml", f"{section}: {{{key}: S3cRet}}\n" if section else f"{key}: S3cRet\n")
    for given in ((None, {name: "S3cRet"}), (file, {})):
        with pytest.raises(UsageError, match="read from the environment") as caught:
            config.load(*given)
        assert "S3cRet" not in str(caught.value) and "--set" not in str(caught.value)


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("typed", [["{}=S3cRet: {{"], ["{}=S3cRet", "{}=0th3r"]])
def test_a_key_that_is_typed_wrongly_is_not_shown_either(name, typed):
    """What is no YAML, or is given twice, is not said of a key: before all else it is told where keys belong."""
    with pytest.raises(UsageError, match="read from the environment") as caught:
        config.parse_assignments([one.format(name) for one in typed])
    assert "S3cRet" not in str(caught.value)


@pytest.mark.parametrize(("name", "meant"), [("examples.max_token", "max_tokens"), ("chunking.token", "tokens")])
def test_a_count_of_tokens_is_no_secret(name, meant):
    """A setting that is nearly one of the known is suggested as ever, though its name has a token in it."""
    with pytest.raises(UsageError, match=f"{meant}=64"):
        config.load(None, {name: 64})
