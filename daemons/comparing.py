"""What the broker's ledger says otherwise than the broker, for an admin who has a store compared with all else.

Must not change anything: what is wrong is written anew when the broker learns what is done once more.
"""

from __future__ import annotations

from cfbus.core.asking import answered
from cfbus.core.broker import Broker
from cfbus.core.effects import AskLedger, Effect
from cfbus.core.told import Told
from cfbus.errors import CfbusError
from cfbus.store.ledger import Ledger


def compared(question: AskLedger, ledger: Ledger, core: Broker) -> list[Effect]:
    """The answer: each difference as a row, as `scan` shows them, and the position that was acknowledged."""
    return answered(question.peer, question.name, question.request, _told(ledger, core))


def _told(ledger: Ledger, core: Broker) -> Told:
    try:
        store_id, position = ledger.facts()
    except CfbusError as error:
        return Told(problem=str(error))
    differs = []
    if store_id != core.store_id:
        differs.append(f"it is of store {store_id[:40] or 'none'}, the broker works with {core.store_id or 'none'}")
    if position != str(core.position):
        differs.append(f"it says that position {position[:20]} was acknowledged, the broker knows {core.position}")
    return Told(
        facts=(("position", str(core.position)),),
        columns=("where", "what", "mended by"),
        rows=tuple(("ledger", what, "ledger") for what in differs),
    )
