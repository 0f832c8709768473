"""Wrong programs where leases are fed. As in ``mutants``; the seeds are among those with feeders."""

from __future__ import annotations

from simulation.mutants import Edit, Mutant

FEEDING = (
    Mutant(
        "a lease is granted before its feeder said yes",
        (
            Edit(
                "core/granting.py",
                "            self.undo(lease)\n            return []\n        return asked",
                "            self.undo(lease)\n            return []\n"
                "        kept = broker.feeding._kept.pop(row.lease)\n"
                "        feeder = broker.peers[kept.feeder]\n"
                "        way = m.Way(endpoint=feeder.feeds_at, public=feeder.peer.public)\n"
                "        return [*asked, *self.grant_now(lease, payload, now, way)]",
            ),
        ),
        (100000, 100001, 100002, 100003, 100004),
        "granted before its feeder said",
    ),
    Mutant(
        "a feeder is not told that a lease is over",
        (Edit("core/feeding.py", "return effects + self._forbid(over)", "self._forbid(over)\n        return effects"),),
        (100000, 100001, 100002, 100003, 100004),
        "was never told that",
    ),
    Mutant(
        "the end of a shard's pass is not told to feeders",
        (
            Edit(
                "core/leases.py",
                "            self._not_current(state)\n            if not state.preparing:",
                "            self._not_current(state)\n"
                "            if state.fed and self.over[-1:] == [state.row.lease]:\n"
                "                self.over.pop()\n"
                "            if not state.preparing:",
            ),
        ),
        (100000, 100001, 100002, 100003, 100005),
        "was never told that",
    ),
    Mutant(
        "leases of a feeder that is lost are left with it",
        (
            Edit(
                "core/joining.py",
                "served = broker.feeding.gone(connection, now) if state.feeds_at else []",
                "served: list[Effect] = []",
            ),
        ),
        (100002, 100012, 100020, 100023, 100025, 100027),
        "whoever serves is here",
    ),
    Mutant(
        "a feeder's dead connection is asked on",
        (Edit("core/joining.py", "for before in broker.feeding.before(state):", "for before in ():"),),
        (100004, 100006, 100007, 100011, 100012),
        "a feeder is there twice",
    ),
    Mutant(
        "a feeder takes back what was granted with another",
        (Edit("core/feeding.py", "            if by not in own:\n", "            if False:\n"),),
        (100659, 100680, 100748, 100645, 100679, 101119, 101200),
        "granted with another feeder",
    ),
    Mutant(
        "a feeder that says nothing is waited for",
        (
            Edit(
                "core/feeding.py",
                "late = [kept for kept in self._kept.values() if now - kept.asked >= ALLOW_SECONDS]",
                "late: list[_Kept] = []",
            ),
            Edit("core/feeding.py", "return [kept.asked + ALLOW_SECONDS for kept in self._kept.values()]", "return []"),
        ),
        (100011, 100014, 100015, 100018, 100020, 100036),
        "does not end",
    ),
)
