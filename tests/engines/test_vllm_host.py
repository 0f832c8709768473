"""The model's thread when the engine dies, hangs or cannot be built: nobody is lost, nobody innocent is blamed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from engine_rig import items_of, spec_of
from scripted_model import PlainTemplate, Script, name_of, picture

from cfbus.bus.messages import FailedItem, Spec
from cfbus.core.outcome import Caption
from cfbus.engines import vllm_host
from cfbus.engines.vllm_asking import Job
from cfbus.engines.vllm_host import Host
from cfbus.errors import CfbusError, ConfigError, TryAgainError

SPEC = spec_of("vllm", {"short": "A prompt."})
End = tuple[tuple[Caption, ...] | None, FailedItem | None]


class Ends:
    """How jobs ended."""

    def __init__(self) -> None:
        self._state = threading.Condition()
        self.all: list[tuple[int, End]] = []
        self.problem: CfbusError | None = None

    def ended(self, job: Job, captions: tuple[Caption, ...] | None, failure: FailedItem | None) -> None:
        with self._state:
            self.all.append((job.item.index, (captions, failure)))
            self._state.notify_all()

    def give_up(self, error: CfbusError) -> None:
        with self._state:
            self.problem = error
            self._state.notify_all()

    def wait(self, until: Callable[[], bool]) -> None:
        with self._state:
            assert self._state.wait_for(until, 60), f"only {len(self.all)} ended"

    def of(self, count: int) -> dict[int, End]:
        self.wait(lambda: len(self.all) >= count)
        assert len(self.all) == count
        found = dict(self.all)
        assert len(found) == count, "a job ended twice"
        return found


Start = Callable[[Script], tuple[Host, Ends]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setattr(vllm_host, "BACK_OFF_SECONDS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(vllm_host, "LOOK_SECONDS", 0.02)
    hosts: list[Host] = []

    def go(script: Script) -> tuple[Host, Ends]:
        ends = Ends()
        host = Host({"model": "m"}, PlainTemplate(), golden=False, load=script.load)
        host.ended, host.give_up = ends.ended, ends.give_up
        hosts.append(host)
        host.start()
        return host, ends

    yield go
    for host in hosts:
        host.close()


def jobs(count: int, start: int = 0, spec: Spec = SPEC) -> list[Job]:
    return [Job(item, spec, picture=picture(item.index)) for item in items_of(count, start=start)]


def texts(found: dict[int, End]) -> dict[int, str]:
    return {index: captions[0].text for index, (captions, _) in found.items() if captions}


def test_a_death_costs_nobody_anything(started: Start) -> None:
    script = Script(deaths=1)
    host, ends = started(script)
    for job in jobs(20):
        host.begin(job)
    assert texts(ends.of(20)) == {number: name_of(number) for number in range(20)}
    assert script.built == 2
    assert script.closed == 1


@pytest.mark.parametrize("guilty", [{0}, {7}, {3, 19}, {0, 1, 2}])
def test_who_kills_the_engine_is_found_and_all_others_are_captioned(started: Start, guilty: set[int]) -> None:
    script = Script(deadly=frozenset(map(name_of, guilty)), pause=0.01)
    host, ends = started(script)
    for job in jobs(20):
        host.begin(job)
    for job in jobs(5, start=20):  # these come while the others are suspected
        host.begin(job)
    found = ends.of(25)
    assert {index for index, (_, failure) in found.items() if failure} == guilty
    for index in guilty:
        failure = found[index][1]
        assert failure is not None
        assert (failure.index, failure.reason, failure.fault) == (index, "engine-died", "item")
    assert texts(found) == {number: name_of(number) for number in set(range(25)) - guilty}
    assert script.built <= 2 + len(guilty) * 12


def test_what_is_refused_fails_alone_and_kills_nothing(started: Start) -> None:
    script = Script(refused=frozenset({name_of(3)}))
    host, ends = started(script)
    for job in jobs(8):
        host.begin(job)
    found = ends.of(8)
    failure = found[3][1]
    assert failure is not None
    assert (failure.reason, failure.fault, failure.detail) == (
        "request-refused",
        "item",
        "ValueError: too odd a picture",
    )
    assert len(texts(found)) == 7
    assert script.built == 1


def test_an_engine_that_hangs_is_taken_for_dead(started: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_host, "STALL_SECONDS", 0.1)
    script = Script(hanging=1)
    host, ends = started(script)
    for job in jobs(4):
        host.begin(job)
    assert len(texts(ends.of(4))) == 4
    assert script.built == 2


def test_one_that_cannot_be_built_at_first_is_built_later(started: Start) -> None:
    script = Script(deaths=1, unbuilt=2)
    host, ends = started(script)
    for job in jobs(3):
        host.begin(job)
    assert len(texts(ends.of(3))) == 3
    assert ends.problem is None


def test_one_that_cannot_be_built_any_more_is_given_up(started: Start) -> None:
    host, ends = started(Script(deaths=1, unbuilt=99))
    for job in jobs(3):
        host.begin(job)
    ends.wait(lambda: ends.problem is not None)
    assert isinstance(ends.problem, TryAgainError)
    assert "initialization failed" in ends.problem.message
    assert ends.all == []


def test_one_that_dies_again_and_again_by_itself_is_given_up(started: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_host, "MAX_DEATHS", 3)
    host, ends = started(Script(deaths=99))
    for job in jobs(64):
        host.begin(job)
    ends.wait(lambda: ends.problem is not None)
    assert ends.problem is not None
    assert "4 times without a single finished item" in ends.problem.message


def test_a_model_that_cannot_be_loaded_is_a_sentence() -> None:
    def load(arguments: object) -> Script:
        raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")

    host = Host({"model": "big/one"}, PlainTemplate(), load=load)  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as caught:
        host.start()
    assert caught.value.message.startswith("vLLM cannot load big/one: CUDA out of memory")
    assert "lower vllm.max_model_len" in caught.value.hint
    host.close()


def test_what_is_dropped_never_ends_and_holds_nobody_up(started: Start) -> None:
    script = Script(hanging=1)
    host, ends = started(script)
    hanging = jobs(4)
    for job in hanging:
        host.begin(job)
    for job in hanging:
        host.drop(job)
    script.hanging = 0
    for job in jobs(4, start=4):
        host.begin(job)
    assert sorted(ends.of(4)) == [4, 5, 6, 7]


@pytest.mark.parametrize("deaths", [0, 1, 2])
def test_a_dropped_suspect_lets_the_others_go_on(started: Start, deaths: int) -> None:
    """However often it has killed the engine before it is dropped."""
    script = Script(deadly=frozenset({name_of(0)}), pause=0.02)
    host, ends = started(script)
    all_jobs = jobs(6)
    for job in all_jobs:
        host.begin(job)
    while host.deaths < deaths:
        threading.Event().wait(0.001)
    host.drop(all_jobs[0])
    ends.wait(lambda: set(dict(ends.all)) >= {1, 2, 3, 4, 5})
    host.close()
    found = dict(ends.all)
    assert all(captions for index, (captions, _) in found.items() if index)
    assert len(ends.all) == len(found)


def test_a_dropped_suspect_puts_the_blame_on_nobody(started: Start) -> None:
    """The guilty one is dropped while the engine dies of it, with one other in it: that one is tried alone."""
    script = Script(deadly=frozenset({name_of(1)}), pause=0.02)
    host, ends = started(script)
    both = jobs(2)
    script.dying = lambda: host.drop(both[1]) if script.built == 2 else None
    for job in both:
        host.begin(job)
    found = ends.of(1)
    assert texts(found) == {0: name_of(0)}
    assert host.deaths == 2
    host.begin(jobs(1, start=5)[0])
    assert texts(ends.of(2)) == {0: name_of(0), 5: name_of(5)}


def test_the_slots_of_a_picture_wait_for_the_first(started: Start) -> None:
    script = Script(pause=0.02)
    host, ends = started(script)
    spec = spec_of("vllm", {f"s{number}": "x" for number in range(4)})
    item = items_of(1, [slot.name for slot in spec.slots])[0]
    host.begin(Job(item, spec, picture=picture(0)))
    captions, _ = ends.of(1)[0]
    assert captions is not None
    assert len(captions) == 4
    assert script.together == [1, 1, 2, 3]


def test_after_close_nothing_ends(started: Start) -> None:
    script = Script(pause=30)
    host, ends = started(script)
    for job in jobs(4):
        host.begin(job)
    host.close()
    host.begin(jobs(1, start=9)[0])
    assert ends.all == []
    assert script.closed == 1
