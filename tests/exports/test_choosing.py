"""What a request is about: which items are captioned again, what a tombstone takes out, what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from exports.conftest import Shop

from cfbus.errors import UsageError
from cfbus.exports.choosing import plan_of
from cfbus.exports.looking import look
from cfbus.store import amendments
from cfbus.store.amendments import Plan, Request

SLOTS = ("short", "tags")


class Asking:
    """A store with two shards and one pass of two slots, and somebody who asks for changes of it."""

    def __init__(self, shop: Shop, work: Path) -> None:
        self.shop = shop
        self._work = work
        self._asked = 0

    def request(self, verb: str, **arguments: str) -> Request:
        self._asked += 1
        return Request(verb, arguments, SLOTS, f"{self._asked:016x}", "mia", 7)

    def plan(self, verb: str, **arguments: str) -> Plan:
        return plan_of(self.shop.store, self.request(verb, **arguments), self._work)

    def do(self, verb: str, **arguments: str) -> Plan:
        request = self.request(verb, **arguments)
        plan = plan_of(self.shop.store, request, self._work)
        amendments.carry_out(self.shop.manifest, request, plan)
        return plan

    def look(self, verb: str, **arguments: str) -> Plan:
        return look(self.shop.store, self.request(verb, **arguments))


def over(plan: Plan) -> dict[tuple[str, ...], list[list[int]]]:
    return {slots: items.tolist() for slots, items in plan.redos}


def facts(plan: Plan) -> dict[str, Any]:
    return {name: int(value) if value.isdecimal() else value for name, value in plan.facts}


@pytest.fixture
def asking(tmp_path: Path, empty_shop: Shop) -> Asking:
    shop = empty_shop
    shop.shard("first", ["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    shop.shard("second", ["a.jpg", "e.jpg", "f.jpg"])
    shop.manifest.add_pass(["short", "tags"])
    shop.caption(0, 0, {"short": ["a", "bb", "ccc", "dddd"], "tags": ["1", "22", "1", "22"]}, contributor="ann")
    shop.caption(1, 0, {"short": ["a", "bb"], "tags": ["22", "22"]}, contributor="bob", second=60)
    shop.seal()
    work = tmp_path / "work"
    work.mkdir()
    return Asking(shop, work)


def test_each_set_of_slots_is_a_redo_over_exactly_its_items(asking: Asking) -> None:
    plan = asking.plan("requeue", where="length(caption) = 2")
    assert over(plan) == {
        ("short", "tags"): [[0, 1, 2], [1, 1, 2]],
        ("tags",): [[0, 3, 4], [1, 0, 1]],
    }
    assert facts(plan) == {"captions": 6, "items": 4, "to_caption": 6}
    assert plan.rows == (("short", "2"), ("tags", "4"))
    assert plan.tombstone is None
    assert over(asking.plan("requeue", where="length(caption) = 2", slot="short")) == {
        ("short",): [[0, 1, 2], [1, 1, 2]]
    }


def test_a_configuration_of_another_run_is_told_from_a_condition_that_nothing_meets(asking: Asking) -> None:
    request = Request("requeue", {"where": "length(caption) = 3"}, ("other",), "f" * 16, "mia", 7)
    with pytest.raises(UsageError, match="slots that the configuration does not have are like that: 1 in short"):
        plan_of(asking.shop.store, request, asking.shop.root / "staging")
    with pytest.raises(UsageError, match="No caption is like that"):
        asking.plan("requeue", where="length(caption) = 77")


def test_neighbours_are_one_range(asking: Asking) -> None:
    assert over(asking.plan("requeue", where="true")) == {("short", "tags"): [[0, 0, 4], [1, 0, 2]]}


def test_what_an_open_redo_captions_is_not_asked_for_twice(asking: Asking) -> None:
    asking.do("requeue", where="item_index < 2")
    assert over(asking.plan("requeue", where="true")) == {("short", "tags"): [[0, 2, 4]]}
    with pytest.raises(UsageError, match=r"waits for a redo already\. \(4 captions"):
        asking.plan("requeue", where="item_index = 1")
    asking.shop.manifest.close_pass(2)
    assert over(asking.plan("requeue", where="item_index = 1")) == {("short", "tags"): [[0, 1, 2], [1, 1, 2]]}


@pytest.mark.parametrize(
    "where",
    [
        "no_such_column = 1",
        "true; DROP VIEW captions",
        "caption IN (SELECT content FROM read_text('/etc/hostname'))",
        "caption = (SELECT column0 FROM read_csv('/etc/passwd') LIMIT 1)",
        "(COPY captions TO '/tmp/stolen.csv')",
    ],
)
def test_a_condition_is_a_condition_and_reads_nothing_else(asking: Asking, where: str) -> None:
    with pytest.raises(UsageError, match="does not work"):
        asking.plan("requeue", where=where)


def test_the_rows_of_a_contributor(asking: Asking) -> None:
    plan = asking.plan("revoke-rows", contributor="bob")
    assert over(plan) == {("short", "tags"): [[1, 0, 2]]}
    assert facts(plan) | {"first": "", "last": ""} == {
        "captions": 4, "items": 2, "shards": 1, "dead_letters": 0, "to_caption": 4, "first": "", "last": "",
    }  # fmt: skip
    assert plan.rows == (("bob", "x", "SHA256:abc", "4"),)
    assert plan.tombstone is not None
    assert plan.tombstone.credits == {"bob": 4}
    assert plan.tombstone.until == 2
    with pytest.raises(UsageError, match="Nothing that is sealed is like that"):
        asking.plan("revoke-rows", contributor="eve")
    since = str(1_700_000_000_000_000 + 30_000_000)
    assert over(asking.plan("revoke-rows", worker="x", since=since)) == {("short", "tags"): [[1, 0, 2]]}
    assert facts(asking.plan("revoke-rows", key="SHA256:abc"))["captions"] == 12


def test_what_was_written_later_is_not_touched(asking: Asking) -> None:
    stone = asking.do("revoke-rows", contributor="bob").tombstone
    assert stone is not None
    asking.shop.caption(1, 2, {"short": ["late"], "tags": ["later"]}, contributor="bob")
    asking.shop.seal()
    plan = asking.plan("revoke-rows", contributor="bob")
    assert facts(plan)["captions"] == 2, "and what is taken out already is not counted again"


def test_an_image_is_taken_down_now_and_for_ever(asking: Asking) -> None:
    plan = asking.plan("takedown", sha256="ab" * 32)
    assert (facts(plan)["captions"], plan.redos) == (12, ())
    assert plan.tombstone is not None
    assert (plan.tombstone.tables, plan.tombstone.credits) == (("captions",), {})
    assert facts(asking.plan("takedown", key="nowhere"))["captions"] == 0
    one = asking.do("takedown", key="a.jpg", shard="first")
    assert facts(one)["captions"] == 2
    assert facts(asking.plan("takedown", sha256="ab" * 32))["captions"] == 10


def test_looking(asking: Asking) -> None:
    asking.do("revoke-rows", contributor="bob")
    (row,) = asking.look("tombstones").rows
    assert row == ("1", "active", "revoke-rows contributor_id=bob", "mia", "4", "0", "2")
    assert facts(asking.look("dead-letters")) == {"dead_letters": 0}
    with pytest.raises(UsageError, match="not counted by 'colour'"):
        asking.look("dead-letters", by="colour")
    assert [row[:5] for row in asking.look("passes").rows] == [
        ("1", "all items", "short, tags", "7", "6"),
        ("2", "redo", "short, tags", "2", "0"),
    ]
    assert asking.look("scan").rows == ()
    first = asking.shop.store.root / "captions" / "0000000000000001.parquet"
    first.unlink()
    assert asking.look("scan").rows[0][1] == "the manifest lists it, and it is not there"
    with pytest.raises(UsageError, match="knows no 'dance'"):
        asking.look("dance")
