"""The GPUs of a worker as their driver tells them: name, use, memory, temperature, power.

What it is for: figures for people who watch. The driver's library (NVML, through nvidia-ml-py) is asked in a thread of
its own every few seconds, because a driver in trouble can keep a call for minutes, and the worker's loop must not wait.

What it must not know: the bus, the engine. Only `Library` imports pynvml, and only when it is opened: a host without a
GPU needs neither the package nor the driver.

Invariants: what cannot be told is None, never zero; figures that are older than `STALE_SECONDS` are not told; a driver
that fails is logged once, and asked again a bounded number of times.
"""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from cfbus import logs
from cfbus.bus.figures import MAX_GPUS, GpuFigures, HostFigures

SAMPLE_SECONDS = 5.0
STALE_SECONDS = 3 * SAMPLE_SECONDS
RETRY_PAUSES = 12
MOST_FAILURES = 20
CLOSE_SECONDS = 0.5
BY_BUS = "PCI_BUS_ID"
"""The value of CUDA_DEVICE_ORDER with which CUDA numbers GPUs as NVML does."""

_ODD = re.compile(r"[^A-Za-z0-9 ._()/+:-]")


class GpuError(Exception):
    """There is no GPU, library or driver, or it failed; the message says what."""


class Reading(NamedTuple):
    """One GPU as NVML tells it, in NVML's units: per cent, bytes, degrees Celsius, milliwatts."""

    name: str | None = None
    busy: int | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    celsius: int | None = None
    milliwatts: int | None = None


class Nvml(Protocol):
    """The few calls of NVML that are needed. All may block, and raise GpuError."""

    def open(self) -> str:
        """Begin; returns the driver's version."""

    def read(self, gpu: str) -> Reading:
        """What a GPU says, by its number or name."""

    def close(self) -> None:
        """End, whatever state it is in."""


def figures_of(driver: str, readings: Sequence[Reading]) -> HostFigures:
    """As the bus tells it."""
    return HostFigures(driver=_plain(driver), gpus=tuple(_gpu(reading) for reading in readings[:MAX_GPUS]))


def _gpu(reading: Reading) -> GpuFigures:
    return GpuFigures(
        name=_plain(reading.name or ""),
        utilisation=None if reading.busy is None else min(max(reading.busy / 100, 0.0), 1.0),
        memory_used=_within(reading.memory_used, 0, (1 << 53) - 1),
        memory_total=_within(reading.memory_total, 0, (1 << 53) - 1),
        celsius=_within(reading.celsius, -100, 1000),
        watts=None if _within(reading.milliwatts, 0, 10**8) is None else (reading.milliwatts or 0) / 1000,
    )


def _within(value: int | None, low: int, high: int) -> int | None:
    return value if value is not None and low <= value <= high else None


def _plain(text: str) -> str | None:
    return _ODD.sub("_", text)[:64] or None


class Library:
    """NVML itself."""

    def __init__(self) -> None:
        self._nvml: Any = None

    def open(self) -> str:
        """See ``Nvml.open``."""
        try:
            import pynvml
        except ImportError:
            raise GpuError("nvidia-ml-py is not installed") from None
        self._nvml = pynvml
        self._call(pynvml.nvmlInit)
        return str(self._call(pynvml.nvmlSystemGetDriverVersion))

    def read(self, gpu: str) -> Reading:
        """See ``Nvml.read``. What this GPU (or part of one) does not tell is None."""
        nvml, handle = self._nvml, self._handle(gpu)
        ask = functools.partial(self._or_none, handle=handle)
        memory, use = ask(nvml.nvmlDeviceGetMemoryInfo), ask(nvml.nvmlDeviceGetUtilizationRates)
        return Reading(
            name=ask(nvml.nvmlDeviceGetName),
            busy=None if use is None else int(use.gpu),
            memory_used=None if memory is None else int(memory.used),
            memory_total=None if memory is None else int(memory.total),
            celsius=self._or_none(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            milliwatts=ask(nvml.nvmlDeviceGetPowerUsage),
        )

    def close(self) -> None:
        """See ``Nvml.close``."""
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            try:
                nvml.nvmlShutdown()
            except nvml.NVMLError:
                return  # it was never open, or the driver is gone

    def _handle(self, gpu: str) -> Any:  # noqa: ANN401 - the library has no types
        nvml = self._nvml
        if gpu.isdecimal():
            return self._call(nvml.nvmlDeviceGetHandleByIndex, int(gpu))
        if gpu.startswith("MIG-"):
            return self._call(nvml.nvmlDeviceGetHandleByUUID, gpu)
        for number in range(self._call(nvml.nvmlDeviceGetCount)):  # CUDA takes the beginning of a name
            handle = self._call(nvml.nvmlDeviceGetHandleByIndex, number)
            if str(self._call(nvml.nvmlDeviceGetUUID, handle)).lower().startswith(gpu.lower()):
                return handle
        raise GpuError(f"no GPU is called {gpu}")

    def _call(self, function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - the library has no types
        try:
            return function(*arguments)
        except (self._nvml.NVMLError, UnicodeDecodeError) as error:
            raise GpuError(str(error)) from error

    def _or_none(self, function: Callable[..., Any], handle: object, *arguments: object) -> Any:  # noqa: ANN401 - the library has no types
        nvml = self._nvml
        try:
            return self._call(function, handle, *arguments)
        except GpuError as error:
            untold = (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_NO_PERMISSION, nvml.NVML_ERROR_FUNCTION_NOT_FOUND)
            if getattr(error.__cause__, "value", None) in untold:
                return None
            raise


class GpuWatch:
    """Asks the driver about these GPUs, by number or name, in a thread of its own."""

    def __init__(self, gpus: Sequence[str], nvml: Nvml | None = None, pause: float = SAMPLE_SECONDS) -> None:
        self._gpus = gpus
        self._nvml = nvml or Library()
        self._pause = pause
        self._log = logs.get_logger()
        self._newest: tuple[float, HostFigures] | None = None
        self._asked = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gpus", daemon=True)
        self._thread.start()

    def newest(self, wait: float = 0.0) -> HostFigures | None:
        """What was told last, unless that is old; ``wait`` so many seconds for the first answer."""
        self._asked.wait(wait)
        newest = self._newest
        return newest[1] if newest is not None and time.monotonic() - newest[0] <= STALE_SECONDS else None

    def close(self) -> None:
        """Ends; a driver that hangs is left to itself."""
        self._ending.set()
        self._thread.join(CLOSE_SECONDS)

    def _watch(self) -> None:
        ever = False
        for _ in range(MOST_FAILURES):
            try:
                self._follow()
            except GpuError as error:
                lost, self._newest = self._newest is not None, None
                if lost or not ever:
                    self._log.info("gpus.lost" if lost else "gpus.absent", why=logs.display(str(error), 200))
                ever = ever or lost
            finally:
                self._nvml.close()
                self._asked.set()
            if not ever or self._ending.wait(RETRY_PAUSES * self._pause):
                return  # there never was one, so none will come; or it is over

    def _follow(self) -> None:
        """Ask again and again, until it fails or is to end."""
        driver = self._nvml.open()
        while not self._ending.is_set():
            figures = figures_of(driver, [self._nvml.read(gpu) for gpu in self._gpus[:MAX_GPUS]])
            self._newest = time.monotonic(), figures
            self._asked.set()
            self._ending.wait(self._pause)


def watch_of(environ: Mapping[str, str]) -> GpuWatch | None:
    """A watch over the GPUs that this process was given, once CUDA_VISIBLE_DEVICES says which they are."""
    gpus = [name.strip() for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if not gpus:
        return None
    if environ.get("CUDA_DEVICE_ORDER") != BY_BUS and any(gpu.isdecimal() for gpu in gpus):
        logs.get_logger().info("gpus.absent", why=f"CUDA_DEVICE_ORDER is not {BY_BUS}, so numbers mean other GPUs")
        return None
    return GpuWatch(gpus)
