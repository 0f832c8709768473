"""The comparison with CaptionFlow as text: rates with ratios, times, what it takes, kills; a table for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from benchmarks.layout import on_machine, spread, table
from benchmarks.versus_cases import IMAGES, counted
from benchmarks.versus_figures import Case, Kill, Pace, Versus

OURS = "cfbus"
Column: TypeAlias = tuple[str, Callable[[Sequence[Pace]], str]]


def whole(report: Versus) -> str:
    """All tables, and where they were made."""
    where = (
        f"{report.when}, {on_machine(report.machine)}; CaptionFlow {report.version} with Python {report.python};"
        f" the load of the machine was {report.load:.1f} at the start."
    )
    parts = [where, *_left_out(report)]
    if report.paces:
        parts += _paces(report)
    if report.kills:
        parts += _kills(report)
    return "\n\n".join(parts)


def _left_out(report: Versus) -> list[str]:
    found = list(report.not_run)
    if report.chosen:
        found.append(f"Only a part was run: {', '.join(f'`{pattern}`' for pattern in report.chosen)}.")
    if report.ended < report.planned:
        found.append(f"It was stopped after {report.ended} of {report.planned} runs.")
    return found


# ---------------------------------------------------------------------- full speed


def _paces(report: Versus) -> list[str]:
    paces = report.paces
    rounds = max(pace.round for pace in paces)
    sides = {pace.side: ", ".join(pace.cpu_ms) for pace in paces}
    told = (
        f"{IMAGES:,} JPEGs of 64 x 64, {report.caption_chars} characters a caption;"
        f" {counted(rounds, 'round')}, the median (least to most). Captions a second, and how many times as fast cfbus"
        " was in the same round, with CURVE on in both columns:"
    )
    takes = (
        f"What it takes, CPU and memory by process ({'; '.join(f'{side}: {names}' for side, names in sides.items())}):"
    )
    return [told, _speeds(paces), "How long it takes:", _by_side(paces, _TIMES), takes, _by_side(paces, _COSTS)]


def _name(case: Case) -> str:
    words = [case.source, counted(case.workers, "worker"), counted(case.prompts, "prompt")]
    words += [] if case.decoded else ["nothing decoded"]
    words += [] if case.images == IMAGES else [f"{case.images:,} images"]
    return ", ".join(words)


def _speeds(paces: Sequence[Pace]) -> str:
    by_case: dict[str, list[Pace]] = {}
    for pace in paces:
        by_case.setdefault(_name(pace.case), []).append(pace)
    there = next((pace.side for pace in paces if pace.side != OURS), "CaptionFlow")
    head = [
        "",
        OURS,
        f"{there}, TLS",
        f"{there}, no TLS",
        "times",
        "times, no TLS there",
        "CPU of an image, part of there",
    ]
    rows = []
    for name, found in by_case.items():
        ours = {pace.round: pace for pace in found if pace.side == OURS}
        tls = {pace.round: pace for pace in found if pace.side != OURS and pace.case.encrypted}
        bare = {pace.round: pace for pace in found if pace.side != OURS and not pace.case.encrypted}
        times = [
            spread((one / two for one, two in _pairs(ours, other, _captions_a_second)), ",.0f") for other in (tls, bare)
        ]
        rates = [spread(map(_captions_a_second, each.values())) for each in (ours, tls, bare)]
        part = spread((one / two for one, two in _pairs(ours, tls or bare, _cpu)), ".0%")
        rows.append([name, *rates, *times, part])
    return table([head, *rows])


def _pairs(
    ours: Mapping[int, Pace], theirs: Mapping[int, Pace], value: Callable[[Pace], float]
) -> Iterable[tuple[float, float]]:
    """Of the rounds in which both were measured."""
    return [(value(ours[number]), value(theirs[number])) for number in ours if number in theirs]


def _captions_a_second(pace: Pace) -> float:
    return pace.images_per_second * pace.case.prompts


def _cpu(pace: Pace) -> float:
    return sum(pace.cpu_ms.values())


def _middle(paces: Sequence[Pace]) -> Pace:
    return sorted(paces, key=_cpu)[len(paces) // 2]


def _spread(name: str, field: str, form: str) -> Column:
    return name, lambda found: spread((getattr(pace, field) for pace in found), form)


_TIMES: Sequence[Column] = (
    _spread("images a second", "images_per_second", ",.0f"),
    _spread("in the first half", "half_per_second", ",.0f"),
    _spread("s to the first caption generated", "first_generated_seconds", ".1f"),
    _spread("s to the first on the disk", "first_row_seconds", ".1f"),
    _spread("s from the last generated to all there", "last_to_disk_seconds", ".2f"),
)
_COSTS: Sequence[Column] = (
    ("CPU ms an image", lambda found: " + ".join(f"{used:.2f}" for used in _middle(found).cpu_ms.values())),
    ("in all", lambda found: spread(map(_cpu, found), ".2f")),
    ("peak MiB", lambda found: " + ".join(f"{size:,.0f}" for size in _middle(found).peak_mib.values())),
    _spread("bytes a caption", "bytes_per_caption", ",.0f"),
    _spread("cores that others used", "cores_of_others", ".2f"),
)


def _by_side(paces: Sequence[Pace], columns: Sequence[Column]) -> str:
    """A row for each case and side."""
    rows: dict[str, list[Pace]] = {}
    for pace in paces:
        tls = "" if pace.case.encrypted else ", no TLS"
        rows.setdefault(f"{pace.side}: {_name(pace.case)}{tls}", []).append(pace)
    cells = [[name, *(show(found) for _, show in columns)] for name, found in rows.items()]
    return table([["", *(name for name, _ in columns)], *cells])


# ---------------------------------------------------------------------- kills


def _kills(report: Versus) -> list[str]:
    head = ["killed and started again", "", "lost (generated, in no row)", "doubled", "never done", "a hand", "s"]
    rows: dict[tuple[str, str], list[Kill]] = {}
    for kill in report.kills:
        rows.setdefault((f"{kill.what}, {kill.source}", kill.side), []).append(kill)
    cells = [
        [
            what, side, spread(kill.again for kill in found), spread(kill.doubled for kill in found),
            spread(kill.missing for kill in found), hands(found), spread(kill.seconds for kill in found),
        ]
        for (what, side), found in rows.items()
    ]  # fmt: skip
    rounds = max(kill.round for kill in report.kills)
    return [
        f"The model takes 20 ms for a batch of {report.engine_batch}. In the middle processes are ended, and started"
        f" again a second later; {counted(rounds, 'round')}, the median (least to most):",
        table([head, *cells]),
    ]


def hands(kills: Sequence[Kill]) -> str:
    """Whether a person had to do something, and what then was; in how many rounds, where these differ."""
    found = Counter(map(hand, kills))
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{count} of {len(kills)}: {what}" for what, count in found.most_common())


def hand(kill: Kill) -> str:
    """The same of one run."""
    if not kill.missing:
        return "none"
    if not kill.hand:
        return "nothing helps"
    return f"{kill.hand}; then {kill.missing_after_hand:,} never done"
