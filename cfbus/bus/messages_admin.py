"""What an admin asks, and the answer.

Part of the protocol; `cfbus.bus.messages` has the rules for all messages.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from cfbus.bus.fields import Count, Id, Message, Text, Word


class Admin(Message):
    """An allow-listed verb with its arguments."""

    TAG: ClassVar[str] = "ADMIN"
    request: Id
    verb: Word
    arguments: Annotated[tuple[tuple[Word, Text], ...], Field(max_length=8)] = ()
    page: Count = 0


class Reply(Message):
    """The answer to ADMIN, a page at a time: `facts` for people and scripts, `problem` when it was refused."""

    TAG: ClassVar[str] = "REPLY"
    request: Id
    facts: Annotated[tuple[tuple[Word, Annotated[str, Field(max_length=256)]], ...], Field(max_length=40)] = ()
    problem: Text = ""
    page: Count = 0
    pages: Count = 1
