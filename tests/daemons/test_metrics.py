"""Figures over HTTP: what is asked for is measured then, in the loop; a loop that stands still is told as such."""

from __future__ import annotations

import socket
import threading
import urllib.request
from collections.abc import Iterator

import pytest
from processes.support import free_port
from prometheus_client.parser import text_string_to_metric_families

from cfbus.config import SECTIONS, Config
from cfbus.daemons import metrics as under_test
from cfbus.daemons.metrics import Figure, Metrics, counter, gauge, port_of
from cfbus.runtime import Loop


def config(port: int, **worker: object) -> Config:
    return Config.model_validate(dict.fromkeys(SECTIONS) | {"metrics": {"port": port}, "worker": worker or None})


def read(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


class Turning:
    """A loop in a thread, which counts the measurements."""

    def __init__(self, port: int) -> None:
        self.measured = 0
        self.loop = Loop()
        self.metrics = Metrics(config(port), "broker", self.loop, self._measure)
        self.thread = threading.Thread(target=lambda: self.loop.run(lambda at: at + 60.0))

    def _measure(self) -> Iterator[Figure]:
        self.measured += 1
        assert threading.current_thread() is self.thread, "the core is read from another thread"
        yield gauge("items", self.measured, "x")
        yield counter("refused", 3, "x", code="a")
        yield counter("refused", 4, "x", code="b")

    def end(self) -> None:
        self.loop.stop(0)
        self.loop.wake()
        self.thread.join()
        self.metrics.close()


@pytest.fixture
def port() -> int:
    return free_port()


def test_what_is_asked_for_is_measured_then(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "PATIENCE_SECONDS", 60.0)
    turning = Turning(port)
    turning.thread.start()
    try:
        first, second = read(port), read(port)
    finally:
        turning.end()
    assert first["cfbus_items", ()] == 1, "nothing is measured that nobody asked for"
    assert second["cfbus_items", ()] == 2
    assert first["cfbus_refused_total", (("code", "a"),)] == 3
    assert first["cfbus_refused_total", (("code", "b"),)] == 4
    assert first["cfbus_loop_turns", ()] == 1
    assert any(name == "cfbus_daemon" and ("component", "broker") in labels for name, labels in first)


def test_a_loop_that_stands_still_is_told(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "PATIENCE_SECONDS", 0.05)
    turning = Turning(port)
    try:
        found = read(port)
    finally:
        turning.metrics.close()
    assert found["cfbus_loop_turns", ()] == 0
    assert ("cfbus_items", ()) not in found, "old figures would look like new ones"


def test_a_port_that_is_taken_costs_the_figures_and_not_the_daemon(port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        metrics = Metrics(config(port), "broker", Loop(), lambda: ())
        metrics.close()


def test_each_daemon_of_a_host_has_a_port_of_its_own() -> None:
    assert port_of(config(0), "writer") == 0
    assert [port_of(config(9000), each) for each in ("broker", "writer", "feeder")] == [9000, 9001, 9002]
    assert port_of(config(9000, gpu_id="3"), "gpu") == 9013
    assert port_of(config(9000, gpu_id="2,3"), "gpu") == 9012
