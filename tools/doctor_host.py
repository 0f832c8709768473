"""What this host has for a daemon: key files, a clock, room on its disks, a GPU with its driver, a model.

Looks, and changes nothing but files without a name. Must not know the bus. A driver in trouble can keep a call for
minutes, so it is asked in a thread that is not awaited for long.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from pathlib import Path
from typing import Final

from cfbus.bus import keys
from cfbus.bus.keys import KeyPair
from cfbus.config import Loaded
from cfbus.config_vllm import Vllm
from cfbus.engines.opening import check_engine
from cfbus.errors import CfbusError, ClockError, ConfigError
from cfbus.gpus import GpuError, Library, Nvml, Reading
from cfbus.logs import display
from cfbus.tools.doctor_seen import Seen, bad, note, ok, wrong
from cfbus.tools.findings import try_to_write

DRIVER_SECONDS = 10.0
FUTURE_SECONDS: Final = 86_400.0
MODEL_MIB: Final = 20 << 10
"""Less room than this is noted where a model is still to be downloaded."""


def of_key(path: Path) -> tuple[KeyPair | None, Seen]:
    """The daemon's own key, if it can be used."""
    try:
        pair = keys.load(path)
    except CfbusError as error:
        return None, bad("key file", error)
    sentence = f"{path} is {keys.fingerprint(pair.public)}; only its owner reads it, and its halves match."
    return pair, ok("key file", sentence)


def of_clock(key_file: Path) -> Iterator[Seen]:
    """Whether this host's clock can be right at all; the broker's is compared where one answers."""
    try:
        made = key_file.stat().st_mtime
    except OSError:
        return
    if time.time() < made - FUTURE_SECONDS:
        sentence = "This host's clock is before the day on which its own key was made."
        yield wrong("clock", sentence, "Set it: timedatectl set-ntp true", ClockError)


def of_disk(what: str, folder: Path, need_mib: int) -> Seen:
    """Whether a folder can be written to, and has room for what it may come to hold."""
    try:
        try_to_write(folder)
    except CfbusError as error:
        return bad(what, error)
    free = _free_mib(folder)
    if free < need_mib:
        sentence = f"{folder} may come to hold {need_mib:,} MiB, and {free:,} MiB are free there."
        return note(what, sentence, "Make room, or have it hold less.")
    return ok(what, f"{folder} can be written to; {free:,} MiB are free.")


def _free_mib(folder: Path) -> int:
    there = next(each for each in (folder, *folder.parents) if each.exists())
    return shutil.disk_usage(there).free >> 20


# ---------------------------------------------------------------------- engine, GPU, model


def of_engine(loaded: Loaded, nvml: Nvml | None = None, environ: Mapping[str, str] = os.environ) -> Iterator[Seen]:
    """What the engine of the configuration needs of this host."""
    engine = loaded.config.captions.engine
    if engine != "vllm":
        yield ok("engine", f"The engine is {engine}, which needs no GPU and no model.")
        return
    try:
        check_engine(loaded.config, loaded.origins)
        yield ok("engine", "vLLM is installed and knows the arguments of the configuration.")
    except ConfigError as error:
        yield bad("engine", error)
    yield from of_gpus(loaded.config.worker.gpu_id.split(","), nvml or Library())
    yield of_model(loaded.config.vllm, environ)


def of_gpus(gpus: list[str], nvml: Nvml) -> Iterator[Seen]:
    """The driver, and each GPU by number or name."""
    asked: Future[tuple[str, list[Reading]]] = Future()
    threading.Thread(target=_ask, args=(gpus, nvml, asked), name="driver", daemon=True).start()
    try:
        driver, readings = asked.result(DRIVER_SECONDS)
    except NotInTime:
        sentence = f"The GPU's driver does not answer within {DRIVER_SECONDS:.0f} s."
        yield wrong("GPU", sentence, "nvidia-smi will hang too; the host needs a restart.", ConfigError)
        return
    except GpuError as error:
        sentence = f"There is no GPU that can be used: {display(str(error), 200)}."
        yield wrong("GPU", sentence, "`nvidia-smi` must list it; worker.gpu_id names it.", ConfigError)
        return
    yield ok("driver", f"NVIDIA driver {display(driver, 40)}.")
    for gpu, reading in zip(gpus, readings, strict=True):
        yield _gpu(gpu, reading)


def _ask(gpus: list[str], nvml: Nvml, asked: Future[tuple[str, list[Reading]]]) -> None:
    try:
        driver = nvml.open()
        asked.set_result((driver, [nvml.read(gpu) for gpu in gpus]))
    except GpuError as error:
        asked.set_exception(error)
    finally:
        nvml.close()


def _gpu(gpu: str, reading: Reading) -> Seen:
    name = display(reading.name or "a GPU", 60)
    if reading.memory_total is None or reading.memory_used is None:
        return ok("GPU", f"{gpu} is {name}.")
    total, used = reading.memory_total >> 20, reading.memory_used >> 20
    sentence = f"{gpu} is {name} with {total:,} MiB, {used:,} of them in use."
    if used > total // 4:
        return note("GPU", sentence, "Somebody else computes on it; vLLM takes most of a GPU's memory.")
    return ok("GPU", sentence)


def of_model(vllm: Vllm, environ: Mapping[str, str]) -> Seen:
    """Whether the model is here already, or where it will be put."""
    if vllm.model.startswith("/"):
        there = Path(vllm.model).is_dir()
        hint = "vllm.model names a folder on this host, or a model of the Hugging Face hub."
        return ok("model", f"{vllm.model} is here.") if there else wrong("model", f"There is no {vllm.model}.", hint)
    cache = cache_of(environ)
    kept = cache / f"models--{vllm.model.replace('/', '--')}" / "snapshots"
    if kept.is_dir() and any(kept.iterdir()):
        return ok("model", f"{vllm.model} is in {cache}.")
    if environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        sentence = f"{vllm.model} is not in {cache}, and HF_HUB_OFFLINE keeps it from being downloaded."
        return wrong("model", sentence, "Download it first, or unset HF_HUB_OFFLINE.")
    free = _free_mib(cache)
    sentence = f"{vllm.model} is not here yet: it is downloaded into {cache} ({free:,} MiB free) at the first start."
    return note("model", sentence, "That is little for a model; HF_HOME puts it elsewhere." if free < MODEL_MIB else "")


def cache_of(environ: Mapping[str, str]) -> Path:
    """Where the hub's library keeps models."""
    home = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    given = environ.get("HF_HUB_CACHE") or Path(environ.get("HF_HOME") or home) / "hub"
    return Path(given).expanduser().absolute()
