"""Real child processes that decode, hang, crash, and end with their parent."""

from __future__ import annotations

import contextlib
import io
import operator
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any

import hostile_pictures as hostile
import pytest
from PIL import Image

from cfbus.decoding import CallError, DecodePool
from cfbus.errors import TryAgainError
from cfbus.images import ImageError, Limits, Reason, decode

LIMITS = Limits()


def saved(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def noise(width: int, height: int) -> Image.Image:
    return Image.merge("RGB", [Image.effect_noise((width, height), 90) for _ in range(3)])


JPEG = saved(noise(120, 80), "JPEG")

DEEDS = """
    import os, signal, sys, time
    def whoami(picture): return os.getpid()
    def modules(picture): return sorted(sys.modules)
    def hang(picture): time.sleep(600)
    def die(picture): os.kill(os.getpid(), signal.SIGKILL)
    def leave(picture): os._exit(7)
    def hog(picture): return len(bytearray(1 << 32))
    class Odd(Exception):
        def __init__(self, one, two): super().__init__(one)
    def odd(picture): return Odd(1, 2)
    def fail(picture): raise ValueError("a bug in the function")
    def spin(picture):
        sum(range(10 ** 12))  # one C loop: no signal handler of Python's gets to run
    def tell(path, picture):
        with open(path, "w") as file: file.write(str(os.getpid()))
        sum(range(10 ** 12))
    def group(picture): return os.getpgid(0), signal.getsignal(signal.SIGINT) is signal.SIG_IGN
"""


@pytest.fixture
def deeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module that the children can import too."""
    (tmp_path / "deeds_of_children.py").write_text(textwrap.dedent(DEEDS))
    monkeypatch.syspath_prepend(tmp_path)
    import deeds_of_children  # type: ignore[import-not-found]

    yield deeds_of_children
    del sys.modules["deeds_of_children"]


def wait_gone(pid: int, seconds: float = 60) -> None:
    """Until the process has ended; awaited, not polled."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], seconds)[0], f"process {pid} lives on"
    finally:
        os.close(fd)


def why(future: Future[Any]) -> Reason:
    error = future.exception(30)
    assert isinstance(error, ImageError)
    return error.reason


def test_the_pool_decodes_and_calls(deeds: ModuleType) -> None:
    with DecodePool(2, LIMITS) as pool:
        assert pool.submit(JPEG).result(30) == decode(JPEG, LIMITS)
        assert pool.submit(JPEG, operator.attrgetter("width")).result(30) == 120
        assert why(pool.submit(b"")) is Reason.EMPTY
        assert why(pool.submit(JPEG[:3000])) is Reason.TRUNCATED
        assert {pool.submit(JPEG, deeds.whoami).result(30) for _ in range(20)}.isdisjoint({os.getpid()})


def test_children_are_light_and_deaf_to_ctrl_c(deeds: ModuleType) -> None:
    with DecodePool(1, LIMITS) as pool:
        loaded = {name.split(".")[0] for name in pool.submit(JPEG, deeds.modules).result(30)}
        assert "PIL" in loaded
        assert not loaded & {"zmq", "pyarrow", "numpy", "msgpack", "pydantic", "pytest", "structlog", "yaml"}
        group, ignored = pool.submit(JPEG, deeds.group).result(30)
        assert group != os.getpgid(0)
        assert ignored


@pytest.mark.parametrize(
    ("deed", "wanted"), [("die", Reason.CRASHED), ("leave", Reason.CRASHED), ("hog", Reason.OUT_OF_MEMORY)]
)
def test_a_task_that_ruins_its_child_harms_no_neighbour(deeds: ModuleType, deed: str, wanted: Reason) -> None:
    with DecodePool(2, Limits(memory_mib=1024)) as pool:
        tasks = [pool.submit(JPEG, getattr(deeds, deed) if n % 4 == 1 else repr) for n in range(16)]
        for n, task in enumerate(tasks):
            if n % 4 == 1:
                assert why(task) is wanted
            else:
                assert task.result(30).startswith("Picture")


@pytest.mark.parametrize("deed", ["hang", "spin"])
def test_the_time_limit_ends_one_task(deeds: ModuleType, deed: str) -> None:
    with DecodePool(2, Limits(seconds=5)) as pool:
        stuck = pool.submit(JPEG, getattr(deeds, deed))
        others = [pool.submit(JPEG) for _ in range(5)]
        assert [task.result(30).width for task in others] == [120] * 5
        assert why(stuck) is Reason.TIME_OUT


def test_the_memory_limit_holds_for_decoding() -> None:
    data = saved(Image.new("RGB", (6000, 6000)), "PNG")
    with DecodePool(1, Limits(memory_mib=150)) as pool:
        assert why(pool.submit(data)) is Reason.OUT_OF_MEMORY
        assert pool.submit(JPEG).result(30).width == 120


def test_a_picture_that_takes_too_long_to_unpack() -> None:
    with DecodePool(1, Limits(seconds=5)) as pool:
        # One that each of 3,000 scans makes walk over a million blocks.
        assert why(pool.submit(hostile.jpeg_of_many_scans(8000, 3000))) is Reason.TIME_OUT
        assert pool.submit(JPEG).result(30).width == 120


def test_what_libraries_say_of_a_picture_goes_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    packed = hostile.tiff_of(*hostile.tiff_tags(900, 900, t259=(3, 1, 5)))
    samples = hostile.tiff_of(*hostile.tiff_tags(10, 10, t277=(3, 1, 65535)))
    with DecodePool(1, LIMITS) as pool:
        assert why(pool.submit(packed)) is why(pool.submit(samples)) is Reason.DECODE_FAILED
    assert capfd.readouterr() == ("", "")


def test_a_child_killed_while_idle_costs_nothing(deeds: ModuleType) -> None:
    with DecodePool(1, LIMITS) as pool:
        first = pool.submit(JPEG, deeds.whoami).result(30)
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        assert pool.submit(JPEG, deeds.whoami).result(30) != first


def test_children_killed_at_any_moment_cost_at_most_their_own_task(deeds: ModuleType) -> None:
    large = saved(noise(900, 700), "JPEG")  # answers of nearly 2 MB: most kills hit in mid-transfer
    with DecodePool(2, LIMITS) as pool:
        for _ in range(12):
            victim = pool.submit(JPEG, deeds.whoami).result(30)
            tasks = [pool.submit(large) for _ in range(6)]
            tasks[0].exception(30)
            os.kill(victim, signal.SIGKILL)
            failed = [why(task) for task in tasks if task.exception(30)]
            assert failed in ([], [Reason.CRASHED])


def test_a_bug_in_the_function_is_told_with_its_traceback(deeds: ModuleType) -> None:
    with DecodePool(1, LIMITS) as pool:
        error = pool.submit(JPEG, deeds.fail).exception(30)
        assert isinstance(error, CallError)
        assert "a bug in the function" in str(error)
        assert pool.submit(JPEG).result(30).width == 120


def test_an_answer_that_cannot_be_made_an_object_of_is_a_bug_of_the_function(deeds: ModuleType) -> None:
    with DecodePool(1, LIMITS) as pool:
        assert isinstance(pool.submit(JPEG, deeds.odd).exception(30), CallError)
        assert pool.submit(JPEG).result(30).width == 120


def test_close_is_quick_and_leaves_nothing(deeds: ModuleType) -> None:
    pool = DecodePool(2, LIMITS)
    pids: set[int] = set()
    while len(pids) < 2:
        pids |= {task.result(30) for task in [pool.submit(JPEG, deeds.whoami) for _ in range(8)]}
    stuck = [pool.submit(JPEG, deeds.spin) for _ in range(2)]
    waiting = [pool.submit(JPEG) for _ in range(5)]
    while not all(task.running() for task in stuck):
        pass
    pool.close()
    assert all(isinstance(task.exception(10), TryAgainError) for task in stuck)
    assert all(task.cancelled() for task in waiting)
    for pid in pids:
        wait_gone(pid, 0)
    with pytest.raises(RuntimeError):
        pool.submit(JPEG)
    pool.close()


def test_close_at_once_after_start_leaves_nothing() -> None:
    before = children(os.getpid())
    for _ in range(5):
        DecodePool(3, LIMITS).close()
    assert children(os.getpid()) == before


def test_close_does_not_wait_for_a_child_that_does_not_come_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = tmp_path / "python"
    stuck.write_text("#!/bin/sh\nexec sleep 600\n")
    stuck.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stuck))
    before = children(os.getpid())
    DecodePool(2, LIMITS).close()
    assert children(os.getpid()) == before


def test_a_cancelled_task_is_not_done(deeds: ModuleType) -> None:
    with DecodePool(1, Limits(seconds=5)) as pool:
        blocker = pool.submit(JPEG, deeds.hang)
        task = pool.submit(JPEG)
        assert task.cancel()
        assert why(blocker) is Reason.TIME_OUT
        assert pool.submit(JPEG).result(30).width == 120


def test_a_host_that_cannot_start_children_is_not_the_pictures_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with DecodePool(1, LIMITS) as pool:
        assert isinstance(pool.submit(JPEG).exception(30), TryAgainError)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with DecodePool(1, LIMITS) as pool:
        assert isinstance(pool.submit(JPEG).exception(30), TryAgainError)


PARENT = """
    import sys
    from functools import partial
    sys.path.insert(0, {folder!r})
    import deeds_of_children as deeds
    from cfbus.decoding import DecodePool
    from cfbus.images import Limits
    pool = DecodePool(2, Limits(seconds=600))
    data = open({picture!r}, "rb").read()
    idle = pool.submit(data, deeds.whoami).result(30)
    busy = pool.submit(data, partial(deeds.tell, {told!r}))
    print(idle, flush=True)
    busy.result(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_children_end_with_a_killed_parent(deeds: ModuleType, tmp_path: Path, how: signal.Signals) -> None:
    picture, told = tmp_path / "a.jpg", tmp_path / "told"
    picture.write_bytes(JPEG)
    script = textwrap.dedent(PARENT).format(folder=str(tmp_path), picture=str(picture), told=str(told))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        while len(pids := children(parent.pid)) < 2:  # the second may still begin
            assert parent.poll() is None
        assert len(pids) == 2
        while not (told.exists() and told.read_text()):
            assert parent.poll() is None
        assert int(told.read_text()) in pids
        parent.send_signal(how)
    for pid in pids:
        wait_gone(pid)


def children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found += map(int, (task / "children").read_text().split())
    return found


def test_a_pool_left_open_does_not_keep_the_interpreter() -> None:
    script = "from cfbus.decoding import DecodePool\nDecodePool(2)"
    assert subprocess.run([sys.executable, "-c", script], timeout=300, check=False).returncode == 0
