"""The verbs of a maintainer: checked, logged, and the same whoever carries them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from cfbus.bus.auth import KeyState
from cfbus.bus.keys import fingerprint, generate, public_line
from cfbus.errors import ClockError, UsageError
from cfbus.store.registry import Registry
from cfbus.store.registry_calls import Answer, Call
from cfbus.store.registry_text import export_lines, parse_line
from cfbus.store.registry_verbs import READS, VERBS, perform

NOW = 1_800_000_000.0
DAY = 86_400.0
WHO = "SHA256:admin"
Do: TypeAlias = Callable[..., Answer]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "r", create=True) as opened:
        yield opened


@pytest.fixture
def do(registry: Registry) -> Do:
    def call(verb: str, now: float = NOW, who: str = WHO, **arguments: str) -> Answer:
        return perform(verb, Call(registry, arguments, who, now, key_days=90))

    return call


def row(answer: Answer) -> dict[str, str]:
    (only,) = answer.rows
    return dict(zip(answer.columns, only, strict=True))


def added(do: Do, name: str = "gpu", **arguments: str) -> bytes:
    public = generate().public
    do("add-key", line=public_line(public, name), **arguments)
    return public


def test_each_call_has_a_line_in_the_log_whatever_becomes_of_it(registry: Registry, do: Do) -> None:
    public = added(do)
    for verb in VERBS:
        before = registry.last_line
        arguments = {"key": fingerprint(public)} if verb == "key" else {}
        try:
            do(verb, **arguments)
        except UsageError:
            assert registry.audit_entries(after=before)[-1].outcome.startswith("refused: ")
        assert registry.last_line > before, verb
        assert registry.audit_entries(after=before)[-1].who == WHO
    before = registry.last_line
    with pytest.raises(UsageError, match="no verb 'drop-table'"):
        do("drop-table")
    assert registry.last_line == before + 1


def test_later_pages_of_an_answer_are_not_logged_but_changes_are(registry: Registry) -> None:
    before = registry.last_line
    for verb in READS - {"key"}:
        perform(verb, Call(registry, {}, WHO, NOW, 90), logged=False)
    assert registry.last_line == before
    perform("add-contributor", Call(registry, {"name": "ada"}, WHO, NOW, 90), logged=False)
    assert registry.last_line > before


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("key", {}),
        ("keys", {"key": "x"}),
        ("suspend-key", {"key": "gpu", "force": "yes"}),
        ("invite", {"public": "x", "contributor": "ada", "expires": "2027-02-01", "uses": "-1"}),
        ("invite", {"public": "x", "contributor": "ada", "expires": "never"}),
        ("invite", {"public": "x" * 39, "contributor": "ada", "expires": "2030-01-01"}),
        ("invite", {"public": "x" * 40, "contributor": "ada", "expires": "2030-01-01", "role": "enrol"}),
        ("add-key", {"line": "cfbus-key1 x.y z"}),
        ("set-contributor", {"name": "nobody"}),
        ("add-contributor", {"name": "ada", "trust": "6"}),
        ("add-contributor", {"name": "ada", "contact": "a\nb"}),
        ("add-contributor", {"name": "ada", "note": "x" * 501}),
        ("expire-key", {"key": "gpu", "when": "tomorrow"}),
        ("suspend-key", {"key": "gpu", "reason": "x\x1b[2J"}),
        ("import-key", {"line": "'"}),
        ("audit", {"since": "then"}),
        ("audit", {"after": "\uff11"}),
    ],
)
def test_what_is_wrong_is_told_and_changes_no_key(
    registry: Registry, do: Do, verb: str, arguments: dict[str, str]
) -> None:
    added(do)
    before = registry.keys()
    with pytest.raises(UsageError):
        do(verb, **arguments)
    assert registry.keys() == before
    assert registry.invites() == []


def test_a_key_lasts_as_long_as_keys_do_here_and_is_marked_towards_the_end(do: Do) -> None:
    public = added(do, contributor="ada", trust="3")
    said = row(do("key", key=fingerprint(public)))
    assert said["expires"] == "2027-04-15T08:00:00Z"
    assert said["mark"] == ""
    assert (said["contributor"], said["state"]) == ("ada", "active")
    assert row(do("key", key="gpu", now=NOW + 80 * DAY))["mark"] == "ends in 10 days"
    assert row(do("key", key="gpu", now=NOW + 91 * DAY))["state"] == "expired"


@pytest.mark.parametrize("short", [6, 12, 43])
def test_a_key_is_meant_by_the_beginning_of_its_fingerprint_too(do: Do, short: int) -> None:
    mark = fingerprint(added(do))
    assert row(do("key", key=mark.removeprefix("SHA256:")[:short]))["fingerprint"] == mark
    with pytest.raises(UsageError, match="no key") as refused:
        do("key", key=mark.removeprefix("SHA256:")[:5])
    assert "6 characters are enough" in refused.value.hint


def test_two_keys_of_one_name_are_not_guessed_between(do: Do) -> None:
    added(do)
    public = added(do)
    with pytest.raises(UsageError, match="2 keys are meant by 'gpu'"):
        do("revoke-key", key="gpu")
    assert row(do("key", key=public_line(public, "other")))["fingerprint"] == fingerprint(public)


def test_the_life_of_a_key(registry: Registry, do: Do) -> None:
    public = added(do)

    def state() -> str:
        return registry.key_table(NOW)[public].state

    assert row(do("suspend-key", key="gpu", reason="too many failures"))["reason"] == "too many failures"
    assert state() == "suspended"
    with pytest.raises(UsageError, match="is suspended"):
        do("approve-key", key="gpu")
    do("resume-key", key="gpu")
    assert state() == "active"
    do("expire-key", key="gpu", when="now")
    assert state() == "expired"
    do("expire-key", key="gpu", when="never")
    assert state() == "active"
    do("revoke-key", key="gpu")
    for verb in ("resume-key", "suspend-key", "approve-key"):
        with pytest.raises(UsageError, match="is revoked"):
            do(verb, key="gpu")
    do("expire-key", key="gpu", when="never")
    assert state() == "revoked"


def test_nobody_puts_out_the_key_that_they_ask_with(registry: Registry, do: Do) -> None:
    own = fingerprint(added(do, role="admin"))
    for verb, more in (("suspend-key", {}), ("revoke-key", {}), ("expire-key", {"when": "now"})):
        with pytest.raises(UsageError, match="the key that you ask with"):
            do(verb, who=own, key="gpu", **more)
    do("expire-key", who=own, key="gpu", when="2030-01-01")
    assert registry.keys()[0].state is KeyState.ACTIVE


def test_contributors_are_there_without_keys(do: Do) -> None:
    do("add-contributor", name="ada", trust="4", contact="ada@example.org")
    assert row(do("set-contributor", name="ada", note="has two GPUs")) | {"contributor": ""} == {
        "contributor": "",
        "name": "ada",
        "trust": "4",
        "keys": "0",
        "contact": "ada@example.org",
        "note": "has two GPUs",
    }
    with pytest.raises(UsageError, match="already"):
        do("add-contributor", name="ada")
    added(do, contributor="ada")
    assert row(do("contributors"))["keys"] == "1"


def test_what_was_exported_makes_the_same_registry(registry: Registry, do: Do, tmp_path: Path) -> None:
    added(do, name="night gpu='x' \"y\"", contributor="ada l'été", trust="2")
    added(do, name="z", expires="never", role="monitor")
    do("suspend-key", key="z")
    added(do, name="gone")
    do("revoke-key", key="gone")
    lines = [line for (line,) in do("export-keys").rows]
    assert lines == sorted(lines)
    rows = registry.keys()
    assert all(each.public.decode() not in "".join(lines) for each in rows), "Z85 is eaten by shells"
    with Registry.open(tmp_path / "other", create=True) as other:
        for expected in ("added", "as it was"):
            for line in lines:
                answer = perform("import-key", Call(other, {"line": line}, WHO, NOW, 90))
                assert row(answer)["done"] == expected
        owners = {each.contributor_id: each for each in other.contributors()}
        assert export_lines(other.keys(), owners) == lines


def test_an_import_changes_what_is_there_but_never_revives(registry: Registry, do: Do) -> None:
    public = added(do)
    (line,) = (line for (line,) in do("export-keys").rows)
    assert row(do("import-key", line=line.replace("state=active", "state=suspended")))["done"] == "changed"
    assert registry.key_table(NOW)[public].state is KeyState.SUSPENDED
    do("revoke-key", key="gpu")
    with pytest.raises(UsageError, match="for good"):
        do("import-key", line=line)
    with pytest.raises(UsageError, match="not by its state"):
        do("import-key", line=line.replace("state=active", "state=expired"))
    with pytest.raises(UsageError, match="enrolled already"):
        do("import-key", line=line.replace("role=worker", "role=admin"))


@pytest.mark.parametrize(
    "change", [("role=worker", "role=king"), ("trust=1", "trust=x"), ("state=", "status="), ("name", "n")]
)
def test_a_line_that_says_something_else_is_refused(do: Do, change: tuple[str, str]) -> None:
    added(do)
    (line,) = (line for (line,) in do("export-keys").rows)
    assert parse_line(line).name == "gpu"
    with pytest.raises(UsageError):
        parse_line(line.replace(*change))


def test_the_log_tells_who_did_what_from_a_time_on(do: Do) -> None:
    added(do)
    do("suspend-key", now=NOW + DAY, key="gpu")
    log = do("audit", now=NOW + DAY, since="2027-01-16")
    (said,) = (dict(zip(log.columns, line, strict=True)) for line in log.rows)
    assert (said["who"], said["verb"], said["outcome"]) == (WHO, "set-state", "done")
    assert json.loads(said["arguments"])["to"] == "suspended"
    assert said["at"] == "2027-01-16T08:00:00Z"


def test_a_clock_that_fell_back_adds_nothing_but_lets_keys_be_closed(registry: Registry, do: Do) -> None:
    public = added(do)
    with pytest.raises(ClockError):
        do("add-key", now=NOW - DAY, line=public_line(generate().public, "x"))
    do("revoke-key", now=NOW - DAY, key="gpu")
    assert registry.key_table(NOW - DAY).admitted(public) is None
