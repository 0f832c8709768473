"""What the daemons of a `cfbus run` use, seen from outside through /proc.

Knows which command is which part of the product, and nothing of what they do. Invariants: the processor time of a part
counts all its threads, its living children and those that it has waited for; a process that is gone is left out.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PARTS = {
    "cfbus.daemons.broker": "broker",
    "cfbus.daemons.writer": "writer",
    "cfbus.daemons.gpu": "worker",
    "cfbus.daemons.lister": "lister",
    "cfbus.store.seal": "seal",
}


@dataclass(frozen=True)
class Usage:
    """Seconds of processor time and bytes of largest resident memory, by part; workers as ``worker 0`` and so on."""

    cpu: dict[str, float] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)

    def later(self, now: Usage) -> Usage:
        """What is known when ``now`` came after: nothing ever shrinks, and parts that are gone keep what they had."""
        cpu = {part: max(self.cpu.get(part, 0.0), now.cpu.get(part, 0.0)) for part in self.cpu | now.cpu}
        worst = {part: max(self.peak.get(part, 0), now.peak.get(part, 0)) for part in self.peak | now.peak}
        return Usage(cpu, worst)


def usage(run: int) -> Usage:
    """What the `cfbus run` with this process id and its children have used so far."""
    found = Usage({"run": _cpu(run, reaped=False)}, {"run": peak(run)})
    for child, part in _children(run).items():
        found.cpu[part] = _cpu(child, reaped=True)
        found.peak[part] = peak(child)
        for grandchild, small in _children(child).items():
            found.cpu[part] += _cpu(grandchild, reaped=True)
            found.peak[small] = peak(grandchild)
    return found


def machine_busy() -> float:
    """Seconds that all cores together have worked since the machine started, for whomever."""
    words = Path("/proc/stat").read_text().splitlines()[0].split()
    user, nice, system, _idle, _waiting, *interrupts_and_stolen = map(int, words[1:9])
    return (user + nice + system + sum(interrupts_and_stolen)) / TICKS


def _children(pid: int) -> dict[int, str]:
    """The children whose part is known, which it is not just after they began and just before they are gone."""
    parts = {int(child): _part(int(child)) for child in _read(pid, f"task/{pid}/children").split()}
    return {child: part for child, part in parts.items() if part is not None}


def _part(pid: int) -> str | None:
    words = _read(pid, "cmdline").split("\0")
    part = next((PARTS[word] for word in words if word in PARTS), None)
    return f"worker {words[words.index('--gpu-id') + 1]}" if part == "worker" else part


def _cpu(pid: int, *, reaped: bool) -> float:
    words = _read(pid, "stat").rpartition(")")[2].split() or ["0"] * 15
    return sum(map(int, words[11 : 15 if reaped else 13])) / TICKS


def peak(pid: int) -> int:
    """Bytes of the largest resident memory of a process since its program began; 0 when it is gone."""
    found = re.search(r"VmHWM:\s+(\d+) kB", _read(pid, "status"))
    return int(found[1]) * 1024 if found else 0


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
