"""Messages and tables to frames and back. The only module that imports msgpack.

A message on the wire is two or three frames: ``b"CFB"`` and the version byte; the header, a msgpack map
with the tag under ``"t"`` and the message's fields; and, for messages that have one, the payload.
Knows nothing of sockets. Any bytes at all become a message or a ``WireError``, never another exception,
and cost no more than their length: msgpack is unpacked with explicit limits, no ext types, no timestamps.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
from pydantic import ValidationError

from cfbus.bus.columns import Table, TableError, from_plain, to_plain
from cfbus.bus.fields import MAX_FRAME_BYTES, MAX_HEADER_BYTES, PROTOCOL_VERSION
from cfbus.bus.messages import BY_TAG, Message

MAGIC = b"CFB" + bytes([PROTOCOL_VERSION])
MAX_CONTAINER = 70_000
Buffer = bytes | memoryview


class WireError(ValueError):
    """Bytes that are no message. ``code`` is the name under which the refusal is counted."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def encode(message: Message, payload: bytes = b"") -> list[bytes]:
    """The frames of a message, without routing id."""
    fields = message.model_dump(exclude_defaults=True)
    fields["t"] = message.TAG
    header = msgpack.packb(fields, use_bin_type=True)
    return [MAGIC, header, payload] if message.PAYLOAD else [MAGIC, header]


def decode(frames: Sequence[Buffer]) -> tuple[Message, bytes]:
    """The message in these frames (without routing id) and its payload, or ``WireError``."""
    if not 2 <= len(frames) <= 3:
        raise WireError("frames", f"A message has 2 or 3 frames, not {len(frames)}.")
    _check_magic(bytes(frames[0][:8]))
    if len(frames[1]) > MAX_HEADER_BYTES:
        raise WireError("header-size", "The header is too large.")
    fields = _unpack(frames[1])
    if not isinstance(fields, dict):
        raise WireError("header", "The header is not a map.")
    tag = fields.pop("t", None)
    kind = BY_TAG.get(tag) if isinstance(tag, str) else None
    if kind is None:
        raise WireError("tag", "The header names no known message.")
    if (len(frames) == 3) != kind.PAYLOAD:
        raise WireError("frames", f"{kind.TAG} has a payload frame too many or too few.")
    try:
        message = kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:100]
        raise WireError("fields", f"{kind.TAG}: {where}: {first['msg'][:200]}") from None
    return message, bytes(frames[2]) if kind.PAYLOAD else b""


def _check_magic(frame: bytes) -> None:
    if frame == MAGIC:
        return
    if len(frame) == len(MAGIC) and frame[:3] == MAGIC[:3]:
        raise WireError(
            "version",
            f"This is protocol {frame[3]}, we speak {PROTOCOL_VERSION}; use the same release of cfbus.",
        )
    raise WireError("magic", "This is not a cfbus message.")


def _unpack(data: Buffer) -> object:
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            use_list=False,
            strict_map_key=True,
            ext_hook=_no_ext,
            max_str_len=MAX_FRAME_BYTES,
            max_bin_len=MAX_FRAME_BYTES,
            max_array_len=MAX_CONTAINER,
            max_map_len=256,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, MemoryError, msgpack.UnpackException) as error:
        raise WireError("msgpack", f"The bytes are no msgpack within our limits ({type(error).__name__}).") from None


def _no_ext(code: int, data: bytes) -> object:
    raise ValueError("ext types are not used here")


def encode_table(table: Table) -> bytes:
    """A table as a payload."""
    packed: bytes = msgpack.packb(to_plain(table), use_bin_type=True)
    return packed


def decode_table(kind: str, payload: Buffer) -> Table:
    """The whole table in a payload, or ``WireError``."""
    try:
        return from_plain(kind, _unpack(payload))
    except TableError as error:
        raise WireError("table", f"{kind}: {error}.") from None


def checksum(payload: Buffer) -> int:
    """CRC-32 of a payload, as headers and the journal carry it."""
    return zlib.crc32(payload)


def pack_small(fields: Mapping[str, Any]) -> bytes:
    """Small trusted records of our own (spool files), packed."""
    packed: bytes = msgpack.packb(fields, use_bin_type=True)
    return packed


def unpack_small(data: bytes) -> Mapping[str, Any]:
    """A record of ``pack_small``, or ``WireError``."""
    fields = _unpack(data)
    if not isinstance(fields, dict):
        raise WireError("record", "The record is not a map.")
    return fields
