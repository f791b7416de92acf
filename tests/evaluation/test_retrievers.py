"""Two ways to search, compared on the same questions."""

from hypothesis import given
from hypothesis import strategies as st

from raft.evaluation.scores import compared, retrieval
from raft.rag.relevant import Sources

IDS = ("a", "b", "c", "d")
found = st.lists(st.permutations(("x", "y", "z", "w")), min_size=len(IDS), max_size=len(IDS))


def sources(hits):
    """Return sources whose relevant chunk is x, but for the last question, which has none."""
    relevant = {name: ["x"] for name in IDS[:-1]}
    return Sources(relevant, dict(zip(IDS, hits, strict=True)), {}, {})


@given(found, found)
def test_the_difference_is_what_lies_between_both(before, after):
    """Each measure is that of the retrieval table, the difference is theirs, and what bears nothing is left out."""
    both = compared(IDS, sources(before), sources(after), k=3, sections={})
    assert both["questions"] == 3
    for place, hits in (("before", before), ("after", after)):
        table = retrieval(IDS, sources(hits))
        assert both["mrr"][place] == table["mrr"]
        assert both["recall_at_1"][place] == table["recall"]["1"]
        assert both["recall_at_k"][place] == table["recall"]["3"]
    for name in ("recall_at_1", "recall_at_k", "mrr"):
        one = both[name]
        assert abs(one["difference"]["value"] - (one["after"]["value"] - one["before"]["value"])) < 1e-9
        assert one["difference"]["low"] <= one["difference"]["value"] <= one["difference"]["high"]


def test_of_nothing_nothing_is_told():
    """Without a question whose chunk is known there is no figure, and no error."""
    both = compared(("d",), sources([("x",)] * 4), sources([("x",)] * 4), k=3, sections={})
    assert both["questions"] == 0
    assert both["mrr"] == {"before": None, "after": None, "difference": None}


def test_of_few_documents_something_finer_is_resampled():
    """The intervals are drawn as a benchmark's are: over sections, or questions, where documents are few."""
    names = [f"q{number:02}" for number in range(24)]
    chunks = {name: [f"c{name}"] for name in names}
    few = Sources(chunks, chunks, {name: f"{number % 2}.md" for number, name in enumerate(names)}, {})
    sections = {f"c{name}": f"section {name}" for name in names}
    for told, unit in (({}, "questions"), (sections, "sections")):
        both = compared(names, few, few, k=3, sections=told)
        assert (both["resampled"], both["mrr"]["difference"]["groups"]) == (unit, 24)
