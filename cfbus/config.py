"""The configuration of every component: one tree of frozen models, checked whole before anything starts.

A value comes from the defaults of the sections, then from one YAML file, then from the environment
(``CFBUS_BROKER__PORT``), then from ``--set broker.port=7710``; the later wins. The models must not know
where a value came from, and nothing else in the project reads YAML or ``CFBUS_`` variables.

Invariants: an unknown key is an error and never ignored; all errors are told at once, each with its
place; every path in a ``Config`` is absolute; every number has bounds; every key has a description,
which is what ``write_commented`` writes beside it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pydantic import Field, ValidationError, ValidationInfo, ValidatorFunctionWrapHandler, field_validator
from pydantic_core import ErrorDetails

from cfbus.config_captions import ENGINES, ONLY_FOR, Captions
from cfbus.config_dataset import Dataset
from cfbus.config_file import Problem, Tree, discover, read_file
from cfbus.config_overlay import Option, overlay_environment, overlay_sets
from cfbus.config_sections import Admin, Broker, Feeder, Metrics, Storage, Worker, Writer
from cfbus.config_types import holds_secret
from cfbus.config_vllm import Vllm
from cfbus.config_words import ModelSchema, Section, commented
from cfbus.errors import ConfigError
from cfbus.logs import display


class Config(Section):
    """One tree for all components; each reads the sections that concern it."""

    dataset: Dataset = Field(default_factory=Dataset, description="What is captioned.")
    storage: Storage = Field(default_factory=Storage, description="Where captions are kept.")
    vllm: Vllm = Field(
        default_factory=Vllm,
        description="The vLLM engine. Any other key here is an argument of vLLM's engine, passed on as written.",
    )
    captions: Captions = Field(default_factory=Captions, description="What is written about each image.")
    broker: Broker = Field(default_factory=Broker, description="The broker: grants leases, knows the keys.")
    writer: Writer = Field(default_factory=Writer, description="The writer: makes captions durable.")
    worker: Worker = Field(default_factory=Worker, description="A worker: one GPU daemon.")
    feeder: Feeder = Field(default_factory=Feeder, description="A feeder: images for workers that cannot read them.")
    metrics: Metrics = Field(default_factory=Metrics, description="Figures of each daemon, for Prometheus.")
    admin: Admin = Field(default_factory=Admin, description="For cfbus-admin and for monitors.")

    @field_validator("captions", mode="wrap")
    @classmethod
    def _slots_or_prompts(cls, given: object, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Captions:
        prompts = info.data["vllm"].inference_prompts if "vllm" in info.data else None
        if isinstance(given, Captions):
            given = given.model_dump(exclude_unset=True)
        if not prompts or not (given is None or isinstance(given, Mapping)):
            return cast(Captions, validate(given))
        if given and "slots" in given:
            raise ValueError("slots and vllm.inference_prompts say the same; keep captions.slots, remove the other")
        captions = cast(Captions, validate({**(given or {}), "slots": prompts}))
        captions.model_fields_set.discard("slots")  # still a default: it changes when the prompts change
        return captions

    @field_validator("captions", mode="after")
    @classmethod
    def _one_model(cls, captions: Captions, info: ValidationInfo) -> Captions:
        there = info.data["vllm"].model if "vllm" in info.data else ""
        for name, stage in captions.stages.items():
            if there and stage.model not in ("", there):
                raise ValueError(
                    f"stages.{name}.model: {stage.model} is not the model of vllm.model ({there}); a worker has one"
                    " model for now, leave this out"
                )
        return captions

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


def check_effects(loaded: Loaded) -> None:
    """Raises ConfigError for what the command line says to an engine other than the one that is configured.

    In a file such keys may wait for their engine; who types one now expects it to do something.
    """
    engine = loaded.config.captions.engine
    idle: dict[str, str] = {}
    mend = ""
    for key, said in loaded.origins.items():
        owner = next((each for path, each in ONLY_FOR.items() if f"{key}.".startswith(".".join(path) + ".")), engine)
        if owner == engine or not said.startswith("--") or key.startswith("vllm.inference_prompts"):
            continue
        if any(below.startswith(f"{key}.") for below in loaded.origins):  # a section; its keys are told
            continue
        by = loaded.origins.get("captions.engine", "the default")
        idle[said] = f"{said}: only the engine {owner} reads {key}; captions.engine is {engine} ({by})."
        mend = f"Choose --set captions.engine={owner}, or leave this out." if owner in ENGINES else "Leave this out."
    if idle:
        raise ConfigError("\n".join(idle.values()), mend)


def is_private(config: Config) -> bool:
    """Whether only its owner may read what is written of this: an address in it has a password or a signature."""
    return any(isinstance(path, str) and holds_secret(path) for path in config.dataset.paths)


def write_commented(config: Config, folder: Path, sections: Sequence[str] = SECTIONS) -> str:
    """One YAML text for a file in ``folder`` (absolute) that ``load`` reads back as ``config``.

    Keys that were set are written out, defaults as comments. With fewer ``sections`` the others are
    defaults for whoever reads it.
    """
    given = config.model_dump(exclude_unset=True)
    values = dict.fromkeys(SECTIONS) | given
    implied = Config.model_validate(values, context={"folder": folder})
    return commented(config, implied, sections, folder)
