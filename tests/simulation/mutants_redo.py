"""Changes of the cores that would break redos; see ``mutants``."""

from __future__ import annotations

from simulation.mutants import Edit, Mutant

REDO = (
    Mutant(
        "what a redo is not over is done again with it",
        (
            Edit("core/inventory.py", "if place[0] in self._selected:", "if False:"),
            Edit(
                "core/passes.py",
                "if self._selected is None:\n            return tuple(pairs)",
                "if True:\n            return tuple(pairs)",
            ),
        ),
        (0, 12, 14),
        "",
    ),
    Mutant(
        "a redo is granted before all that it is over has come",
        (Edit("core/catchup.py", "if coming.items == facts.items:", "if coming.items:"),),
        (0, 3, 12),
        "",
    ),
    Mutant(
        "a closed redo goes on",
        (
            Edit(
                "core/granting.py",
                "if slots.issuperset(walk.slots) and not walk.closed]",
                "if slots.issuperset(walk.slots)]",
            ),
        ),
        (613, 660, 1203),
        "closed redo is granted",
    ),
    Mutant(
        "a grant does not say what others have of its span",
        (
            Edit(
                "core/granting.py",
                "done=lease.undone.missing(row.start, row.end)[:MAX_RANGES],",
                "done=walk.done_in(row.shard, row.start, row.end)[:MAX_RANGES],",
            ),
        ),
        (0, 12, 27),
        "",
    ),
)
