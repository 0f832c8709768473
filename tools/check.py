"""`cfbus check`: what a run would do, tried on the first items, and every mistake that can be found before it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from cfbus import config
from cfbus.errors import EXIT_DONE, CfbusError, UsageError
from cfbus.logs import display
from cfbus.runtime import last_frame
from cfbus.sources.opening import open_source
from cfbus.tools import findings
from cfbus.tools.findings import Finding
from cfbus.tools.screen import answer, screen
from cfbus.tools.trial import Trial, Tried, trial

SHOWN_CHARS = 300


def check(settings: config.Config, items: int, seconds: float, console: Console) -> tuple[Trial | None, list[Finding]]:
    """Try it; what was tried (None when there is nothing to try), and what was found."""
    found = [finding for of in findings.SETTINGS_CHECKS for finding in of(settings)]
    if settings.dataset.source != "scripted" and not settings.dataset.paths:
        error = UsageError("dataset.paths names nothing.", "Name folders of pictures, or tars.")
        return None, [findings.grave(error), *found]
    try:
        source = open_source(settings.dataset)
        with console.status("listing …") as status:
            tried = trial(settings, source, items, seconds, lambda n: status.update(f"listing: {n:,} items so far"))
        source.close()
    except CfbusError as error:
        return None, [findings.grave(error), *found]
    found += [*findings.of_store(settings), *findings.of_columns(settings, tried.columns), *findings.of_items(tried)]
    return tried, [*found, *findings.of_room(settings, tried.counted.items)]


def as_text(loaded: config.Loaded, tried: Trial | None, found: Sequence[Finding]) -> Iterator[str]:
    """All of it for a person."""
    settings = loaded.config
    yield f"Configuration: {display(str(loaded.path or 'defaults'), SHOWN_CHARS)}"
    dataset = settings.dataset
    yield f"Dataset: {display(dataset.name, 100)} ({dataset.source}), engine {settings.captions.engine}"
    if tried is not None:
        yield from _tried_text(settings, tried)
    bad = [finding for finding in found if finding.grave]
    for title, some in (("Remarks", [each for each in found if not each.grave]), ("Problems", bad)):
        if some:
            yield f"\n{title}:"
        for finding in some:
            yield f"  {display(finding.sentence, 2000)}"
            if finding.hint:
                yield f"    {display(finding.hint, 500)}"
    yield f"\n{len(bad)} problem{'s' if len(bad) > 1 else ''} found." if bad else "\nNo problem found."


def _tried_text(settings: config.Config, tried: Trial) -> Iterator[str]:
    counted = tried.counted
    least = "" if counted.whole else "at least "
    yield f"Items: {least}{counted.items:,} in {least}{counted.shards:,} shards"
    if counted.left_out.count:
        yield f"Left out: {counted.left_out.count:,} things, {counted.left_out.grave:,} of which may hold images"
    yield f"\nThe first {len(tried.tried)} items:"
    yield from map(_item_text, tried.tried)
    columns = tried.columns.have
    if columns:
        yield "\nColumns (of how many of these items, and one of them):"
    width = max(map(len, columns), default=0)
    for name, count in sorted(columns.items(), key=lambda pair: (-pair[1], pair[0])):
        value = next(one.loaded.columns[name] for one in tried.tried if one.loaded and name in one.loaded.columns)
        cell = display(json.dumps(value, ensure_ascii=False), 120)
        yield f"  {display(name, 60):<{min(width, 60)}}  {count:>3}  {cell}"
    for slot, prompt in tried.prompts.items():
        said = "(not asked: a column is missing)" if prompt is None else display(prompt, 1000)
        yield f"\nPrompt of {slot}: {said}"
    if tried.row:
        instead = (
            " (no model was loaded: its caption is only a measurement)" if settings.captions.engine == "vllm" else ""
        )
        yield f"\nA row, as it would be{instead}:"
    for name, value in tried.row.items():
        shown = value.hex() if isinstance(value, bytes) else str(value)
        yield f"  {name:<16} {display(shown, SHOWN_CHARS)}"


def _item_text(one: Tried) -> str:
    size = f"{len(one.loaded.data):>12,} bytes" if one.loaded else " " * 18
    image = one.outcome.image
    facts = f"{image.format} {image.width}x{image.height}" if image.width > 0 else ""
    return f"  {display(one.item.key, 60):<40} {size}  {display(one.problem, SHOWN_CHARS) or facts}"


def as_json(loaded: config.Loaded, tried: Trial | None, found: Sequence[Finding]) -> str:
    """All of it for scripts, in one line."""
    said: dict[str, object] = {
        "config": str(loaded.path) if loaded.path else None,
        "findings": [asdict(finding) for finding in found],
    }
    if tried is not None:
        counted = tried.counted
        said |= {
            "items": counted.items, "shards": counted.shards, "counted_all": counted.whole,
            "left_out": counted.left_out.count, "columns": tried.columns.have, "prompts": tried.prompts,
            "row": tried.row,
            "tried": [{"key": one.item.key, "problem": one.problem} for one in tried.tried],
        }  # fmt: skip
    return json.dumps(said, default=lambda value: value.hex() if isinstance(value, bytes) else str(value))


@click.command()
@click.argument("config_file", metavar="[CONFIG]", required=False, type=click.Path(path_type=Path, readable=False))
@click.option("--items", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many items to try.")
@click.option(
    "--seconds", type=click.FloatRange(0), default=60.0, show_default=True, help="How long to count items at most."
)
@click.option("--json", "in_json", is_flag=True, help="One line of JSON, for scripts.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Set one key of the configuration.")
def command(config_file: Path | None, items: int, seconds: float, in_json: bool, overrides: tuple[str, ...]) -> None:
    """Try a configuration: the first items, their columns, prompts and a row; and find what is wrong with it."""

    def go() -> int:
        loaded = config.load("check", config_file, overrides, os.environ)
        config.check_effects(loaded)
        tried, found = check(loaded.config, items, seconds, screen(sys.stderr))
        answer(as_json(loaded, tried, found) if in_json else "\n".join(as_text(loaded, tried, found)))
        return next((finding.exit_code for finding in found if finding.grave), EXIT_DONE)

    sys.exit(last_frame(go))
