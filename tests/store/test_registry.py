"""The registry: keys, contributors, and a log that only grows."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfbus.bus.auth import KeyState
from cfbus.bus.keys import fingerprint, generate
from cfbus.bus.messages import Role
from cfbus.errors import (
    DamagedStoreError,
    StoreInUseError,
    StoreMismatchError,
    TryAgainError,
    UnsafeError,
    UsageError,
)
from cfbus.store.registry import Registry

NOW = 1_800_000_000.0
DAY = 86_400.0


def add_key(registry: Registry, not_before: float | None = None, not_after: float | None = None) -> bytes:
    owner = registry.add_contributor("ada", trust=3, who="test", now=NOW)
    public = generate().public
    registry.add_key(
        public,
        Role.WORKER,
        owner.contributor_id,
        "gpu",
        who="test",
        now=NOW,
        not_before=not_before,
        not_after=not_after,
    )
    return public


def test_the_file_is_private_and_durable(registry: Registry, path: Path) -> None:
    add_key(registry)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert registry._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert registry._database.execute("PRAGMA synchronous").fetchone() == (2,)
    assert registry._database.execute("PRAGMA foreign_keys").fetchone() == (1,)


def test_everything_is_there_after_opening_again(registry: Registry, path: Path) -> None:
    public = add_key(registry, not_before=NOW - DAY, not_after=NOW + DAY)
    contributors, keys, log = registry.contributors(), registry.keys(), registry.audit_entries()
    registry.close()
    with Registry.open(path, create=False) as again:
        assert (again.contributors(), again.keys(), again.audit_entries()) == (contributors, keys, log)
        assert again.key_table(NOW)[public].role is Role.WORKER


def test_missing_is_a_sentence_and_makes_no_file(path: Path) -> None:
    with pytest.raises(UsageError, match="no registry at") as caught:
        Registry.open(path, create=False)
    assert "cfbus init" in caught.value.hint
    assert not path.exists()
    with pytest.raises(UsageError, match="cannot be made"):
        Registry.open(path.parent / "no" / "registry", create=True)


@pytest.mark.parametrize("mode", [0o640, 0o602, 0o666])
def test_a_lax_file_is_refused(registry: Registry, path: Path, mode: int) -> None:
    registry.close()
    path.chmod(mode)
    with pytest.raises(UnsafeError) as caught:
        Registry.open(path, create=True)
    assert f"chmod 600 {path}" in caught.value.hint


def test_a_link_or_another_users_file_is_refused(
    registry: Registry, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(UnsafeError, match="not a file of this user"):
        Registry.open(link, create=True)
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(UnsafeError, match="not a file of this user"):
        Registry.open(path, create=False)


def test_a_newer_registry_is_refused_untouched(registry: Registry, path: Path) -> None:
    registry._database.execute("PRAGMA user_version = 99")
    registry.close()
    with pytest.raises(StoreMismatchError, match="newer cfbus"):
        Registry.open(path, create=True)
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (99,)
    database.close()


def test_another_database_is_refused(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE t (x)")
    database.close()
    path.chmod(0o600)
    with pytest.raises(StoreMismatchError, match="not a registry"):
        Registry.open(path, create=True)


def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_bytes(b"caption" * 1000)
    path.chmod(0o600)
    with pytest.raises(DamagedStoreError, match="cannot be used"):
        Registry.open(path, create=True)


def test_a_page_that_was_overwritten_is_seen(registry: Registry, path: Path) -> None:
    for number in range(60):
        registry.audit("a", "verb", {"n": str(number)}, "done", NOW)
    registry._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    registry.close()
    whole = bytearray(path.read_bytes())
    whole[-4096:] = b"\xff" * 4096
    path.write_bytes(whole)
    with pytest.raises(DamagedStoreError):
        Registry.open(path, create=False)


def test_making_that_was_cut_off_is_finished(path: Path) -> None:
    path.touch(0o600)
    with Registry.open(path, create=False) as opened:
        assert opened.contributors() == []


def test_a_contributor_is_added_once(registry: Registry) -> None:
    first = registry.add_contributor("ada", trust=3, who="cli", now=NOW)
    again = registry.add_contributor("ada", trust=0, who="cli", now=NOW + 1)
    other = registry.add_contributor("bob", trust=0, who="cli", now=NOW)
    assert first == again
    assert first.trust_level == 3
    assert registry.contributors() == [first, other]
    assert [entry.verb for entry in registry.audit_entries()] == ["add-contributor"] * 2


@pytest.mark.parametrize("trust", [-1, 6])
def test_trust_has_bounds(registry: Registry, trust: int) -> None:
    with pytest.raises(UsageError, match="0 to 5"):
        registry.add_contributor("ada", trust=trust, who="cli", now=NOW)


def test_a_key_is_enrolled_once_with_one_role(registry: Registry) -> None:
    public = add_key(registry)
    (owner,) = registry.contributors()
    again = registry.add_key(public, Role.WORKER, owner.contributor_id, "renamed", who="x", now=NOW + 9)
    assert [again] == registry.keys()
    assert again.name == "gpu"
    with pytest.raises(UsageError, match="enrolled already, as worker"):
        registry.add_key(public, Role.ADMIN, owner.contributor_id, "gpu", who="x", now=NOW)
    with pytest.raises(UsageError, match="no contributor"):
        registry.add_key(generate().public, Role.WORKER, "c-none", "gpu", who="x", now=NOW)
    assert registry.keys() == [again]


def test_states_reach_the_table_and_revoked_is_for_good(registry: Registry) -> None:
    public = add_key(registry)
    before = registry.key_table(NOW)
    for state in (KeyState.SUSPENDED, KeyState.PENDING, KeyState.RETIRING, KeyState.ACTIVE, KeyState.REVOKED):
        registry.set_state(public, state, who="admin", now=NOW)
        assert registry.key_table(NOW)[public].state is state
    for state in (KeyState.ACTIVE, KeyState.PENDING):
        with pytest.raises(UsageError, match="for good"):
            registry.set_state(public, state, who="admin", now=NOW)
    registry.set_state(public, KeyState.REVOKED, who="admin", now=NOW)
    assert before[public].state is KeyState.ACTIVE
    log = [dict(entry.arguments) for entry in registry.audit_entries() if entry.verb == "set-state"]
    assert [entry["to"] for entry in log] == ["suspended", "pending", "retiring", "active", "revoked"]
    assert {entry["key"] for entry in log} == {fingerprint(public)}


def test_states_that_cannot_be_set(registry: Registry) -> None:
    public = add_key(registry)
    with pytest.raises(UsageError, match="by its date"):
        registry.set_state(public, KeyState.EXPIRED, who="admin", now=NOW)
    with pytest.raises(UsageError, match="no key SHA256:"):
        registry.set_state(generate().public, KeyState.ACTIVE, who="admin", now=NOW)


@pytest.mark.parametrize(
    ("now", "state"),
    [
        (NOW + 10 * DAY - 301, KeyState.PENDING),
        (NOW + 10 * DAY - 299, KeyState.ACTIVE),
        (NOW + 11 * DAY, KeyState.ACTIVE),
        (NOW + 20 * DAY + 299, KeyState.ACTIVE),
        (NOW + 20 * DAY + 301, KeyState.EXPIRED),
    ],
)
def test_dates_have_five_minutes_of_leeway(registry: Registry, now: float, state: KeyState) -> None:
    public = add_key(registry, not_before=NOW + 10 * DAY, not_after=NOW + 20 * DAY)
    assert registry.key_table(now)[public].state is state
    registry.set_state(public, KeyState.REVOKED, who="admin", now=NOW)
    assert registry.key_table(now)[public].state is KeyState.REVOKED


def test_a_clock_that_fell_back_takes_nothing_away_but_enrols_nobody(registry: Registry) -> None:
    public = add_key(registry, not_before=NOW, not_after=NOW + 20 * DAY)
    registry.audit("admin", "status", {}, "done", NOW + DAY)
    early = NOW - 365 * DAY
    assert registry.clock_is_behind(early)
    assert not registry.clock_is_behind(NOW + DAY - 299)
    assert registry.key_table(early).admitted(public) is not None
    (owner,) = registry.contributors()
    with pytest.raises(TryAgainError, match="clock is behind"):
        registry.add_key(generate().public, Role.WORKER, owner.contributor_id, "gpu", who="x", now=early)
    assert len(registry.keys()) == 1


def test_a_wild_clock_once_expires_nobody_later(registry: Registry) -> None:
    public = add_key(registry, not_after=NOW + 20 * DAY)
    registry.audit("admin", "status", {}, "done", NOW + 10_000 * DAY)
    assert registry.key_table(NOW + DAY).admitted(public) is not None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET who = 'nobody' WHERE seq = 1",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit VALUES (1, 0, 'nobody', 'v', '{}', 'done')",
        "REPLACE INTO audit VALUES (1, 0, 'nobody', 'v', '{}', 'done')",
    ],
)
def test_the_log_only_grows_whoever_writes(registry: Registry, path: Path, statement: str) -> None:
    registry.audit("admin", "pause", {"why": "lunch"}, "done", NOW)
    before = registry.audit_entries()
    stranger = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="only grows"):
        stranger.execute(statement)
    stranger.close()
    assert registry.audit_entries() == before
    registry.audit("admin", "resume", {}, "done", NOW)
    assert [entry.seq for entry in registry.audit_entries()] == [1, 2]


def test_a_change_whose_log_line_fails_does_not_happen(registry: Registry) -> None:
    public = add_key(registry)
    registry._database.execute("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(sqlite3.IntegrityError):
        registry.set_state(public, KeyState.REVOKED, who="admin", now=NOW)
    with pytest.raises(sqlite3.IntegrityError):
        registry.add_contributor("bob", trust=1, who="admin", now=NOW)
    assert registry.key_table(NOW)[public].state is KeyState.ACTIVE
    assert [each.name for each in registry.contributors()] == ["ada"]


@settings(max_examples=30, deadline=None)
@given(
    lines=st.lists(
        st.tuples(st.text(max_size=9), st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=3)),
        max_size=12,
    ),
    limit=st.integers(1, 5),
)
def test_the_log_in_pages_is_the_log(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, dict[str, str]]], limit: int
) -> None:
    with Registry.open(tmp_path_factory.mktemp("r") / "r", create=True) as registry:
        for who, arguments in lines:
            registry.audit(who, "verb", arguments, "refused", NOW)
        seen: list[tuple[str, dict[str, str]]] = []
        after = 0
        while page := registry.audit_entries(after=after, limit=limit):
            assert len(page) <= limit
            seen += [(entry.who, dict(entry.arguments)) for entry in page]
            after = page[-1].seq
    assert seen == lines


def test_another_process_that_holds_the_file(registry: Registry, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    registry._database.execute("PRAGMA busy_timeout = 10")
    with pytest.raises(StoreInUseError) as caught:
        registry.audit("admin", "pause", {}, "done", NOW)
    assert caught.value.exit_code == 75
    other.execute("ROLLBACK")
    other.close()
    registry.audit("admin", "pause", {}, "done", NOW)
