"""Prompts: Markdown files with placeholders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft import prompts
from raft.errors import UsageError

TEXT = "A note.\n\n## system\nBe brief.\n\n## user\n$question costs $$5?\n"


def test_a_file_is_a_chat():
    """Each heading begins a turn, the note above is not sent, and two dollars are one."""
    chat = prompts.parse("p", TEXT).render(question="What")
    assert chat == ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "What costs $5?"})


@given(st.text())
def test_values_are_put_in_as_they_are(value):
    """A value with dollars or headings in it is text, not a template."""
    (turn,) = prompts.parse("p", "## user\n>$question<").render(question=value)
    assert turn["content"] == f">{value}<"


def test_an_empty_turn_is_left_out():
    """A turn that comes out empty is not sent."""
    prompt = prompts.parse("p", "## user\nHi\n\n## assistant\n$start")
    assert [turn["role"] for turn in prompt.render(start=" ")] == ["user"]
    assert [turn["role"] for turn in prompt.render(start="Well")] == ["user", "assistant"]


def test_the_digest_follows_the_turns_alone():
    """Another note leaves the digest as it is; another turn does not."""
    digest = prompts.parse("p", TEXT).digest
    assert prompts.parse("p", TEXT.replace("A note", "Another note")).digest == digest
    assert prompts.parse("p", TEXT.replace("brief", "long")).digest != digest


def test_an_unknown_placeholder_is_an_error_that_lists_the_known_ones():
    """A prompt that asks for what is not given is refused, and the hint says what there is."""
    with pytest.raises(UsageError, match=r"\$answer, \$passage"):
        prompts.parse("p", "## user\n$passages").render(answer="", passage="")
    with pytest.raises(UsageError, match="placeholder"):
        prompts.parse("p", "## user\nIt costs 5$ a piece").render()


def test_a_file_without_a_turn_is_an_error():
    """A prompt must begin a turn."""
    with pytest.raises(UsageError, match="## user"):
        prompts.parse("p", "Just text")


def test_own_prompts_replace_those_of_the_package(tmp_path):
    """A file in the user's folder wins, and the package fills in what is not there."""
    (tmp_path / "judge.md").write_text("## user\nMine", encoding="utf-8")
    assert prompts.load("judge", tmp_path).render()[0]["content"] == "Mine"
    assert prompts.load("answer", tmp_path) == prompts.load("answer")


def test_missing_prompts_and_folders_are_errors(tmp_path):
    """An unknown prompt names the known ones, and a missing folder is named."""
    with pytest.raises(UsageError, match="answer"):
        prompts.load("answr")
    with pytest.raises(UsageError, match="folder"):
        prompts.load("answer", tmp_path / "missing")


@pytest.mark.parametrize(
    "text", ["## system\nBe kind.\n\n## user\n$questions", "## system\n$questions", "## user\n", "## user\n$other"]
)
def test_what_is_put_behind_another_prompt_is_one_turn(tmp_path, text):
    """A prompt that is put behind another one is refused when it is loaded, unless it is one turn of the user's."""
    (tmp_path / "others.md").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        prompts.load_addition("others", tmp_path)
    assert error.value.hint
    assert prompts.load_addition("like", tmp_path) == prompts.load("like")


@pytest.mark.parametrize("name", [name[:-3] for name in prompts.packaged("prompts") if name.endswith(".md")])
def test_each_packaged_prompt_is_a_chat_with_a_note(name):
    """Every prompt of the package parses, ends with the user's or a begun turn, and says what it is for."""
    prompt = prompts.load(name)
    assert prompt.turns[-1][0] in ("user", "assistant")
    assert not prompts.load_text(f"{name}.md").startswith("## ")


@pytest.mark.parametrize(
    ("name", "values"),
    [("answer", ("documents", "question", "style")), ("judge", ("passage", "question", "answer"))],
)
def test_prompts_use_the_values_that_they_are_given(name, values):
    """The prompts of answering and judging show everything that they are given."""
    chat = prompts.load(name).render(**{value: f"<{value}>" for value in values})
    shown = "\n".join(turn["content"] for turn in chat)
    assert all(f"<{value}>" in shown for value in values)
