"""Any bytes become a message or a WireError; any message becomes bytes and itself again."""

from __future__ import annotations

import types
import typing
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as at
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cfbus.bus import messages as m
from cfbus.bus.fields import MAX_HEADER_BYTES
from cfbus.bus.wire import MAGIC, WireError, decode, encode, pack_small, unpack_small

FEW = 4
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@st.composite
def ascending_ranges(draw: st.DrawFn, least: int = 0) -> m.Ranges:
    cuts = draw(st.sets(st.integers(0, 1 << 31), min_size=2 * least, max_size=2 * FEW))
    ordered = sorted(cuts)[: len(cuts) // 2 * 2]
    return tuple(zip(ordered[::2], ordered[1::2], strict=True))


def _flat(metadata: typing.Iterable[Any]) -> list[Any]:
    return [part for item in metadata for part in (item.metadata if isinstance(item, FieldInfo) else [item])]


def _limit(metadata: list[Any], *names: str) -> Any:
    found = (getattr(part, name, None) for part in metadata for name in names)
    return next((value for value in found if value is not None), None)


def strategy(annotation: Any, metadata: list[Any]) -> st.SearchStrategy[Any]:
    """Values of a field, from what pydantic knows of it."""
    if get_origin(annotation) is Annotated:
        base, *more = get_args(annotation)
        return strategy(base, [*_flat(more), *metadata])
    if "_ascending" in str(metadata):
        return ascending_ranges(_limit(metadata, "min_length") or 0)
    if get_origin(annotation) in (Union, types.UnionType):
        return st.one_of(*(strategy(option, metadata) for option in get_args(annotation)))
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    if get_origin(annotation) is tuple:
        return _tuple(annotation, metadata)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return of_model(annotation)
    return _scalar(annotation, metadata)


def _tuple(annotation: Any, metadata: list[Any]) -> st.SearchStrategy[Any]:
    inner = get_args(annotation)
    if not inner:
        return st.just(())
    if inner[-1] is ...:
        low = _limit(metadata, "min_length") or 0
        return st.lists(strategy(inner[0], []), min_size=low, max_size=max(low, FEW)).map(tuple)
    return st.tuples(*(strategy(part, []) for part in inner))


def _scalar(annotation: Any, metadata: list[Any]) -> st.SearchStrategy[Any]:
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return st.sampled_from(annotation)
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        low, above = _limit(metadata, "ge"), _limit(metadata, "gt")
        high, below = _limit(metadata, "le"), _limit(metadata, "lt")
        return st.integers(above + 1 if low is None else low, below - 1 if high is None else high)
    if annotation is float:
        return st.floats(_limit(metadata, "ge"), _limit(metadata, "le"), allow_nan=False, allow_infinity=False)
    if annotation is type(None):
        return st.none()
    assert annotation is str, annotation
    pattern = _limit(metadata, "pattern")
    if pattern:
        return st.from_regex(pattern.replace("$", r"\Z"), fullmatch=True)
    return st.text(
        st.characters(exclude_categories=["Cs"]),
        min_size=_limit(metadata, "min_length") or 0,
        max_size=min(_limit(metadata, "max_length"), 40),
    )


def of_model(model: type[BaseModel]) -> st.SearchStrategy[Any]:
    """Models with all their fields."""
    fields = {name: strategy(field.annotation, _flat(field.metadata)) for name, field in model.model_fields.items()}
    return st.builds(model, **fields)


@pytest.mark.parametrize("kind", m.MESSAGES, ids=lambda kind: kind.TAG)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_message_comes_back_as_it_was(kind: type[m.Message], data: st.DataObject) -> None:
    message = data.draw(of_model(kind))
    payload = data.draw(st.binary(max_size=40)) if kind.PAYLOAD else b""
    frames = encode(message, payload)
    assert decode(frames) == (message, payload)
    assert decode([memoryview(frame) for frame in frames]) == (message, payload)


@settings(max_examples=200, deadline=20_000)
@given(st.lists(st.binary(max_size=300), max_size=4))
def test_any_frames_are_a_message_or_refused(frames: list[bytes]) -> None:
    _decode_or_refuse(frames)
    _decode_or_refuse([MAGIC, *frames])


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text() | st.binary() | st.integers(0, 9), inner),
    max_leaves=20,
)


@settings(max_examples=200, deadline=20_000)
@given(st.sampled_from(m.MESSAGES), st.data())
def test_any_header_is_a_message_or_refused(kind: type[m.Message], data: st.DataObject) -> None:
    """Right names with wrong values, and wrong names."""
    names = st.sampled_from([*kind.model_fields, "t", "other"])
    fields = data.draw(st.dictionaries(names, PLAIN, max_size=12))
    header = _pack({"t": kind.TAG, **fields})
    _decode_or_refuse([MAGIC, header, b""] if kind.PAYLOAD else [MAGIC, header])


@settings(max_examples=150, deadline=20_000)
@given(of_model(m.Renewed), st.integers(0, 2000), st.integers(0, 255))
def test_a_flipped_byte_is_a_message_or_refused(message: m.Message, where: int, byte: int) -> None:
    magic, header = encode(message)
    changed = bytearray(header)
    changed[where % len(changed)] = byte
    _decode_or_refuse([magic, bytes(changed)])
    _decode_or_refuse([magic, header[: where % len(header)]])


def _pack(value: object) -> bytes:
    try:
        packed: bytes = msgpack.packb(value)
    except (ValueError, UnicodeEncodeError):  # a lone surrogate cannot be sent
        return b"\xc1"
    return packed


def _decode_or_refuse(frames: list[bytes]) -> None:
    try:
        message, payload = decode(frames)
    except WireError:
        return
    assert decode(encode(message, payload)) == (message, payload)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([], "frames"),
        ([MAGIC], "frames"),
        ([MAGIC, b"", b"", b""], "frames"),
        ([b"CFB\x02", b"\x80"], "version"),
        ([b"HTTP", b"\x80"], "magic"),
        ([b"", b"\x80"], "magic"),
        ([MAGIC, b""], "msgpack"),
        ([MAGIC, b"\x80" + b"\x00"], "msgpack"),
        ([MAGIC, b"\x91" * 60_000], "msgpack"),
        ([MAGIC, b"\x81" * 60_000], "msgpack"),
        ([MAGIC, b"\xdd\xff\xff\xff\xff"], "msgpack"),
        ([MAGIC, b"\xdf\xff\xff\xff\xff"], "msgpack"),
        ([MAGIC, b"\xc6\xff\xff\xff\xff"], "msgpack"),
        ([MAGIC, b"\xd6\xff\x00\x00\x00\x00"], "msgpack"),
        ([MAGIC, bytes(MAX_HEADER_BYTES + 1)], "header-size"),
        ([MAGIC, b"\x90"], "header"),
        ([MAGIC, msgpack.packb({"t": "NOPE"})], "tag"),
        ([MAGIC, msgpack.packb({"t": ["HELLO"]})], "tag"),
        ([MAGIC, msgpack.packb({})], "tag"),
        ([MAGIC, msgpack.packb({"t": "RESEND"}), b""], "frames"),
        ([MAGIC, msgpack.packb({"t": "RESULT"})], "frames"),
        ([MAGIC, msgpack.packb({"t": "SINCE", "shards": "1"})], "fields"),
        ([MAGIC, msgpack.packb({"t": "SINCE", "shards": True})], "fields"),
        ([MAGIC, msgpack.packb({"t": "SINCE", "shards": 1, "more": 1})], "fields"),
        ([MAGIC, msgpack.packb({"t": "WAIT", "reason": "x", "ask_again": float("nan")})], "fields"),
        ([MAGIC, msgpack.packb({"t": "WAIT", "reason": "x" * 65, "ask_again": 1.0})], "fields"),
        ([MAGIC, b"\x82\xa1t\xa5SINCE\xa6shards\xd3\xff\xff\xff\xff\xff\xff\xff\xff"], "fields"),
        ([MAGIC, b"\x81\xa1t\xa2\xff\xff"], "msgpack"),
    ],
)
def test_what_is_wrong_is_named(frames: list[bytes], code: str) -> None:
    with pytest.raises(WireError) as caught:
        decode(frames)
    assert caught.value.code == code
    assert len(str(caught.value)) < 500


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_records_of_our_own_are_maps_or_refused(data: bytes) -> None:
    try:
        fields = unpack_small(data)
    except WireError:
        return
    assert isinstance(fields, dict)


def test_records_of_our_own_come_back() -> None:
    assert unpack_small(pack_small({"a": b"x", "b": 1})) == {"a": b"x", "b": 1}


def test_limits_are_known_to_the_strategies() -> None:
    """If pydantic names its limits otherwise one day, the tests above would draw too little."""
    assert isinstance(_flat(m.Since.model_fields["shards"].metadata)[0], at.Ge)
