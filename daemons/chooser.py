"""Works out what an admin's request comes to, and reads for them: a child process of the writer, which holds its lock.

Reads the request as JSON from standard input, and prints one line of JSON: the answer, and where the items of redos lie
as a numpy file in the store's staging folder. Changes nothing.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cfbus import logs
from cfbus.errors import EXIT_DONE
from cfbus.exports.choosing import VERBS, plan_of
from cfbus.exports.looking import look
from cfbus.runtime import last_frame
from cfbus.store.amendments import Plan, Request
from cfbus.store.folder import Store
from cfbus.store.manifest_rows import Tombstone


def choose(root: Path, request: Request) -> int:
    """Print the plan, or what was looked for."""
    store = Store.peek(root)
    if request.verb not in VERBS:
        sys.stdout.write(json.dumps({"plan": _plain(look(store, request))}) + "\n")
        return EXIT_DONE
    plan = plan_of(store, request, store.staging_dir)
    path = store.staging_dir / f"chosen-{request.task}.npz"
    np.savez(path, *(selected for _, selected in plan.redos))
    slots = [slots for slots, _ in plan.redos]
    sys.stdout.write(json.dumps({"plan": _plain(plan), "slots": slots, "file": str(path)}) + "\n")
    return EXIT_DONE


def _plain(plan: Plan) -> dict[str, object]:
    stone = plan.tombstone
    return {
        "facts": plan.facts, "columns": plan.columns, "rows": plan.rows, "why": plan.why,
        "tombstone": asdict(stone) if stone is not None else None,
    }  # fmt: skip


def plan_from(line: bytes) -> Plan:
    """The plan that a child printed; its file is removed."""
    told: dict[str, Any] = json.loads(line)
    plain = told["plan"]
    stone = plain.pop("tombstone")
    redos: list[tuple[tuple[str, ...], np.ndarray[Any, np.dtype[np.int64]]]] = []
    if told.get("file"):
        path = Path(told["file"])
        with np.load(path) as arrays:
            redos = [(tuple(slots), arrays[f"arr_{at}"]) for at, slots in enumerate(told["slots"])]
        path.unlink()
    return Plan(
        redos=tuple(redos),
        tombstone=_stone(stone) if stone is not None else None,
        facts=_pairs(plain["facts"]),
        columns=tuple(plain["columns"]),
        rows=tuple(tuple(row) for row in plain["rows"]),
        why=plain["why"],
    )


def _pairs(found: list[list[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in found)


def _stone(fields: dict[str, Any]) -> Tombstone:
    return Tombstone(**{**fields, "columns": _pairs(fields["columns"]), "tables": tuple(fields["tables"])})


def main() -> None:
    """Entry point: STORE, and the request on standard input."""
    logs.setup("chooser")
    root, fields = Path(sys.argv[1]), json.load(sys.stdin)
    request = Request(**{**fields, "slots": tuple(fields["slots"])})
    sys.exit(last_frame(lambda: choose(root, request)))


if __name__ == "__main__":
    main()
