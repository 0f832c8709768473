"""What is run in a round of the comparison with CaptionFlow, how a part of it is named, and how long it takes.

Pure: nothing is started here. The matrix is the full product of source, workers, prompts and TLS there; of cfbus, which
is always encrypted, one run stands for both. Names are paths, so that a part is chosen by patterns: ``speed/tars/*``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from benchmarks.versus_figures import Case, Source

IMAGES = 2000
SOURCES: tuple[Source, ...] = ("tars", "folder")
WORKERS, PROMPTS = (1, 2), (1, 3)
NOTHING, WORKER, SERVER, BOTH = "nothing", "a worker, -9", "the server, -9", "both, -9"
TERM, INTERRUPT, INTERRUPT_RUN = "all, SIGTERM", "the server, Ctrl-C", "`cfbus run`, Ctrl-C"
KILLS = {
    NOTHING: "nothing", WORKER: "worker-9", SERVER: "server-9", BOTH: "both-9", TERM: "all-term",
    INTERRUPT: "server-int", INTERRUPT_RUN: "run-int",
}  # fmt: skip
"""What is ended, by its name in a path."""
OURS_ALONE = frozenset({INTERRUPT_RUN})
OURS_SECONDS, OURS_KILL_SECONDS = 8.0, 15.0
PACE_SECONDS = {("tars", 1): 60.0, ("tars", 2): 45.0, ("folder", 1): 90.0, ("folder", 2): 50.0}
REST_SECONDS = 30.0
"""So much longer takes a number of images that is no multiple of what is flushed there at once."""
KILL_SECONDS = {"tars": 65.0, "folder": 55.0}
STANDSTILL_SECONDS = 55.0
"""Until a folder's standstill there is taken for one, and has been mended."""
TRUST_SECONDS = 120.0
"""So much of the expected time is counted as if it had come true, so that the first runs alone foretell nothing."""
STANDS_STILL = frozenset({SERVER, BOTH, TERM})


@dataclass(frozen=True)
class Planned:
    """One run of a side: at full speed, or, if ``what`` says of what, with a kill."""

    name: str
    ours: bool
    case: Case
    what: str = ""

    @property
    def seconds(self) -> float:
        """How long it takes on two cores that are otherwise idle, from measured runs."""
        case = self.case
        if self.ours:
            return OURS_KILL_SECONDS if self.what else OURS_SECONDS
        if self.what:
            stands_still = case.source == "folder" and self.what in STANDS_STILL
            return KILL_SECONDS[case.source] + (STANDSTILL_SECONDS if stands_still else 0.0)
        return PACE_SECONDS[case.source, case.workers] + (REST_SECONDS if case.images != IMAGES else 0.0)


def cases() -> list[Case]:
    """All cases of full speed; those without TLS are for the other side alone."""
    product = [
        Case(source=source, workers=workers, prompts=prompts, encrypted=encrypted)
        for source, workers, prompts, encrypted in itertools.product(SOURCES, WORKERS, PROMPTS, (True, False))
    ]
    return [
        *product,
        Case(source="folder", workers=2, prompts=1, decoded=False),
        Case(source="tars", workers=2, prompts=1, images=IMAGES - 10),
    ]


def name_of(case: Case) -> str:
    """Of a case at full speed."""
    words = [case.source, counted(case.workers, "worker"), counted(case.prompts, "prompt")]
    words += ["tls" if case.encrypted else "no-tls"]
    words += [] if case.decoded else ["not-decoded"]
    words += [] if case.images == IMAGES else [f"{case.images}-images"]
    return "/".join(["speed", *words]).replace(" ", "-")


def counted(number: int, what: str) -> str:
    """One worker, two workers."""
    return f"{number} {what}{'s' if number > 1 else ''}"


def one_round(patterns: Sequence[str] = ()) -> list[Planned]:
    """The runs of a round that any of the patterns fits, cfbus before what it is compared with; all without any."""

    def wanted(name: str) -> bool:
        return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)

    return [*_paces(wanted), *_kills(wanted)]


def _paces(wanted: Callable[[str], bool]) -> Iterator[Planned]:
    chosen = [(name, case) for case in cases() if wanted(name := name_of(case))]
    for ours, theirs in itertools.groupby(chosen, lambda one: one[1].model_copy(update={"encrypted": True})):
        runs = list(theirs)
        yield Planned(runs[0][0], True, ours)
        yield from (Planned(name, False, case) for name, case in runs)


def _kills(wanted: Callable[[str], bool]) -> Iterator[Planned]:
    for source, what in itertools.product(SOURCES, KILLS):
        name = f"kill/{source}/{KILLS[what]}"
        if wanted(name):
            case = Case(source=source, workers=2, prompts=1)
            yield Planned(name, True, case, what)
            if what not in OURS_ALONE:
                yield Planned(name, False, case, what)


def names() -> list[str]:
    """All that patterns can fit."""
    return [*map(name_of, cases()), *dict.fromkeys(run.name for run in one_round() if run.what)]


def minutes(rounds: int, patterns: Sequence[str] = ()) -> float:
    """How long so many rounds take, as it was when it was measured."""
    return rounds * sum(run.seconds for run in one_round(patterns)) / 60


def minutes_left(done: Sequence[Planned], to_do: Sequence[Planned], took: float) -> float:
    """How long the rest takes, on a machine on which what is done took so many seconds."""
    expected = sum(run.seconds for run in done)
    return (took + TRUST_SECONDS) / (expected + TRUST_SECONDS) * sum(run.seconds for run in to_do) / 60
