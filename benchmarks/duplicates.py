"""Duplicates among questions: planted ones that must merge, and look-alikes that must not; precision and recall.

    python benchmarks/duplicates.py raft                      # with the embedder of the package
    python benchmarks/duplicates.py vectors v.npz             # of the same embedder, for semhash
    VECTORS=v.npz python benchmarks/duplicates.py semhash 0.8 0.9 0.95      # in an environment that has it
    python benchmarks/duplicates.py datasketch 0.5 0.7 0.9
    python benchmarks/duplicates.py rensa 0.4
    python benchmarks/duplicates.py raft 0.92 --many FILE     # how long each takes of many: of raft, datasketch, rensa
    python benchmarks/duplicates.py text-dedup 0.7           # its MinHash; NGRAM=1 for other n-grams than its 5 words
    python benchmarks/duplicates.py text-dedup-simhash 3     # bits that may differ; NGRAM: of characters, 3

FILE has rows of `questions.parquet` as JSON lines. Vectors are given there (`scale.Given`), and take no time: raft is
timed with them, with answers and sources, as cleaning calls it; the others with an index of 128 permutations of words
that each question is looked up in and then put into, whatever is found.

`text-dedup` wants pyspark, unisim and more, which these two do without: `pip install --no-deps text-dedup==0.4.0`, and
bitarray, click-option-group, datasets, ftfy, regex, "rich<14", scipy and xxhash.

A pair is merged when the second question is found to be a duplicate of the first among these two alone. The answer
goes with each question, since `raft` looks at it; the others compare the question alone, as they do by default.
"""

# ruff: noqa: E501, PLC0415  the planted pairs are read as a table
import argparse
import json
import os
import sys
import time
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np

BASES = [  # question, answer, another wording of it
    ("How many days may a home customer keep an opened fan?", "21 days", "For how many days can an opened fan be kept by a home customer?"),
    ("What is the restocking fee of a business customer?", "15 percent", "Which restocking fee does a business customer pay?"),
    ("When was the harbour office of Orlin Pumps opened?", "12 May 1998", "On what date did Orlin Pumps open its harbour office?"),
    ("Who approves travel claims above 900 euros?", "Jonas Field", "Travel claims above 900 euros are approved by whom?"),
    ("How heavy is the Quillon 2 with its mounting frame?", "38 kg", "What does the Quillon 2 weigh with its mounting frame?"),
    ("Where are complaints about deliveries to be sent?", "to the service desk", "To what place should complaints about deliveries be sent?"),
    ("How long does the seal kit QK-771 last?", "24 months", "For how long does the seal kit QK-771 hold?"),
    ("Which pressure does the pump reach at 60 rpm?", "4.5 bar", "What pressure is reached by the pump at 60 rpm?"),
]  # fmt: skip
APART = [  # two questions that ask for different things, with their answers
    ("swap", "Did Arden defeat Bexley in the final?", "yes", "Did Bexley defeat Arden in the final?", "yes"),
    ("swap", "How many goals did Arden score against Bexley?", "3", "How many goals did Bexley score against Arden?", "3"),
    ("swap", "When did Marta Quill replace Jonas Field?", "2019", "When did Jonas Field replace Marta Quill?", "2019"),
    ("swap", "How much does the depot pay the workshop for a test?", "9 euros", "How much does the workshop pay the depot for a test?", "9 euros"),
    ("swap", "May the buyer inform the seller by telephone?", "yes", "May the seller inform the buyer by telephone?", "yes"),
    ("swap", "How many parts does the clerk send to the driver?", "4", "How many parts does the driver send to the clerk?", "4"),
    ("reversal", "Which parcels are returned?", "opened ones", "Which parcels are not returned?", "sealed ones"),
    ("reversal", "What is the maximum load of the shelf?", "40 kg", "What is the minimum load of the shelf?", "40 kg"),
    ("reversal", "When does the warranty begin?", "1 May", "When does the warranty end?", "1 May"),
    ("reversal", "Who may enter the hall before noon?", "staff", "Who may enter the hall after noon?", "staff"),
    ("reversal", "How much is charged with an appointment?", "20 euros", "How much is charged without an appointment?", "20 euros"),
    ("reversal", "Which valve is opened first?", "the left one", "Which valve is closed first?", "the left one"),
    ("number", "How heavy is the Quillon 2?", "38 kg", "How heavy is the Quillon 3?", "38 kg"),
    ("number", "Who approves refunds above 250 euros?", "Ada", "Who approves refunds above 2500 euros?", "Ada"),
    ("number", "What is paid after 10 days?", "5 euros", "What is paid after 100 days?", "5 euros"),
    ("number", "What does fault E08 mean?", "no power", "What does fault E09 mean?", "no power"),
    ("number", "What was the fee in May 2021?", "8 euros", "What was the fee in May 2022?", "8 euros"),
    ("number", "What is paid for one night away?", "30 euros", "What is paid for two nights away?", "30 euros"),
    ("number", "What is due after the first reminder?", "5 euros", "What is due after the second reminder?", "5 euros"),
    ("number", "What does paragraph 4.1 say of noise?", "92 dB", "What does paragraph 4.2 say of noise?", "92 dB"),
    ("word", "How many home customers returned a fan?", "12", "How many business customers returned a fan?", "12"),
    ("word", "How wide is the upper shelf of the cold room?", "40 cm", "How deep is the upper shelf of the cold room?", "40 cm"),
]  # fmt: skip


def typo(text):
    """Change places of two letters in the longest word."""
    word = max(filter(str.isalpha, text.split()), key=len)
    return text.replace(word, word[:2] + word[3] + word[2] + word[4:], 1)


def reordered(text):
    """Put the last three words first."""
    words = text.rstrip("?").split()
    return " ".join([*words[-3:], words[0].lower(), *words[1:-3]]) + "?"


def pairs():
    """Yield kind, whether the two are one, and both as question and answer."""
    for question, answer, other in BASES:
        for kind, text in (("paraphrase", other), ("typo", typo(question)), ("reordered", reordered(question))):
            yield kind, True, (question, answer), (text, answer)
        yield "punctuation", True, (question, answer), (question.replace("?", " ?").upper(), answer)
    for kind, question, answer, other, its in APART:
        yield kind, False, (question, answer), (other, its)


def raft(one, other, threshold):
    """Tell by the rules of cleaning, with both questions about one chunk."""
    from raft.curation import duplicates

    rows = [
        {"question_id": str(n), "question": q, "answer": a, "kind": "fact", "golden_chunk_ids": ["x"], "doc_ids": ["x"]}
        for n, (q, a) in enumerate((one, other))
    ]
    texts = [row["question"] for row in rows]
    vectors = _Saved(os.environ["VECTORS"]).encode(texts) if "VECTORS" in os.environ else _embedder().embed(texts)
    return bool(duplicates._same(rows, vectors, threshold))


def _embedder(known={}):  # noqa: B006  kept between calls
    if not known:
        from raft.backends.embedding import open_embedder

        known["it"] = open_embedder("sentence-transformers/all-MiniLM-L6-v2")
    return known["it"]


def semhash(one, other, threshold):
    """Tell by semhash, with its default model."""
    from semhash import SemHash

    records, model = [one[0], other[0]], _Saved(os.environ["VECTORS"]) if "VECTORS" in os.environ else None
    found = SemHash.from_records(records=records, model=model).self_deduplicate(threshold=threshold)
    return len(found.selected) == 1


class _Saved:
    """Vectors that were saved where the model can be had: `duplicates.py vectors FILE`."""

    def __init__(self, file):
        self.known = dict(np.load(file))

    def encode(self, texts, **_):
        """Return the saved vectors."""
        return np.array([self.known[text] for text in texts])


def vectors(file):
    """Save the vectors of all questions."""
    texts = sorted({text for _, _, *both in pairs() for text, _ in both})
    np.savez(file, **dict(zip(texts, _embedder().embed(texts), strict=True)))


def datasketch(one, other, threshold):
    """Tell by MinHash over words (128 permutations)."""
    left, right = (_hashed(text) for text, _ in (one, other))
    return left.jaccard(right) >= threshold


def _hashed(text):
    from datasketch import MinHash

    hashed = MinHash(num_perm=128)
    hashed.update_batch([word.encode() for word in text.lower().split()])
    return hashed


def rensa(one, other, threshold):
    """Tell by rensa's MinHash over words (128 permutations)."""
    left, right = (_hashed_by_rensa(text) for text, _ in (one, other))
    return left.jaccard(right) >= threshold


def _hashed_by_rensa(text):
    from rensa import RMinHash

    hashed = RMinHash(num_perm=128, seed=42)
    hashed.update(text.lower().split())
    return hashed


def _many_by_raft(rows, threshold):
    from raft.curation import duplicates
    from scale import Given

    given = Given()
    cleaned = [{**row, "reason": None, "original_quotes": None, "scores": {"golden_rank": 1}} for row in rows]
    begun = time.process_time()
    duplicates.drop_duplicates(cleaned, embedder=given, similarity=threshold)
    return sum(row["reason"] is not None for row in cleaned), time.process_time() - begun - Given.seconds


def _many_by_datasketch(rows, threshold):
    from datasketch import MinHashLSH

    return _looked_up(rows, MinHashLSH(threshold=threshold, num_perm=128), _hashed, threshold)


def _many_by_rensa(rows, threshold):
    from rensa import RMinHashLSH

    index = RMinHashLSH(threshold=threshold, num_perm=128, num_bands=32)
    return _looked_up(rows, index, _hashed_by_rensa, threshold)


def _looked_up(rows, index, hashed, threshold):
    """Put all in, for what is dropped wrongly leaves an index small and fast."""
    dropped, known, begun = 0, [], time.process_time()
    for number, row in enumerate(rows):
        mine = hashed(row["question"])
        dropped += any(known[other].jaccard(mine) >= threshold for other in index.query(mine))
        index.insert(number, mine)
        known.append(mine)
    return dropped, time.process_time() - begun


MANY = {"raft": _many_by_raft, "datasketch": _many_by_datasketch, "rensa": _many_by_rensa}


def many(name, threshold, file):
    """Print how many of a file's questions are dropped, and the seconds of a processor that it takes."""
    rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    dropped, seconds = MANY[name](rows, float(threshold))
    print(f"| {name} | {threshold} | {len(rows):,} | {dropped:,} | {seconds:.1f} s |")


def text_dedup(one, other, threshold):
    """Tell by MinHash of text-dedup, with what its command takes by default: two texts that share a band are one."""
    from text_dedup.minhash import NON_ALPHA, SIGNATURE_COLUMN, embed_func
    from text_dedup.utils import sha1_hash

    permutations, shortest, prime, random = 250, 5, np.uint64((1 << 61) - 1), np.random.RandomState(42)
    bands, rows = _bands(threshold, permutations)
    told = {
        "num_perm": permutations,
        "ngram_size": int(os.environ.get("NGRAM", "5")),
        "min_length": shortest,
        "hashranges": [(band * rows, (band + 1) * rows) for band in range(bands)],
        "permutations": tuple(random.randint(low, prime, size=permutations, dtype=np.uint64) for low in (1, 0)),
        "hash_func": sha1_hash,
        "dtype": np.uint64,
        "max_hash": np.uint32((1 << 32) - 1),
        "modulo_prime": prime,
    }
    texts = one[0], other[0]
    if min(len(NON_ALPHA.split(text)) for text in texts) < shortest:  # its command leaves such texts out
        return False
    hashes = [embed_func(text, 0, **told)[SIGNATURE_COLUMN] for text in texts]
    return any(map(bytes.__eq__, *hashes))


@cache
def _bands(threshold, permutations):
    from text_dedup.utils import optimal_param

    return optimal_param(threshold, permutations, false_positive_weight=0.5, false_negative_weight=0.5)


def text_dedup_simhash(one, other, threshold):
    """Tell by SimHash of text-dedup, 64 bits; its buckets, one more than bits that may differ, lose no such pair."""
    from bitarray import frozenbitarray
    from text_dedup import simhash
    from text_dedup.utils import xxh3_64_digest

    ngram = int(os.environ.get("NGRAM", "3"))
    told = {"ngram": ngram, "permutations": [], "hash_func": xxh3_64_digest}
    hashes = [simhash.embed_func(text, 0, **told)[simhash.SIGNATURE_COLUMN] for text in (one[0], other[0])]
    return simhash._hamming_distance(*(frozenbitarray(buffer=its) for its in hashes)) <= threshold


TOOLS = {
    "raft": raft,
    "semhash": semhash,
    "datasketch": datasketch,
    "rensa": rensa,
    "text-dedup": text_dedup,
    "text-dedup-simhash": text_dedup_simhash,
}


def main(name, *thresholds):
    """Print a row a threshold."""
    if name == "vectors":
        vectors(*thresholds)
        return
    tool = TOOLS[name]
    for threshold in map(float, thresholds or ["0.92"]):
        merged, all_of, wrong = Counter(), Counter(), []
        for kind, same, one, other in pairs():
            found = tool(one, other, threshold)
            merged[kind] += found
            all_of[kind] += 1
            wrong += [(kind, one[0], other[0])] if found != same else []
        same = [kind for kind in all_of if kind in ("paraphrase", "typo", "reordered", "punctuation")]
        right = sum(merged[kind] for kind in same)
        precision, recall = right / max(1, merged.total()), right / sum(all_of[kind] for kind in same)
        kinds = ", ".join(f"{kind} {merged[kind]}/{all_of[kind]}" for kind in all_of)
        print(f"| {name} | {threshold} | {precision:.2f} | {recall:.2f} | {kinds} |")
        if len(thresholds) < 2:
            print(*wrong, sep="\n", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", choices=[*TOOLS, "vectors"])
    parser.add_argument("given", nargs="*", metavar="THRESHOLD", help="cosines, shares or bits; of vectors, a file")
    parser.add_argument("--many", metavar="FILE", help="questions as JSON lines: how long it takes")
    told = parser.parse_args()
    if told.many:
        many(told.tool, told.given[0], told.many)
        sys.exit()
    main(told.tool, *told.given)
