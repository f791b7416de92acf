"""Routing: a conversation always meets the same system, and growing the share moves nobody back."""

from hypothesis import given
from hypothesis import strategies as st

from raft.serving.routing import conversation, meets, since

TEXT = st.text(st.characters(codec=None), max_size=60)
SHARE = st.floats(0, 1)


@given(TEXT, TEXT, TEXT, TEXT, TEXT)
def test_any_text_stands_for_a_conversation(salt, caller, user, header, first):
    """Whatever is sent, half characters among it, becomes 32 hexadecimal digits, and always the same ones."""
    names = {conversation(salt, caller, user=user, header=header, first=first) for _ in range(2)}
    (name,) = names
    assert len(name) == 32 and set(name) <= set("0123456789abcdef")


@given(TEXT, TEXT, TEXT, TEXT)
def test_what_comes_first_decides(user, header, first, other):
    """With a user nothing else counts, with a header no question does, and a key counts before the question."""
    if user:
        assert conversation("s", "", user=user, header=header, first=first) == conversation("s", "", user=user)
    elif header:
        assert conversation("s", "", header=header, first=first) == conversation("s", "", header=header, first=other)
    assert conversation("s", "ada", first=first) == conversation("s", "ada", first=other)
    assert (conversation("s", "", first=first) == conversation("s", "", first=other)) == (first == other)


@given(TEXT, st.text("0123456789abcdef", min_size=4), SHARE, SHARE)
def test_a_larger_share_keeps_who_is_there(user, candidate, one, other):
    """Who meets the candidate at some share meets it at each larger one; at 0 nobody does, at 1 everybody."""
    name, (small, large) = conversation("s", "", user=user), sorted((one, other))
    assert meets(name, candidate, small) <= meets(name, candidate, large)
    assert not meets(name, candidate, 0.0)
    assert meets(name, candidate, 1.0)


def test_so_many_meet_it_as_are_to():
    """Of 4,000 callers a tenth meets the candidate, and of these a tenth the next one too: each is drawn anew."""
    names = [conversation("s", "", user=str(number)) for number in range(4_000)]
    first = {name for name in names if meets(name, "aaaa", 0.1)}
    second = {name for name in names if meets(name, "bbbb", 0.1)}
    assert 330 < len(first) < 470
    assert len(first & second) < 80


def line(action, version, at):
    """Return a line of a history."""
    return {"action": action, "version": version, "at": f"2026-11-30T00:00:{at:02}+00:00"}


def test_a_trial_begins_when_the_two_stand_side_by_side():
    """A larger share does not begin it anew; another production, another candidate and a new nomination do."""
    lines = [line("promote", "a", 1), line("candidate", "b", 2), line("candidate", "b", 3), line("retire", "c", 4)]
    begun = since(lines[:2])
    assert since(lines) == begun
    assert since([*lines, line("promote", "d", 5)]) == begun + 3
    assert since([*lines, line("candidate", "e", 6), line("candidate", "b", 7)]) == begun + 5
    assert since([*lines, line("withdraw", "b", 8), line("candidate", "b", 9)]) == begun + 7
    assert since([*lines, line("promote", "b", 10)]) == begun + 8
    assert since([]) == 0
