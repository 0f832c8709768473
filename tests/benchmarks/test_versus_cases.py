"""The matrix is whole, a part of it can be named, and its duration is foretold."""

from __future__ import annotations

import itertools

import pytest
from benchmarks.versus_cases import (
    INTERRUPT_RUN,
    KILLS,
    OURS_ALONE,
    TRUST_SECONDS,
    cases,
    minutes,
    minutes_left,
    names,
    one_round,
)


def test_the_other_side_runs_the_full_product_and_cfbus_each_case_once() -> None:
    def matrix(*, ours: bool) -> list[tuple[str, int, int, bool]]:
        runs = [run for run in one_round() if run.ours == ours and not run.what]
        plain = [run.case for run in runs if run.case.decoded and run.case.images == 2000]
        return sorted((case.source, case.workers, case.prompts, case.encrypted) for case in plain)

    product = list(itertools.product(("folder", "tars"), (1, 2), (1, 3), (False, True)))
    assert matrix(ours=False) == product
    assert matrix(ours=True) == [case for case in product if case[-1]]


def test_cfbus_runs_before_what_it_is_compared_with() -> None:
    seen: dict[str, bool] = {}
    for run in one_round():
        key = f"{run.case.model_copy(update={'encrypted': True})} {run.what}"
        assert run.ours or seen[key]
        seen[key] = True


def test_all_kinds_of_kills_are_run_with_both_sources_on_both_sides() -> None:
    kills = {(run.case.source, run.what, run.ours) for run in one_round() if run.what}
    expected = {
        (source, what, ours)
        for source, what, ours in itertools.product(("folder", "tars"), KILLS, (False, True))
        if ours or what not in OURS_ALONE
    }
    assert kills == expected
    assert {INTERRUPT_RUN} == OURS_ALONE


def test_once_nothing_is_decoded() -> None:
    assert [(case.source, case.workers, case.prompts) for case in cases() if not case.decoded] == [("folder", 2, 1)]


def test_names_are_unlike_and_each_chooses_its_own_runs() -> None:
    assert len(set(names())) == len(names())
    for name in names():
        chosen = one_round([name])
        assert {run.name for run in chosen} == {name}
        assert chosen[0].ours


@pytest.mark.parametrize(
    ("patterns", "ours", "theirs"),
    [
        (["speed/tars/1-worker/3-prompts/*"], 1, 2),
        (["speed/*/no-tls"], 8, 8),
        (["kill/*/server-9", "kill/folder/run-int"], 3, 2),
        (["nothing like it"], 0, 0),
    ],
)
def test_a_part_is_chosen_by_patterns(patterns: list[str], ours: int, theirs: int) -> None:
    runs = one_round(patterns)
    assert sum(run.ours for run in runs) == ours
    assert sum(not run.ours for run in runs) == theirs


def test_the_duration_grows_with_rounds_and_shrinks_with_patterns() -> None:
    assert minutes(3) == pytest.approx(3 * minutes(1))
    assert 0 < minutes(1, ["kill/*"]) < minutes(1)
    assert minutes(1, ["kill/*"]) + minutes(1, ["speed/*"]) == pytest.approx(minutes(1))
    assert minutes(3, ["nothing like it"]) == 0


def test_what_is_left_follows_how_long_the_rest_took() -> None:
    runs = one_round()
    done, to_do = runs[:20], runs[20:]
    expected, left = sum(run.seconds for run in done), sum(run.seconds for run in to_do) / 60
    assert minutes_left(done, to_do, expected) == pytest.approx(left)
    twice = minutes_left(done, to_do, 2 * expected + TRUST_SECONDS)
    assert twice == pytest.approx(2 * left)
    assert minutes_left(done, [], expected) == 0


def test_one_slow_run_at_the_start_does_not_double_what_is_left() -> None:
    runs = one_round()
    assert minutes_left(runs[:1], runs[1:], 10 + runs[0].seconds) < 1.1 * minutes_left([], runs[1:], 0)
