"""What the last listing passed over, in ``left_out.json``: for people, replaced as a whole, durable before it counts.

Knows nothing of why something is left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cfbus.store.durable import damaged_file, disk_errors, new_file, publish
from cfbus.store.folder import Store

NAME = "left_out.json"


@dataclass(frozen=True, slots=True)
class Thing:
    """A path and why it was left out; ``grave``: it may hold images."""

    path: str
    reason: str
    grave: bool


@dataclass(frozen=True, slots=True)
class LeftOut:
    """All that the last listing passed over: how many things, how many of them grave, and the first of both."""

    count: int = 0
    grave: int = 0
    things: tuple[Thing, ...] = ()


def write_left_out(store: Store, count: int, grave: int, things: Sequence[Thing]) -> None:
    """Replace what an earlier listing said."""
    path = store.root / NAME
    if not count and not path.exists():
        return
    said = {"count": count, "grave": grave, "things": [asdict(thing) for thing in things]}
    staged = store.staging_dir / NAME
    with new_file(staged) as file:
        file.write(json.dumps(said, indent=1).encode() + b"\n")
    publish(staged, path)


def read_left_out(root: Path) -> LeftOut:
    """What the last listing of the store at ``root`` passed over; nothing where none ever did."""
    path = root / NAME
    try:
        with disk_errors(path):
            said = json.loads(path.read_bytes())
        return LeftOut(said["count"], said["grave"], tuple(Thing(**thing) for thing in said["things"]))
    except FileNotFoundError:
        return LeftOut()
    except (ValueError, KeyError, TypeError) as error:
        raise damaged_file(path, f"it says no such thing ({type(error).__name__})") from error
