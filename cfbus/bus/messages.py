"""The protocol: one frozen model per message, with its prose.

Every message on the bus is one of the classes below; ``docs/protocol.md`` takes its tables from
here. A model says what a header may hold; it knows nothing of frames, sockets or decisions.

Invariants: models are frozen, strict (no coercion) and closed (no unknown field); every string and
every sequence has a bound, so that no header can make the receiver do unbounded work, and what the cores
build stays below ``MAX_HEADER_BYTES``. Attribution (who sent it) is never a field that a peer fills in: the
broker takes it from the connection.
"""

from __future__ import annotations

from cfbus.bus.fields import MAX_CHUNK_ITEMS as MAX_CHUNK_ITEMS
from cfbus.bus.fields import MAX_FRAME_BYTES as MAX_FRAME_BYTES
from cfbus.bus.fields import Message as Message
from cfbus.bus.fields import Ranges as Ranges
from cfbus.bus.fields import Role as Role
from cfbus.bus.fields import Slot as Slot
from cfbus.bus.fields import Spec as Spec
from cfbus.bus.messages_admin import MAX_ROWS as MAX_ROWS
from cfbus.bus.messages_admin import Admin as Admin
from cfbus.bus.messages_admin import Reply as Reply
from cfbus.bus.messages_enrolling import Enrol as Enrol
from cfbus.bus.messages_enrolling import Enrolled as Enrolled
from cfbus.bus.messages_feeding import MAX_FETCH_ITEMS as MAX_FETCH_ITEMS
from cfbus.bus.messages_feeding import Allow as Allow
from cfbus.bus.messages_feeding import Allowed as Allowed
from cfbus.bus.messages_feeding import Data as Data
from cfbus.bus.messages_feeding import Fetch as Fetch
from cfbus.bus.messages_feeding import Forbid as Forbid
from cfbus.bus.messages_joining import Applied as Applied
from cfbus.bus.messages_joining import Bye as Bye
from cfbus.bus.messages_joining import Config as Config
from cfbus.bus.messages_joining import Drain as Drain
from cfbus.bus.messages_joining import Error as Error
from cfbus.bus.messages_joining import Heartbeat as Heartbeat
from cfbus.bus.messages_joining import Hello as Hello
from cfbus.bus.messages_joining import StoreFacts as StoreFacts
from cfbus.bus.messages_joining import Welcome as Welcome
from cfbus.bus.messages_store import Commit as Commit
from cfbus.bus.messages_store import Credit as Credit
from cfbus.bus.messages_store import Done as Done
from cfbus.bus.messages_store import IndexShard as IndexShard
from cfbus.bus.messages_store import Listed as Listed
from cfbus.bus.messages_store import PassFacts as PassFacts
from cfbus.bus.messages_store import Progress as Progress
from cfbus.bus.messages_store import Since as Since
from cfbus.bus.messages_store import SlotTally as SlotTally
from cfbus.bus.messages_store import State as State
from cfbus.bus.messages_store import Stored as Stored
from cfbus.bus.messages_store import Tally as Tally
from cfbus.bus.messages_store import Task as Task
from cfbus.bus.messages_work import MAX_FAILED_ITEMS as MAX_FAILED_ITEMS
from cfbus.bus.messages_work import Ack as Ack
from cfbus.bus.messages_work import Acked as Acked
from cfbus.bus.messages_work import Failed as Failed
from cfbus.bus.messages_work import FailedItem as FailedItem
from cfbus.bus.messages_work import Grant as Grant
from cfbus.bus.messages_work import HeldLease as HeldLease
from cfbus.bus.messages_work import Lease as Lease
from cfbus.bus.messages_work import LeaseState as LeaseState
from cfbus.bus.messages_work import Origin as Origin
from cfbus.bus.messages_work import Release as Release
from cfbus.bus.messages_work import Renew as Renew
from cfbus.bus.messages_work import Renewed as Renewed
from cfbus.bus.messages_work import Resend as Resend
from cfbus.bus.messages_work import Result as Result
from cfbus.bus.messages_work import Wait as Wait
from cfbus.bus.messages_work import Way as Way

MESSAGES: tuple[type[Message], ...] = (
    Hello, Welcome, Config, Applied, Heartbeat, Lease, Grant, Wait, Renew, Renewed, Result, Commit, Tally,
    Since, State, Ack, Resend, Failed, Release, IndexShard, Listed, Task, Progress, Done, Allow, Allowed,
    Forbid, Fetch, Data, Enrol, Enrolled, Drain, Bye, Admin, Reply, Error,
)  # fmt: skip
BY_TAG: dict[str, type[Message]] = {message.TAG: message for message in MESSAGES}

_ANY_PEER: tuple[type[Message], ...] = (Hello, Heartbeat, Bye)
MAY_SEND: dict[Role, frozenset[type[Message]]] = {
    Role.WORKER: frozenset({*_ANY_PEER, Applied, Lease, Renew, Result, Failed, Release, Drain}),
    Role.WRITER: frozenset({*_ANY_PEER, Commit, Tally, State, Listed, Progress, Done}),
    Role.ADMIN: frozenset({*_ANY_PEER, Admin}),
    Role.FEEDER: frozenset({*_ANY_PEER, Allowed, Drain}),
    Role.MONITOR: frozenset(),
    Role.ENROL: frozenset({Enrol}),
}
"""Which role may send which message to the broker. What is not here is refused."""
MAY_FETCH: dict[Role, frozenset[type[Message]]] = {Role.WORKER: frozenset({Fetch})}
"""The same for a feeder's own port."""
