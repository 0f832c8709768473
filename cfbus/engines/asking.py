"""What is asked of an item: the prompts of its slots, with its columns in their places.

Knows prompts and columns; no engine, no picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cfbus.bus.messages import FailedItem, Spec
from cfbus.core.outcome import WorkItem
from cfbus.core.overriding import overridden
from cfbus.core.prompts import MissingColumnError, filled
from cfbus.sources.base import ReadError, ReadReason

Asked = tuple[str | None, ...]
"""A prompt for each slot of an item; None for a slot that is not to be asked."""


def asked(spec: Spec, slots: Sequence[str], columns: Mapping[str, object]) -> Asked:
    """The prompts of these slots. Raises ReadError when a column is missing that must not be."""
    prompts = {slot.name: slot.prompt for slot in spec.slots}
    try:
        return tuple(filled(prompts[name], columns, spec.missing_column) for name in slots)
    except MissingColumnError as error:
        detail = f"It has no column {error.name!r}, which a prompt needs (captions.missing_column: fail)."
        raise ReadError(ReadReason.MISSING_COLUMN, detail, "item") from None


def spec_for(spec: Spec, item: WorkItem) -> Spec | FailedItem:
    """What an item is captioned by, or why it cannot be."""
    failure = unknown_slot(spec, item)
    if failure is not None:
        return failure
    try:
        return overridden(spec, item.overrides)
    except ValueError as error:
        return FailedItem(index=item.index, reason="overrides", detail=str(error)[:512], fault="worker")


def unknown_slot(spec: Spec, item: WorkItem) -> FailedItem | None:
    """Why an item cannot be captioned by this spec at all, if it cannot."""
    known = {slot.name for slot in spec.slots}
    unknown = next((name for name in item.slots if name not in known), None)
    if unknown is None:
        return None
    detail = f"The configuration has no prompt for the slot {unknown!r}."
    return FailedItem(index=item.index, reason="unknown-slot", detail=detail, fault="worker")
