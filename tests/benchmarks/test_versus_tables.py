"""The tables of the comparison are made of its figures alone, and say what is missing."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.made_up import MACHINE, rows
from benchmarks.versus_figures import Case, Kill, Pace, Versus
from benchmarks.versus_tables import hands, whole

THERE = "CaptionFlow 1"
CASE = Case(source="tars", workers=1, prompts=3)
BARE = CASE.model_copy(update={"encrypted": False})
KILL = Kill(
    side="cfbus", what="both, -9", source="folder", round=1, images=10, generated=12, rows=10, doubled=0, missing=0,
    again=2, seconds=4.0,
)  # fmt: skip


def pace(side: str, number: int, rate: float, case: Case = CASE, cpu: float = 1.0) -> Pace:
    return Pace(
        side=side, case=case, round=number, images_per_second=rate, half_per_second=rate,
        cpu_ms={"a": cpu / 2, "b": cpu / 2}, peak_mib={"a": 10, "b": 20}, first_lease_seconds=1,
        first_generated_seconds=2, first_row_seconds=3, last_to_disk_seconds=0.5, bytes_per_caption=100,
        cores_of_others=0,
    )  # fmt: skip


def report(paces: Sequence[Pace] = (), kills: Sequence[Kill] = (), **more: object) -> Versus:
    made = Versus(
        when="now", machine=MACHINE, load=0.5, version="1", python="3", engine_batch=8, caption_chars=300,
        paces=paces, kills=kills, planned=9, ended=9,
    )  # fmt: skip
    return made.model_copy(update=more)


def test_rates_of_captions_stand_beside_their_ratios_with_and_without_tls() -> None:
    text = whole(
        report([pace("cfbus", 1, 1000), pace(THERE, 1, 50, cpu=10), pace(THERE, 1, 100, BARE, cpu=5)]),
    )
    (row,) = rows(text, "tars")
    assert row == ["tars, 1 worker, 3 prompts", "3,000", "150", "300", "20", "10", "10%"]


def test_ratios_are_of_the_same_round_where_a_round_misses_a_side() -> None:
    found = [pace("cfbus", 1, 1000), pace("cfbus", 2, 2000), pace("cfbus", 3, 3000), pace(THERE, 2, 100)]
    (row,) = rows(whole(report(found)), "tars")
    assert row == ["tars, 1 worker, 3 prompts", "6,000 (3,000 to 9,000)", "300", "", "20", "", "100%"]


def test_times_and_costs_have_a_row_for_each_side_and_tls() -> None:
    text = whole(report([pace("cfbus", 1, 1000), pace(THERE, 1, 50), pace(THERE, 1, 100, BARE)]))
    times, costs = ["50", "100"], ["0.50 + 0.50", "0.50 + 0.50"]
    assert [row[1] for row in rows(text, f"{THERE}: tars, 1 worker, 3 prompts")] == times + costs
    assert [row[0] for row in rows(text, "cfbus: ")] == 2 * ["cfbus: tars, 1 worker, 3 prompts"]


def test_a_case_that_is_unlike_the_others_says_in_what() -> None:
    case = CASE.model_copy(update={"decoded": False, "images": 1990})
    text = whole(report([pace("cfbus", 1, 1000, case)]))
    assert rows(text, "tars")[0][0] == "tars, 1 worker, 3 prompts, nothing decoded, 1,990 images"


def test_kills_of_several_rounds_share_a_row() -> None:
    again = KILL.model_copy(update={"round": 2, "again": 6, "seconds": 8.0})
    (row,) = rows(whole(report(kills=[KILL, again])), "both")
    assert row == ["both, -9, folder", "cfbus", "4 (2 to 6)", "0 (0 to 0)", "0 (0 to 0)", "none", "6 (4 to 8)"]


def test_hands_that_differ_are_counted() -> None:
    helped = KILL.model_copy(update={"missing": 5, "hand": "`mend`", "missing_after_hand": 1})
    assert hands([KILL, KILL]) == "none"
    assert hands([helped, KILL, helped]) == "2 of 3: `mend`; then 1 never done; 1 of 3: none"


def test_a_part_and_a_run_that_was_stopped_are_told() -> None:
    text = whole(report([pace("cfbus", 1, 1000)], chosen=["speed/tars/*"], ended=4, not_run=["It broke."]))
    assert "It broke." in text
    assert "Only a part was run: `speed/tars/*`." in text
    assert "It was stopped after 4 of 9 runs." in text
    complete = whole(report([pace("cfbus", 1, 1000)]))
    assert "Only a part" not in complete
    assert "stopped" not in complete


def test_the_figures_survive_their_json() -> None:
    before = report([pace("cfbus", 1, 1000), pace(THERE, 1, 50, BARE)], [KILL], ended=3)
    assert whole(Versus.model_validate_json(before.model_dump_json())) == whole(before)
