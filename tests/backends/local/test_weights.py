"""Weights that adapters swap on, and the model that is spoken to: streams, scores, rendered chats."""

import json
import shutil
import threading

import pytest

from raft.errors import RaftError, UsageError
from raft.protocols import Request
from raft.store import adapters

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from test_sft import save_student  # noqa: E402

from raft.backends.local import generate  # noqa: E402  needs torch
from raft.backends.local import weights as loading  # noqa: E402
from raft.backends.local.generate import LocalModel, render  # noqa: E402
from raft.backends.local.weights import Weights, computed_in  # noqa: E402

ASKED = [Request(({"role": "user", "content": f"Where is depot {number}?"},), max_tokens=24) for number in range(5)] + [
    Request(({"role": "user", "content": "Where?"}, {"role": "assistant", "content": "The depot is in"}), 16)
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A student, two adapters of it, one of a wider model, and one of a deeper one."""
    home = tmp_path_factory.mktemp("models")
    save_student(home / "student")
    save_student(home / "wider", hidden_size=64)
    save_student(home / "deeper", num_hidden_layers=3)
    for seed, (name, base) in enumerate(
        [("one", "student"), ("two", "student"), ("wide", "wider"), ("deep", "deeper")]
    ):
        save_adapter(home / name, home / base, seed)
    return home


def save_adapter(folder, base, seed=0, **lora):
    """Write an adapter whose update is not zero."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    options = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear", "init_lora_weights": False}
    peft.get_peft_model(model, peft.LoraConfig(**options | lora, task_type="CAUSAL_LM")).save_pretrained(folder)


def logits(used):
    """Return what the model in use says of some tokens."""
    with torch.inference_mode():
        return used[0](torch.tensor([[1, 5, 9, 30, 7, 2, 44, 3]])).logits


def alone(home, adapter=None):
    """Return what the student says, loaded for this adapter alone."""
    model = transformers.AutoModelForCausalLM.from_pretrained(home / "student", dtype=computed_in())
    if adapter:
        model = peft.PeftModel.from_pretrained(model, str(home / adapter), autocast_adapter_dtype=False)
    return logits((model.eval(),))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
def test_the_model_is_the_same_whatever_it_is_computed_in(home, tmp_path, monkeypatch, kind):
    """Weights are rounded to bfloat16 before they are held in another type, so that one model answers everywhere."""
    whole = transformers.AutoModelForCausalLM.from_pretrained(home / "student", dtype=torch.float32)
    for weight in whole.parameters():
        weight.data.mul_(1.001)  # no longer numbers of bfloat16
    shutil.copytree(home / "student", tmp_path / "student")
    whole.save_pretrained(tmp_path / "student")
    monkeypatch.setattr(loading, "computed_in", lambda: kind)
    model, _ = Weights(str(tmp_path / "student")).use(None)
    found = dict(model.named_parameters())
    assert {weight.dtype for weight in found.values()} == {kind}
    assert all(torch.equal(found[name], weight.bfloat16().to(kind)) for name, weight in whole.named_parameters())
    turns, right = dict(model.named_buffers()), dict(whole.named_buffers())  # by positions: in bfloat16 far off
    assert right
    assert turns.keys() == right.keys()
    assert all(torch.equal(turns[name], held) for name, held in right.items())


@pytest.mark.parametrize(("native", "kind"), [(True, torch.bfloat16), (False, torch.float32), (None, torch.float32)])
def test_a_processor_without_bfloat16_computes_in_float32(monkeypatch, native, kind):
    """What a processor has no products of is not asked of it; nor where torch cannot tell."""

    def supported():
        if native is None:
            raise AttributeError
        return native

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert computed_in() is kind


def test_adapters_swap_and_the_base_comes_back(home):
    """Each adapter says what it says when it is loaded alone; without one, the base's logits are exactly its own."""
    weights = Weights(str(home / "student"))
    base = logits(weights.use(None))
    assert torch.equal(base, alone(home))
    for name in ("one", "two", None, "one", None, "two", "two"):
        found = logits(weights.use(home / name if name else None))
        assert torch.equal(found, alone(home, name)), name
        assert torch.equal(found, base) is (name is None)


def test_an_adapter_can_come_first(home):
    """The base is the base also where an adapter was used before it was ever asked."""
    weights = Weights(str(home / "student"))
    weights.use(home / "one")
    assert torch.equal(logits(weights.use(None)), alone(home))


def test_the_base_is_loaded_once(home):
    """All adapters share the weights of one model, of which nothing can be learned."""
    weights = Weights(str(home / "student"))
    model, _ = weights.use(None)
    assert weights.use(home / "one")[0] is model
    assert weights.use(home / "two")[0] is model
    assert not any(weight.requires_grad for name, weight in model.named_parameters() if "lora_" in name)
    assert not model.training


@pytest.mark.parametrize("other", ["wide", "deep"])
@pytest.mark.parametrize("before", [None, "one"])
def test_an_adapter_that_does_not_fit_is_refused(home, other, before):
    """An adapter of a wider or a deeper model is an error, and what was in use is not changed by it."""
    weights = Weights(str(home / "student"))
    if before:
        weights.use(home / before)
    with pytest.raises(RaftError, match="does not fit") as error:
        weights.use(home / other)
    assert error.value.hint.startswith("raft train")
    assert torch.equal(logits(weights.use(None)), alone(home))
    assert torch.equal(logits(weights.use(home / "two")), alone(home, "two"))


def test_an_adapter_that_lacks_a_layer_is_refused(home, tmp_path):
    """Tensors that the configuration promises and the file lacks are not made up."""
    from safetensors.torch import load_file, save_file

    save_adapter(tmp_path / "part", home / "student")
    kept = load_file(tmp_path / "part" / adapters.WEIGHTS)
    kept.pop(min(kept))
    save_file(kept, tmp_path / "part" / adapters.WEIGHTS)
    with pytest.raises(RaftError, match="does not fit"):
        Weights(str(home / "student")).use(tmp_path / "part")


def test_an_adapter_of_another_kind_is_refused(home, tmp_path):
    """What is no low-rank update cannot be swapped, and would be ignored in silence."""
    model = transformers.AutoModelForCausalLM.from_pretrained(home / "student", dtype=torch.bfloat16)
    prompt = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    peft.get_peft_model(model, prompt).save_pretrained(tmp_path / "prompt")
    with pytest.raises(RaftError, match="PROMPT_TUNING"):
        Weights(str(home / "student")).use(tmp_path / "prompt")


def test_a_pickle_is_refused(home, tmp_path):
    """An adapter whose weights are a pickle alone is not opened."""
    settings = json.loads((home / "one" / adapters.CONFIG).read_text(encoding="utf-8"))
    (tmp_path / adapters.CONFIG).write_text(json.dumps(settings), encoding="utf-8")
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04whatever")
    with pytest.raises(UsageError, match="pickle"):
        Weights(str(home / "student")).use(tmp_path)


def test_a_model_that_cannot_be_loaded_is_said(home, tmp_path):
    """A folder without safetensors is an error that names the model."""
    (tmp_path / "config.json").write_text((home / "student" / "config.json").read_text())
    with pytest.raises(RaftError, match="cannot be loaded"):
        Weights(str(tmp_path)).use(None)


# the model that is spoken to


@pytest.fixture(params=[None, "one"])
def model(home, request):
    """The student, without and with an adapter."""
    return LocalModel(str(home / "student"), batch=1, adapter=home / request.param if request.param else None)


def answers(model, calls):
    """Return the text of each reply."""
    found = {}
    for group in model.answer(calls, [True] * len(calls)):
        found |= {place: reply.text for place, reply in group}
    return [found[place] for place in range(len(calls))]


def test_a_stream_is_the_answer_in_pieces(model):
    """Pieces of a stream joined are what the model answers; none is empty."""
    for call, text in zip(ASKED, answers(model, ASKED), strict=True):
        pieces = list(model.stream(call))
        assert "".join(pieces) == text
        assert all(pieces)


def test_adapter_and_base_share_weights_and_answer_differently(home):
    """Two models over the same weights, asked in turn, answer as they do alone."""
    weights = Weights(str(home / "student"))
    plain, tuned = (
        LocalModel(str(home / "student"), batch=2, adapter=adapter, weights=weights) for adapter in (None, home / "one")
    )
    first = answers(plain, ASKED), answers(tuned, ASKED)
    assert first[0] != first[1]
    assert (answers(plain, ASKED), answers(tuned, ASKED)) == first
    assert plain.identity != tuned.identity
    assert tuned.identity.startswith(plain.identity)


def test_who_stops_listening_stops_the_writing(home):
    """A stream that is closed after its first piece leaves no thread behind that goes on."""
    model = LocalModel(str(home / "student"), batch=1)
    before = threading.active_count()
    stream = model.stream(Request(({"role": "user", "content": "Where?"},), max_tokens=480))
    next(stream)
    assert threading.active_count() == before + 1
    stream.close()
    assert threading.active_count() == before


def test_a_failure_while_writing_reaches_the_listener(home, monkeypatch):
    """What goes wrong in the writer's thread is raised where the pieces are read."""
    model = LocalModel(str(home / "student"), batch=1)
    used, _ = model._weights.use(None)
    monkeypatch.setattr(used, "forward", lambda **_: (_ for _ in ()).throw(RuntimeError("no room")))
    with pytest.raises(RuntimeError, match="no room"):
        list(model.stream(ASKED[0]))


def test_scores_are_those_of_the_adapter(model, home):
    """Scores are what `likelihood` finds for the student with this adapter."""
    pairs = [(model.render(ASKED[0].messages), "The depot is in Moss."), ("Where", " is it"), ("Where", " depot")]
    wanted = generate.score(*Weights(str(home / "student")).use(model._adapter), pairs)
    assert model.score(pairs) == wanted
    other = home / "two" if model._adapter is None else None
    assert model.score(pairs) != generate.score(*Weights(str(home / "student")).use(other), pairs)


def test_a_chat_is_rendered_as_it_is_answered(model):
    """The rendered text ends where the reply begins; an answer that was begun is left open."""
    asked, begun = (model.render(ASKED[place].messages) for place in (0, -1))
    assert asked == "<|im_start|>user\nWhere is depot 0?<|im_end|>\n<|im_start|>assistant\n"
    assert begun.endswith("<|im_start|>assistant\nThe depot is in")


def test_without_a_template_a_chat_is_plain_text(home, monkeypatch):
    """A base model is given the turns with blank lines between them."""
    _, tokenizer = Weights(str(home / "student")).use(None)
    monkeypatch.setattr(tokenizer, "chat_template", None)
    assert render(tokenizer, ASKED[0].messages) == "Where is depot 0?\n\n"
    assert render(tokenizer, ASKED[-1].messages) == "Where?\n\nThe depot is in"


def test_an_adapter_that_is_in_memory_answers_on_without_its_files(home, tmp_path):
    """Where the folder of an adapter that answers is taken away, it goes on answering as it did."""
    gone = shutil.copytree(home / "one", tmp_path / "one")
    weights = Weights(str(home / "student"))
    before = logits(weights.use(gone))
    shutil.rmtree(gone)
    weights.use(None)
    assert torch.equal(logits(weights.use(gone)), before)
