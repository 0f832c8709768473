"""What an admin asks, and the answer.

Part of the protocol; `cfbus.bus.messages` has the rules for all messages.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from cfbus.bus.fields import MAX_ROWS, Cells, Count, Id, Message, Text, Word


class Admin(Message):
    """An allow-listed verb with its arguments."""

    TAG: ClassVar[str] = "ADMIN"
    request: Id
    verb: Word
    arguments: Annotated[tuple[tuple[Word, Text], ...], Field(max_length=8)] = ()
    page: Count = 0


class Reply(Message):
    """The answer to ADMIN: `facts` for people and scripts; a table, a page at a time; `problem` when it was refused,
    and `later` if it may go well another time."""

    TAG: ClassVar[str] = "REPLY"
    request: Id
    facts: Annotated[tuple[tuple[Word, Annotated[str, Field(max_length=256)]], ...], Field(max_length=40)] = ()
    columns: Cells = ()
    rows: Annotated[tuple[Cells, ...], Field(max_length=MAX_ROWS)] = ()
    problem: Text = ""
    later: bool = False
    page: Count = 0
    pages: Count = 1
