"""The parts of `cfbus-top`'s screen, each a list of lines: the run, workers, quality, contributors, queues, activity.

Pure functions of a snapshot and a width. What strangers wrote goes through ``display()`` in `cfbus.tools.top_lines`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.text import Text

from cfbus.bus.figures import GpuFigures
from cfbus.core.snapshot import Happening, SlotQuality, Standing, Status, WorkerView
from cfbus.tools import progress
from cfbus.tools.top_lines import Column, bar, cut, fill, short_bytes, short_number, spark, table
from cfbus.tools.top_state import LOST_SECONDS, Snapshot

LONG_SILENT_SECONDS = 10.0
_WAITING_FOR_WRITER = ("writer-away", "catching-up", "writer-full", "writer-disk-full")


def state_of(snapshot: Snapshot) -> tuple[str, str]:
    """What the bus is doing, and in which colour: lost, idle and paused cannot be mistaken for each other."""
    status = snapshot.seen.status
    if status is None:
        return f"◌ connecting to {snapshot.endpoint}", "yellow"
    if snapshot.silent > LOST_SECONDS:
        return f"✖ LOST: no word from {snapshot.endpoint} for {snapshot.silent:.0f} s; trying again", "bold red"
    if status.problem:
        return f"✖ {status.problem}", "bold red"
    if status.paused:
        return "‖ PAUSED: nothing new is leased; cfbus-admin resume", "bold yellow"
    if status.finished:
        return ("■ finished: all is captioned" + ("" if status.sealed else ", sealing")), "green"
    if status.why in _WAITING_FOR_WRITER:
        return f"▲ {progress.REASONS.get(status.why, status.why)}", "bold yellow"
    if status.why:
        return f"○ idle: {progress.REASONS.get(status.why, status.why)}", "yellow"
    if not status.workers:
        return "○ idle: no worker is connected", "yellow"
    return "● captioning", "green"


def head(snapshot: Snapshot, width: int) -> Text:
    """Which dataset, what it is doing, what time it is."""
    status = snapshot.seen.status
    words, style = state_of(snapshot)
    frozen = "  FROZEN" if snapshot.view.paused else ""
    clock = f"{frozen}  {snapshot.clock}"
    name = cut(status.dataset, 24) if status else "cfbus"
    line = Text.assemble((name, "bold"), "  ", (cut(words, max(width - len(name) - len(clock) - 2, 8)), style))
    line.pad_right(max(width - line.cell_len - len(clock), 0))
    return line + Text(clock, style="reverse" if frozen else "dim")


def run(snapshot: Snapshot, width: int) -> list[Text]:
    """How far the run is, how fast, how long still."""
    status = snapshot.seen.status
    if status is None:
        return []
    items = max(status.items, 1)
    percent = f"{100 * status.done / items:6.2f} %" if status.items else "      %"
    room = max(width - len(percent) - 2, 10)
    progress_bar = bar(status.done / items, room, status.leased / items)
    counts = [
        f"{status.done:,} of {status.items:,}{' (listing)' if status.listing else ''} images",
        f"{status.leased:,} leased",
        f"{max(status.items - status.done - status.leased, 0):,} left",
    ]
    line = Text("  ".join(counts))
    if status.dead_letters:
        line.append(f"  {status.dead_letters:,} failed", style="red")
    return [progress_bar + Text(f"  {percent}", style="bold"), line, _pace(snapshot, status, width)]


def _pace(snapshot: Snapshot, status: Status, width: int) -> Text:
    per_item = status.captions / status.done if status.done else 0.0
    rates = (status.rate_now, status.rate, status.rate_quarter)
    shown = " · ".join(
        f"{short_number(rate)} {name}" for rate, name in zip(rates, ("now", "1 min", "15 min"), strict=True)
    )
    text = f"images/s {shown}"
    if per_item > 1.05:
        text += f"  captions/s {short_number(status.rate * per_item)}"
    left = progress.left(status)
    line = Text(text + (f"  {left}" if left else ""))
    rates_seen = snapshot.seen.throughput.rates if snapshot.seen.throughput else ()
    room = min(width - line.cell_len - 2, 60)
    if rates_seen and room >= 8:
        line.append("  " + spark(rates_seen, room), style="cyan")
    return line


def doing(worker: WorkerView) -> str:
    """What a worker is at, in a few words."""
    if worker.heard_seconds_ago > LONG_SILENT_SECONDS:
        return f"silent for {worker.heard_seconds_ago:.0f} s"
    if worker.draining:
        return "draining"
    if worker.in_flight or worker.leases:
        return "captioning"
    return "waiting for work" if worker.waiting else "idle"


def state(worker: WorkerView) -> str:
    """The same, and how busy its engine is kept, and why it is not."""
    doing_now, load = doing(worker), worker.load
    if doing_now != "captioning" or load is None:
        return doing_now
    return f"{load.state}: {load.reason}" if load.reason else load.state


def _gpu(worker: WorkerView, tell: Callable[[GpuFigures], str]) -> str:
    """Of the worker's first GPU, where it has one."""
    gpus = worker.host.gpus if worker.host is not None else ()
    return tell(gpus[0]) if gpus else ""


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}%"


def _memory(gpu: GpuFigures) -> str:
    if gpu.memory_used is None or not gpu.memory_total:
        return ""
    return f"{gpu.memory_used / (1 << 30):.0f}/{gpu.memory_total / (1 << 30):.0f}G"


def _tokens(worker: WorkerView) -> str:
    engine = worker.engine
    return "" if engine is None or engine.tokens_per_second is None else short_number(engine.tokens_per_second)


def _colour(worker: WorkerView) -> str:
    doing_now = doing(worker)
    if doing_now.startswith("silent") or (worker.load is not None and worker.load.state == "down"):
        return "red"
    if doing_now != "captioning" or (worker.load is not None and worker.load.state in ("starved", "idle")):
        return "yellow"
    return "green"


def _progress(worker: WorkerView) -> str:
    return f"{100 * worker.captioned / worker.items:.0f}%" if worker.items else ""


WORKER_COLUMNS: tuple[Column[WorkerView], ...] = (
    Column("WORKER", lambda w: w.name, 14, grows=3),
    Column("CONTRIBUTOR", lambda w: w.contributor, 11, grows=2),
    Column("IMG/S", lambda w: short_number(w.rate), 6, right=True),
    Column("TOK/S", _tokens, 6, right=True, from_width=100),
    Column("FLIGHT", lambda w: str(w.in_flight), 6, right=True),
    Column("DONE", _progress, 5, right=True),
    Column("LEASE", lambda w: w.job, 18, grows=3, from_width=100),
    Column("UNACKED", lambda w: short_bytes(w.unacked_bytes), 8, right=True, from_width=120),
    Column("GPU", lambda w: _gpu(w, lambda gpu: _percent(gpu.utilisation)), 4, right=True, from_width=110),
    Column("MEMORY", lambda w: _gpu(w, _memory), 8, right=True, from_width=130),
    Column("TEMP", lambda w: _gpu(w, lambda gpu: "" if gpu.celsius is None else f"{gpu.celsius}°"), 4, True, 0, 130),
    Column("KV", lambda w: _percent(w.engine.kv_usage) if w.engine else "", 4, right=True, from_width=150),
    Column("HITS", lambda w: _percent(w.engine.prefix_hits) if w.engine else "", 4, right=True, from_width=150),
    Column("SEEN", lambda w: f"{w.heard_seconds_ago:.0f}s", 5, right=True),
    Column("STATE", state, 17, grows=1, style=_colour),
)


def workers(snapshot: Snapshot, width: int, height: int) -> list[Text]:
    """As many workers as fit, with the selected one among them."""
    found = snapshot.workers
    room = max(height - 1, 1)
    selected = min(snapshot.view.selected, max(len(found) - 1, 0))
    first = max(min(selected - room // 2, len(found) - room), 0)
    shown = [_named(snapshot, worker) for worker in found[first : first + room]]
    lines = table(WORKER_COLUMNS, shown, width, selected - first if found else None)
    if not found:
        why = f"no worker matches {snapshot.view.filter!r}" if snapshot.view.filter else "no worker is connected"
        lines.append(Text(cut(why, width), style="dim"))
    return lines[:height]


def _named(snapshot: Snapshot, worker: WorkerView) -> WorkerView:
    return worker.model_copy(update={"contributor": snapshot.name_of(worker.contributor)})


def title(text: str, width: int, more: str = "") -> Text:
    """The line above a part."""
    line = Text.assemble(("── ", "dim"), (text, "bold"), (f" {more}" if more else "", "dim"), " ")
    line.append("─" * max(width - line.cell_len, 0), style="dim")
    line.truncate(width)
    return line


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole and part else "-"


QUALITY_COLUMNS: tuple[Column[SlotQuality], ...] = (
    Column("SLOT", lambda q: q.slot, 10, grows=1),
    Column("CAPTIONS", lambda q: short_number(q.captions), 8, right=True),
    Column("TRUNC", lambda q: _share(q.truncated, q.captions), 6, right=True, style=lambda q: _alarm(q.truncated, q)),
    Column("REFUSED", lambda q: _share(q.refused, q.captions), 7, right=True, style=lambda q: _alarm(q.refused, q)),
    Column("REPEAT", lambda q: _share(q.repeated, q.captions), 6, right=True, style=lambda q: _alarm(q.repeated, q)),
    Column("EMPTY", lambda q: _share(q.empty, q.captions), 6, right=True, style=lambda q: _alarm(q.empty, q)),
    Column("LENGTH", lambda q: spark(q.lengths[1:], 11), 11),
)


def _alarm(count: int, quality: SlotQuality) -> str:
    return "red" if quality.captions and count / quality.captions > 0.05 else ""


def quality(snapshot: Snapshot, width: int, height: int) -> list[Text]:
    """By slot: how many, which flags, how long (16 bytes and below to 8 KiB and above)."""
    slots = snapshot.seen.quality.slots if snapshot.seen.quality else ()
    head_line = title("Quality", width, "since the writer started")
    return [head_line, *table(QUALITY_COLUMNS, slots, width)][:height]


CONTRIBUTOR_COLUMNS: tuple[Column[Standing], ...] = (
    Column("CONTRIBUTOR", lambda s: s.name, 14, grows=1),
    Column("CAPTIONS", lambda s: f"{s.captions:,}", 13, right=True),
    Column("WORKERS", lambda s: str(s.workers), 7, right=True),
    Column("IMG/S", lambda s: short_number(s.rate), 6, right=True),
)


def contributors(snapshot: Snapshot, width: int, height: int) -> list[Text]:
    """Who has written how much."""
    board = snapshot.seen.leaderboard
    rows: Sequence[Standing] = board.contributors if board else ()
    more = f"{board.total} in all" if board and board.total > height - 2 else ""
    return [title("Contributors", width, more), *table(CONTRIBUTOR_COLUMNS, rows, width)][:height]


def queues(snapshot: Snapshot, width: int) -> Text:
    """What waits where."""
    status = snapshot.seen.status
    if status is None:
        return Text()
    parts = [
        f"unacked {short_bytes(status.unacked_bytes)}",
        f"window {short_bytes(status.window)}",
        f"unsealed {short_bytes(status.unsealed_bytes)}",
        f"writer {status.writer}",
        f"to try again {status.to_try_again}",
        f"leases {status.leases_granted} (backup {status.backups_granted})",
        f"refused {status.results_refused + status.messages_refused}",
        f"duplicates {status.duplicates}",
    ]
    line = Text("Queues  ", style="dim")
    for part in parts:
        if line.cell_len + len(part) > width:
            break
        line.append(part + "  ", style="")
    return line


def activity(snapshot: Snapshot, width: int, height: int) -> list[Text]:
    """What happened last, the newest at the bottom."""
    events = snapshot.seen.activity.events if snapshot.seen.activity else ()
    room = max(height - 1, 0)
    lines = [_event(event, width) for event in events[-room:]] if room else []
    return [title("Activity", width), *lines][:height]


def _event(event: Happening, width: int) -> Text:
    at = time.strftime("%H:%M:%S", time.localtime(event.at))
    facts = " ".join(f"{name}={cut(value, 60)}" for name, value in event.facts)
    line = Text.assemble((at, "dim"), " ", (fill(event.event, 18), "bold"), " ", cut(facts, max(width - 28, 1)))
    line.truncate(width)
    return line


def detail(snapshot: Snapshot, worker: WorkerView, width: int) -> list[Text]:
    """All that is known of one worker."""
    rows = [
        ("contributor", snapshot.name_of(worker.contributor)),
        ("instance", worker.instance),
        ("state", state(worker)),
        ("images/s", f"{worker.rate:,.2f}"),
        ("in flight", f"{worker.in_flight:,}"),
        ("leases", f"{worker.leases}: {worker.captioned:,} of {worker.items:,} images captioned"),
        ("lease", worker.job or "none"),
        ("unacknowledged", short_bytes(worker.unacked_bytes)),
        ("last seen", f"{worker.heard_seconds_ago:.1f} s ago"),
        *_engine_rows(worker),
        *_host_rows(worker),
    ]
    lines = [title(cut(worker.name, 40), width, "enter or escape: back")]
    for name, value in rows:
        lines.append(Text.assemble((fill(name, 16), "dim"), cut(value, max(width - 16, 1))))
    return lines


def _engine_rows(worker: WorkerView) -> list[tuple[str, str]]:
    engine = worker.engine
    if engine is None:
        return []
    parts = [f"{engine.reading} reading", f"{engine.decoding} decoding", f"{engine.running} running"]
    parts += [f"{engine.waiting} waiting"] if engine.waiting else []
    shares = {"KV cache": engine.kv_usage, "prefix hits": engine.prefix_hits, "image hits": engine.image_hits}
    known = [f"{name} {_percent(share)}" for name, share in shares.items() if share is not None]
    tokens = [f"{_tokens(worker)} tokens/s"] if engine.tokens_per_second is not None else []
    return [("engine", ", ".join(parts)), *([("", ", ".join(known + tokens))] if known or tokens else [])]


def _host_rows(worker: WorkerView) -> list[tuple[str, str]]:
    host = worker.host
    if host is None:
        return []
    rows = []
    for number, gpu in enumerate(host.gpus):
        facts = [gpu.name or "", _percent(gpu.utilisation), _memory(gpu)]
        facts += ["" if gpu.celsius is None else f"{gpu.celsius} °C", "" if gpu.watts is None else f"{gpu.watts:.0f} W"]
        rows.append((f"GPU {number}", ", ".join(fact for fact in facts if fact)))
    return rows + ([("driver", host.driver)] if host.driver else [])


HELP = (
    ("q, Ctrl-C", "leave"),
    ("s, S", "sort by the next, the previous column"),
    ("/", "show only workers whose name, contributor or lease has this; escape: all"),
    ("↑ ↓, j k", "choose a worker; enter: all about it"),
    ("tab", "quality, contributors, activity: which has the most room"),
    ("p, space", "freeze the screen; the run goes on"),
    ("?", "this page; any key: back"),
)


def help_page(width: int) -> list[Text]:
    """What the keys do."""
    lines = [title("Keys", width)]
    lines += [Text.assemble((fill(keys, 12), "bold"), cut(what, max(width - 12, 1))) for keys, what in HELP]
    return lines
