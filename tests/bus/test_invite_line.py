"""An invite as one word: whole or refused, and silent about its secret."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfbus.bus.invite_line import Facts, Invite, invite_line, join_line, parse_invite, parse_join
from cfbus.bus.keys import generate
from cfbus.bus.messages import Role
from cfbus.errors import DamagedLineError, UsageError

SERVER = generate().public
FACTS = Facts("tcp://bus.example.org:7710", SERVER, "birds é", Role.WORKER)
INVITE = Invite(FACTS, 1_800_000_000, generate())
LINE = invite_line(INVITE)


@settings(max_examples=50, deadline=None)
@given(
    project=st.text(max_size=60),
    role=st.sampled_from([role for role in Role if role is not Role.ENROL]),
    stats=st.sampled_from(["", "tcp://[::1]:7711"]),
)
def test_what_was_written_is_read(project: str, role: Role, stats: str) -> None:
    facts = Facts("tcp://[2001:db8::1]:7710", SERVER, project, role, stats)
    invite = Invite(facts, 1_800_000_000, generate())
    assert parse_invite(invite_line(invite)) == invite
    assert parse_join(f"# for people\n{join_line(facts)}\n") == facts


def test_white_space_of_mails_and_terminals_does_not_count() -> None:
    broken = "\n".join(LINE[at : at + 40] for at in range(0, len(LINE), 40))
    assert parse_invite(f"  {broken}\r\n") == INVITE


@pytest.mark.parametrize("at", range(len("cfbus-invite1."), len(LINE)))
def test_each_changed_letter_is_noticed(at: int) -> None:
    changed = LINE[:at] + ("A" if LINE[at] != "A" else "B") + LINE[at + 1 :]
    with pytest.raises(DamagedLineError, match="invite was damaged in copying"):
        parse_invite(changed)


@pytest.mark.parametrize("at", range(len("cfbus-invite1")))
def test_a_changed_or_cut_beginning_is_damage_too(at: int) -> None:
    for changed in (LINE[at + 1 :], LINE[:at] + "x" + LINE[at + 1 :]):
        with pytest.raises(DamagedLineError, match="invite was damaged in copying"):
            parse_invite(changed)


@pytest.mark.parametrize("cut", [1, 2, 9, 40, 200])
def test_a_cut_line_is_noticed(cut: int) -> None:
    with pytest.raises(DamagedLineError):
        parse_invite(LINE[:-cut])
    with pytest.raises(DamagedLineError):
        parse_invite(LINE + "x" * 5000)


@pytest.mark.parametrize("text", ["", "hello", "cfbus-key1 x.y z", "cfbus-invite2.x.y", join_line(FACTS)])
def test_something_else_is_no_invite(text: str) -> None:
    with pytest.raises(UsageError, match="not an invite") as caught:
        parse_invite(text)
    assert not isinstance(caught.value, DamagedLineError)


def test_an_invite_is_no_join_file() -> None:
    with pytest.raises(UsageError, match="not a join file"):
        parse_join(LINE)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300))
def test_any_text_at_all_is_refused_in_a_sentence(text: str) -> None:
    for word in (text, f"cfbus-invite1.{text}", f"cfbus-join1.{text}"):
        for parse in (parse_invite, parse_join):
            with pytest.raises(UsageError):
                parse(word)


def test_the_secret_is_in_no_repr() -> None:
    secret = INVITE.pair.secret.decode()
    assert secret not in repr(INVITE)
    assert secret not in repr(parse_invite(LINE))
    assert secret not in join_line(FACTS)
