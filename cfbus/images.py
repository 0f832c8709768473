"""Bytes of a file -> a safe, upright, bounded RGB picture.

What it is for: `decode`, a pure function with limits. It can hang, crash or eat memory in a decoder
written in C; `cfbus.decoding` runs it where that costs one task and nothing else.

What it must not know: sources, the bus, engines, the store, processes. It imports only the standard
library and Pillow, because every child that decodes imports it.

Invariants:
- The number of pixels is checked from the header, before anything is unpacked.
- A picture is never enlarged, never wider x higher than the budget, never half a file.
- An `ImageError` accuses the picture, never this host.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import warnings
import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, cast

from PIL import ExifTags, Image, UnidentifiedImageError, features

# Formats that people keep photographs in. AVIF depends on how Pillow was built. MPO (two-eyed
# JPEG) is opened through JPEG and reported by its own name.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM") + (("AVIF",) if features.check("avif") else ())

_PNG_START: Final = b"\x89PNG\r\n\x1a\n"
_PNG_NOTES: Final = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_KNOWN_STARTS: Final = (
    (b"\xff\xd8\xff", "JPEG"), (_PNG_START, "PNG"), (b"GIF8", "GIF"), (b"BM", "BMP"),
    (b"II*\x00", "TIFF"), (b"MM\x00*", "TIFF"), (b"8BPS", "Photoshop"), (b"\x00\x00\x01\x00", "ICO"),
    (b"%!PS", "PostScript"), (b"%PDF", "PDF"), (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"), (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"), (b"DDS ", "DDS"),
)  # fmt: skip

# Decoders are C libraries behind thin Python; on hostile bytes any of these comes out of them.
DECODER_ERRORS: Final = (
    ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, OSError,
    RuntimeError, SyntaxError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip

_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Reason(StrEnum):
    """Why a picture cannot be had: stable words, kept in the failures table."""

    EMPTY = "empty"
    NOT_AN_IMAGE = "not-an-image"
    UNSUPPORTED_FORMAT = "unsupported-format"
    TRUNCATED = "truncated"
    TOO_MANY_PIXELS = "too-many-pixels"
    TOO_LARGE_FILE = "too-large-file"
    DECODE_FAILED = "decode-failed"
    TIME_OUT = "time-out"
    OUT_OF_MEMORY = "out-of-memory"
    CRASHED = "crashed"


class ImageError(Exception):
    """This picture cannot be had; `detail` is one sentence for people."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)  # both in args: that is what survives pickling
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Picture:
    """`pixels` is RGB, 8 bits, row by row, 3 * width * height bytes; original sizes are upright ones."""

    width: int
    height: int
    pixels: bytes
    original_width: int
    original_height: int
    format: str
    file_size: int
    sha256: bytes


@dataclass(frozen=True)
class Limits:
    """What one picture may cost. `pixel_budget` bounds the result, the others bound the input."""

    max_file_bytes: int = 64 * 1024 * 1024
    max_pixels: int = 100_000_000
    pixel_budget: int = 1_048_576
    seconds: float = 20.0
    memory_mib: int = 2048
    formats: tuple[str, ...] = FORMATS

    def __post_init__(self) -> None:
        if min(self.max_file_bytes, self.max_pixels, self.pixel_budget, self.memory_mib) < 1:
            raise ValueError("limits of pictures must be at least 1")
        if self.seconds <= 0:
            raise ValueError("the seconds per picture must be above 0")


def decode(data: bytes, limits: Limits) -> Picture:
    """Decode the first frame: upright, alpha on white, at most `limits.pixel_budget` pixels.

    Raises ImageError. Swaps the process's warning filters while it runs, so two threads of one
    process should not decode at the same time; `DecodePool` is the way to do many.
    """
    if not data:
        raise ImageError(Reason.EMPTY, "The file has no bytes.")
    if len(data) > limits.max_file_bytes:
        raise ImageError(
            Reason.TOO_LARGE_FILE, f"The file has {len(data)} bytes; the limit is {limits.max_file_bytes}."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _decoded(data, data, limits)
        except ImageError as error:
            bare = _bare_png(data) if error.reason is Reason.DECODE_FAILED else data
            if len(bare) == len(data):
                raise
        return _decoded(data, bare, limits)


def _decoded(data: bytes, bare: bytes, limits: Limits) -> Picture:
    """The picture in ``bare``, described as that of the file ``data``."""
    try:
        with _open(bare, limits) as image:
            return _picture(image, data, limits)
    except MemoryError:
        raise ImageError(Reason.OUT_OF_MEMORY, "The picture needs more memory than it may use.") from None
    except DECODER_ERRORS as error:
        raise _explained(error) from error


def _bare_png(data: bytes) -> bytes:
    """A PNG without its texts and colour profile, for which Pillow refuses the picture when they unpack to much."""
    if not data.startswith(_PNG_START):
        return data
    kept, at = [data[: len(_PNG_START)]], len(_PNG_START)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in _PNG_NOTES:
            kept.append(data[at : at + length + 12])
        at += length + 12
    return b"".join(kept)


def _open(data: bytes, limits: Limits) -> Image.Image:
    Image.MAX_IMAGE_PIXELS = limits.max_pixels  # Pillow's own check, also inside its plugins
    try:
        image = Image.open(io.BytesIO(data), formats=limits.formats)
    except Image.DecompressionBombError:
        raise ImageError(Reason.TOO_MANY_PIXELS, f"It has more than {2 * limits.max_pixels} pixels.") from None
    except UnidentifiedImageError:
        raise _unidentified(data, limits) from None
    width, height = image.size
    if width * height > limits.max_pixels:
        image.close()
        raise ImageError(
            Reason.TOO_MANY_PIXELS,
            f"It has {width} x {height} pixels; the limit is {limits.max_pixels} in all.",
        )
    return image


def _unidentified(data: bytes, limits: Limits) -> ImageError:
    if _markup(data).startswith((b"<!doctype html", b"<html")):
        return ImageError(Reason.NOT_AN_IMAGE, "It is a web page (HTML), not a picture.")
    name = _name_by_start(data)
    if name in limits.formats:
        return ImageError(Reason.DECODE_FAILED, f"It starts like {name}, but its header is damaged or cut off.")
    if name:
        return ImageError(Reason.UNSUPPORTED_FORMAT, f"It looks like {name}, which is not accepted.")
    return ImageError(Reason.NOT_AN_IMAGE, "No accepted picture format was recognised in the file.")


def _name_by_start(data: bytes) -> str:
    for start, name in _KNOWN_STARTS:
        if data.startswith(start):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return "AVIF" if data[8:12] in (b"avif", b"avis") else "HEIF or video"
    return "SVG" if b"<svg" in _markup(data) else ""


def _markup(data: bytes) -> bytes:
    """The beginning of a text of tags, in small letters; nothing if it is none."""
    text = data[:8192].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return text if text.startswith(b"<") else b""


def _explained(error: BaseException) -> ImageError:
    # Pillow has no class of its own for a cut-off file, only this word in the message.
    text = " ".join(str(error).split())[:200]
    if "truncated" in text.lower():
        return ImageError(Reason.TRUNCATED, f"The file is cut off ({text}).")
    return ImageError(Reason.DECODE_FAILED, f"The decoder gave up ({text or type(error).__name__}).")


def _picture(image: Image.Image, data: bytes, limits: Limits) -> Picture:
    name = image.format or "unknown"
    original = image.size
    target = bounded(*original, limits.pixel_budget)
    if image.format in ("JPEG", "MPO"):
        image.draft(None, target)  # unpacks at 1/2, 1/4 or 1/8, never below the target
    image.load()
    turn = _UPRIGHT.get(_orientation(image))
    image = _to_rgb(image)
    if image.size != target:
        image = image.resize(target, Image.Resampling.LANCZOS, reducing_gap=2.0)
    if turn is not None:
        image = image.transpose(turn)
        if turn not in (_UPRIGHT[2], _UPRIGHT[3], _UPRIGHT[4]):
            original = (original[1], original[0])
    return Picture(*image.size, image.tobytes(), *original, name, len(data), hashlib.sha256(data).digest())


def bounded(width: int, height: int, budget: int) -> tuple[int, int]:
    """The largest size of (about) the same aspect with at most `budget` pixels, 1 or more a side."""
    if width * height <= budget:
        return width, height
    scale = math.sqrt(budget / (width * height))
    # A sliver loses its aspect, not its bound: one side is 1, the other at most the budget.
    short = max(1, int(min(width, height) * scale))
    long = min(max(1, int(max(width, height) * scale)), budget // short)
    return (short, long) if width < height else (long, short)


def _orientation(image: Image.Image) -> int:
    """Asked after load: by then Pillow has turned TIFF itself and forgotten the tag."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except DECODER_ERRORS:
        return 1  # damaged metadata does not spoil a good picture


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _eight_bits(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image.getchannel("A"))
    return flat


def _eight_bits(image: Image.Image) -> Image.Image:
    """Greyscale of 16, 32 or floating bits: scaled to 8, because Pillow's own convert() clips."""
    # Pillow has scaled deep PPM to 16 bits already, but says only "I".
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if image.mode.startswith("I;16"):
        image = image.convert("I")
    low, high = cast("tuple[float, float]", image.getextrema())
    if not math.isfinite(high - low):
        raise ImageError(Reason.DECODE_FAILED, "Its pixels are not finite numbers.")
    if sixteen:
        low, high = 0.0, 65535.0
    elif low >= 0:
        # Nothing in the file says what is white: take the smallest customary range that holds it.
        ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        low, high = next(((0.0, white) for white in ranges if high <= white), (low, high))
    scale = 255.0 / ((high - low) or 1.0)
    return image.point(lambda value: value * scale - low * scale).convert("L")
