"""Wrong programs: what is changed in the source, and the seeds that notice it. Lines of source are quoted whole."""
# ruff: noqa: E501

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """A piece of source that occurs once, and what stands in its place."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """A wrong program. One of ``seeds`` must fail, with ``symptom`` in what it says. Several are named because what a
    seed makes happen shifts with every change of the cores."""

    name: str
    edits: tuple[Edit, ...]
    seeds: tuple[int, ...]
    symptom: str


MUTANTS = (
    Mutant(
        "the broker acks before the commit",
        (
            Edit(
                "core/broker.py",
                'return [Send(self.writer.connection, message.model_copy(update={"origin": origin}), payload)]',
                'return [self._ack(known, message, "stored", ""), '
                'Send(self.writer.connection, message.model_copy(update={"origin": origin}), payload)]',
            ),
        ),
        (1, 0, 3, 4, 5),
        "was acked and is not on the disk",
    ),
    Mutant(
        "the writer tells of what is only staged",
        (
            Edit(
                "core/writer.py",
                "self._result(message, payload)\n                return []",
                "self._result(message, payload)\n                return self._commits(self._staged[-1:], now)",
            ),
        ),
        (1, 0, 3, 4, 5),
        "was acked and is not on the disk",
    ),
    Mutant(
        "the writer checks nothing before it stores",
        (
            Edit(
                "core/writer.py",
                "problem, table = self._check(message, payload)",
                'problem, table = "", type("Unchecked", (), {"slot_names": ()})()',
            ),
        ),
        (3, 21, 30),
        "",
    ),
    Mutant(
        "the writer does not compare the slots",
        (Edit("core/writer.py", 'if message.table == "captions" and table.slot_names != facts.slots:', "if False:"),),
        (21, 30, 4, 17, 41, 56, 64, 86),
        "other slots",
    ),
    Mutant(
        "the writer accepts duplicates",
        (
            Edit(
                "core/inventory.py",
                "for have in (self._done.get(place), staged):",
                "for have in ():",
            ),
        ),
        (3, 4, 5),
        "is stored twice",
    ),
    Mutant(
        "the writer stores all of a partly new frame",
        (
            Edit(
                "core/writer.py",
                "rows = None if size(new) == size(message.ranges) else _rows(message.ranges, RangeSet(new))",
                "rows = None",
            ),
        ),
        (34, 48, 58),
        "is stored twice",
    ),
    Mutant(
        "what could not be stored counts as staged for ever",
        (
            Edit(
                "core/writer.py",
                "self._staged.clear()\n        self._staged_done.clear()",
                "self._staged.clear()",
            ),
        ),
        (31, 10, 7, 8, 29, 40),
        "was acked and is not on the disk",
    ),
    Mutant(
        "leases never expire",
        (
            Edit(
                "core/leases.py",
                "return [state for state in self._current.values() if state.deadline <= now and not state.preparing]",
                "return []",
            ),
        ),
        (7, 13, 5, 12, 14),
        "turns without anything to do",
    ),
    Mutant(
        "a lease goes on without progress",
        (Edit("core/broker.py", "if captioned > lease.captioned:", "if captioned >= lease.captioned:"),),
        (13, 53, 64, 76, 80),
        "stands still",
    ),
    Mutant(
        "lease clocks go on while the writer is silent",
        (Edit("core/broker.py", "            flowing = False\n", "            pass\n"),),
        (76, 136, 301, 392),
        "without progress",
    ),
    Mutant(
        "a lease that was never granted runs out and is granted then",
        (
            Edit("core/leases.py", "if state.deadline <= now and not state.preparing]", "if state.deadline <= now]"),
            Edit(
                "core/granting.py",
                "return None if gone or not (lease.current and lease.undone) else worker",
                "return None if gone else worker",
            ),
        ),
        (7, 31, 12, 39, 44, 49),
        "was never granted",
    ),
    Mutant(
        "RELEASE of an ended or foreign lease is accepted",
        (
            Edit(
                "core/broker.py",
                "if lease is None or not lease.current or not self.owns(known, lease):\n            return []\n        eff",
                "if lease is None:\n            return []\n        eff",
            ),
        ),
        (30, 21, 4, 3, 46, 48),
        "changed a lease",
    ),
    Mutant(
        "FAILED of an ended lease is accepted",
        (
            Edit(
                "core/verdicts.py",
                "if lease is None or not lease.current or lease.row.instance != message.instance:",
                "if lease is None or lease.row.instance != message.instance:",
            ),
        ),
        (12, 35, 197, 205, 219, 324),
        "",
    ),
    Mutant(
        "FAILED of a foreign lease is accepted",
        (
            Edit(
                "core/verdicts.py",
                "if item.index in lease.undone and lease.row.contributor == known.peer.contributor:",
                "if item.index in lease.undone:",
            ),
        ),
        (70, 103, 133, 144, 178),
        "",
    ),
    Mutant(
        "a result of another's lease is accepted",
        (
            Edit(
                "core/broker.py",
                "if lease is None or lease.row.contributor != known.peer.contributor or lease.row.instance != message.instance:",
                "if lease is None:",
            ),
        ),
        (3, 21, 4, 26, 41, 42),
        "another's lease",
    ),
    Mutant(
        "items outside the lease are accepted",
        (
            Edit(
                "core/broker.py",
                "if message.ranges[0][0] < lease.row.start or message.ranges[-1][1] > lease.row.end:",
                "if False:",
            ),
        ),
        (56, 21, 3, 17, 53, 86),
        "the lease are stored",
    ),
    Mutant(
        "nothing is sent again when the writer's link broke",
        (
            Edit(
                "core/catchup.py", "return [Send(state.peer.connection, m.Resend()) for state in workers]", "return []"
            ),
            Edit("core/retransmit.py", "effects.append(Send(BROKER, kept.message, kept.payload))", "pass"),
        ),
        (8, 1, 3, 4, 5, 6),
        "does not end",
    ),
    Mutant(
        "leases are granted before the first catch-up",
        (
            Edit(
                "core/granting.py",
                'if not broker.writer.caught_up:\n            return "catching-up"',
                "if False:\n            pass",
            ),
        ),
        (90, 115, 151, 190),
        "before the first catch-up",
    ),
    Mutant(
        "credit comes back with the news that something is stored, and only then",
        (
            Edit(
                "core/retransmit.py",
                "self.bytes -= len(kept.payload)",
                'self.bytes -= len(kept.payload) * (acked.status == "stored")',
            ),
        ),
        (7, 0, 3, 4, 5, 6),
        "window is not whole",
    ),
    Mutant(
        "the window is not looked at",
        (
            Edit(
                "core/worker.py",
                "if self._results.bytes >= self._window or self._use is None:",
                "if self._use is None:",
            ),
        ),
        (139, 121, 305, 200),
        "more is unacked than the window allows",
    ),
    Mutant(
        "a lease is granted and not remembered",
        (Edit("core/granting.py", "        broker.save(lease.row)\n", ""),),
        (1, 0, 2, 3),
        "not in the ledger",
    ),
    Mutant(
        "remembered leases are not taken up",
        (Edit("core/adopting.py", "for row in broker.remembered:", "for row in ():"),),
        (26, 64, 75),
        "refused",
    ),
    Mutant(
        "the broker does not remember how far the store is",
        (Edit("core/catchup.py", "effects.append(SavePosition(writer.store_id, message.position))", "pass"),),
        (1, 0, 2, 3),
        "does not remember how far",
    ),
    Mutant(
        "a state with a gap counts as whole",
        (
            Edit(
                "core/catchup.py",
                "if page > writer.next_page:\n            writer.next_page = 0\n        return False",
                "return True",
            ),
        ),
        (75, 115, 191, 274, 299),
        "refused",
    ),
    Mutant(
        "backup leases lie over one another",
        (Edit("core/leases.py", "primary.unhelped.subtract(backup.undone)", "pass"),),
        (4, 0, 3, 10, 11),
        "",
    ),
    Mutant(
        "what is moved to another backup stays with the first too",
        (Edit("core/granting.py", "broker.leases.give_back(backup, pairs)", "pass"),),
        (4, 0, 3, 10, 11),
        "two leases cover an item",
    ),
    Mutant(
        "who helped becomes a primary beside another",
        (Edit("core/leases.py", "and not state.row.backup and self._is_alone(other):", "and not state.row.backup:"),),
        (4, 48, 104, 138, 141, 162),
        "",
    ),
    Mutant(
        "dead letters are sent once",
        (
            Edit(
                "core/verdicts.py",
                "return [effect for number in self._undelivered for effect in self._send(number)]",
                "return []",
            ),
        ),
        (8, 3, 29, 31, 41, 18, 37),
        "does not end",
    ),
    Mutant(
        "a generation is not remembered",
        (Edit("core/configuring.py", "return [SaveGeneration(*now)]", "return []"),),
        (6, 10, 19, 22, 26, 33),
        "a generation is given twice",
    ),
    Mutant(
        "a new configuration is told once",
        (Edit("core/configuring.py", "effects.append(self._tell(state, now))", "pass"),),
        (6, 8, 10, 55, 88, 113),
        "does not end",
    ),
    Mutant(
        "a slot goes while items wait for its captions",
        (Edit("core/configuring.py", "if slot in going\n", "if False\n"),),
        (7, 8, 10, 13, 14, 17),
        "does not end",
    ),
    Mutant(
        "a slot goes before it is known what is done",
        (Edit("core/configuring.py", "if going and (", "if False and ("),),
        (7, 8, 14, 17, 27, 37),
        "does not end",
    ),
    Mutant(
        "what was begun by one generation is labelled with the next",
        (
            Edit(
                "core/worker.py",
                "use = held.in_flight.pop(outcome.index)",
                "use = held.in_flight.pop(outcome.index) and self._use",
            ),
        ),
        (6, 10, 13, 16, 17, 18),
        "by another generation",
    ),
    Mutant(
        "an item is begun though there is no prompt for it",
        (Edit("core/held.py", "if not {slot.name for slot in self.spec.slots}.issuperset(grant.slots):", "if False:"),),
        (240,),
        "without a prompt",
    ),
    Mutant(
        "two passes are opened at a time",
        (Edit("core/tasks.py", 'ONE_AT_A_TIME = ("scan", "open-pass", "amend", "look")', "ONE_AT_A_TIME = ()"),),
        (15, 500, 657, 670),
        "have a pass already",
    ),
)
