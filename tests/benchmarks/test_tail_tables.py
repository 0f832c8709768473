"""How soon the end comes is told of the figures alone."""

from __future__ import annotations

from benchmarks.figures import End, Ends, RealEnd
from benchmarks.made_up import MACHINE, rows
from benchmarks.tail_tables import whole

END = End(
    seed=0, items=1000, ideal=600, end=606, captioned_twice=5, thrown_away=5, lost=1, leases=50, backups=10,
    messages=2000,
)  # fmt: skip
REAL = RealEnd(items=2000, ideal=20, end=21, first_to_stop=20, waste=0.01, backups=3, workers=8, slowest=8, fastest=240)


def test_seeds_of_as_many_items_share_a_row() -> None:
    later = END.model_copy(update={"seed": 1, "end": 618.0})
    text = whole(Ends(when="now", machine=MACHINE, load=0.1, simulated=[END, later], real=[REAL]))
    (row,) = rows(text, "1,000 items")
    assert row[:5] == [
        "1,000 items (seeds 0, 1)", "10.2 (10.1 to 10.3)", "2.00% (1.00% to 3.00%)", "12.0 (6.0 to 18.0)",
        "1.00% (1.00% to 1.00%)",
    ]  # fmt: skip


def test_real_runs_say_what_ran_and_how_late_it_was() -> None:
    text = whole(Ends(when="now", machine=MACHINE, load=0.1, simulated=[], real=[REAL]))
    assert "8 `cfbus-gpu` from 8 to 240 items a second, 2,000 items, 20 s at best:" in text
    assert rows(text, "1 ") == [["1", "5.0%", "1.0", "1.0", "1.0%", "3"]]
