"""Real pictures of every mode, and hostile bytes."""

from __future__ import annotations

import hashlib
import io
import math
import pickle  # noqa: TID251 - the test is that errors survive it
import re
import struct
import zlib
from collections.abc import Callable, Iterator

import hostile_pictures as hostile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from cfbus.images import FORMATS, ImageError, Limits, Picture, Reason, bounded, decode

LIMITS = Limits()
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixel(picture: Picture, x: int, y: int) -> tuple[int, ...]:
    at = 3 * (y * picture.width + x)
    return tuple(picture.pixels[at : at + 3])


def near(seen: tuple[int, ...], wanted: tuple[int, ...], by: int = 12) -> bool:
    return all(abs(a - b) <= by for a, b in zip(seen, wanted, strict=True))


def noise(width: int, height: int) -> Image.Image:
    return Image.merge("RGB", [Image.effect_noise((width, height), 90) for _ in range(3)])


def reason(data: bytes, limits: Limits = LIMITS) -> Reason:
    with pytest.raises(ImageError) as caught:
        decode(data, limits)
    assert caught.value.detail.endswith(".")
    return caught.value.reason


def png(width: int, height: int, rows: bytes = b"", depth: int = 8, colour: int = 2) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# -- what comes out


@pytest.mark.parametrize("kind", FORMATS)
def test_each_accepted_format_is_decoded_and_described(kind: str) -> None:
    data = saved(Image.new("RGB", (40, 30), RED), kind)
    picture = decode(data, LIMITS)
    assert (picture.width, picture.height, picture.original_width, picture.original_height) == (40, 30, 40, 30)
    assert picture.format == kind
    assert picture.file_size == len(data)
    assert picture.sha256 == hashlib.sha256(data).digest()
    assert len(picture.pixels) == 40 * 30 * 3
    assert near(pixel(picture, 20, 15), RED)


def test_a_two_eyed_jpeg_is_a_picture() -> None:
    data = saved(Image.new("RGB", (16, 16), RED), "MPO", save_all=True, append_images=[Image.new("RGB", (16, 16))])
    assert decode(data, LIMITS).format == "MPO"
    assert near(pixel(decode(data, LIMITS), 3, 3), RED)


def flat_modes() -> Iterator[tuple[str, bytes, tuple[int, int, int]]]:
    yield "1", saved(Image.new("1", (8, 8), 1), "PNG"), WHITE
    yield "L", saved(Image.new("L", (8, 8), 100), "PNG"), (100, 100, 100)
    yield "LA half", saved(Image.new("LA", (8, 8), (0, 128)), "PNG"), (127, 127, 127)
    yield "RGBA clear", saved(Image.new("RGBA", (8, 8), (9, 9, 9, 0)), "PNG"), WHITE
    yield "RGBA solid", saved(Image.new("RGBA", (8, 8), (9, 99, 200, 255)), "PNG"), (9, 99, 200)
    yield "RGBA webp", saved(Image.new("RGBA", (8, 8), (9, 9, 9, 0)), "WEBP"), WHITE
    yield "CMYK jpeg", saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), RED
    yield "CMYK tiff", saved(Image.new("CMYK", (8, 8), (255, 0, 255, 0)), "TIFF"), GREEN
    yield "L jpeg", saved(Image.new("L", (8, 8), 77), "JPEG"), (77, 77, 77)
    yield "YCbCr", saved(Image.new("RGB", (8, 8), BLUE).convert("YCbCr"), "TIFF"), BLUE
    yield "L keyed", saved(Image.new("L", (8, 8), 7), "PNG", transparency=7), WHITE
    yield "RGB keyed", saved(Image.new("RGB", (8, 8), (1, 2, 3)), "PNG", transparency=(1, 2, 3)), WHITE
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 0, 0, 255])
    yield "P", saved(palette, "PNG"), BLUE
    yield "P clear", saved(palette, "PNG", transparency=1), WHITE
    yield "P alphas", saved(palette, "PNG", transparency=b"\xff\x80"), (127, 127, 255)
    yield "P gif clear", saved(palette, "GIF", transparency=1), WHITE


@pytest.mark.parametrize(("data", "wanted"), [pytest.param(d, w, id=name) for name, d, w in flat_modes()])
def test_every_mode_becomes_rgb_on_white(data: bytes, wanted: tuple[int, int, int]) -> None:
    assert near(pixel(decode(data, LIMITS), 4, 4), wanted, 3)


def deep_greys() -> Iterator[tuple[str, bytes, int]]:
    rows = b"".join(b"\0" + struct.pack(">HH", 0, value) for value in (32768, 65535))
    yield "png 16", png(2, 2, rows, depth=16, colour=0), 128
    # A dark picture stays dark: 16 bits are told by the file, not guessed from the content.
    dim = b"".join(b"\0" + struct.pack(">HH", 0, value) for value in (200, 255))
    yield "png 16 dark", png(2, 2, dim, depth=16, colour=0), 1
    yield "pgm 16", b"P5 2 2 65535\n" + struct.pack(">4H", 0, 32768, 0, 65535), 128
    yield "pgm 16 dark", b"P5 2 2 65535\n" + struct.pack(">4H", 0, 200, 0, 255), 1
    yield "pgm 10", b"P5 2 2 1023\n" + struct.pack(">4H", 0, 512, 0, 1023), 128
    tiff = Image.new("I;16", (2, 2))
    tiff.putpixel((1, 0), 32768)
    tiff.putpixel((1, 1), 65535)
    yield "tiff 16", saved(tiff, "TIFF"), 128
    for name, values in (("unit", (0.0, 0.5, 0.0, 1.0)), ("bytes", (0, 128, 0, 255)), ("any", (-10, 0, -10, 10))):
        image = Image.new("F", (2, 2))
        for n, value in enumerate(values):
            image.putpixel((n % 2, n // 2), value)
        yield f"tiff float {name}", saved(image, "TIFF"), 128


@pytest.mark.parametrize(("data", "grey"), [pytest.param(d, g, id=name) for name, d, g in deep_greys()])
def test_deep_greyscale_is_scaled_not_clipped(data: bytes, grey: int) -> None:
    picture = decode(data, LIMITS)
    assert near(pixel(picture, 0, 0), (0, 0, 0), 0)
    assert near(pixel(picture, 1, 0), (grey,) * 3, 1)
    assert near(pixel(picture, 1, 1), (255,) * 3 if grey == 128 else (1,) * 3, 1)


def test_a_float_picture_of_one_value_is_no_division_by_zero() -> None:
    assert len(decode(saved(Image.new("F", (2, 2), 70000.0), "TIFF"), LIMITS).pixels) == 12
    assert reason(saved(Image.new("F", (2, 2), math.nan), "TIFF")) is Reason.DECODE_FAILED


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_corner_that_should_be_up_left_is_up_left(orientation: int, kind: str) -> None:
    upright = Image.new("RGB", (96, 64), GREEN)
    upright.paste(RED, (0, 0, 32, 32))
    upright.paste(BLUE, (64, 0, 96, 32))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose values that lay it down again
    lying = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decode(saved(lying, kind, exif=exif), LIMITS)
    assert (picture.width, picture.height) == (96, 64)
    assert (picture.original_width, picture.original_height) == (96, 64)
    assert near(pixel(picture, 8, 8), RED, 40)
    assert near(pixel(picture, 88, 8), BLUE, 40)
    assert near(pixel(picture, 8, 56), GREEN, 40)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\0" * 40])
def test_damaged_metadata_does_not_spoil_a_picture(exif: bytes) -> None:
    assert decode(saved(Image.new("RGB", (8, 8), RED), "JPEG", exif=exif), LIMITS).width == 8


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    others = [Image.new("RGB", (16, 16), BLUE), Image.new("RGB", (16, 16), GREEN)]
    data = saved(Image.new("RGB", (16, 16), RED), kind, save_all=True, append_images=others)
    assert near(pixel(decode(data, LIMITS), 8, 8), RED)


# -- sizes


@given(st.integers(1, 200_000), st.integers(1, 200_000), st.integers(1, 3_000_000))
def test_bounded_keeps_the_budget_and_the_aspect(width: int, height: int, budget: int) -> None:
    w, h = bounded(width, height, budget)
    assert w >= 1
    assert h >= 1
    assert w * h <= budget
    assert w <= width
    assert h <= height
    if width * height <= budget:
        assert (w, h) == (width, height)
    elif min(w, h) > 1:
        assert abs(w - width * h / height) <= 1 + width / height
        # no pixels are given away: one more on each side would be above the budget
        assert (w + 1) * (h + 1) >= budget


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(900, 500), (4000, 3000), (3001, 17), (1, 5000)])
def test_large_pictures_shrink_to_the_budget_and_small_ones_never_grow(size: tuple[int, int], kind: str) -> None:
    limits = Limits(pixel_budget=2000)
    image = Image.new("RGB", size, BLUE)
    image.paste(RED, (0, 0, size[0] // 2, size[1]))
    picture = decode(saved(image, kind), limits)
    assert (picture.width, picture.height) == bounded(*size, 2000)
    assert (picture.original_width, picture.original_height) == size
    assert near(pixel(picture, picture.width - 1, picture.height - 1), BLUE)
    if picture.width > 4:
        assert near(pixel(picture, 0, 0), RED)
    assert decode(saved(image, kind), Limits()).width == (size[0] if size != (4000, 3000) else 1182)


@pytest.mark.parametrize("budget", [20_000, 150_000, 400_000])
def test_a_shrunk_jpeg_looks_like_the_same_picture_shrunk_from_png(budget: int) -> None:
    x = Image.linear_gradient("L").resize((2400, 1600))
    stripes = Image.new("L", x.size)
    for left in range(0, 2400, 24):
        stripes.paste(200, (left, 0, left + 12, 1600))
    image = Image.merge("RGB", [x, stripes, stripes])
    jpeg, exact = (
        decode(saved(image, kind, quality=95), Limits(pixel_budget=budget)).pixels for kind in ("JPEG", "PNG")
    )
    assert sum(abs(a - b) for a, b in zip(jpeg, exact, strict=True)) / len(exact) < 4


# -- what is refused


def test_refusals_have_their_reason() -> None:
    jpeg, flat = saved(noise(200, 150), "JPEG"), saved(noise(200, 150), "PNG")
    assert reason(b"") is Reason.EMPTY
    assert reason(b"<!doctype html><html><body>404</body></html>") is Reason.NOT_AN_IMAGE
    assert reason(b"\0" * 5000) is Reason.NOT_AN_IMAGE
    assert reason(b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>') is Reason.UNSUPPORTED_FORMAT
    assert reason(saved(Image.new("RGB", (32, 32)), "ICO")) is Reason.UNSUPPORTED_FORMAT
    assert reason(saved(Image.new("RGB", (9, 9)), "EPS")) is Reason.UNSUPPORTED_FORMAT
    assert reason(b"\0\0\0\x18ftypheic" + b"\0" * 50) is Reason.UNSUPPORTED_FORMAT
    assert reason(jpeg[: len(jpeg) // 2]) is Reason.TRUNCATED
    assert reason(flat[: len(flat) // 2]) is Reason.TRUNCATED
    assert reason(jpeg[:10]) is Reason.TRUNCATED
    assert reason(flat[:12]) is Reason.DECODE_FAILED
    assert reason(jpeg, Limits(max_file_bytes=len(jpeg) - 1)) is Reason.TOO_LARGE_FILE
    assert decode(jpeg, Limits(max_file_bytes=len(jpeg))).width == 200
    assert reason(jpeg, Limits(formats=("PNG",))) is Reason.UNSUPPORTED_FORMAT


@pytest.mark.parametrize("side", [10_001, 14_143, 20_000, 60_000])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    assert reason(png(side, side)) is Reason.TOO_MANY_PIXELS


def test_the_pixel_limit_is_exact_and_ours() -> None:
    data = saved(Image.new("1", (1000, 1000)), "PNG")
    assert reason(data, Limits(max_pixels=999_999)) is Reason.TOO_MANY_PIXELS
    assert decode(data, Limits(max_pixels=1_000_000)).original_width == 1000
    # Pillow's own limit would refuse this one by its header; ours lets it come to its missing rows.
    rows = png(14_000, 14_000, b"\0" * 2000, depth=1, colour=0)
    assert reason(rows, Limits(max_pixels=200_000_000)) is Reason.TRUNCATED


def refused() -> Iterator[tuple[str, bytes, Reason]]:
    """What is refused soon and cheaply, whatever it would unpack to."""
    yield "jpeg of 4 billion pixels", hostile.jpeg_saying(65500, 65500), Reason.TOO_MANY_PIXELS
    yield "gif with a vast screen", hostile.gif_of(3, screen=(65535, 65535)), Reason.TOO_MANY_PIXELS
    yield "webp", hostile.webp_saying(16384, 16384), Reason.TOO_MANY_PIXELS
    yield "tiff", hostile.tiff_of(*hostile.tiff_tags(2**31 - 1, 2**31 - 1)), Reason.TOO_MANY_PIXELS
    yield "ppm", b"P6 99999 99999 255\n" + bytes(1000), Reason.TOO_MANY_PIXELS
    yield "png that lacks rows", hostile.png_of(9999, 9999, hostile.packed_zeros(10**5)), Reason.TRUNCATED
    far, huge = {"t273": (4, 1, 4 * 10**9)}, {"t273": (4, 2**32 - 1, 8), "t279": (4, 2**32 - 1, 8)}
    yield "tiff whose rows are far", hostile.tiff_of(*hostile.tiff_tags(9000, 9000, **far)), Reason.TRUNCATED
    yield "tiff of countless rows", hostile.tiff_of(*hostile.tiff_tags(10, 10, **huge)), Reason.DECODE_FAILED
    samples = hostile.tiff_tags(10, 10, t277=(3, 1, 65535))
    yield "tiff of countless samples", hostile.tiff_of(*samples), Reason.DECODE_FAILED
    packed = hostile.tiff_tags(900, 900, t259=(3, 1, 5))
    yield "tiff that is not packed as it says", hostile.tiff_of(*packed), Reason.DECODE_FAILED
    if "AVIF" in FORMATS:
        yield "avif", hostile.avif_saying(65535, 65535), Reason.DECODE_FAILED
    svg = b'\xef\xbb\xbf<?xml version="1.0"?><!-- ' + b"x" * 4000 + b"--><svg/>"
    yield "svg with a long foreword", svg, Reason.UNSUPPORTED_FORMAT
    yield "web page with an svg", b"\n <HTML><body><svg></svg></body></html>", Reason.NOT_AN_IMAGE
    yield "text that speaks of <svg", b"see <svg", Reason.NOT_AN_IMAGE


@pytest.mark.parametrize(("data", "wanted"), [pytest.param(d, w, id=name) for name, d, w in refused()])
def test_hostile_pictures_are_refused(data: bytes, wanted: Reason) -> None:
    assert reason(data) is wanted


def test_what_is_no_picture_is_called_by_its_name() -> None:
    for data, name in ((b"%!PS-Adobe", "PostScript"), (b"<svg/>", "SVG"), (b"<!DOCTYPE HTML><p>", "web page (HTML)")):
        with pytest.raises(ImageError, match=re.escape(name)):
            decode(data, LIMITS)


ODD = dict(hostile.good_ones())
WITHOUT_COLOURS = ("sixteen.", "grey", "bits", "sliver", "palette-alpha", "alpha")


@pytest.mark.parametrize("name", list(ODD))
def test_odd_pictures_are_pictures(name: str) -> None:
    picture = decode(ODD[name], LIMITS)
    if not name.startswith(WITHOUT_COLOURS):
        assert near(pixel(picture, 0, 0), (200, 30, 30))
    if name == "turned.jpg":
        assert (picture.original_width, picture.original_height) == (48, 64)
    assert (picture.file_size, picture.sha256) == (len(ODD[name]), hashlib.sha256(ODD[name]).digest())


def test_of_a_million_frames_only_the_first_is_looked_at() -> None:
    picture = decode(ODD["million-frames.gif"], LIMITS)
    assert picture.file_size > 10_000_000
    assert near(pixel(picture, 0, 0), (200, 30, 30), 0)
    assert near(pixel(picture, 15, 15), (200, 30, 30), 0)


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([hostile.text_bomb(64 << 20)], id="comment"),
        pytest.param([hostile.profile_bomb(64 << 20)], id="profile"),
        pytest.param([hostile.text_bomb(1_000_000)] * 100, id="many comments"),
    ],
)
def test_notes_that_unpack_to_much_do_not_spoil_a_picture(chunks: list[bytes]) -> None:
    data = hostile.png_with(*chunks)
    picture = decode(data, LIMITS)
    assert pixel(picture, 1, 1) == (200, 30, 30)
    assert (picture.file_size, picture.sha256) == (len(data), hashlib.sha256(data).digest())
    assert reason(data[:-80]) in {Reason.TRUNCATED, Reason.DECODE_FAILED}


def test_limits_below_one_are_refused() -> None:
    with pytest.raises(ValueError):
        Limits(pixel_budget=0)
    with pytest.raises(ValueError):
        Limits(seconds=0)


SMALL = {kind: saved(noise(24, 16), kind) for kind in FORMATS}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FORMATS), st.data())
def test_cut_and_flipped_files_are_pictures_or_refusals(kind: str, data: st.DataObject) -> None:
    file = bytearray(SMALL[kind])
    for at in data.draw(st.lists(st.integers(0, len(file) - 1), max_size=4)):
        file[at] = data.draw(st.integers(0, 255))
    cut = bytes(file[: data.draw(st.integers(0, len(file)))])
    try:
        picture = decode(cut, Limits(max_pixels=1_000_000, pixel_budget=10_000))
    except ImageError:
        pass
    else:
        assert len(picture.pixels) == 3 * picture.width * picture.height <= 30_000


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_cut_file_is_never_half_a_picture(kind: str) -> None:
    whole = saved(noise(64, 48), kind)
    for length in range(0, len(whole) - 64, 97):  # of what comes last, checksums and the end mark, not all is missed
        assert reason(whole[:length]) in {Reason.EMPTY, Reason.NOT_AN_IMAGE, Reason.TRUNCATED, Reason.DECODE_FAILED}


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(ImageError(Reason.TRUNCATED, "The file is cut off.")))
    assert (type(error), error.reason, error.detail) == (ImageError, Reason.TRUNCATED, "The file is cut off.")


def test_the_words_of_the_reasons_are_stable() -> None:
    assert sorted(Reason) == [
        "crashed", "decode-failed", "empty", "not-an-image", "out-of-memory", "time-out",
        "too-large-file", "too-many-pixels", "truncated", "unsupported-format",
    ]  # fmt: skip


def test_this_pillow_has_the_formats_that_we_promise() -> None:
    assert features.check("webp")
    promised: Callable[[str], bool] = FORMATS.__contains__
    assert all(map(promised, ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")))
