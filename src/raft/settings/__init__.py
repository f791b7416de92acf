"""Settings: read from a YAML file and flags, checked, and written again; `sections` has each with its default."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from decimal import Decimal, InvalidOperation
from difflib import SequenceMatcher, get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, to_jsonable_python

from raft.errors import DamagedArtifact, UsageError, typed
from raft.prompts import packaged
from raft.settings.sections import Settings as Settings
from raft.text import at_home, is_address, whole
from raft.text.secrets import HIDDEN, bears_password, each_address, malformed, names_key, shown, shown_address

_RENAMED = {"questions.strategy": "questions.way"}
"""New names of settings that are kept in runs under their old ones."""
_EXPLAINED = "raft init my-pipeline   (writes a YAML file with every setting explained)"
PATHS = (
    *("prompts", "ledger", "evaluation", "decisions", "corpus", "questions.qa", "questions.like"),
    *("training.rehearsal_file", "benchmark.other_adapter"),
)
"""Settings that are paths: a relative one is taken from the folder of the file that it stands in."""
PATHS_OR_NAMES = ("benchmark.capability", "benchmark.judge.rubric", "cleaning.rubric", "cleaning.learned")
"""Settings that are paths where there is such a file beside the YAML file, and names otherwise."""


def load(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read settings: flags win over the YAML file, the YAML file over the defaults.

    Relative paths in the file (`corpus`, `prompts`, `evaluation` and their like) are taken from the file's folder.
    `overrides` has values by dotted keys, e.g. `{"index.k": 8}`.

    Raises:
        UsageError: the file is missing or no YAML, a key is unknown (the nearest known one is named), or a value is
            of the wrong type or out of range.
    """
    return _validated(_read(path) if path else {}, overrides, path)


def load_text(text: str, overrides: Mapping[str, Any] | None = None, *, where: str) -> Settings:
    """Read settings from YAML text, as `load` does; `where` names it in errors."""
    return _validated(_parse(text, where), overrides, where)


def named(file: str | Path | None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read settings, as `load` does, from a file or from one of the package's pipelines, which goes by its name."""
    known = packaged("pipelines")
    if file is None or Path(file).exists():
        return load(None if file is None else Path(file), overrides)
    if f"{file}.yaml" in known:
        return load_text(known[f"{file}.yaml"], overrides, where=f"{file}.yaml")
    if near := get_close_matches(f"{file}.yaml", known, n=1):
        name = near[0].removesuffix(".yaml")
        raise UsageError(f"There is no such pipeline file. Did you mean {name}?", where=file, hint=f"--pipeline {name}")
    return load(Path(file), overrides)


def of_manifest(tree: Any, run: Path) -> Settings:
    """Return the settings that a run directory was built with.

    Raises:
        DamagedArtifact: they are none, or of a later raft.
    """
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        hint = f"raft build CORPUS --out {typed(run)}   (says them anew; what is intact is used again)"
        said = f"The manifest's settings cannot be read. {_explain(error, {}, run, {}).what}"
        raise DamagedArtifact(said, where=run / "manifest.json", hint=hint) from None


def changed(settings: Settings, overrides: Mapping[str, Any]) -> Settings:
    """Return settings with those replaced that are given by their dotted names; it raises as `load`."""
    return _validated(settings.model_dump(mode="python"), overrides, _CHANGED)


def _validated(tree: dict[str, Any], overrides: Mapping[str, Any] | None, where: object) -> Settings:
    overrides = overrides or {}
    for new, kept in _RENAMED.items():
        section, _, name = new.partition(".")
        written = tree[section] if isinstance(tree.get(section), dict) else {}
        if {new, kept} <= overrides.keys() or {new, kept} <= {f"{section}.{one}" for one in written}:
            raise UsageError(f"{new} and {kept} are one setting.", where=where or "--set", hint="give one of the two")
        if name in written:
            _plant(tree, kept, written.pop(name))
    for key, value in overrides.items():  # a path names its file, whatever its bytes
        _plant(tree, _RENAMED.get(key, key), value if key in (*PATHS, *PATHS_OR_NAMES) else whole(value))
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, overrides, where, tree) from None
    unseen = settings.split.unseen
    if unseen > _MOST_UNSEEN and (where != _CHANGED or "split.unseen" in overrides):  # a run of before may have more
        given = f"--set split.unseen={unseen}" if "split.unseen" in overrides else where
        hint = f"--set split.unseen={_MOST_UNSEEN}, or name documents to hold out in split.hold_out"
        raise UsageError(f"split.unseen is at most {_MOST_UNSEEN}, and it is {unseen}.", where=given, hint=hint)
    _check_addresses(settings, overrides, where)
    for key, value in _by_name(settings.model_dump(mode="json", exclude={"corpus"})).items():  # addresses are veiled
        if (where != _CHANGED or key in overrides) and bears_password(json.dumps(value)):
            hint = "take it out: passwords and keys come from the environment, and are written down nowhere"
            raise UsageError(f"{key} has an address with a password in it.", where=key, hint=hint)
    return settings


def _check_addresses(settings: Settings, overrides: Mapping[str, Any], where: object) -> None:
    """Refuse addresses that are none, several in one text, and a list with one of them twice, with what to type."""
    for key, given in _addresses(settings):
        setting, _, entry = key.partition("[")
        is_typed, is_list = setting in overrides, not isinstance(given, str)
        if where == _CHANGED and not is_typed:  # a run of before may have it
            continue
        addresses = each_address(given) if is_list or key == "index.url" else _BETWEEN.split(str(given))
        if wrong := _wrong_list(addresses) if is_list else _wrong_text(addresses):
            shown = [*map(shown_address, addresses)]
            said = shown if is_list else ", ".join(shown)
            hint = f"--set {typed(f'{key}={_usable(addresses)}')}" if is_typed else f"api_base: {_usable(addresses)}"
            if entry:  # it has no option of its own
                hint = f"api_base: {_usable(addresses)}   (in that entry of {setting})"
            if not is_list and len(addresses) == 1:
                hint = "an address is http://host:port, as in --set generator.api_base=http://127.0.0.1:8000/v1"
            typed_so = f"--set {typed(f'{key}={yaml_value(said)}')}" if is_typed else where or "--set"
            raise UsageError(f"{key} {wrong}, and it is {said!r}.", where=typed_so, hint=hint)


_BETWEEN = re.compile(r"[,;\s]+(?=https?://)")
"""What stands between addresses that were meant as a list and given as one text."""


def _wrong_text(addresses: Sequence[str]) -> str | None:
    return malformed(addresses[0]) if len(addresses) == 1 else f"has {len(addresses)} addresses in one text, not a list"


def _wrong_list(addresses: Sequence[str]) -> str | None:
    """Return why several addresses cannot be asked, in words that go on from the setting's name."""
    for address in addresses:
        if why := malformed(address):
            return f"has an address, {shown_address(address)}, that {why}"
        if shown_address(address) != address:
            return (
                f"has an address, {shown_address(address)}, with a password or a key in it: in a list keys come from"
                " the environment"
            )
    places = [address.rstrip("/").casefold() for address in addresses]
    twice = next((address for address, place in zip(addresses, places, strict=True) if places.count(place) > 1), None)
    if twice:
        return f"has {twice} twice"
    return None if addresses else "has at least one address"


def _usable(addresses: Sequence[str]) -> str:
    """Return a list of addresses as it may have been meant, for `--set`."""
    plain = [re.sub(r"//[^/]*@|[?#].*", lambda found: "//" * found[0].startswith("//"), one) for one in addresses]
    whole = [one if "://" in one else f"http://{one.removeprefix('//')}" for one in plain]
    good = {
        one.rstrip("/").casefold(): one
        for one in reversed(whole)
        if not malformed(one) and HIDDEN not in shown_address(one)
    }
    told = [*reversed(good.values())] or ["http://127.0.0.1:8000/v1"]
    return told[0] if len(told) == 1 else json.dumps(told, ensure_ascii=False)


def _addresses(settings: Settings) -> list[tuple[str, str | tuple[str, ...]]]:
    found: list[tuple[str, str | tuple[str, ...] | None]] = [
        ("generator.api_base", settings.generator.api_base),
        ("index.api_base", settings.index.api_base),
        ("index.url", settings.index.url),
    ]
    if judge := settings.benchmark.judge:
        found.append(("benchmark.judge.api_base", judge.api_base))
    found += [(f"benchmark.larger[{place}]", one.api_base) for place, one in enumerate(settings.benchmark.larger)]
    return [(key, address) for key, address in found if address is not None and address != ""]


def parse_assignment(text: str) -> tuple[str, Any]:
    """Split `key=value` as typed after `--set`; the value is read as YAML.

    Raises:
        UsageError: there is no `=`, the value is no YAML, or it is a key of somebody's.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set takes key=value, and {text!r} is not of that form.", hint="--set index.k=8")
    if secret := _of_key(key.strip()):
        raise secret
    try:
        return key.strip(), yaml.safe_load(value)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        hint = f"--set {typed(f'{key}={yaml_value(value)}')}   (in quotes, as text)"
        raise UsageError(f"The value of {key} is no YAML: {error}", where="--set", hint=hint) from None


def parse_assignments(texts: Sequence[str]) -> dict[str, Any]:
    """Return what several `key=value` say, as `parse_assignment` does.

    Raises:
        UsageError: one is no assignment, or two give one setting different values.
    """
    given: dict[str, Any] = {}
    for key, value in map(parse_assignment, texts):
        if key in given and given[key] != value:
            hint = f"--set {typed(f'{key}={yaml_value(value)}')}   (alone)"
            raise UsageError(f"{key} is given twice: {given[key]!r} and {value!r}.", where="--set", hint=hint)
        given[key] = value
    return given


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        names = ", ".join(sorted(name.removesuffix(".yaml") for name in packaged("pipelines")))
        what = f"There is no such pipeline file, and those of the package are {names}."
        raise UsageError(what, where=path, hint="raft init my-pipeline") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The pipeline file cannot be read: {error}.", where=path, hint=_EXPLAINED) from None
    tree = _parse(text, path)
    for key in PATHS:
        _change(tree, key, lambda entry: entry if is_address(entry) else str(path.parent / at_home(entry)))
    for key in PATHS_OR_NAMES:
        _change(tree, key, lambda entry: str(path.parent / entry) if (path.parent / entry).exists() else entry)
    if isinstance(tree.get("corpus"), str):
        tree["corpus"] = [tree["corpus"]]
    return tree


def _change(tree: dict[str, Any], key: str, change: Callable[[str], str]) -> None:
    """Change the text, or each text of the list, that stands at a dotted key; whatever else stands there is left."""
    *sections, name = key.split(".")
    owner: Any = tree
    for section in sections:
        owner = owner.get(section) if isinstance(owner, dict) else None
    if not isinstance(owner, dict):
        return
    value = owner.get(name)
    if isinstance(value, str):
        owner[name] = change(value)
    elif isinstance(value, list):
        owner[name] = [change(entry) if isinstance(entry, str) else entry for entry in value]


def _parse(text: str, where: object) -> dict[str, Any]:
    try:
        tree = whole(yaml.safe_load(text))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
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


_MOST_UNSEEN, _CHANGED = 0.2, "--set"
_WANTED = {  # what a value has to be, by the beginning of the name that pydantic gives to what is wrong
    "int": "is a whole number",
    "float": "is a number",
    "finite": "is a number with an end",
    "bool": "is true or false",
    **dict.fromkeys(("string", "path"), "is text"),
    "tuple": "is a list",
    **dict.fromkeys(("model", "dict"), "is a section with settings of its own"),
    "missing": "has to be given",
    "greater_than_equal": "is at least {ge}",
    "greater_than": "is more than {gt}",
    "less_than_equal": "is at most {le}",
    "less_than": "is less than {lt}",
    "too_short": "has at least {min_length} entry",
    "too_long": "has at most {max_length} entries",
    "literal_error": "is one of {expected}",
}


def _of_key(name: str) -> UsageError | None:
    """Return the error of a setting that is called as a secret is: its value is neither shown nor typed once more."""
    if not names_key(name) or f"{name}s" in known_keys():  # tokens are counted
        return None
    what = f"There is no setting {name}: keys are read from the environment, and are written down nowhere."
    hint = "read -rs OPENAI_API_KEY; export OPENAI_API_KEY   (or as your provider calls its own)"
    return UsageError(what, where=name, hint=hint)


def _explain(
    error: ValidationError, overrides: Mapping[str, Any], where: object, tree: Mapping[str, Any]
) -> UsageError:
    """Return what is wrong with settings, where it was given, and what to give instead, where that can be told."""
    said: dict[str, str] = {}
    given: dict[str, Any] = {}
    for problem in error.errors():
        place = [*map(str, problem["loc"])]
        name = re.sub(r"\.(\d+)", r"[\1]", ".".join(place))
        if problem["type"] == "extra_forbidden" and (secret := _of_key(name)):
            return secret
        for key, value in overrides.items():
            if all(one == other for one, other in zip(place, _RENAMED.get(key, key).split("."), strict=False)):
                given[key] = value
        if problem["type"] == "extra_forbidden":
            near = _nearest(problem["loc"])
            said[name] = f"There is no setting {name}." + (f" Did you mean {near}?" if near else "")
        elif not any(one.startswith(f"{name}[") for one in said):  # an entry's problem says more than its list's
            kind = next((one for one in _WANTED if problem["type"].startswith(one)), None)
            wanted = _WANTED[kind].format(**problem.get("ctx", {})) if kind else problem["msg"]
            was = "" if kind == "missing" else f", and it is {_veiled(repr(problem['input']))}"
            said[name] = f"{name} {wanted.removeprefix('Value error, ')}{was}."
    hint = _typed_instead(given) or _written_instead(to_jsonable_python(tree, fallback=str)) or _EXPLAINED
    return UsageError(" ".join(said.values()), where=_veiled(_options(given)) or where or "the settings", hint=hint)


def _veiled(given: str) -> str:  # what is no such setting's value may be a password, or a key, that slipped in
    return shown_address(shown(given))


def _options(values: Mapping[str, Any]) -> str:
    return " ".join(f"--set {typed(f'{key}={yaml_value(value)}')}" for key, value in values.items())


def _typed_instead(given: Mapping[str, Any]) -> str:
    """Return options with what was meant by those that were typed wrongly; "" where nothing is like them."""
    meant: dict[str, Any] = {}
    for key, value in given.items():
        tree: dict[str, Any] = {}
        _plant(tree, _RENAMED.get(key, key), to_jsonable_python(value, fallback=str))
        mended = _mended(tree)
        meant |= mended if mended != _by_name(tree) else {}
    return _options(meant)


def _written_instead(tree: dict[str, Any]) -> str:
    """Return YAML with what was meant by settings of a file that are wrong; "" where nothing is like them."""
    written, meant = _by_name(tree), dict[str, Any]()
    for key, value in _mended(tree).items():
        if key not in written or written[key] != value:
            _plant(meant, key, value)
    return yaml_value(meant)[1:-1] if len(meant) < 2 else yaml_value(meant)


def _mended(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by their dotted names, with what was meant by those that are wrong, where that can be told."""
    mended = deepcopy(dict(tree))
    for _ in range(3):  # the name of a section, then one in it, then its value
        try:
            Settings.model_validate(mended)
        except ValidationError as error:
            for problem in error.errors():
                with suppress(LookupError, TypeError):  # it is no place in a file, but a kind of value that is tried
                    _mend(mended, problem)
    return _by_name(mended)


def _mend(tree: dict[str, Any], problem: ErrorDetails) -> None:
    *sections, name = problem["loc"]
    owner: Any = tree
    for section in sections:
        owner = owner[section]
    value = problem["input"]
    if problem["type"] == "literal_error":
        choices = yaml.safe_load(f"[{problem['ctx']['expected'].replace(' or ', ', ')}]")
        owner[name] = max(choices, key=lambda one: SequenceMatcher(None, str(value).casefold(), str(one)).ratio())
    elif problem["type"].startswith(("int", "float")):
        owner[name] = _written_out(value)
    elif problem["type"] == "extra_forbidden":
        near = _nearest(problem["loc"])
        if near is None or isinstance(value, dict) != (near in _sections()):
            return
        del owner[name]
        for key, one in _by_name(value, near).items():
            _plant(tree, key, one)


def _nearest(place: Sequence[int | str]) -> str | None:
    """Return the setting, or section, whose name is likest to one that there is none of."""
    known = [one for one in known_keys() if len(place) in (1, one.count(".") + 1)]
    return next(iter(get_close_matches(".".join(map(str, place)), known, n=1, cutoff=0.5)), None)


@cache
def _sections() -> set[str]:
    return {key.rpartition(".")[0] for key in known_keys()}


def _by_name(value: Any, name: str = "") -> dict[str, Any]:
    """Return settings by their dotted names, but for those in a section that there is none of."""
    if not isinstance(value, dict) or name not in _sections():
        return {name: value}
    return {
        key: one for part, inner in value.items() for key, one in _by_name(inner, f"{name}.{part}".strip(".")).items()
    }


def _written_out(value: Any) -> Any:
    """Return the number that a text means which YAML does not read as one, 1e3, 1,000, 1 000 or 1k; or the text."""
    text = re.sub(r"[,' ](?=\d{3}\b)", "", str(value).strip().lower())
    try:
        number = Decimal(re.sub(r"k$", "e3", re.sub(r"m$", "e6", text)))
        return int(number) if abs(number) < 10**15 and number == int(number) else value
    except InvalidOperation:
        return value


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
            lines += [f"{indent}# {field.description}", f"{indent}{name}: {yaml_value(value)}"]
    return "\n".join(lines).lstrip("\n") + "\n"


def yaml_value(value: Any) -> str:
    """Return a value as it is written on one line of YAML, or behind `--set key=`."""
    return yaml.safe_dump(to_jsonable_python(value), default_flow_style=True, width=1000).removesuffix("...\n").strip()
