"""Runs a command under ``strace`` and makes a list of operations of all that it and its children did below a folder.

Knows how strace writes; nothing of what the files mean. Whatever changes files in a way that is not understood here is
an error, not passed over. Files whose name ends in ``-shm`` are left out: SQLite maps them, and makes them anew.

Invariants: operations stand in the order in which they ended; doing them all gives what is on the disk (the tests
compare that byte for byte).
"""

from __future__ import annotations

import os
import re
import subprocess
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crash.operations import Flushed, Marked, Named, Operation, Removed, Renamed, Resized, Tree, Wrote

SECONDS = 400
_CALLS = (
    "open,openat,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,rename,renameat,renameat2,"
    "link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,mkdir,mkdirat,fsync,fdatasync,sync_file_range,mmap,lseek,"
    "copy_file_range,sendfile,splice"
)
_LINE = re.compile(r"^(\d+) +(.*)$", re.DOTALL)
_CALL = re.compile(r"^(\w+)\((.*)\) += (-?\d+|0x[0-9a-f]+|\?)(?:<([^>]*)>)?(?:\(deleted\))?( .*)?$", re.DOTALL)
_DESCRIPTOR = re.compile(r"^(?:\d+|AT_FDCWD)<([^>]*)>(\(deleted\))?$")


@dataclass
class Recording:
    """What was done below a folder, from a known beginning."""

    start: Tree
    operations: list[Operation] = field(default_factory=list)

    def end(self) -> Tree:
        """The folder when all is done."""
        tree = Tree({node: dict(names) for node, names in self.start.names.items()}, dict(self.start.files))
        tree.newest = self.start.newest
        for operation in self.operations:
            tree.apply(operation)
        return tree


def read_folder(root: Path) -> Tree:
    """What lies in a folder now."""
    tree = Tree()
    for path in sorted(root.rglob("*")):
        if path.name.endswith("-shm"):
            continue
        folder, name = tree.place(path.relative_to(root).as_posix())
        tree.apply(Named(folder, name, node := tree.new(), path.is_dir()))
        if path.is_file():
            tree.files[node] = path.read_bytes()
    return tree


def marks_of(root: Path) -> Path:
    """The file, beside what is watched, into which a workload writes its marks."""
    return root.with_name(root.name + ".marks")


def record(
    command: Sequence[str], roots: Sequence[Path], log: Path, environment: dict[str, str], starts: Sequence[Tree] = ()
) -> list[Recording]:
    """Run a command, which must end well; what was done below each of the roots. ``starts`` are what lies there, when
    its nodes are to keep their numbers."""
    begin = [*starts] or [read_folder(root) for root in roots]
    strace = ["strace", "-f", "--seccomp-bpf", "-y", "-xx", "-s", str(1 << 24), "-o", str(log), "-e", f"trace={_CALLS}"]
    done = subprocess.run(
        [*strace, *command],
        env={**os.environ, **environment, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stdout} {done.stderr}"
    readers = [_Reader(str(root), start, str(marks_of(root))) for root, start in zip(roots, begin, strict=True)]
    for began, ended, places, call in _calls(log, [str(root) for root in roots]):
        for place in places:
            readers[place].read(began, ended, call)
    return [reader.recording for reader in readers]


@dataclass(frozen=True, slots=True)
class _Call:
    name: str
    arguments: list[str]
    result: int
    result_path: str


def _calls(log: Path, places: Sequence[str]) -> Iterator[tuple[int, int, list[int], _Call]]:
    """Calls that did not fail and name some of the places: the lines at which each began and ended, which places."""
    halves: dict[str, tuple[int, str]] = {}
    written = ["".join(f"\\x{byte:02x}" for byte in os.fsencode(place)) for place in places]
    with log.open(encoding="ascii", errors="replace") as lines:
        for number, line in enumerate(lines):
            matched = _LINE.match(line.rstrip("\n"))
            if matched is None:
                continue
            process, text = matched.groups()
            began = number
            if text.endswith("<unfinished ...>"):
                halves[process] = (number, text.removesuffix("<unfinished ...>").rstrip())
                continue
            if text.startswith("<... "):
                began, first = halves.pop(process)
                text = first + text.partition(" resumed>")[2]
            named = [at for at, place in enumerate(written) if place in text]
            if not named:
                continue
            call = _CALL.match(text)
            if call is None:
                assert text.startswith(("+++", "---")), f"not understood: {text[:300]}"
                continue
            name, arguments, result, path, _ = call.groups()
            if result != "?" and not result.startswith("-"):
                yield began, number, named, _Call(name, _split(arguments), int(result, 0), _plain(path or ""))


def _split(arguments: str) -> list[str]:
    return re.split(r", (?![^\[]*\])", arguments)


def _plain(text: str) -> str:
    return _bytes(text).decode("utf-8", "surrogateescape") if text.startswith("\\x") else text


def _bytes(text: str) -> bytes:
    assert not text.endswith("..."), "strace has shortened something"
    return bytes.fromhex(text.strip('"').replace("\\x", ""))


class _Reader:
    """Makes operations of the calls that concern one root."""

    def __init__(self, root: str, start: Tree, marks: str) -> None:
        self._root = root
        self._marks = marks
        self.recording = Recording(start)
        self._tree = Recording(start).end()
        self._offsets: dict[int, int] = {}
        self._appending: set[int] = set()
        self._line = 0
        self._ends: list[int] = []  # the log's line at which each operation ended, to tell what a flush has seen

    def read(self, began: int, ended: int, call: _Call) -> None:
        """The next call."""
        self._line = ended
        handler = getattr(self, f"_{call.name}", None)
        paths = [path for path in map(self._path, call.arguments) if path is not None]
        if handler is not None:
            handler(call, began)
        elif paths:
            raise AssertionError(f"a call that is not understood: {call.name} of {paths}")

    # ------------------------------------------------------------------ arguments

    def _path(self, argument: str) -> str | None:
        """A descriptor's or a text's path below the root; None when it is elsewhere, or not to be looked at."""
        descriptor = _DESCRIPTOR.match(argument)
        if descriptor is not None:
            return None if descriptor[2] else self._below(_plain(descriptor[1]))
        return self._below(_plain(argument.strip('"'))) if argument.startswith('"\\x2f') else None

    def _below(self, path: str) -> str | None:
        path = os.path.normpath(path) if path else path
        if path.endswith("-shm") or not (path == self._root or path.startswith(self._root + "/")):
            return None
        return path[len(self._root) + 1 :]

    def _at(self, folder: str, name: str) -> str | None:
        """The path of a call that names a folder by descriptor and something in it."""
        descriptor = _DESCRIPTOR.match(folder)
        assert descriptor is not None
        path = _plain(name.strip('"'))
        return self._below(f"{_plain(descriptor[1])}/{path}" if not path.startswith("/") else path)

    def _do(self, operation: Operation) -> None:
        self.recording.operations.append(operation)
        self._ends.append(self._line)
        self._tree.apply(operation)

    # ------------------------------------------------------------------ names

    def _openat(self, call: _Call, began: int) -> None:
        self._open_path(self._at(call.arguments[0], call.arguments[1]), call.arguments[2])

    def _open(self, call: _Call, began: int) -> None:
        self._open_path(self._path(call.arguments[0]), call.arguments[1])

    def _open_path(self, path: str | None, flags: str) -> None:
        if path is None or "O_TMPFILE" in flags:
            return
        node = self._tree.find(path)
        if node is None and "O_CREAT" in flags:
            node = self._tree.new()
            self._do(Named(*self._tree.place(path), node, is_folder=False))
        if node is None or node in self._tree.names:
            return
        if "O_TRUNC" in flags and self._tree.files[node]:
            self._do(Resized(node, 0))
        if "O_RDONLY" in flags:
            return
        self._offsets[node] = 0
        (self._appending.add if "O_APPEND" in flags else self._appending.discard)(node)

    def _mkdir(self, call: _Call, began: int) -> None:
        self._make(self._path(call.arguments[0]))

    def _mkdirat(self, call: _Call, began: int) -> None:
        self._make(self._at(call.arguments[0], call.arguments[1]))

    def _make(self, path: str | None) -> None:
        if path is not None:
            self._do(Named(*self._tree.place(path), self._tree.new(), is_folder=True))

    def _rename(self, call: _Call, began: int) -> None:
        self._move(self._path(call.arguments[0]), self._path(call.arguments[1]))

    def _renameat(self, call: _Call, began: int) -> None:
        self._move(self._at(*call.arguments[:2]), self._at(*call.arguments[2:4]))

    _renameat2 = _renameat

    def _move(self, old: str | None, new: str | None) -> None:
        if old is None and new is None:
            return
        assert old is not None, "a file is moved in from elsewhere"
        node = self._tree.find(old)
        assert node is not None
        if new is None:
            self._do(Removed(*self._tree.place(old), node))
        else:
            self._do(Renamed(*self._tree.place(old), *self._tree.place(new), node))

    def _unlink(self, call: _Call, began: int) -> None:
        self._remove(self._path(call.arguments[0]))

    _rmdir = _unlink

    def _unlinkat(self, call: _Call, began: int) -> None:
        self._remove(self._at(call.arguments[0], call.arguments[1]))

    def _remove(self, path: str | None) -> None:
        if path is not None:
            node = self._tree.find(path)
            assert node is not None
            self._do(Removed(*self._tree.place(path), node))

    # ------------------------------------------------------------------ bytes

    def _file(self, call: _Call) -> int | None:
        path = self._path(call.arguments[0])
        return None if path is None else self._tree.find(path)

    def _write(self, call: _Call, began: int) -> None:
        descriptor = _DESCRIPTOR.match(call.arguments[0])
        if descriptor is not None and _plain(descriptor[1]) == self._marks:
            self._do(Marked(_bytes(call.arguments[1])[: call.result].decode().rstrip("\n")))
            return
        node = self._file(call)
        if node is not None:
            self._put(node, _bytes(call.arguments[1])[: call.result])

    def _writev(self, call: _Call, began: int) -> None:
        node = self._file(call)
        if node is not None:
            parts = re.findall(r'iov_base="([^"]*)"', call.arguments[1])
            self._put(node, b"".join(map(_bytes, parts))[: call.result])

    def _put(self, node: int, data: bytes) -> None:
        offset = len(self._tree.files[node]) if node in self._appending else self._offsets[node]
        self._do(Wrote(node, offset, data))
        self._offsets[node] = offset + len(data)

    def _pwrite64(self, call: _Call, began: int) -> None:
        node = self._file(call)
        if node is not None:
            self._do(Wrote(node, int(call.arguments[3]), _bytes(call.arguments[1])[: call.result]))

    def _sendfile(self, call: _Call, began: int) -> None:
        to, source = self._file(call), self._path(call.arguments[1])
        if to is None:
            return
        node = self._tree.find(source) if source is not None else None
        assert node is not None, "a file is copied from elsewhere"
        offset = int(call.arguments[2].partition("]")[0].lstrip("["))
        self._put(to, self._tree.files[node][offset : offset + call.result])

    def _ftruncate(self, call: _Call, began: int) -> None:
        node = self._file(call)
        if node is not None and len(self._tree.files[node]) != int(call.arguments[1]):
            self._do(Resized(node, int(call.arguments[1])))

    _truncate = _ftruncate

    def _fallocate(self, call: _Call, began: int) -> None:
        node = self._file(call)
        if node is not None:
            assert call.arguments[1] == "0", "a hole in a file is not understood"
            end = int(call.arguments[2]) + int(call.arguments[3])
            if end > len(self._tree.files[node]):
                self._do(Resized(node, end))

    def _lseek(self, call: _Call, began: int) -> None:
        node = self._file(call)
        if node is not None and node in self._tree.files:
            self._offsets[node] = call.result

    def _mmap(self, call: _Call, began: int) -> None:
        path = self._path(call.arguments[4])
        shared = "PROT_WRITE" in call.arguments[2] and "MAP_SHARED" in call.arguments[3]
        assert path is None or not shared, f"{path} is mapped to be written, which nobody sees here"

    # ------------------------------------------------------------------ flushes

    def _fsync(self, call: _Call, began: int) -> None:
        path = self._path(call.arguments[0])
        if path is not None:
            node = self._tree.find(path)
            assert node is not None
            self._do(Flushed(node, self._known_at(began)))

    _fdatasync = _fsync

    def _known_at(self, began: int) -> int:
        """How many operations had ended when a call began."""
        return bisect_left(self._ends, began)
