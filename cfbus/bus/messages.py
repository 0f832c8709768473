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
from cfbus.bus.fields import MAX_ROWS as MAX_ROWS
from cfbus.bus.fields import Message as Message
from cfbus.bus.fields import Ranges as Ranges
from cfbus.bus.fields import Role as Role
from cfbus.bus.fields import Slot as Slot
from cfbus.bus.fields import Spec as Spec
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
from cfbus.bus.messages_joining import Undrain as Undrain
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
    Forbid, Fetch, Data, Enrol, Enrolled, Drain, Undrain, Bye, Admin, Reply, Error,
)  # fmt: skip
BY_TAG: dict[str, type[Message]] = {message.TAG: message for message in MESSAGES}

_PEERS = frozenset({Role.WORKER, Role.WRITER, Role.FEEDER, Role.ADMIN})
_WRITER, _WORKER, _NOBODY = frozenset({Role.WRITER}), frozenset({Role.WORKER}), frozenset[Role]()
SENDERS: dict[type[Message], frozenset[Role]] = {
    Hello: _PEERS, Heartbeat: _PEERS, Bye: _PEERS,
    Lease: _WORKER, Renew: _WORKER, Result: _WORKER, Failed: _WORKER, Release: _WORKER,
    Applied: _WORKER, Undrain: _WORKER,
    Drain: frozenset({Role.WORKER, Role.FEEDER}),
    Commit: _WRITER, Tally: _WRITER, State: _WRITER, Listed: _WRITER, Progress: _WRITER, Done: _WRITER,
    Allowed: frozenset({Role.FEEDER}),
    Admin: frozenset({Role.ADMIN}),
    Enrol: frozenset({Role.ENROL}),
    Welcome: _NOBODY, Grant: _NOBODY, Wait: _NOBODY, Renewed: _NOBODY, Since: _NOBODY, Ack: _NOBODY, Resend: _NOBODY,
    IndexShard: _NOBODY, Task: _NOBODY, Allow: _NOBODY, Forbid: _NOBODY, Fetch: _NOBODY, Data: _NOBODY,
    Enrolled: _NOBODY, Reply: _NOBODY, Error: _NOBODY, Config: _NOBODY,
}  # fmt: skip
"""Which roles may send a message to the broker. Each message has its line here; what has none may be sent by nobody."""
MAY_SEND: dict[Role, frozenset[type[Message]]] = {
    role: frozenset(message for message, roles in SENDERS.items() if role in roles) for role in Role
}
"""The same by role."""
MAY_FETCH: dict[Role, frozenset[type[Message]]] = {Role.WORKER: frozenset({Fetch})}
"""The same for a feeder's own port."""
