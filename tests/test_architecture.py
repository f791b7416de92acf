"""The house keeps its shape: who may import whom, how large it is, what stays light, and where things are said."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from raft import prompts
from raft import settings as every_setting
from raft.rag import format as rendering

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in MODULES.items()}
TREES = {name: ast.parse(text) for name, text in TEXTS.items()}
FLOORS = {
    8: ("cli",),
    7: ("serving",),
    6: ("api",),
    5: ("pipeline",),
    4: ("generation", "curation", "examples", "evaluation"),
    3: ("corpus", "rag", "training", "backends", "testing"),
    2: ("store", "settings", "prompts", "similarity"),
    1: ("errors", "kinds", "logistic", "protocols", "text", "report", "version"),
}
"""A room imports lower floors only, on the two lowest floors also its neighbours; inside a room, whatever it likes."""
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms} | {"__main__": 9}  # the door
HEAVY = (
    *("torch", "transformers", "sentence_transformers", "chromadb", "litellm", "datasets", "unsloth", "peft", "trl"),
    *("bm25s", "tokenizers", "huggingface_hub", "gguf", "accelerate", "onnxruntime", "ray"),
)
SLOW_TO_IMPORT = ("torch", "transformers", "chromadb", "litellm", "datasets", "unsloth", "sentence_transformers", "ray")
LONGEST, MODULES_AT_MOST, LINES_AT_MOST, ROOMS_AT_MOST = 500, 205, 48_450, 25
READERS = "raft.corpus.readers."
"""One format a file, each known by a row: they are no part of what has to be borne in mind, and are not counted."""
LONE, LONE_AT_MOST = 60, 18
"""A module over so many lines that one other module alone imports is a part of that one; so many may be left. A module
of commands is not: who types them imports it."""


def imports(name):
    """Return the full names of what a module imports, wherever in it; what is taken from a package counts as in it."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def reaches(name, targets):
    """Return which of the target modules, or of what is in them, a module imports."""
    return {one for one in imports(name) for target in targets if one == target or one.startswith(f"{target}.")}


def module_of(imported):
    """Return the module that an imported name is, or is in; None for what is not of this package."""
    return next((name for name in (imported, imported.rpartition(".")[0]) if name in MODULES), None)


def importers():
    """Return for each module which others import it."""
    found = {name: set() for name in MODULES}
    for name in MODULES:
        for target in {module_of(one) for one in imports(name)} - {None, name}:
            found[target].add(name)
    return found


def room_of(name):
    """Return the room that a module is in; "" for the package itself."""
    return f"{name}.".split(".")[1]


def test_every_room_has_a_floor():
    """What lies at the top of the package is in the table of floors, and nothing else is."""
    rooms = {path.stem for path in (SOURCE / "raft").iterdir() if path.is_dir() or path.suffix == ".py"}
    assert rooms - {"__init__", "__pycache__"} == FLOOR.keys()
    assert len(list((SOURCE / "raft").glob("[!_]*"))) + 1 <= ROOMS_AT_MOST


def test_no_arrow_runs_up_or_sideways():
    """A room imports lower floors only: no arrow back up, and above the second floor none to a neighbour."""
    arrows = {
        f"{name} -> {one}"
        for name in MODULES
        for one in imports(name)
        if room_of(name) and room_of(module_of(one) or "raft") not in ("", room_of(name))
        if FLOOR[room_of(one)] > FLOOR[room_of(name)] or FLOOR[room_of(one)] == FLOOR[room_of(name)] > 2
    }
    assert arrows == set()


def in_circles(needed):
    """Return what is left of a graph when all that needs nothing that is left has been taken out, again and again."""
    left = dict(needed)
    while ends := {name for name, others in left.items() if not others & left.keys()}:
        for name in ends:
            del left[name]
    return left


def test_no_two_modules_need_each_other():
    """No circle of imports, however long, runs through modules: each can be read after those that it imports."""
    found = {name: {module_of(one) for one in imports(name)} - {None, name} for name in MODULES}
    assert (
        in_circles({name: {one for one in its if not name.startswith(f"{one}.")} for name, its in found.items()}) == {}
    )


def test_no_two_rooms_need_each_other():
    """Nor does one run through rooms, neighbours on a low floor among them: the house is drawn from the ground up."""
    rooms = {room: set() for room in FLOOR}
    for name in MODULES:
        if room := room_of(name):
            rooms[room] |= {room_of(one) for one in imports(name) if module_of(one)} - {"", room}
    assert in_circles(rooms) == {}


def test_the_house_fits_into_a_head():
    """The whole stays small: modules, lines, and modules that are a part of the only one that imports them."""
    house = {name: text for name, text in TEXTS.items() if not name.startswith(READERS)}
    assert len(house) <= MODULES_AT_MOST
    assert sum(len(text.splitlines()) for text in house.values()) <= LINES_AT_MOST
    lone = [
        name
        for name, others in importers().items()
        if name in house
        and len(others) == 1
        and others != {"raft.cli"}
        and not name.startswith("raft.backends")
        and len(TEXTS[name].splitlines()) > LONE
    ]
    assert len(lone) <= LONE_AT_MOST, lone


def test_heavy_packages_are_imported_in_backends_alone():
    """No module outside backends imports a heavy package, but for the export of datasets."""
    found = {name: reaches(name, HEAVY) for name in MODULES if not name.startswith("raft.backends")}
    allowed = {"raft.examples.export": {"datasets"}}
    assert {name: heavy for name, heavy in found.items() if heavy} == allowed


def test_heavy_packages_are_imported_late():
    """A heavy package is imported inside the function that needs it, never when a module is imported."""
    for name, tree in TREES.items():
        for node in tree.body:
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            named += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not [one for one in named if one.split(".")[0] in HEAVY], name


@pytest.mark.parametrize(
    "program",
    [
        "import raft",
        "from raft.cli import main; main(['--help'], standalone_mode=False)",
        "from raft.cli import main; main(['build', '--help'], standalone_mode=False)",
        "import raft.api, raft.pipeline.build, raft.backends.index.hybrid, raft.backends.local.generate",
        "import raft.backends.hosted.model",
    ],
)
def test_starting_is_light(program):
    """Importing the package and asking for help loads no heavy package."""
    check = f"import sys; print([name for name in {SLOW_TO_IMPORT!r} if name in sys.modules], file=sys.stderr)"
    command = [sys.executable, "-c", f"{program}\n{check}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_fits_into_a_head(name):
    """No module is longer than can be read in one go."""
    assert len(TEXTS[name].splitlines()) <= LONGEST


@pytest.mark.parametrize("name", MODULES)
def test_what_is_public_is_explained(name):
    """Every module, public class, function and method has a docstring; a protocol's one-line stub needs none."""
    bare = [] if ast.get_docstring(TREES[name]) else ["the module"]
    for owner in ast.walk(TREES[name]):
        if not isinstance(owner, ast.Module | ast.ClassDef) or getattr(owner, "name", "").startswith("_"):
            continue
        for node in owner.body:
            named = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            if named and not node.name.startswith("_") and not ast.get_docstring(node) and not is_stub(node):
                bare.append(node.name)
    assert bare == []


def is_stub(node):
    """Tell whether a function's body is `...` alone."""
    (first, *rest) = node.body
    return not rest and isinstance(first, ast.Expr) and getattr(first.value, "value", None) is ...


def test_only_the_command_line_writes_to_the_screen():
    """No module calls print; the command line has its own way."""
    callers = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert {name for name in callers if not name.startswith("raft.cli")} == set()


def sections(section=every_setting.Settings):
    """Yield each section of the settings."""
    yield section
    for field in section.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from sections(field.annotation)


def settings():
    """Yield the name and field of each single setting."""
    for section in sections():
        for name, field in section.model_fields.items():
            if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
                yield f"{section.__name__}.{name}", field


def test_every_setting_says_what_it_means():
    """Each setting has a description, and each section a summary."""
    assert [name for name, field in settings() if not (field.description or "").strip()] == []
    assert [section.__name__ for section in sections() if not section.__doc__] == []


def test_every_setting_is_used():
    """Each setting is read, or is an argument of what is given a whole section, somewhere outside the settings."""
    used = set()
    for name, tree in TREES.items():
        if name != "raft.settings":
            for node in ast.walk(tree):
                used |= {getattr(node, "attr", None), getattr(node, "arg", None)}
    unused = {name for name, _ in settings() if name.rpartition(".")[2] not in used}
    assert unused == set()


def loaded_prompts():
    """Return the prompts that some module loads by name, those of `rag.format.PROMPTS` among them."""
    found = set(rendering.PROMPTS.values())
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called in ("load", "load_addition", "load_text"):
                    found.add(node.args[0].value)
    return {name if "." in str(name) else f"{name}.md" for name in found if isinstance(name, str)}


def test_every_prompt_is_loaded_and_every_loaded_prompt_exists():
    """The files in prompts/ are exactly the prompts that modules load."""
    assert loaded_prompts() == {path.name for path in (ROOT / "prompts").iterdir()} == set(prompts.packaged("prompts"))


def test_no_prompt_is_written_in_code():
    """No string in code is a chat turn of some length, but for docstrings: prompts are files."""
    for name, tree in TREES.items():
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        long = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
            if any(word in node.value for word in ("You are ", "You write ", "You check ", "## system"))
        ]
        assert long == [], name


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda path: path.name)
def test_every_test_states_a_promise(path):
    """Each test has a docstring that says what the software promises."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tests = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    assert [test.name for test in tests if not ast.get_docstring(test)] == []


@pytest.mark.parametrize("name", MODULES)
def test_an_error_says_what_to_type_next(name):
    """Each error that a module raises has a hint: the next command, or what to change."""
    errors = ("RaftError", "UsageError", "DamagedArtifact", "RunLocked", "OtherEmbedder")
    mute = [
        node.lineno
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in errors
        if not any(keyword.arg == "hint" for keyword in node.keywords)
    ]
    assert mute == []


def test_each_module_of_tests_has_a_name_of_its_own():
    """Two modules of one name in two folders could not be collected together."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


PLACEHOLDER = re.compile(r"(?<![\w$./=-])[A-Z][A-Z-]+(?![\w.=])|…|\.\.\.|=\[?[A-Z]{2,}")
FILLED_IN = {
    "RUN": ("raft.backends.trainers.", "raft.training."),  # by `errors.names_run`
    # of a run that does not know any more what it was built from; a report is shared, and tells no path
    "CORPUS": ("raft.store.again", "raft.settings", "raft.evaluation.verdict"),
    "...": ("raft.backends.hosted.providers",),  # a key, or the whole address with one, which nobody shows
    "NAME": (
        "raft.serving.keys",
        "raft.serving.process",
        "raft.serving.versions",
        "raft.backends.hosted.lora",
    ),  # of a key, or of who decides
}
"""Words that stand for something in a command that is shown, and where alone they may."""


def commands(tree):
    """Yield each command of raft, with its line, that a string of a module shows, but for help texts and docstrings."""
    passed = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    passed |= {
        id(one.value) for one in ast.walk(tree) if isinstance(one, ast.keyword) and one.arg in ("help", "description")
    }
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if id(node) in passed:
            continue
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
            waiting += [part for part in node.values if not isinstance(part, ast.Constant)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            waiting += ast.iter_child_nodes(node)
            continue
        for found in re.finditer(r"(?:\braft [a-z]|--[a-z]|\b(?:export|mv|cp|pip) )(?:(?! {2,}[(#]|\n).)*", text):
            yield node.lineno, found[0]


def test_a_command_that_is_shown_can_be_typed_as_it_stands():
    """No hint has a word in capitals, or dots, in the place of what the reader would have to know."""
    found = {
        f"{name}:{line}: {command}"
        for name, tree in TREES.items()
        for line, command in commands(tree)
        for word in PLACEHOLDER.findall(command)
        if not name.startswith(FILLED_IN.get(word, "-"))
    }
    assert found == set()
