"""The broker's registrar: a broken registry changes nothing, answers come in pages, an invite is for one bus."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from cfbus import runtime
from cfbus.bus import messages as m
from cfbus.bus.auth import KeyState
from cfbus.bus.fields import MAX_HEADER_BYTES
from cfbus.bus.keys import fingerprint, generate
from cfbus.bus.messages import Role
from cfbus.bus.wire import encode
from cfbus.core.effects import Peer
from cfbus.daemons.registrar import Registrar, Rules, closed, microseconds
from cfbus.errors import DamagedStoreError
from cfbus.link import KEY_CLOSED
from cfbus.store.invites import add_invite
from cfbus.store.registry import Registry

ID = "0" * 16
ADMIN = Peer(b"1", "SHA256:admin", "c-admin", Role.ADMIN)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.sqlite"


@pytest.fixture
def registrar(path: Path) -> Iterator[Registrar]:
    made = Registrar(Rules(path, "birds", 90))
    yield made
    made.close()


def in_file(path: Path, role: Role = Role.WORKER) -> bytes:
    """A key that somebody enters while the broker runs."""
    public = generate().public
    with Registry.open(path, create=False) as registry:
        owner = registry.add_contributor("ada", trust=1, who="test", now=time.time())
        registry.add_key(public, role, owner.contributor_id, "gpu", who="test", now=time.time())
    return public


def invited(path: Path) -> Peer:
    pair = generate()
    with Registry.open(path, create=False) as registry:
        owner = registry.add_contributor("ada", trust=1, who="test", now=time.time())
        add_invite(
            registry, pair.public, Role.WORKER, owner.contributor_id,
            uses=1, approve=False, not_after=time.time() + 60, who="test", now=time.time(),
        )  # fmt: skip
    return Peer(b"2", fingerprint(pair.public), "c", Role.ENROL, pair.public.decode())


def ask(registrar: Registrar, verb: str, page: int = 0, **arguments: str) -> m.Reply:
    return registrar.answer(ADMIN, m.Admin(request=ID, verb=verb, arguments=tuple(arguments.items()), page=page))


def replaced(path: Path) -> None:
    """Another file in its place, as a bad restore leaves it."""
    beside = path.with_name("garbage")
    beside.write_bytes(os.urandom(20_000))
    beside.chmod(0o600)
    beside.replace(path)


def overwritten(path: Path) -> None:
    """The same file, with something else in it."""
    with path.open("r+b") as file:
        file.write(os.urandom(20_000))


def gone(path: Path) -> None:
    path.unlink()


def lax(path: Path) -> None:
    path.chmod(0o666)


@pytest.mark.parametrize("broken", [replaced, overwritten, gone, lax], ids=lambda how: str(how.__name__))
def test_a_broken_registry_keeps_the_table_and_alarms_each_time(
    registrar: Registrar, path: Path, broken: Callable[[Path], None]
) -> None:
    public = in_file(path)
    registrar.reload()
    before, kept = registrar.table, path.read_bytes()
    assert before.admitted(public) is not None
    registrar.close()  # so that all is in the one file
    kept = path.read_bytes()
    broken(path)
    for _ in range(2):
        with structlog.testing.capture_logs() as lines:
            registrar.reload()
        assert [line["event"] for line in lines] == ["keys.not-reloaded"]
        assert lines[0]["log_level"] == "error"
        assert registrar.table is before
    # Nothing that is asked meanwhile ends the broker, and nothing is let in by a file like that.
    reply = ask(registrar, "keys")
    assert reply.problem
    stranger = Peer(b"3", "SHA256:x", "c", Role.ENROL, generate().public.decode())
    wish = m.Enrol(public=generate().public.decode(), name="n", dataset="birds")
    assert registrar.enrol(stranger, wish).code == "try-again"
    registrar.note(ADMIN, m.Admin(request=ID, verb="pause"))
    # Put back, it is taken up again.
    path.unlink(missing_ok=True)
    path.touch(0o600)
    path.write_bytes(kept)
    registrar.reload()
    assert registrar.table is not before
    assert registrar.table.admitted(public) is not None


def test_a_broker_does_not_begin_with_a_broken_registry(path: Path) -> None:
    path.touch(0o600)
    overwritten(path)
    with pytest.raises(DamagedStoreError):
        Registrar(Rules(path, "birds", 90))


def test_a_change_is_in_the_table_when_it_is_answered(registrar: Registrar, path: Path) -> None:
    public = in_file(path)
    registrar.reload()
    before = registrar.table
    ask(registrar, "suspend-key", key=fingerprint(public))
    assert registrar.table[public].state is KeyState.SUSPENDED
    assert closed(before, registrar.table) == {public}
    assert closed(registrar.table, before) == frozenset()
    assert not closed(before, before)


def test_long_answers_come_in_pages_that_fit(registrar: Registrar, path: Path) -> None:
    with Registry.open(path, create=False) as registry:
        owner = registry.add_contributor("\u20ac" * 60, trust=1, who="test", now=time.time())
        for _ in range(600):
            name = "\u20ac" * 60
            registry.add_key(generate().public, Role.WORKER, owner.contributor_id, name, who="t", now=time.time())
    registrar.reload()
    first = ask(registrar, "keys")
    rows = [row for page in range(first.pages) for row in ask(registrar, "keys", page).rows]
    assert first.pages > 2
    assert len({row[0] for row in rows}) == len(rows) == 600
    for page in range(first.pages + 2):
        assert len(encode(ask(registrar, "keys", page))[1]) <= MAX_HEADER_BYTES
    calls = [line for line in ask(registrar, "audit", after="600").rows if line[3] == "keys"]
    assert len(calls) == 3, "one for each time that the first page was asked for"


def test_a_key_comes_in_by_an_invite_and_is_in_the_table_at_once(registrar: Registrar, path: Path) -> None:
    peer = invited(path)
    registrar.reload()
    wish = m.Enrol(public=generate().public.decode(), name="n", dataset="birds")
    other = registrar.enrol(peer, wish.model_copy(update={"dataset": "cats"}))
    assert (other.state, other.code) == ("refused", "other-project")
    assert wish.public.encode() not in registrar.table
    done = registrar.enrol(peer, wish)
    assert (done.state, done.role, done.dataset) == ("active", Role.WORKER, "birds")
    assert abs(done.key_expires / 1e6 - time.time() - 90 * 86_400) < 60
    assert registrar.table.admitted(wish.public.encode()) is not None
    assert registrar.enrol(peer, wish).state == "active"
    again = registrar.enrol(peer, wish.model_copy(update={"public": generate().public.decode()}))
    assert (again.state, again.code) == ("refused", "used-up")


def test_a_clock_that_fell_back_is_an_alarm_and_expires_nobody(
    registrar: Registrar, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = in_file(path)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600.0)
    with structlog.testing.capture_logs() as lines:
        registrar.reload()
    assert [line["event"] for line in lines] == ["clock.behind"]
    assert registrar.table.admitted(public) is not None
    reply = ask(registrar, "add-contributor", name="bob")
    assert not reply.problem
    assert "clock" in ask(registrar, "invite", public=generate().public.decode(), contributor="bob",
                          expires="2099-01-01").problem  # fmt: skip


def test_times_fit_a_message() -> None:
    assert microseconds(None) == 0
    assert microseconds(0.0) == 1
    assert microseconds(1e300) == (1 << 53) - 1
    assert microseconds(1_800_000_000.0) == 1_800_000_000_000_000


def test_keys_that_end_soon_are_told_once_a_day(
    registrar: Registrar, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = in_file(path)
    with Registry.open(path, create=False) as registry:
        registry.set_expiry(public, time.time() + 13 * 86_400, who="test", now=time.time())
        bob = registry.add_contributor("bob", trust=1, who="test", now=time.time())
        registry.add_key(
            generate().public, Role.WORKER, bob.contributor_id, "late", who="test", now=time.time(),
            not_after=time.time() + 30 * 86_400,
        )  # fmt: skip
    invited(path)  # which ends in a minute, and is no key to be warned of

    def told() -> list[list[str]]:
        with structlog.testing.capture_logs() as lines:
            registrar.reload()
        return [line["first"] for line in lines if line["event"] == "keys.end-soon"]

    at = runtime.now()
    assert told() == [], "at the start it was looked through, and there was none"
    monkeypatch.setattr(runtime, "now", lambda: at + 86_500.0)
    ((first,),) = told()
    assert first.startswith("gpu: 20")
    assert told() == []
    monkeypatch.setattr(runtime, "now", lambda: at + 2 * 86_500.0)
    assert len(told()) == 1


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (KeyState.REVOKED, "this key was revoked (spam)."),
        (KeyState.SUSPENDED, "this key is suspended (spam)."),
        (KeyState.PENDING, "this key waits for approval."),
    ],
)
def test_whose_key_is_closed_is_told_why(registrar: Registrar, path: Path, state: KeyState, said: str) -> None:
    public = in_file(path)
    with Registry.open(path, create=False) as registry:
        registry.set_state(public, state, who="test", now=time.time(), reason="spam")
    registrar.reload()
    assert registrar.farewell(public) == m.Error(code=KEY_CLOSED, sentence=said)
    assert registrar.farewell(generate().public).sentence == "this key is not known here any more."


def test_a_key_that_has_ended_is_told_so_without_an_old_reason(registrar: Registrar, path: Path) -> None:
    public = in_file(path)
    with Registry.open(path, create=False) as registry:
        registry.set_state(public, KeyState.SUSPENDED, who="test", now=time.time(), reason="spam")
        registry.set_state(public, KeyState.ACTIVE, who="test", now=time.time())
        registry.set_expiry(public, time.time() - 1000, who="test", now=time.time())
    registrar.reload()
    assert registrar.farewell(public).sentence == "this key has ended."
