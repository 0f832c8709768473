"""Which GPUs a worker's model runs on: what CUDA_VISIBLE_DEVICES must say before torch is imported.

Knows what a person named, how many GPUs the model needs, and what a scheduler or service manager has handed out; no
driver, no torch.

Invariants: nothing outside of what was handed out is chosen; a GPU is chosen once; what cannot be is a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping

from cfbus.config_vllm import Vllm
from cfbus.errors import ConfigError

PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


def needed(vllm: Vllm) -> int:
    """How many GPUs the model is spread over."""
    count = vllm.tensor_parallel_size
    for name in PARALLEL[1:]:
        given = vllm.engine_arguments.get(name, 1)
        count *= given if isinstance(given, int) and given > 1 else 1
    return count


def chosen(environ: Mapping[str, str], gpu_id: str, count: int) -> list[str]:
    """The GPUs as CUDA_VISIBLE_DEVICES takes them. Numbers count within what that says already. Raises ConfigError."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    there = [name.strip() for name in visible.split(",") if name.strip()] if visible else None
    wanted = _wanted(gpu_id.split(","), count)
    if there is None:
        return wanted
    found = [_handed_out(name, there, gpu_id, count) for name in wanted]
    if len(set(found)) < len(found):
        raise ConfigError(
            f"worker.gpu_id {gpu_id} names a GPU twice: with CUDA_VISIBLE_DEVICES {visible} it is {','.join(found)}.",
            "Name each once.",
        )
    return found


def _wanted(named: list[str], count: int) -> list[str]:
    if len(named) == count:
        return named
    if len(named) == 1 and named[0].isdecimal():
        first = int(named[0])
        return [str(number) for number in range(first, first + count)]
    what = " x ".join(PARALLEL)
    raise ConfigError(
        f"worker.gpu_id names {len(named)} GPU{'s' if len(named) > 1 else ''} ({','.join(named)}), and the model is"
        f" spread over {count} (vllm: {what}).",
        "Name as many as that, or only the number of the first; or change vllm.tensor_parallel_size.",
    )


def _handed_out(name: str, there: list[str], gpu_id: str, count: int) -> str:
    """The entry of ``there`` that is meant by a number or by (the beginning of) a name."""
    if name.isdecimal():
        found = there[int(name) : int(name) + 1]
    else:
        low = name.lower()
        found = [each for each in there if each.lower().startswith(low) or low.startswith(each.lower())]
    if len(found) != 1:
        raise ConfigError(
            f"GPU {name} is wanted (worker.gpu_id {gpu_id}, {count} for the model), and CUDA_VISIBLE_DEVICES lets this"
            f" process see {len(there)}: {','.join(there)}.",
            "Count from 0 within those, or name one of them, or unset CUDA_VISIBLE_DEVICES.",
        )
    return found[0]
