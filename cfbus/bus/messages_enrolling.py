"""How a key is enrolled by an invite: all that the key of an invite may say, and the answer.

Part of the protocol; `cfbus.bus.messages` has the rules for all messages.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cfbus.bus.fields import Count, Dataset, Message, PublicKey, Role, Text, Word


class Enrol(Message):
    """Let this key in. Sent on a connection that was made with the key of an invite, without a HELLO before it, and
    answered by ENROLLED. The same key enrolled again by the same invite is answered the same."""

    TAG: ClassVar[str] = "ENROL"
    public: PublicKey
    name: Word
    dataset: Dataset


class Enrolled(Message):
    """What became of an ENROL: the state of the key, or `refused` with a stable `code` and a sentence."""

    TAG: ClassVar[str] = "ENROLLED"
    state: Literal["active", "pending", "suspended", "revoked", "expired", "retiring", "refused"]
    now: Count
    dataset: Dataset
    role: Annotated[Role, Field(strict=False)] = Role.WORKER
    key_expires: Count = 0
    engine: Annotated[str, Field(max_length=32)] = ""
    model: Annotated[str, Field(max_length=512)] = ""
    code: Annotated[str, Field(max_length=64)] = ""
    sentence: Text = ""
