"""The protocol's own rules: closed models, bounded fields, who may say what."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from cfbus.bus import messages as m
from cfbus.bus.fields import (
    MAX_HEADER_BYTES,
    MAX_PROMPT_CHARS,
    MAX_PROMPTS_BYTES,
    MAX_RANGES,
    MAX_STAGES,
    Model,
    Sampling,
    Stage,
)
from cfbus.bus.figures import MAX_GPUS, EngineFigures, GpuFigures, HostFigures, Load
from cfbus.bus.wire import encode

WIDE = "\N{GRINNING FACE}"  # four bytes
ID = "0" * 16
NUMBER = (1 << 53) - 1
SPREAD = tuple((2**31 - 2 - 2 * at, 2**31 - 1 - 2 * at) for at in reversed(range(MAX_RANGES)))
SLOT_NAMES = tuple(f"s{at:031d}" for at in range(16))


def spec() -> m.Spec:
    """As large as one may be."""
    stops = tuple(f"{at}" for at in range(10))
    sampling = Sampling(
        temperature=0.7, top_p=0.9, top_k=10**6, min_p=0.1, max_tokens=65536, repetition_penalty=1.1,
        presence_penalty=0.1, frequency_penalty=0.1, stop=(*stops, "x" * 214), seed=(1 << 63) - 1,
        skip_special_tokens=False,
    )  # fmt: skip
    share = (MAX_PROMPTS_BYTES // 16 - 224) // 4
    slots = tuple(
        m.Slot(name=name, stage=name, prompt=WIDE * share, prompt_id="p" * 32, sampling=sampling) for name in SLOT_NAMES
    )
    names = SLOT_NAMES[:MAX_STAGES]
    return m.Spec(
        hash=ID,
        engine="scripted",
        model=Model(name=WIDE * 512, revision=WIDE * 200),
        options=tuple((name, 1.5) for name in SLOT_NAMES),
        pixel_budget=1 << 28,
        max_pixels=1 << 32,
        stages=tuple(Stage(name=name, requires=names, output_field=name, image=True) for name in names),
        slots=slots,
    )


def figures() -> tuple[EngineFigures, Load, HostFigures]:
    """As large as they may be, on the wire and in JSON."""
    odd = 0.12345678901234567
    engine = EngineFigures(
        reading=NUMBER,
        decoding=NUMBER,
        running=NUMBER,
        waiting=NUMBER,
        level=NUMBER,
        kv_usage=odd,
        prefix_hits=odd,
        image_hits=odd,
        tokens_per_second=987654321.12345678,
    )
    load = Load(state="saturated", reason="window-closed", starved=odd, images_per_second=987654321.12345678)
    gpu = GpuFigures(
        name="x" * 64, utilisation=odd, memory_used=NUMBER, memory_total=NUMBER, celsius=-100, watts=12345.678901234567
    )
    return engine, load, HostFigures(driver="x" * 64, gpus=(gpu,) * MAX_GPUS)


def heartbeat() -> m.Heartbeat:
    engine, load, host = figures()
    return m.Heartbeat(
        rate=0.1, in_flight=NUMBER, held=NUMBER, unacked_bytes=NUMBER, engine=engine, load=load, host=host
    )


def largest() -> list[m.Message]:
    """Messages as large as a peer may make them. (COMMIT, ACK, RENEWED and STATE are bounded by those who build them,
    see the tests of the cores.)"""
    failed = m.FailedItem(index=2**31 - 1, reason=WIDE * 64, detail=WIDE * 512, fault="network")
    origin = m.Origin(
        contributor=WIDE * 64, key=WIDE * 64, job=WIDE * 600, pass_number=1 << 30, shard=1 << 30, received=NUMBER
    )
    return [
        m.Hello(
            role=m.Role.WRITER, instance=ID, software=WIDE * 64, name=WIDE * 64, concurrency=100_000, held=(ID,) * 512,
            store=m.StoreFacts(store_id=ID, dataset=WIDE * 256, position=NUMBER),
        ),
        m.Welcome(
            software=WIDE * 64, store_id=ID, dataset=WIDE * 256, heartbeat_seconds=0.1, lease_seconds=0.1,
            window=NUMBER, generation=NUMBER, spec=spec(), lost=(ID,) * 512,
        ),
        m.Grant(
            lease=ID, pass_number=1 << 30, shard=1 << 30, shard_name=WIDE * 512, start=0, end=1 << 31, done=SPREAD,
            slots=SLOT_NAMES, backup=True, ttl=0.1, window=NUMBER,
        ),
        m.Renew(leases=(m.HeldLease(lease=ID, captioned=NUMBER),) * 256, unacked_bytes=NUMBER, rate=0.1),
        heartbeat(),
        m.Result(lease=ID, instance=ID, number=NUMBER, ranges=SPREAD, size=1 << 19, crc=(1 << 32) - 1, origin=origin),
        m.Failed(lease=ID, instance=ID, number=NUMBER, items=(failed,) * m.MAX_FAILED_ITEMS),
        m.Release(lease=ID, ranges=SPREAD),
        m.Task(task=ID, kind="open-pass", slots=SLOT_NAMES),
        m.Done(task=ID, problem=WIDE * 1024, count=NUMBER),
        m.State(
            table="shards", first=NUMBER, position=NUMBER, snapshot=True, page=NUMBER, last=True,
            passes=(m.PassFacts(number=1 << 30, slots=SLOT_NAMES),) * 64,
        ),
        m.Tally(
            slots=(m.SlotTally(slot=SLOT_NAMES[0], captions=NUMBER, tokens=NUMBER, flags=(NUMBER,) * 4,
                   lengths=(NUMBER,) * 12),) * 64,
            credits=(m.Credit(contributor=WIDE * 64, captions=NUMBER),) * 64, contributors=NUMBER,
            unsealed_bytes=NUMBER,
        ),
        m.Admin(request=ID, verb=WIDE * 64, arguments=((WIDE * 64, WIDE * 1024),) * 8, page=NUMBER),
        m.Reply(request=ID, facts=((WIDE * 64, WIDE * 256),) * 40, problem=WIDE * 1024, page=NUMBER, pages=NUMBER),
        m.Enrol(public="x" * 40, name=WIDE * 64, dataset=WIDE * 256),
        m.Enrolled(
            state="suspended", now=NUMBER, dataset=WIDE * 256, key_expires=NUMBER, code=WIDE * 64, sentence=WIDE * 1024
        ),
        m.Error(code=WIDE * 64, sentence=WIDE * 1024, retry_after=0.1, fatal=True),
    ]  # fmt: skip


@pytest.mark.parametrize("message", largest(), ids=lambda message: message.TAG)
def test_no_header_is_larger_than_a_header_may_be(message: m.Message) -> None:
    assert type(message).model_validate(message.model_dump()) == message
    assert len(encode(message)[1]) <= MAX_HEADER_BYTES


def test_a_specs_texts_are_bounded_together_whatever_they_are() -> None:
    stops = tuple("x" * 256 for _ in range(32))
    sampling = spec().slots[0].sampling
    assert sampling is not None
    wordy = sampling.model_copy(update={"stop": stops})
    slots = tuple(m.Slot(name=name, prompt="x", prompt_id="p", sampling=wordy) for name in SLOT_NAMES)
    m.Spec(hash=ID, engine="vllm", pixel_budget=1, max_pixels=1, slots=slots[:3])
    with pytest.raises(ValidationError, match="prompts of all slots together"):
        m.Spec(hash=ID, engine="vllm", pixel_budget=1, max_pixels=1, slots=slots)


def test_all_prompts_of_a_spec_have_to_fit_together() -> None:
    slots = tuple(m.Slot(name=f"s{at}", prompt="x" * MAX_PROMPT_CHARS, prompt_id="p") for at in range(5))
    m.Spec(hash=ID, engine="palette", pixel_budget=1, max_pixels=1, slots=slots[:4])
    with pytest.raises(ValidationError, match="prompts of all slots together"):
        m.Spec(hash=ID, engine="palette", pixel_budget=1, max_pixels=1, slots=slots)


@pytest.mark.parametrize(
    "ranges",
    [((1, 1),), ((2, 1),), ((-1, 1),), ((0, 2), (2, 3)), ((0, 2), (1, 3)), ((4, 5), (0, 1)), ((0, (1 << 31) + 1),)],
)
def test_ranges_ascend_and_lie_apart(ranges: m.Ranges) -> None:
    with pytest.raises(ValidationError):
        m.Release(lease=ID, ranges=ranges)


@pytest.mark.parametrize("lease", ["", "0" * 15, "0" * 17, "0" * 15 + "G", "0" * 15 + "A", "0" * 16 + "\n"])
def test_ids_are_sixteen_hexadecimal_digits(lease: str) -> None:
    with pytest.raises(ValidationError):
        m.Release(lease=lease)


def test_messages_are_frozen_and_closed() -> None:
    with pytest.raises(ValidationError):
        m.Since(shards=1).shards = 2  # type: ignore[misc]
    with pytest.raises(ValidationError):
        m.Since.model_validate({"shards": 1, "more": 2})


def test_every_message_has_a_tag_of_its_own_and_prose() -> None:
    assert len(m.BY_TAG) == len(m.MESSAGES)
    assert all(kind.TAG and kind.__doc__ for kind in m.MESSAGES)


def test_what_no_role_may_say_only_the_broker_says() -> None:
    said = frozenset().union(*m.MAY_SEND.values())
    unsaid = {kind.TAG for kind in m.MESSAGES} - {kind.TAG for kind in said}
    assert unsaid == {
        "WELCOME",
        "CONFIG",
        "ENROLLED",
        "GRANT",
        "WAIT",
        "ALLOW",
        "FORBID",
        "FETCH",
        "DATA",
        "RENEWED",
        "SINCE",
        "ACK",
        "RESEND",
        "INDEX",
        "TASK",
        "REPLY",
        "ERROR",
    }
    assert set(m.MAY_SEND) == set(m.Role)


@pytest.mark.parametrize("kind", m.MESSAGES, ids=lambda kind: kind.TAG)
def test_every_message_has_its_line_in_the_table_of_roles(kind: type[m.Message]) -> None:
    assert kind in m.SENDERS, f"say in SENDERS who may send {kind.TAG}, if anybody"
    assert m.Role.MONITOR not in m.SENDERS[kind], "monitors do not speak to the broker"


@pytest.mark.parametrize("text", ["", "x" * 65, 'a"', "a\\b", "a\n", "\x1b[2J", WIDE])
def test_what_a_stranger_calls_a_gpu_is_short_and_plain(text: str) -> None:
    with pytest.raises(ValidationError):
        GpuFigures(name=text)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), float("inf")])
def test_shares_are_shares(share: float) -> None:
    with pytest.raises(ValidationError):
        EngineFigures(kv_usage=share)
