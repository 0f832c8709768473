"""Invites: as many keys as was said, whoever else comes at the same moment; and a join that was cut off is repeated."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from cfbus.bus.auth import KeyState
from cfbus.bus.keys import fingerprint, generate
from cfbus.bus.messages import Role
from cfbus.errors import ClockError, UsageError
from cfbus.store import registry_schema
from cfbus.store.invites import Enrolment, Refusal, add_invite, enrol, revoke_invite
from cfbus.store.registry import INVITE_REMEMBERED_SECONDS, Registry

NOW = 1_800_000_000.0
DAY = 86_400.0


def invited(registry: Registry, *, uses: int = 1, approve: bool = False, role: Role = Role.WORKER) -> bytes:
    owner = registry.add_contributor("ada", trust=1, who="test", now=NOW)
    public = generate().public
    until = NOW + DAY
    add_invite(
        registry, public, role, owner.contributor_id, uses=uses, approve=approve, not_after=until, who="test", now=NOW
    )
    return public


def come(registry: Registry, invite: bytes, public: bytes | None = None, now: float = NOW) -> Enrolment:
    return enrol(registry, invite, public or generate().public, "night-gpu", key_days=90, now=now)


def test_a_key_comes_in_with_the_role_and_owner_of_the_invite_and_ends(registry: Registry) -> None:
    invite = invited(registry, role=Role.FEEDER)
    public = generate().public
    done = come(registry, invite, public)
    assert done.refusal is None
    assert done.key is not None
    entry = registry.key_table(NOW)[public]
    (owner,) = registry.contributors()
    assert (entry.role, entry.state, entry.contributor) == (Role.FEEDER, KeyState.ACTIVE, owner.contributor_id)
    assert entry.expires == NOW + 90 * DAY
    assert registry.key_table(NOW + 91 * DAY)[public].state is KeyState.EXPIRED
    log = registry.audit_entries()[-1]
    assert (log.who, log.arguments["key"]) == (f"invite {fingerprint(invite)}", fingerprint(public))


def test_keys_last_for_ever_if_they_may(registry: Registry) -> None:
    done = enrol(registry, invited(registry), generate().public, "x", key_days=0, now=NOW)
    assert done.key is not None
    assert done.key.not_after is None


def test_the_same_key_again_is_the_same_answer_and_no_further_use(registry: Registry) -> None:
    invite, public = invited(registry), generate().public
    first = come(registry, invite, public)
    lines = registry.last_line
    # Much later too: a join that was cut off is repeated when somebody has time.
    assert come(registry, invite, public, NOW + 20 * DAY) == first
    assert registry.last_line == lines
    assert come(registry, invite).refusal is Refusal.USED
    assert [each.used for each in registry.invites()] == [1]


def test_of_eight_at_the_same_moment_one_comes_in(registry: Registry, path: Path) -> None:
    invite = invited(registry)
    registry.close()
    start = threading.Barrier(8)
    done: list[Enrolment] = []

    def one() -> None:
        with Registry.open(path, create=False) as own:
            start.wait()
            done.append(come(own, invite))

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 8
    assert [each.refusal for each in done].count(None) == 1
    assert [each.refusal for each in done].count(Refusal.USED) == 7


def test_a_use_whose_log_line_fails_does_not_happen(registry: Registry) -> None:
    invite = invited(registry)
    registry._database.execute("CREATE TRIGGER full BEFORE INSERT ON enrolments BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(sqlite3.IntegrityError):
        come(registry, invite)
    assert registry.keys() == []
    registry._database.execute("DROP TRIGGER full")
    assert come(registry, invite).refusal is None


def test_each_refusal_has_its_name(registry: Registry) -> None:
    invite, other = invited(registry, uses=5), invited(registry, uses=5)
    assert come(registry, generate().public).refusal is Refusal.UNKNOWN
    public = generate().public
    assert come(registry, invite, public).refusal is None
    assert come(registry, other, public).refusal is Refusal.TAKEN
    assert come(registry, other, invite).refusal is Refusal.TAKEN
    assert come(registry, other, b"no key").refusal is Refusal.NAME
    assert enrol(registry, other, generate().public, "a\nb", key_days=1, now=NOW).refusal is Refusal.NAME
    revoke_invite(registry, other, who="test", now=NOW)
    assert come(registry, other).refusal is Refusal.REVOKED
    assert come(registry, invite, now=NOW + DAY + 299).refusal is None
    late = come(registry, invite, now=NOW + DAY + 301)
    assert late.refusal is Refusal.EXPIRED
    assert "ended at 2027-01-16T08:00:00Z" in late.sentence


def test_a_clock_that_fell_back_lets_nobody_in(registry: Registry) -> None:
    invite = invited(registry)
    assert come(registry, invite, now=NOW - 301).refusal is Refusal.CLOCK
    owner = registry.contributors()[0].contributor_id
    with pytest.raises(ClockError):
        add_invite(
            registry,
            generate().public,
            Role.WORKER,
            owner,
            uses=1,
            approve=False,
            not_after=NOW,
            who="t",
            now=NOW - 999,
        )


def test_a_key_that_needs_approval_waits(registry: Registry) -> None:
    invite, public = invited(registry, approve=True), generate().public
    come(registry, invite, public)
    assert registry.key_table(NOW)[public].state is KeyState.PENDING
    assert registry.key_table(NOW).admitted(public) is None


def test_an_invite_is_in_the_table_as_enrol_until_a_month_after_its_end(registry: Registry) -> None:
    invite = invited(registry)
    end = NOW + DAY
    assert registry.key_table(NOW)[invite].role is Role.ENROL
    come(registry, invite)
    # Used up or over, whoever comes by it is to be told so.
    assert registry.key_table(end + INVITE_REMEMBERED_SECONDS).admitted(invite) is not None
    assert invite not in registry.key_table(end + INVITE_REMEMBERED_SECONDS + 1)
    revoke_invite(registry, invite, who="test", now=NOW)
    assert invite not in registry.key_table(NOW)


@pytest.mark.parametrize("role", [Role.ADMIN, Role.WRITER, Role.ENROL])
def test_there_are_no_invites_for_those_who_decide(registry: Registry, role: Role) -> None:
    with pytest.raises(UsageError, match="An invite can be for"):
        invited(registry, role=role)


@pytest.mark.parametrize("uses", [0, -1, 1001])
def test_uses_have_bounds(registry: Registry, uses: int) -> None:
    with pytest.raises(UsageError, match="1 to 1000"):
        invited(registry, uses=uses)


def test_a_registry_of_the_first_format_is_brought_along(path: Path) -> None:
    path.touch(0o600)
    database = sqlite3.connect(path, isolation_level=None)
    for statement in registry_schema._FORMATS[0]:
        database.execute(statement)
    database.execute("PRAGMA user_version = 1")
    database.execute("INSERT INTO contributors VALUES ('c-1', 'ada', 4, 0)")
    public = generate().public
    values = (public.decode(), "worker", "active", "c-1", "gpu", None, None, 0.0)
    database.execute("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
    database.close()
    for _ in range(2):
        with Registry.open(path, create=False) as registry:
            assert registry.key_table(NOW)[public].name == "gpu"
            assert registry.contributors()[0].contact == ""
            assert registry.invites() == []
