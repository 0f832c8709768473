"""What processes do to a disk, as a list in the order in which it was done. Data only.

Files and folders are numbered (*nodes*), because a file keeps its content when its name changes; node 0 is the root of
what is watched. ``Marked`` is what a workload said at that moment, such as "position 5 is acknowledged".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

ROOT = 0


@dataclass(frozen=True, slots=True)
class Named:
    """A name appears in a folder, for a new node."""

    folder: int
    name: str
    node: int
    is_folder: bool


@dataclass(frozen=True, slots=True)
class Renamed:
    """A name moves; whatever had the new one loses it."""

    folder: int
    name: str
    to_folder: int
    to_name: str
    node: int


@dataclass(frozen=True, slots=True)
class Removed:
    """A name goes."""

    folder: int
    name: str
    node: int


@dataclass(frozen=True, slots=True)
class Wrote:
    """Bytes of a file."""

    node: int
    offset: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Resized:
    """A file is cut off or filled up with zeros."""

    node: int
    length: int


@dataclass(frozen=True, slots=True)
class Flushed:
    """What had been done to a file or to a folder's names before operation ``began`` is durable."""

    node: int
    began: int


@dataclass(frozen=True, slots=True)
class Marked:
    """A workload's own word."""

    text: str


NameOperation: TypeAlias = Named | Renamed | Removed
DataOperation: TypeAlias = Wrote | Resized
Operation: TypeAlias = NameOperation | DataOperation | Flushed | Marked


@dataclass
class Tree:
    """Names and nodes, as processes see them."""

    names: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})
    files: dict[int, bytes] = field(default_factory=dict)
    newest: int = ROOT

    def find(self, path: str) -> int | None:
        """The node of a path below the root; the empty path is the root."""
        node: int | None = ROOT
        for part in path.split("/") if path else ():
            node = self.names.get(node, {}).get(part) if node is not None else None
        return node

    def place(self, path: str) -> tuple[int, str]:
        """The folder of a path, and its name there."""
        folder, _, name = path.rpartition("/")
        node = self.find(folder)
        assert node is not None, f"the folder of {path} is not known"
        return node, name

    def new(self) -> int:
        """A number for one more node."""
        self.newest += 1
        return self.newest

    def apply(self, operation: Operation) -> None:
        """Do it. A name is only taken from the node that had it."""
        match operation:
            case Named(folder, name, node, is_folder):
                self.names.setdefault(folder, {})[name] = node
                if is_folder:
                    self.names.setdefault(node, {})
                else:
                    self.files.setdefault(node, b"")
                self.newest = max(self.newest, node)
            case Renamed(folder, name, to_folder, to_name, node):
                self._take(folder, name, node)
                self.names.setdefault(to_folder, {})[to_name] = node
            case Removed(folder, name, node):
                self._take(folder, name, node)
            case Wrote(node, offset, data):
                self.files[node] = overwritten(self.files.get(node, b""), offset, data)
            case Resized(node, length):
                self.files[node] = self.files.get(node, b"")[:length].ljust(length, b"\0")
            case _:
                pass

    def _take(self, folder: int, name: str, node: int) -> None:
        if self.names.get(folder, {}).get(name) == node:
            del self.names[folder][name]

    def content(self) -> dict[str, bytes | None]:
        """Every path and its bytes; of a folder None."""
        found: dict[str, bytes | None] = {}

        def walk(node: int, path: str) -> None:
            for name, child in self.names[node].items():
                if child in self.names:
                    found[path + name] = None
                    walk(child, f"{path}{name}/")
                else:
                    found[path + name] = self.files.get(child, b"")

        walk(ROOT, "")
        return found


def overwritten(content: bytes, offset: int, data: bytes) -> bytes:
    """Bytes with others in the place of some; what lies between is zeros."""
    return content[:offset].ljust(offset, b"\0") + data + content[offset + len(data) :]
