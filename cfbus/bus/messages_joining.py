"""Coming and going: HELLO, WELCOME, CONFIG, APPLIED, HEARTBEAT, DRAIN, UNDRAIN, BYE, and ERROR, which answers anything.

Part of the protocol; `cfbus.bus.messages` has the rules for all messages.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cfbus.bus.fields import Count, Endpoint, Id, Ids, Message, Part, Rate, Role, Seconds, Spec, Text, Word
from cfbus.bus.figures import EngineFigures, HostFigures, Load


class StoreFacts(Part):
    """What a writer says of its store."""

    store_id: Id
    dataset: Annotated[str, Field(min_length=1, max_length=256)]
    position: Count


class Hello(Message):
    """A peer introduces itself; the first message on every connection, and again after ERROR `hello-first`.

    A worker names the leases that it still holds, so that a broker that restarted can take them up.
    A writer says which store it has and how far it is. A worker says whether it can read the dataset's source itself
    (`reads`); a feeder, at which address workers reach it (`feeds_at`), and in `held` the leases that it serves.
    """

    TAG: ClassVar[str] = "HELLO"
    role: Annotated[Role, Field(strict=False)]
    instance: Id
    software: Word
    name: Word
    concurrency: Annotated[int, Field(ge=0, le=100_000)] = 0
    held: Ids = ()
    store: StoreFacts | None = None
    reads: bool = True
    feeds_at: Endpoint | None = None


class Welcome(Message):
    """The broker takes the peer in and says how this bus is run."""

    TAG: ClassVar[str] = "WELCOME"
    software: Word
    store_id: Id | None
    dataset: Annotated[str, Field(max_length=256)]
    heartbeat_seconds: Seconds
    lease_seconds: Seconds
    window: Count
    generation: Count
    spec: Spec | None
    lost: Ids = ()
    key_expires: Count = 0
    now: Count = 0


class Config(Message):
    """The configuration changed while the worker is here: captions are made by this from the next item on. Said again
    a few times while the worker does not answer."""

    TAG: ClassVar[str] = "CONFIG"
    generation: Count
    lease_seconds: Seconds
    spec: Spec


class Applied(Message):
    """What became of a generation, told by CONFIG or WELCOME: it is `applied`; it will be when the worker's new
    `engine` is there, which is told then; it is `refused`, because of `reason`."""

    TAG: ClassVar[str] = "APPLIED"
    generation: Count
    outcome: Literal["applied", "engine", "refused"]
    reason: Text = ""


class Heartbeat(Message):
    """I am here: from peers with nothing else to say, from workers with their figures; answered with the same."""

    TAG: ClassVar[str] = "HEARTBEAT"
    rate: Rate = 0.0
    in_flight: Count = 0
    held: Count = 0
    unacked_bytes: Count = 0
    engine: EngineFigures | None = None
    load: Load | None = None
    host: HostFigures | None = None


class Drain(Message):
    """To a worker: finish what you hold and take nothing new. To the broker: I do that, for I was told so or will
    leave; said again after each WELCOME."""

    TAG: ClassVar[str] = "DRAIN"


class Undrain(Message):
    """To a worker: take work again, if it was the broker who had you drain. To the broker: I do that; a worker that
    will leave says DRAIN instead."""

    TAG: ClassVar[str] = "UNDRAIN"


class Bye(Message):
    """The peer leaves; a worker's leases return at once."""

    TAG: ClassVar[str] = "BYE"


class Error(Message):
    """Something was refused; never silence."""

    TAG: ClassVar[str] = "ERROR"
    code: Word
    sentence: Text
    retry_after: Seconds = 0.0
    fatal: bool = False
