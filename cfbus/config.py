"""The configuration of every component: one tree of frozen models, checked whole before anything starts.

A value comes from the defaults here, then from one YAML file, then from the environment
(``CFBUS_BROKER__PORT``), then from ``--set broker.port=7710``; the later wins. The models must not know
where a value came from, and nothing else in the project reads YAML or ``CFBUS_`` variables.

Invariants: an unknown key is an error and never ignored; all errors are told at once, each with its
place; every path in a ``Config`` is absolute; every number has bounds; every key has a description,
which is what ``write_commented`` writes beside it.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Len
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    Strict,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from cfbus.config_file import Problem, Tree, absolute, discover, read_file
from cfbus.config_overlay import Option, overlay_environment, overlay_sets
from cfbus.config_words import ModelSchema, Section, commented
from cfbus.errors import ConfigError
from cfbus.logs import display

MAX_SLOTS = 16
MAX_PROMPT = 8192
MAX_PROMPTS = 32 * 1024

_SLOT_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_ENDPOINT = re.compile(r"tcp://(\[[0-9A-Fa-f:.%a-z]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})")


def _path(given: object, info: ValidationInfo) -> object:
    if not isinstance(given, str | Path):
        return given
    return absolute(given, (info.context or {}).get("folder") or Path.cwd())


def _several(given: object) -> object:
    if isinstance(given, list):
        return tuple(given)
    return (given,) if isinstance(given, str | Path) else given


def folder_problem(path: Path) -> str:
    """What keeps ``path`` from being a folder or becoming one, as the end of a sentence; empty if nothing does."""
    try:
        str(path).encode()
        there = next((each for each in (path, *path.parents) if each.exists() or each.is_symlink()), path)
        if there.is_dir() or not (there.exists() or there.is_symlink()):
            return ""
        what = "a file" if there.exists() else "a link to nothing"
    except UnicodeEncodeError:
        return "its name is not UTF-8, which the tables need"
    except OSError as error:
        return (error.strerror or "it cannot be used").lower()
    return f"{'it' if there == path else display(str(there), 200)} is {what}"


def _folder(path: Path) -> Path:
    problem = folder_problem(path)
    if problem:
        raise ValueError(f"a place for a folder: {problem}")
    return path


def _one_line(text: str) -> str:
    if display(text, len(text) + 1) != text:
        raise ValueError("one line of printable text")
    return text


def _endpoint(text: str) -> str:
    match = _ENDPOINT.fullmatch(text)
    if match is None or not 0 < int(match[2]) < 65536:
        raise ValueError("an address like tcp://HOST:PORT")
    return text


def _slot_name(name: str) -> str:
    if not _SLOT_NAME.fullmatch(name):
        raise ValueError("a small letter, then at most 31 small letters, digits or _")
    return name


Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]
AnyPath = Annotated[Path, BeforeValidator(_path)]
Folder = Annotated[Path, BeforeValidator(_path), AfterValidator(_folder)]
Line = Annotated[str, AfterValidator(_one_line)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
SlotName = Annotated[str, AfterValidator(_slot_name)]


def _cores() -> int:
    return max(1, min(8, len(os.sched_getaffinity(0))))


def _host() -> str:
    return display(socket.gethostname(), 64) or "worker"


def _dataset_name(data: dict[str, Any]) -> str:
    """The base name of the first path; what cannot be shown in one line is shown as its escapes."""
    paths: tuple[Path, ...] = data.get("paths", ())
    name = os.path.normpath(paths[0]).rpartition("/")[2] if paths else data.get("source", "")
    return display(name, 100) or "root"


class Dataset(Section):
    source: Literal["folder", "scripted"] = Field(
        default="folder",
        description="Where images come from: 'folder', or 'scripted' for tests and benchmarks.",
    )
    paths: Annotated[tuple[AnyPath, ...], BeforeValidator(_several), Len(0, 1000)] = Field(
        default=(), description="The folders to caption, with all folders in them."
    )
    items: Whole = Field(
        default=0, ge=0, le=10**12, description="How many items there are; only for the scripted source."
    )
    follow_links: Flag = Field(
        default=False, description="Whether to go into folders that are reached by a symbolic link."
    )
    shard_items: Whole = Field(
        default=4096, ge=1, le=10**6, description="How many items of a folder make one shard of the listing."
    )
    name: Line = Field(
        default_factory=_dataset_name,
        min_length=1,
        max_length=200,
        description="What the dataset is called in the tables; by default the name of the first folder.",
    )

    @model_validator(mode="after")
    def _source_has_items(self) -> Dataset:
        if self.source == "scripted" and not self.items:
            raise ValueError("the scripted source needs dataset.items, a whole number from 1")
        if self.source == "folder" and self.items:
            raise ValueError("dataset.items is only for dataset.source: scripted")
        return self


class Storage(Section):
    data_dir: Folder = Field(
        default=Path("cfbus-store"),
        description="The store: the folder for listing, journal, tables and manifest of this one dataset.",
    )
    seal_mib: Whole = Field(
        default=256, ge=1, le=16384, description="A journal of this size (MiB) becomes a parquet file."
    )
    seal_seconds: Whole = Field(
        default=600, ge=1, le=7 * 86400, description="So does one of this age (seconds), whatever its size."
    )


class Broker(Section):
    host: Line = Field(
        default="127.0.0.1",
        min_length=1,
        max_length=255,
        description="The address to listen on; 0.0.0.0 or :: for all, so that others can join.",
    )
    port: Whole = Field(default=7710, ge=0, le=65535, description="The port of the bus; 0 takes any that is free.")
    stats_port: Whole = Field(
        default=7711, ge=0, le=65535, description="The port of the statistics; 0 takes any that is free."
    )
    data_dir: Folder = Field(
        default=Path("cfbus-store/run"),
        description="The folder for registry (keys) and ledger; by default 'run' in storage.data_dir.",
    )
    key_file: AnyPath = Field(
        default=Path("keys/broker.key_secret"), description="The broker's secret key, readable by it alone."
    )
    chunk_size: Whole = Field(
        default=1000, ge=1, le=100_000, description="The most items that one lease hands to a worker."
    )
    lease_seconds: Whole = Field(
        default=120, ge=5, le=86400, description="How long a lease lasts (seconds) without being renewed."
    )
    max_attempts: Whole = Field(
        default=3, ge=1, le=100, description="After so many failed attempts an item becomes a dead letter."
    )

    @model_validator(mode="after")
    def _ports_differ(self) -> Broker:
        if self.port == self.stats_port != 0:
            raise ValueError(f"port and stats_port are both {self.port}; give each its own")
        return self


class Peer(Section):
    """What everyone needs who dials the broker."""

    server: Endpoint = Field(default="tcp://127.0.0.1:7710", description="The broker's address.")
    server_key: Line = Field(
        default="", max_length=512, description="The broker's public key, one line, as the broker shows it."
    )


class Writer(Peer):
    key_file: AnyPath = Field(
        default=Path("keys/writer.key_secret"), description="The writer's secret key, readable by it alone."
    )


class Worker(Peer):
    key_file: AnyPath = Field(
        default=Path("keys/worker.key_secret"), description="The worker's secret key, readable by it alone."
    )
    name: Line = Field(
        default_factory=_host,
        min_length=1,
        max_length=64,
        description="What this worker is called on screens; by default the name of the machine.",
    )
    gpu_id: Whole = Field(default=0, ge=0, le=1023, description="The GPU of this worker; one process for each GPU.")
    spool_dir: Folder = Field(
        default=Path("spool"), description="The folder for results that are not yet acknowledged."
    )
    spool_mib: Whole = Field(
        default=512, ge=1, le=1 << 20, description="The most that the spool may hold (MiB); near it nothing is begun."
    )
    decoders: Whole = Field(
        default_factory=_cores,
        ge=1,
        le=256,
        description="Processes that decode images; by default one for each core, at most 8.",
    )
    concurrency: Whole = Field(
        default=64, ge=1, le=4096, description="How many items the engine works on at the same time."
    )


class Slot(Section):
    """One named caption of an item. In a file, the prompt alone may stand in its place."""

    short_form: ClassVar[str] = "prompt"

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT, description="What is asked about the image.")


class Scripted(Section):
    rate: Number = Field(
        default=0.0, ge=0, le=10**9, description="Items per second of one worker; 0 for as many as it can."
    )
    length: Whole = Field(
        default=300, ge=0, le=65536, description="The length of a caption in characters, all of them ASCII."
    )
    failures: Number = Field(default=0.0, ge=0, le=1, description="The share of items that fail, 0 to 1.")
    seed: Whole = Field(default=0, ge=0, le=2**63 - 1, description="The same seed, the same captions.")


class Captions(Section):
    engine: Literal["palette", "scripted"] = Field(
        default="palette",
        description="What writes captions: 'palette' describes size, light and colours and needs no GPU"
        " (it is no vision-language model); 'scripted' is for tests and benchmarks.",
    )
    slots: Annotated[Mapping[SlotName, Slot], Len(1, MAX_SLOTS)] = Field(
        default={"caption": Slot(prompt="Describe this image.")},
        description="The captions that every image gets: a name for each, and the prompt that asks for it.",
    )
    pixel_budget: Whole = Field(
        default=1 << 20, ge=1024, le=1 << 28, description="Larger images are scaled down to so many pixels."
    )
    max_pixels: Whole = Field(
        default=100_000_000,
        ge=1024,
        le=1 << 31,
        description="Images of more pixels are never decoded; they become dead letters.",
    )
    scripted: Scripted = Field(default_factory=Scripted, description="Settings of the scripted engine.")

    @model_validator(mode="after")
    def _within_limits(self) -> Captions:
        if self.pixel_budget > self.max_pixels:
            raise ValueError(f"pixel_budget ({self.pixel_budget}) is above max_pixels ({self.max_pixels})")
        size = sum(len(slot.prompt.encode()) for slot in self.slots.values())
        if size > MAX_PROMPTS:
            raise ValueError(f"the prompts of all slots have {size} bytes together; they may have {MAX_PROMPTS}")
        return self


class Admin(Peer):
    stats: Endpoint = Field(default="tcp://127.0.0.1:7711", description="The address of the statistics.")
    key_file: AnyPath = Field(
        default=Path("keys/admin.key_secret"), description="The admin's secret key, readable by it alone."
    )


class Config(Section):
    """One tree for all components; each reads the sections that concern it."""

    dataset: Dataset = Field(default_factory=Dataset, description="What is captioned.")
    storage: Storage = Field(default_factory=Storage, description="Where captions are kept.")
    captions: Captions = Field(default_factory=Captions, description="What is written about each image.")
    broker: Broker = Field(default_factory=Broker, description="The broker: grants leases, knows the keys.")
    writer: Writer = Field(default_factory=Writer, description="The writer: makes captions durable.")
    worker: Worker = Field(default_factory=Worker, description="A worker: one GPU daemon.")
    admin: Admin = Field(default_factory=Admin, description="For cfbus-admin and for monitors.")

    @field_validator("broker", mode="after")
    @classmethod
    def _beside_the_store(cls, broker: Broker, info: ValidationInfo) -> Broker:
        storage = info.data.get("storage")
        if storage is None or "data_dir" in broker.model_fields_set:
            return broker
        beside = broker.model_copy(update={"data_dir": storage.data_dir / "run"})
        beside.model_fields_set.discard("data_dir")  # still a default: it moves when the store moves
        return beside


SECTIONS = tuple(Config.model_fields)
SCHEMA = ModelSchema(Config)


_FOLLOW_UPS = frozenset({"default_factory_not_called"})  # a default that needs a value that is wrong


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, its file (None: there was none), and for each key given, by whom (``file:line``)."""

    config: Config
    path: Path | None
    origins: Mapping[str, str]


def load(
    component: str,
    explicit: Path | None = None,
    overrides: Sequence[str | Option] = (),
    environ: Mapping[str, str] = os.environ,
) -> Loaded:
    """Reads and checks the configuration of ``component`` (``broker``, ``gpu``, …: names its file).

    ``explicit`` is the file of ``--config``; without it the usual places are searched, and having no file
    is fine. ``overrides`` are the ``section.key=value`` of ``--set``, and flags that stand for one key.
    Relative paths start at the file's folder, in the environment and in ``--set`` at the working folder.

    Raises ConfigError: one line for each thing that is wrong, all at once.
    """
    cwd = Path.cwd()
    path = explicit or discover(component, environ, cwd)
    tree = read_file(path, SCHEMA) if path else Tree()
    overlay_environment(tree, environ, SCHEMA, cwd)
    overlay_sets(tree, overrides, SCHEMA, cwd)
    config = _validated(tree, path.absolute().parent if path else cwd, display(str(path or "configuration")))
    return Loaded(config, path, {".".join(key): origin.where for key, origin in tree.origins.items()})


def _validated(tree: Tree, folder: Path, name: str) -> Config:
    # Sections that nobody gave are checked too, so that their default paths start at the right folder.
    values = dict.fromkeys(SECTIONS) | tree.values
    problems = list(tree.problems)
    try:
        config = Config.model_validate(values, context={"folder": folder})
    except ValidationError as error:
        errors = error.errors(include_url=False)
        problems += [_problem(tree, each, name) for each in errors if each["type"] not in _FOLLOW_UPS]
    else:
        if not problems:
            return config
    raise ConfigError("\n".join(dict.fromkeys(map(str, problems))))


def _problem(tree: Tree, error: ErrorDetails, name: str) -> Problem:
    path, sentence = SCHEMA.sentence(error)
    known = (path[:length] for length in range(len(path), 0, -1))
    where = next((tree.origins[each].where for each in known if each in tree.origins), name)
    return Problem(where, sentence)


def write_commented(config: Config, folder: Path, sections: Sequence[str] = SECTIONS) -> str:
    """One YAML text for a file in ``folder`` (absolute) that ``load`` reads back as ``config``.

    Keys that were set are written out, defaults as comments. With fewer ``sections`` the others are
    defaults for whoever reads it.
    """
    given = config.model_dump(exclude_unset=True)
    values = dict.fromkeys(SECTIONS) | given
    implied = Config.model_validate(values, context={"folder": folder})
    return commented(config, implied, sections, folder)
