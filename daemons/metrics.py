"""`/metrics` for Prometheus, from each daemon: figures read when they are asked for, never kept up otherwise.

The library serves in threads of its own; the figures are the loop's. So a request wakes the loop, which measures
between two turns. Must not know what is measured.

Invariants: the loop never waits for a reader; a reader waits a bounded time for the loop, and is told when it does not
turn (`cfbus_loop_turns 0`), which is worth an alarm; a daemon goes on when nobody can be served.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cfbus import __version__, logs
from cfbus.config import Config
from cfbus.errors import ConfigError
from cfbus.runtime import Loop

if TYPE_CHECKING:
    from prometheus_client import Metric

PATIENCE_SECONDS = 2.0
OFFSETS = {"broker": 0, "writer": 1, "feeder": 2, "gpu": 10}
"""What is added to `metrics.port`, so that the daemons of one host may share a file; a worker adds its GPU's number."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number. A ``counter`` only grows, as long as the process lives. ``labels`` are few and no stranger's text."""

    name: str
    value: float
    what: str
    counter: bool = False
    labels: tuple[tuple[str, str], ...] = ()


Measure = Callable[[], Iterable[Figure]]


def counter(name: str, value: float, what: str, **labels: str) -> Figure:
    """What only grows."""
    return Figure(name, value, what, counter=True, labels=tuple(labels.items()))


def gauge(name: str, value: float, what: str, **labels: str) -> Figure:
    """What goes up and down."""
    return Figure(name, float(value), what, labels=tuple(labels.items()))


def port_of(settings: Config, component: str) -> int:
    """Where this daemon's figures are; 0 where nobody wants any."""
    base = settings.metrics.port
    first = settings.worker.gpu_id.partition(",")[0]
    number = int(first) if component == "gpu" and first.isdecimal() else 0
    return base and base + OFFSETS[component] + number


class Metrics:
    """A server of figures beside a loop. Does nothing where no port is configured."""

    def __init__(self, settings: Config, component: str, loop: Loop, measure: Measure) -> None:
        """Raises ConfigError if the library is not there."""
        self._component = component
        self._measure = measure
        self._there = threading.Event()
        self._asking = threading.Lock()
        self._figures: tuple[Figure, ...] = ()
        self._server: contextlib.ExitStack | None = None
        port = port_of(settings, component)
        if port:
            self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            loop.watch(self._read, self._asked)
            self._serve(settings.metrics.host, port)

    def _serve(self, host: str, port: int) -> None:
        try:
            import prometheus_client
        except ImportError:
            raise ConfigError(
                "metrics.port: the library prometheus-client is not installed.",
                'pip install "cfbus[metrics]", or set metrics.port to 0.',
            ) from None
        registry = prometheus_client.CollectorRegistry(auto_describe=False)
        registry.register(self)
        try:
            server, thread = prometheus_client.start_http_server(port, host, registry)
        except (OSError, OverflowError) as error:
            why = f"{host}:{port}: {error}"
            logs.get_logger().error("metrics.not-served", why=why, says="the daemon goes on without")
            return
        self._server = contextlib.ExitStack()
        self._server.callback(thread.join)
        self._server.callback(server.server_close)
        self._server.callback(server.shutdown)
        logs.get_logger().info("metrics.served", host=host, port=port)

    def close(self) -> None:
        """Serve nobody any more."""
        if self._server is not None:
            self._there.set()
            self._server.close()

    # ------------------------------------------------------------------ in the loop

    def _asked(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)
        self._figures = tuple(self._measure())
        self._there.set()

    # ------------------------------------------------------------------ in the library's threads

    def describe(self) -> Iterable[Metric]:
        """The library asks for names when it registers; there are none yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """For the library: what holds now."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        with self._asking:
            self._there.clear()
            with contextlib.suppress(BlockingIOError):  # it is asked already
                os.write(self._write, b"\0")
            turns = self._there.wait(PATIENCE_SECONDS)
            figures = self._figures if turns else ()
        yield GaugeMetricFamily("cfbus_loop_turns", "1 while the daemon answers; 0 when it stands still.", float(turns))
        info = GaugeMetricFamily("cfbus_daemon", "Always 1; which daemon this is.", labels=["component", "version"])
        info.add_metric([self._component, __version__], 1.0)
        yield info
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for each in figures:
            family = families.get(each.name)
            if family is None:
                kind = CounterMetricFamily if each.counter else GaugeMetricFamily
                names = [name for name, _ in each.labels]
                family = families[each.name] = kind(f"cfbus_{each.name}", each.what, labels=names)
            family.add_metric([value for _, value in each.labels], each.value)
        yield from families.values()
