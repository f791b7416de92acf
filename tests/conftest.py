"""What several tests share: a small corpus, and models that cost nothing."""

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import certifi
import hypothesis
import pytest

import raft
from killing import Dying
from raft.backends.asking import Reply
from raft.corpus.readers import read
from raft.store.ledger import request_key
from raft.testing import HashEmbedder, WordTokenizer

hypothesis.settings.register_profile("ci", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("ci")

DOCUMENTS = {
    "refunds/home.md": """# Refunds for home customers

Home customers of Orlin Pumps may return a pump within 30 days of delivery. Refunds above 250 euros are approved by
Marta Quill, the head of the service desk. The refund office closes at 16:30 on working days.

## Deadlines

Home customers receive the money within 14 days of the approval. The refund policy for home customers was last revised
on 3 May 2021. Records of home refunds begin with the code RH-77.
""",
    "refunds/trade.md": """# Refunds for trade customers

Trade customers of Orlin Pumps may return a pump within 10 days of delivery. Refunds above 900 euros are approved by
Jonas Field, the head of the trade desk. The refund office closes at 16:30 on working days.

## Deadlines

Trade customers receive the money within 45 days of the approval. The refund policy for trade customers was last revised
on 9 August 2022. Records of trade refunds begin with the code RT-31.
""",
    "manuals/delta.md": """# Delta garden pump

The Delta garden pump lifts water over 18 metres and weighs 7.5 kg. The motor of the Delta pump runs at 230 V and draws
900 W under full load. The seal kit of the Delta pump has the part number QK-771-C.

## Winter

The Delta pump must be emptied before 15 November of each year. Its housing tolerates temperatures down to 4 °C and the
dealer in Halden checks the housing for 35 euros.

| Part | Price | Stock |
| --- | --- | --- |
| Delta impeller | 42 euros | 120 pieces |
| Delta housing | 88 euros | 64 pieces |
""",
    "people/desk.md": """# The service desk

The service desk of Orlin Pumps answers calls from 08:15 on working days. Complaints about deliveries are sent to Ines
Varga, the clerk of the service desk. The service desk keeps call records for 36 months.

## History

The service desk was founded on 12 January 1998 with 5 employees. It moved to the harbour building in 2014 and now
seats 26 employees.
""",
    "safety.md": """# Safety rules of the workshop

The workshop of Orlin Pumps holds 4 fire extinguishers and 2 eye showers. Spills of more than 5 litres are reported to
Petra Lind, the safety officer of the workshop. The workshop is inspected every 6 months by the insurer.

## Noise

The test bench of the workshop reaches a noise level of 92 dB, so ear protection is worn within 8 metres of it. The ear
protectors of the workshop carry the code EP-204.
""",
    "travel.md": """# Travel of the field staff

Field staff of Orlin Pumps are paid 0.38 euros per kilometre for their own car. Hotel nights of the field staff cost at
most 120 euros, and travel claims are filed within 21 days of the journey. Claims are checked by Tomas Berg, the travel
clerk of the field staff.

## Trains

Field staff travel first class on journeys longer than 300 km. The travel rules for trains are valid since 1 March 2020.
""",
}


def write_corpus(folder: Path) -> Path:
    """Write the six documents, two of them look-alikes, into `folder` and return it."""
    for name, text in DOCUMENTS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


class Cut(KeyboardInterrupt):
    """A build that was cut off on purpose."""


class Fakes:
    """Models that answer by rule, what they were asked, and a wire that cuts a build off.

    Attributes:
        asked: the key of each call of the generator, in order, over all builds; right for two attempts a request.
        prompts: the last thing that a user said in each of these calls.
        embedded: each text that was embedded.
        events: how often models, ledger and disk were used.
        cut_at: the number of the event at which `cut` is called; None: never.
        cut: what ends the build.
        busy: called before each batch of replies.
        reply: returns the text of a reply to a request.
    """

    def __init__(self):
        self.asked, self.prompts, self.embedded = [], [], []
        self.events, self.cut_at = 0, None
        self.cut, self.busy, self.reply = self.interrupt, lambda: None, reply_by_rule
        self.log = None

    def interrupt(self):
        """End a build as Ctrl-C does."""
        raise Cut

    def event(self):
        """Count an event; end the build if it is the chosen one."""
        self.events += 1
        if self.events == self.cut_at:
            self.cut()

    def forget(self):
        """Forget what was asked and embedded so far."""
        self.asked, self.prompts, self.embedded, self.events, self.cut_at = [], [], [], 0, None

    def note(self, model, calls):
        """Remember calls, in a file too if there is one, since a build may end here."""
        # another attempt has the temperature of one, and is a call of its own
        keys = [request_key(call, model, call.temperature > 0) for call in calls]
        self.asked += keys
        self.prompts += [last_of_user(call) for call in calls]
        if self.log:
            with Path(self.log).open("a", encoding="utf-8") as file:
                file.write("".join(f"{key}\n" for key in keys))

    def repeated(self):
        """Return how many calls were made again although they had been made before."""
        keys = Path(self.log).read_text(encoding="utf-8").split() if self.log else self.asked
        return sum(count - 1 for count in Counter(keys).values())

    def install(self, patch):
        """Put the fakes in the place of the models of `raft.api`; `patch` sets an attribute of an object."""
        from raft.api import models
        from raft.store import artifacts, ledger

        patch(models, "open_embedder", lambda name, *_, **__: FakeEmbedder(name, self))
        patch(models, "LocalModel", lambda name, **_: FakeModel(name, self))
        patch(models, "HostedModel", lambda name, **_: FakeModel(name, self))
        patch(models, "check_key", lambda *_: None)
        patch(models.hub, "tokenizer", lambda name: WordTokenizer())
        for owner, name in ((artifacts, "write"), (artifacts, "atomically"), (ledger.Ledger, "add")):
            patch(owner, name, self._counted(getattr(owner, name)))

    def install_around_student(self, patch):
        """Put the fakes in the place of a hosted generator and the embedder; the student is a real model."""
        from raft.api import models

        patch(models, "open_embedder", lambda name, *_, **__: FakeEmbedder(name, self))
        patch(models, "HostedModel", lambda name, **_: FakeModel(name, self))
        patch(models, "check_key", lambda *_: None)

    def _counted(self, function):
        def counted(*args, **options):
            self.event()
            result = function(*args, **options)
            self.event()
            return result

        return counted


class CountingEmbedder(HashEmbedder):
    """Remembers what it was asked to embed."""

    def __init__(self):
        super().__init__()
        self.texts = []

    def embed(self, texts):
        """Embed, and remember."""
        self.texts += texts
        return super().embed(texts)


class FakeEmbedder(HashEmbedder):
    """Hashed words, and a memory."""

    def __init__(self, name, fakes):
        super().__init__()
        self.identity, self.fakes = f"hash:{name}", fakes

    def embed(self, texts):
        """Embed, and remember."""
        self.fakes.event()
        self.fakes.embedded += texts
        return super().embed(texts)


class FakeModel:
    """A model that answers two calls at a time, by rule."""

    window, batch = 8, 2

    def __init__(self, name, fakes):
        self.name, self.identity, self.fakes = name, f"fake:{name}", fakes

    def answer(self, calls, wanted):
        """Answer the wanted calls."""
        places = [place for place, is_wanted in enumerate(wanted) if is_wanted]
        for begin in range(0, len(places), self.batch):
            batch = places[begin : begin + self.batch]
            self.fakes.busy()
            self.fakes.note(self.identity, [calls[place] for place in batch])
            self.fakes.event()
            yield [(place, self._reply(calls[place])) for place in batch]

    def _reply(self, call):
        text = self.fakes.reply(call)
        return Reply(
            text, "stop", sum(len(turn["content"].split()) for turn in call.messages), len(text.split()), 0.0, 0.0
        )


def last_of_user(request):
    """Return the last turn of the user."""
    return next(turn["content"] for turn in reversed(request.messages) if turn["role"] == "user")


def reply_by_rule(request):
    """Answer one of the package's prompts by rule; some replies are of no use, a few also when asked again."""
    last, asked = request.messages[-1]["content"], last_of_user(request)
    luck = hashlib.sha256(asked.encode()).digest()[0]
    if luck % 16 == 1 or (luck % 8 == 2 and not request.temperature):
        return "I would rather not"
    fields = set((request.schema or {}).get("properties", {}))
    if fields == {"mark"}:
        return '{"mark": 5}'
    if fields == {"items"}:
        return json.dumps({"items": items_by_rule(asked)})
    if "Exact answer: " in asked:
        return "Gladly: " + re.search("Exact answer: (.*)", asked).group(1) + "."
    if request.messages[-1]["role"] == "assistant":
        return question_by_rule(asked, last)
    return "Which unicorn sells the " + " ".join(re.search("Sentence: (.*)", asked).group(1).split()[:4]) + "?"


def question_by_rule(asked, opening):
    """Continue a question with the words of the sentence, the answer left out."""
    answer = re.search("^Answer: (.*)", asked, re.MULTILINE)
    sentence = re.search("^(?:Sentence|Second.*?): (.*)", asked, re.MULTILINE).group(1).rstrip(".")
    if answer:
        sentence = sentence.replace(answer.group(1), "")
    return " " + " ".join(re.sub(r"[|;,]", " ", sentence).split()) + "?"


def items_by_rule(asked):
    """Return as many items as are wanted, one for each sentence of a passage that states a number."""
    count = int(re.search(r"Write (\d+)", asked).group(1))
    passage = asked.split('"""')[1]
    sentences = [s.strip() for s in re.split(r"(?<=\.)\s+", passage) if re.search(r" \d+ \w+", s) and "|" not in s]
    items = []
    for sentence in sentences[:count]:
        answer = re.search(r"\d+ \w+", sentence).group()
        question = f"How many is it when {sentence.replace(answer, '').rstrip('.')}?"
        question = " ".join(question.split())
        items.append({"question": question, "answer": answer, "quote": sentence, "kind": "number"})
    return items or [{"question": "How many?", "answer": "1", "quote": passage.strip()[:40], "kind": "number"}]


def tables_of(folder):
    """Return the bytes of each table of a run directory, and of its survey, by name."""
    folder = Path(folder)
    paths = sorted(p for p in folder.iterdir() if p.suffix in (".parquet", ".jsonl") or p.name == "survey.json")
    return {path.name: path.read_bytes() for path in paths}


def pytest_configure():
    """Lay files of tests into memory where 6 GB are free: a disk takes milliseconds for each of many thousand syncs."""
    from raft.backends.trainers.check import free_memory

    memory, room = "/dev/shm", 6 << 30
    if os.access(memory, os.W_OK) and min(shutil.disk_usage(memory).free, free_memory() or 0) > room:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", memory)


@pytest.fixture(scope="session", autouse=True)
def one_authority(tmp_path_factory):
    """Trust one authority for certificates: each client reads all there are, for 40 ms, and no test meets one."""
    path, end = tmp_path_factory.mktemp("authority") / "one.pem", "-----END CERTIFICATE-----\n"
    path.write_text(Path(certifi.where()).read_text(encoding="utf-8").partition(end)[0] + end, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(path))
        yield


@pytest.fixture
def corpus(tmp_path):
    """A folder with six short documents."""
    return write_corpus(tmp_path / "corpus")


@pytest.fixture(scope="module")
def whole(request, tmp_path_factory):
    """A finished build, with the settings that are a module's SETTINGS, that no test writes to, and its corpus."""
    home = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        Fakes().install(patch.setattr)
        raft.build(write_corpus(home / "corpus"), out=home / "run", settings=request.module.SETTINGS)
    return home


@pytest.fixture
def source():
    """What a server answers from, by rule; it is let in the end."""
    from served import Source

    made = Source()
    yield made
    made.gate.set()


@pytest.fixture
def fakes(monkeypatch):
    """The embedder costs nothing, and so does a hosted model; the student is real."""
    found = Fakes()
    found.install_around_student(monkeypatch.setattr)
    return found


@pytest.fixture
def no_hub(monkeypatch):
    """No hub is asked, and no folder of models is known."""
    monkeypatch.delenv("RAFT_MODELS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def fake_models(monkeypatch):
    """Builds use models that cost nothing; index, ledger and run directory are real."""
    fakes = Fakes()
    fakes.install(monkeypatch.setattr)
    return fakes


TEMPLATE = "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}<s>assistant\n{% endif %}"


@pytest.fixture(scope="session")
def tiny_student(tmp_path_factory):
    """The folder of a tiny llama in bfloat16 with random weights, a tokenizer of bytes and words, a chat template."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tokenizers import ByteLevelBPETokenizer

    home = tmp_path_factory.mktemp("students") / "tiny"
    rust = ByteLevelBPETokenizer()
    rust.train_from_iterator(DOCUMENTS.values(), vocab_size=600, special_tokens=["<s>", "</s>"], show_progress=False)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=rust._tokenizer, eos_token="</s>", pad_token="</s>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(home)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        initializer_range=0.2,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(home)
    return home


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A folder of models that holds the tiny student of the trainers' tests."""
    from test_sft import save_student

    folder = tmp_path_factory.mktemp("models")
    save_student(folder / "tiny-student")
    return folder


@pytest.fixture
def one_thread(loaded, monkeypatch):
    """Models come from that folder, and sums are added in one order."""
    import torch

    monkeypatch.setenv("RAFT_MODELS", str(loaded))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def on_this_machine(monkeypatch):
    """Keep requests on this machine."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def one(tmp_path):
    """Write a file of a corpus and read the one document in it."""

    def write_and_read(name, content, *, text_field="text", drop_templates=False):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        (reading,) = read(path, text_field=text_field, drop_templates=drop_templates)
        return reading

    return write_and_read


@pytest.fixture(scope="module")
def dying(request, tmp_path_factory):
    """What does commands in forks of itself, with all imported that the tests' module names in `IMPORTED`."""
    with Dying(tmp_path_factory.mktemp("faults"), *getattr(request.module, "IMPORTED", ())) as server:
        yield server
