"""GPUs as their driver tells them: the mapping, a host without any, and a driver that fails in the middle."""

from __future__ import annotations

import threading
import time

import pytest
from structlog.testing import capture_logs

from cfbus.bus.figures import MAX_GPUS, GpuFigures, HostFigures
from cfbus.gpus import GpuError, GpuWatch, Library, Reading, figures_of, watch_of

RECORDED = Reading("NVIDIA H100 80GB HBM3", 97, 72_351_744_000, 85_520_809_984, 61, 612_345)
PAUSE = 0.01
DEADLINE = 60.0


def test_what_was_read_is_told_in_our_units() -> None:
    assert figures_of("615.71", [RECORDED]) == HostFigures(
        driver="615.71",
        gpus=(
            GpuFigures(
                name="NVIDIA H100 80GB HBM3", utilisation=0.97, memory_used=72_351_744_000, memory_total=85_520_809_984,
                celsius=61, watts=612.345,
            ),
        ),
    )  # fmt: skip


def test_what_is_not_told_is_absent_and_what_cannot_be_is_too() -> None:
    assert figures_of("", [Reading()]) == HostFigures(gpus=(GpuFigures(),))
    odd = Reading('a"\\\n\x1b[2J\N{GRINNING FACE}' + 99 * "x", 250, -1, 1 << 60, -4000, -1)
    (gpu,) = figures_of("1", [odd]).gpus
    assert gpu.name == "a_____2J_" + 55 * "x"
    assert gpu == GpuFigures(name=gpu.name, utilisation=1.0)
    assert len(figures_of("1", [RECORDED] * 99).gpus) == MAX_GPUS


class Script:
    """A driver that answers so many times, then fails, again and again."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)
        self.left = 0
        self.opened = self.closed = 0
        self.waits: threading.Event | None = None

    def open(self) -> str:
        self.opened += 1
        if not self.answers:
            raise GpuError("Driver Not Loaded")
        self.left = self.answers.pop(0)
        return "615.71"

    def read(self, gpu: str) -> Reading:
        if self.waits is not None:
            self.waits.wait(DEADLINE)
        if not self.left:
            raise GpuError("GPU is lost")
        self.left -= 1
        return RECORDED

    def close(self) -> None:
        self.closed += 1


def ended(watch: GpuWatch) -> None:
    watch._thread.join(DEADLINE)
    assert not watch._thread.is_alive()


def test_a_host_without_a_driver_is_asked_once_and_has_no_figures() -> None:
    """The real library: here it finds no driver."""
    with capture_logs() as lines:
        watch = GpuWatch(["0"], Library(), PAUSE)
        figures = watch.newest(DEADLINE)
        if figures is not None:
            watch.close()
            pytest.skip("this machine has a GPU")
        ended(watch)
    assert [line["event"] for line in lines] == ["gpus.absent"]
    assert "Not" in str(lines[0]["why"])


def test_a_gpu_that_is_lost_is_absent_told_once_and_found_again() -> None:
    script = Script(3, 1_000_000)
    with capture_logs() as lines:
        watch = GpuWatch(["0"], script, PAUSE)
        deadline = time.monotonic() + DEADLINE
        while script.opened < 2 or watch.newest() is None:
            assert time.monotonic() < deadline
            threading.Event().wait(PAUSE)
        watch.close()
    assert [(line["event"], line.get("why")) for line in lines] == [("gpus.lost", "GPU is lost")]
    assert script.closed == script.opened == 2


def test_a_gpu_that_stays_lost_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cfbus.gpus.RETRY_PAUSES", 1)
    script = Script(1)
    with capture_logs() as lines:
        watch = GpuWatch(["0"], script, PAUSE)
        ended(watch)
    assert watch.newest() is None
    assert [line["event"] for line in lines] == ["gpus.lost"]
    assert 2 < script.opened < 50


def test_a_driver_that_hangs_keeps_nobody() -> None:
    script = Script(9)
    script.waits = threading.Event()
    watch = GpuWatch(["0"], script, PAUSE)
    assert watch.newest() is None
    watch.close()
    script.waits.set()
    ended(watch)


def test_figures_that_are_old_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = GpuWatch(["0"], Script(1_000_000), PAUSE)
    assert watch.newest(DEADLINE) is not None
    watch.close()
    monkeypatch.setattr("cfbus.gpus.STALE_SECONDS", -1.0)
    assert watch.newest() is None


def test_nothing_is_asked_where_no_gpu_was_given_or_numbers_mean_others() -> None:
    assert watch_of({}) is None
    assert watch_of({"CUDA_VISIBLE_DEVICES": "", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}) is None
    with capture_logs() as lines:
        assert watch_of({"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}) is None
    assert [line["event"] for line in lines] == ["gpus.absent"]
