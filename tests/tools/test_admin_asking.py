"""What the verbs about the registry share: dates as people say them, and tables without anything hostile."""

from __future__ import annotations

import json
import time

import pytest

from cfbus.errors import UsageError
from cfbus.store.registry_text import parse_date
from cfbus.tools.admin_asking import as_json, as_text, moment
from cfbus.tools.asking import Told


@pytest.mark.parametrize(("said", "seconds"), [("90s", 90), ("30m", 1800), ("24h", 86_400), ("2w", 14 * 86_400)])
def test_spans_begin_now(said: str, seconds: int) -> None:
    for back, way in ((False, 1), (True, -1)):
        before = time.time()
        at = parse_date(moment(said, back=back))
        assert at is not None
        assert before - 1 <= at - way * seconds <= time.time() + 1


def test_dates_are_utc() -> None:
    assert moment("2027-01-31") == "2027-01-31T00:00:00Z"
    assert moment("2027-01-31T12:00:00+02:00") == "2027-01-31T10:00:00Z"
    assert moment("never") == "never"


@pytest.mark.parametrize("said", ["", "soon", "-1d", "1y", "999999w", "24 h", "2027-13-01", "\x1b[2J"])
def test_what_is_no_time_is_told(said: str) -> None:
    with pytest.raises(UsageError) as caught:
        moment(said)
    assert "\x1b" not in str(caught.value)


def test_tables_for_people_and_scripts() -> None:
    told = Told((("leases_returned", "2"),), ("name", "state"), (("a\x1b[2Jb", "active"), ("\u202ec", "")))
    assert as_text(told).splitlines() == [
        "name       state",
        r"a\x1b[2Jb  active",
        r"\u202ec",
        "leases returned: 2",
    ]
    wide = as_text(Told((), ("name", "state"), (("\u6f22\u5b57", "active"), ("e\u0301", "pending"))))
    assert wide.splitlines() == ["name  state", "\u6f22\u5b57  active", "e\u0301     pending"]
    said = json.loads(as_json(told))
    assert said["leases_returned"] == 2
    assert said["rows"][0] == {"name": "a\x1b[2Jb", "state": "active"}
    assert "\x1b" not in as_json(told)
    assert as_text(Told((), ("name",), ())) == "none"
    assert as_text(Told((), ("name", "empty"), (("x", ""),))) == "name   x"
    assert json.loads(as_json(Told((), ("name",), (("x",),)))) == [{"name": "x"}]
