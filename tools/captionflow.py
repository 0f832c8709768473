"""From a configuration of CaptionFlow to settings of ours, and what there is to say about it: `cfbus init --from`.

It reads that one file and writes nothing. What becomes of a key is decided by the rows of `captionflow_keys`; here is
only how a value changes on the way.

Invariants: a key without a row is told and never guessed at; no value is part of what is told (there are tokens among
them); what is wrong with a value is told with its line in the file that it came from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit

from cfbus.config import SCHEMA
from cfbus.config_file import KeyPath, Tree, Value, absolute, dotted, dump_value, read_file
from cfbus.config_overlay import Option
from cfbus.config_sections import Broker, Worker
from cfbus.errors import ConfigError, UsageError
from cfbus.logs import display
from cfbus.tools import captionflow_stages
from cfbus.tools.captionflow_keys import COMPONENTS, HUB_KEYS, SOURCES, Fate, Row, is_section, keys_below, row_of

OURS = ("broker", "captions", "writer")
"""Sections that only a configuration of ours has."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")

LOOPBACK = ("localhost", "127.0.0.1", "::1")
STATS_PORT: int = Broker.model_fields["stats_port"].default
PORT: int = Broker.model_fields["port"].default
CONCURRENCY: int = Worker.model_fields["concurrency"].default

TITLES: Mapping[Fate | None, str] = {
    Fate.SAME: "Kept",
    Fate.MAPPED: "Changed",
    Fate.OBSOLETE: "Not carried over, and nothing is missing",
    Fate.LATER: "Not here yet",
    None: "Not known as keys of CaptionFlow",
}


@dataclass(frozen=True, slots=True)
class Changed:
    """What a value becomes: settings of ours, perhaps none, and why; ``fate`` where it is another than its row's."""

    settings: Mapping[str, Value]
    why: str = ""
    fate: Fate | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What became of one key: its line, its name there, its fate (None: it is not known), its name here, and why."""

    line: str
    key: str
    fate: Fate | None
    ours: str = ""
    why: str = ""


@dataclass(slots=True)
class Conversion:
    """Settings for a configuration of ours, and what there is to say."""

    path: Path
    tree: Tree
    options: list[Option] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    dataset: Mapping[str, Value] = field(default_factory=dict)
    inference: Mapping[str, Value] = field(default_factory=dict)

    @property
    def sets(self) -> set[str]:
        """The keys that are set, and the sections that they are in."""
        return {".".join(option.path[:depth]) for option in self.options for depth in range(1, len(option.path) + 1)}


class _Theirs:
    """Which values are text as written, so that a worker named 007 keeps its name. See ``config_file.Schema``."""

    def is_text(self, path: KeyPath) -> bool:
        prefixes = [()] if path[0] in COMPONENTS else [(component,) for component in COMPONENTS]
        return any(self._is_text((*prefix, *path)) for prefix in prefixes)

    def _is_text(self, path: KeyPath) -> bool:
        if path[0] == "orchestrator" and path[2:3] == ("stages",):
            return captionflow_stages.is_text(path[3:])
        row = row_of(path)
        if row is None and path[-1:] and path[-1].isdecimal():  # an entry of a list
            row = row_of(path[:-1])
            return bool(row and row.ours and SCHEMA.is_text((*row.ours.split("."), path[-1])))
        return bool(row and row.ours and SCHEMA.is_text(tuple(row.ours.split("."))))

    def is_path(self, _path: KeyPath) -> bool:
        return False

    def has_short_form(self, _path: KeyPath) -> bool:
        return False

    def known_paths(self) -> list[KeyPath]:
        return []


# ---------------------------------------------------------------------- how values change


def _folder(value: Value) -> Path | None:
    """A path of theirs, which starts at the folder that one works in; None if it is none."""
    try:
        return absolute(value, Path.cwd()) if isinstance(value, str) else None
    except ValueError:
        return None


def _data_dir(value: Value, _done: Conversion) -> Changed:
    folder = _folder(value)
    try:
        used = folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError:
        used = True
    if used:
        why = "Something is in that folder, and it stays as it is. New captions go to 'captions' in the new bus."
        return Changed({}, why, Fate.OBSOLETE)
    return Changed({"storage.data_dir": str(folder) if folder else value})


def _kind(done: Conversion) -> tuple[str, str]:
    """The source here and what its path is joined with; nothing for a kind that is not known."""
    kind = str(done.dataset.get("processor_type") or done.dataset.get("type") or "huggingface_datasets")
    return SOURCES.get(kind, ("", ""))


def _source(_value: Value, done: Conversion) -> Changed:
    source, _ = _kind(done)
    if source:
        return Changed({"dataset.source": source})
    return Changed({}, "A source for datasets of this kind is not here yet.", Fate.LATER)


def _paths(value: Value, done: Conversion) -> Changed:
    source, more = _kind(done)
    if not source:
        why = "A source for datasets of this kind is not here yet. If you have the images in folders: dataset.paths."
        return Changed({}, why, Fate.LATER)
    folder = _folder(value)
    if source == "huggingface" and isinstance(value, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", value):
        of_the_hub: dict[str, Value] = {"dataset.paths": [f"hf://{value}"], "dataset.source": source}
        return Changed(of_the_hub, "Of the hub; its rows are read by ranges.")
    if folder is None:
        return Changed({"dataset.paths": value})
    if not folder.is_dir():
        done.notes.append(f"There is no folder {display(str(folder), 200)} on this machine: correct dataset.paths.")
    return Changed({"dataset.paths": [str(folder / more)]})


def _of_the_hub(ours: str) -> Callable[[Value, Conversion], Changed]:
    def change(value: Value, done: Conversion) -> Changed:
        if _kind(done)[0] != "huggingface" or not value:
            return Changed({}, "It counts for datasets of the Hugging Face hub only.", Fate.OBSOLETE)
        return Changed({f"dataset.{ours}": value, "dataset.source": "huggingface"})

    return change


def _batch(value: Value, _done: Conversion) -> Changed:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= CONCURRENCY:
        why = f"Not above the default, so worker.concurrency stays {CONCURRENCY}: no image waits for a batch here."
        return Changed({}, why, Fate.OBSOLETE)
    return Changed({"worker.concurrency": value}, "So many images are in flight; none waits for a batch.")


def _stages(value: Value, done: Conversion) -> Changed:
    if not value:
        return Changed({}, "There is nothing in it.", Fate.OBSOLETE)
    found = captionflow_stages.converted(value, done.inference.get("model"))
    if found is None:
        return Changed({"captions.stages": value})  # refused, with its place
    done.notes += found.notes
    names = ", ".join(found.slots)
    why = f"Each prompt is a slot: {names}. Their names are the names of rows; sampling is laid over vllm.sampling."
    return Changed({"captions.stages": dict(found.stages), "captions.slots": dict(found.slots)}, why)


def _prompts(value: Value, done: Conversion) -> Changed:
    if done.inference.get("stages"):
        return Changed({}, "Where there are stages, their prompts count, as there.", Fate.OBSOLETE)
    return Changed({"vllm.inference_prompts": value})


def _cache(value: Value, _done: Conversion) -> Changed:
    if value is not True:
        return Changed({}, "False is the default.", Fate.OBSOLETE)
    return Changed({"vllm.mm_processor_cache_gb": 0}, "Without it an image is prepared once for all its prompts.")


def _server(who: str) -> Callable[[Value, Conversion], Changed]:
    def change(value: Value, done: Conversion) -> Changed:
        try:
            parts = urlsplit(str(value))
            host, port = parts.hostname or "", parts.port or PORT
        except ValueError:
            return Changed({f"{who}.server": value})
        if not host or parts.scheme not in ("ws", "wss"):
            return Changed({f"{who}.server": value})
        shown = f"[{host}]" if ":" in host else host
        if host not in LOOPBACK:
            done.notes.append(
                f"{who}.server names another machine. The broker there has a key of its own: put its line in"
                f" {who}.server_key, and give its owner yours."
            )
        settings = {f"{who}.server": f"tcp://{shown}:{port}"}
        return Changed(settings | ({"admin.stats": f"tcp://{shown}:{STATS_PORT}"} if who == "admin" else {}))

    return change


CHANGES: Mapping[str, Callable[[Value, Conversion], Changed]] = {
    "orchestrator.storage.data_dir": _data_dir,
    "orchestrator.dataset.processor_type": _source,
    "orchestrator.dataset.type": _source,
    "orchestrator.dataset.dataset_path": _paths,
    "orchestrator.dataset.path": _paths,
    **{f"orchestrator.dataset.{theirs}": _of_the_hub(ours) for theirs, ours in HUB_KEYS.items()},
    "orchestrator.vllm.batch_size": _batch,
    "orchestrator.vllm.stages": _stages,
    "orchestrator.vllm.inference_prompts": _prompts,
    "orchestrator.vllm.disable_mm_preprocessor_cache": _cache,
    "worker.server": _server("worker"),
    "worker.batch_size": _batch,
    "monitor.server": _server("admin"),
    "admin.server": _server("admin"),
}


# ---------------------------------------------------------------------- from file to settings


def convert(path: Path) -> Conversion:
    """What the file at ``path`` says, in our words. Raises ConfigError with all that is wrong, or UsageError."""
    with suppress(OSError):  # told by whoever reads it
        if not path.exists():
            raise UsageError(f"There is no file {display(str(path), 200)}.", "Check --from.")
    done = Conversion(path, read_file(path, _Theirs()))
    done.problems += map(str, done.tree.problems)
    for theirs, at, values in _sections(done):
        dataset = values.get("dataset")
        done.dataset = dataset if isinstance(dataset, Mapping) else {}
        inference = values.get("inference") or values.get("vllm")
        done.inference = inference if isinstance(inference, Mapping) else {}
        _walk(done, theirs, at, values)
    if done.problems:
        raise ConfigError("\n".join(done.problems))
    _conclude(done)
    return done


def _sections(done: Conversion) -> Iterator[tuple[KeyPath, KeyPath, Mapping[str, Value]]]:
    """The components in the file: how their keys begin in the rows, how they begin in the file, and their keys."""
    values, name = done.tree.values, display(str(done.path), 200)
    if not values:
        raise ConfigError(f"{name}: there is nothing in it.", "Check --from.")
    if any(key in values for key in OURS):
        raise ConfigError(f"{name}: this is a configuration of cfbus already.", f"Use it: cfbus-broker --config {name}")
    rest = {key: value for key, value in values.items() if key not in COMPONENTS}
    if len(rest) == len(values):
        component = _guess(rest)
        if component is None:
            raise ConfigError(
                f"{name}: this is no configuration of CaptionFlow.",
                f"Such a file has one of the sections {', '.join(COMPONENTS)}.",
            )
        yield (component,), (), rest
        return
    for component in COMPONENTS:
        section = values.get(component)
        if isinstance(section, Mapping):
            yield (component,), (component,), section
        elif section is not None:
            done.problems.append(f"{_where(done, (component,))}: {component}: a section is expected here.")
    yield ("orchestrator",), (), {key: value for key, value in rest.items() if key == "auth"}
    done.told += [Told(_line(done, (key,)), display(key, 80), None) for key in rest if key != "auth"]


def _guess(values: Mapping[str, Value]) -> str | None:
    """Whose keys these are, without a section around them: those of whom most are known, if that is most of them."""
    known = {each: len(values.keys() & set(keys_below((each,)))) for each in COMPONENTS}
    best = max(known, key=lambda each: known[each])
    return best if 2 * known[best] > len(values) else None


def _walk(done: Conversion, theirs: KeyPath, at: KeyPath, values: Mapping[str, Value]) -> None:
    for key, value in values.items():
        path, place = (*theirs, key), (*at, key)
        row = row_of(path)
        if value is None:
            continue
        if key == "vllm" and theirs == ("orchestrator",) and values.get("inference"):
            why = "The section `inference` stands beside it and counts."
            done.told.append(Told(_line(done, place), dotted(place), Fate.OBSOLETE, "", why))
        elif row is not None and (not row.key.endswith(".*") or _NAME.fullmatch(key)):
            _carry(done, row, place, value)
        elif not is_section(path):
            near = get_close_matches(key, keys_below(theirs), 1, 0.7)
            why = f"Did you mean {dotted((*at, near[0]))}?" if near else ""
            done.told.append(Told(_line(done, place), dotted(place), None, "", why))
        elif isinstance(value, Mapping):
            _walk(done, path, place, value)
        else:
            done.problems.append(f"{_where(done, place)}: {dotted(place)}: a section is expected here.")


def _carry(done: Conversion, row: Row, place: KeyPath, value: Value) -> None:
    ours = row.ours.replace("*", place[-1])
    plain = Changed({ours: value} if ours else {}, "" if row.fate is Fate.SAME else row.why)
    changed = CHANGES[row.key](value, done) if row.key in CHANGES else plain
    settings = changed.settings
    told = Told(_line(done, place), dotted(place), changed.fate or row.fate, ", ".join(settings), changed.why)
    done.told.append(told)
    said = f"{_where(done, place)}: {dotted(place)}"
    for key, each in settings.items():
        path = tuple(key.split("."))
        if not SCHEMA.is_text(path):
            done.options.append(Option(said, path, dump_value(each)))
        elif isinstance(each, str):
            done.options.append(Option(said, path, each))
        else:
            done.problems.append(f"{said}: a text is expected here.")


def _conclude(done: Conversion) -> None:
    """What follows from all keys together."""
    if "vllm" not in done.sets:
        return
    done.options.append(Option("--from", ("captions", "engine"), "vllm"))
    if "vllm.trust_remote_code" not in done.sets:
        done.notes.append(
            "Code that comes with a model is not run; there it always was. If the model needs it and you trust who"
            " published it: vllm.trust_remote_code: true."
        )


def _where(done: Conversion, place: KeyPath) -> str:
    return done.tree.origins[place].where


def _line(done: Conversion, place: KeyPath) -> str:
    return _where(done, place).rpartition(":")[2]


# ---------------------------------------------------------------------- what is told


def report(done: Conversion) -> Iterator[str]:
    """What became of every key in the file, as lines for people."""
    yield f"From {display(str(done.path), 200)}:"
    yield from _listed("Kept", [each for each in done.told if each.fate is Fate.SAME])
    yield from _listed("Changed", [each for each in done.told if each.fate is Fate.MAPPED])
    yield from _listed(
        "Not carried over, and nothing is missing", [each for each in done.told if each.fate is Fate.OBSOLETE]
    )
    yield from _listed("Not here yet", [each for each in done.told if each.fate is Fate.LATER])
    yield from _listed("Not known as keys of CaptionFlow", [each for each in done.told if each.fate is None])
    if done.notes:
        yield "What to look at:"
        yield from (f"  {note}" for note in done.notes)


def _listed(title: str, told: list[Told]) -> Iterator[str]:
    """Keys under a title; what is to be said of several stands once."""
    if told:
        yield f"{title}:"
    for why in dict.fromkeys(each.why for each in told):
        for each in told:
            if each.why == why:
                yield f"  line {each.line}: {each.key}" + (f" -> {each.ours}" if each.ours else "")
        if why:
            yield f"    {why}"
