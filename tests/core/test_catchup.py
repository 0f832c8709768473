"""The broker's learning of what is done, where a page and a second matter."""

from __future__ import annotations

from core.bus_rig import STORE, Rig

from cfbus.bus import messages as m
from cfbus.core import effects as e
from cfbus.core.catchup import ASK_AGAIN_SECONDS
from cfbus.core.telling import done_pages


def asked(effects: list[e.Effect]) -> int:
    """How often the writer is asked for all of its state."""
    return sum(isinstance(it, e.Send) and isinstance(it.message, m.Since) for it in effects)


def test_an_answer_that_takes_long_is_not_asked_for_again_while_it_comes() -> None:
    rig = Rig(heartbeat_seconds=60.0)
    writer = rig.peer(rig.writer_link)
    facts = m.StoreFacts(store_id=STORE, dataset="d", position=9)
    hello = m.Hello(role=m.Role.WRITER, instance="1" * 16, software="t", name="w", store=facts)
    assert asked(rig.broker.handle(writer, hello, b"", 0.0, 0)) == 1
    now = 0.0
    (page,) = done_pages([])
    for number in range(4):
        now += ASK_AGAIN_SECONDS - 1.0
        assert asked(rig.broker.handle(writer, page.message(9, number), page.payload, now, 0)) == 0
        assert asked(rig.broker.tick(now, 0)) == 0
    writer_says_nothing = now + ASK_AGAIN_SECONDS
    assert asked(rig.broker.tick(writer_says_nothing, 0)) == 1


def test_a_page_of_many_ranges_is_as_good_as_many_pages() -> None:
    rows = [(1, 0, at, at + 1) for at in range(0, 20, 2)]
    at_once, one_by_one = Rig(), Rig()
    for rig, parts in ((at_once, [rows]), (one_by_one, [[row] for row in rows])):
        rig.connect_writer()
        for part in parts:
            (page,) = done_pages(part)
            rig.say(rig.writer_link, page.message(0), page.payload)
    assert at_once.broker.passes[1].done_items == len(rows)
    assert at_once.broker.passes[1].done_in(0, 0, 20) == one_by_one.broker.passes[1].done_in(0, 0, 20)
