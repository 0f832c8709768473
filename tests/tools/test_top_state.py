"""What `cfbus-top` remembers of messages, and what keys change."""

from __future__ import annotations

from top_rig import LIVE, NOW, SEEN, worker

from cfbus.core.snapshot import WorkersPage
from cfbus.tools.terminal import keys_in
from cfbus.tools.top_lines import bar, short_bytes, short_number, spark
from cfbus.tools.top_state import SORTS, Seen, Snapshot, View


def press(view: View, *keys: str, count: int = 4) -> View:
    for key in keys:
        view = view.pressed(key, count)
    return view


def test_pages_make_one_list_and_a_shorter_one_forgets() -> None:
    pages = [tuple(worker(f"w{number}") for number in range(first, first + 16)) for first in (0, 16, 32)]
    seen = Seen()
    for first, page in zip((32, 0, 16), (pages[2], pages[0], pages[1]), strict=True):
        seen = seen.after(WorkersPage(first=first, total=40, workers=page), NOW)
    assert [one.name for one in seen.workers] == [f"w{number}" for number in range(40)]
    seen = seen.after(WorkersPage(first=0, total=2, workers=pages[0][:2]), NOW)
    assert [one.name for one in seen.workers] == ["w0", "w1"]


def test_everything_was_heard_once() -> None:
    assert SEEN.whole
    assert not Seen(status=SEEN.status).whole


def test_every_order_is_reached_and_comes_round() -> None:
    view, orders = View(), []
    for _ in SORTS:
        orders.append(view.sort)
        view = view.pressed("s", 4)
    assert orders == list(SORTS)
    assert view == View()
    assert press(view, "S").sort == list(SORTS)[-1]


def names(view: View) -> list[str]:
    return [one.name for one in Snapshot(SEEN, view, NOW, "", "").workers]


def test_workers_are_sorted_and_filtered() -> None:
    assert names(View()) == ["rig-b", "rig-a", "attic", "gone"]
    assert names(View(sort="name")) == ["attic", "gone", "rig-a", "rig-b"]
    assert names(View(sort="last seen"))[0] == "gone"
    assert names(press(View(), "/", *"BEA", "enter")) == ["rig-b"]
    assert names(press(View(), "/", *"rig-", "escape")) == names(View())


def test_what_is_typed_is_no_command() -> None:
    view = press(View(), "/", "s", "p", "q", "backspace")
    assert (view.filter, view.typing, view.paused, view.sort) == ("sp", True, False, "rate")


def test_moving_stays_within_the_list() -> None:
    assert press(View(), "up").selected == 0
    assert press(View(), *["down"] * 9).selected == 3
    assert press(View(), "down", count=0).selected == 0
    assert not press(View(), "enter", count=0).detail


def test_pages_over_the_screen_are_left_by_a_key() -> None:
    assert not press(View(), "?", "x").help
    detail = press(View(), "enter")
    assert detail.detail
    assert press(detail, "down").selected == 1
    assert not press(detail, "escape").detail


def test_keys_as_a_terminal_sends_them() -> None:
    assert keys_in("\x1b[A\x1b[Bq\r\t\x7f") == ["up", "down", "q", "enter", "tab", "backspace"]
    assert keys_in("\x1b") == ["escape"]
    assert keys_in("\x1b[1;5C\x1b[200~ü\x1bOA") == ["ü", "up"]


def test_a_freshly_paused_screen_is_the_same_screen() -> None:
    assert press(View(), "p", " ") == View()
    assert LIVE.silent == 0.5


def test_numbers_for_people() -> None:
    assert [short_number(n) for n in (0, 2.5, 71.54, 999, 1000, 12_345, 999_600, 4.5e6, 7e12)] == [
        "0", "2.5", "71.5", "999", "1.0k", "12.3k", "1.0M", "4.5M", "7000G",
    ]  # fmt: skip
    assert [short_bytes(n) for n in (0, 999, 1024, 15 << 20, 3 << 29)] == [
        "0 B",
        "999 B",
        "1.0 KiB",
        "15 MiB",
        "1.5 GiB",
    ]


def test_bars_and_sparks() -> None:
    assert bar(0.5, 10, 0.2).plain == "█████▒▒░░░"
    assert bar(2.0, 4).plain == "████"
    assert spark([0, 1, 4, 8], 3) == "▁▄█"
    assert spark([0.0, 0.001, 8], 8)[:2] == " ▁"
    assert spark([], 5) == spark([1], 0) == ""
