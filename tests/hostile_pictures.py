"""Pictures that somebody made to do harm, and odd ones that are good; made by code, small, and never held unpacked.

Each maker returns the bytes of one file. Knows nothing of what is expected of whoever reads them.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

PNG_START = b"\x89PNG\r\n\x1a\n"
_PIECE = bytes(1 << 20)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """The picture as a file of this kind."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def colours(width: int = 64, height: int = 48) -> Image.Image:
    """A picture in which something can be seen: red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), (200, 30, 30))
    image.paste((30, 30, 200), (width // 2, 0, width, height))
    return image


def packed_zeros(size: int) -> bytes:
    """So many zeros, compressed a piece at a time."""
    packer = zlib.compressobj(1)
    pieces = [packer.compress(_PIECE[: min(len(_PIECE), size - at)]) for at in range(0, size, len(_PIECE))]
    return b"".join([*pieces, packer.flush()])


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_of(width: int, height: int, packed: bytes, *, depth: int = 8, colour: int = 2, more: bytes = b"") -> bytes:
    """A PNG that says this size, with these packed rows; ``more`` are chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    rows = png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")
    return PNG_START + png_chunk(b"IHDR", header) + more + rows


def png_bomb(side: int, *, colour: int = 2) -> bytes:
    """A true PNG of so many black pixels a side: grey (0), RGB (2) or RGBA (6)."""
    pixel = {0: 1, 2: 3, 6: 4}[colour]
    return png_of(side, side, packed_zeros(side * (1 + side * pixel)), colour=colour)


def png_with(*chunks: bytes) -> bytes:
    """A small good PNG with chunks added before its rows."""
    whole = saved(colours(), "PNG")
    at = len(PNG_START) + 25
    return whole[:at] + b"".join(chunks) + whole[at:]


def text_bomb(size: int) -> bytes:
    """A comment that unpacks to so many bytes."""
    return png_chunk(b"zTXt", b"Comment\0\0" + packed_zeros(size))


def profile_bomb(size: int) -> bytes:
    """A colour profile that unpacks to so many bytes."""
    return png_chunk(b"iCCP", b"profile\0\0" + packed_zeros(size))


def exif_loop() -> bytes:
    """Metadata whose directory says to be followed by itself, with an absurd number of values."""
    entry = struct.pack("<HHII", 0x8769, 4, 0xFFFFFFF0, 8)
    return png_chunk(b"eXIf", b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 8))


def jpeg_saying(width: int, height: int) -> bytes:
    """A small JPEG whose header says another size."""
    data = bytearray(saved(colours(), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def jpeg_of_many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again: each costs a walk over all its blocks."""
    data = saved(Image.new("L", (side, side), 100), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def gif_of(frames: int, *, screen: tuple[int, int] = (16, 16)) -> bytes:
    """A GIF whose first frame is red and whose others are single blue pixels."""
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + bytes((200, 30, 30, 30, 30, 200))
    first = saved(Image.new("P", screen if max(screen) <= 64 else (4, 4), 0), "GIF")
    first = first[first.index(b",") : -1]
    blue = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\x00"
    return head + _with_global_colours(first) + blue * (frames - 1) + b";"


def _with_global_colours(frame: bytes) -> bytes:
    flags = frame[9]
    table = 3 << ((flags & 7) + 1) if flags & 0x80 else 0
    return frame[:9] + b"\0" + frame[10 + table :]


def tiff_of(*entries: tuple[int, int, int, int], following: int = 0) -> bytes:
    """A TIFF with these tags (number, type, count, value) and some bytes behind them."""
    tags = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + tags + struct.pack("<I", following) + bytes(1000)


def tiff_tags(width: int, height: int, **other: tuple[int, int, int]) -> tuple[tuple[int, int, int, int], ...]:
    """The tags of an uncompressed grey picture; ``t258=(type, count, value)`` replaces one."""
    tags = {
        256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1),
        273: (4, 1, 200), 277: (3, 1, 1), 278: (4, 1, height), 279: (4, 1, width * height & 0xFFFFFFFF),
    }  # fmt: skip
    tags |= {int(name[1:]): value for name, value in other.items()}
    return tuple((number, *value) for number, value in tags.items())


def webp_saying(width: int, height: int) -> bytes:
    """A small lossless WEBP whose header says another size."""
    data = bytearray(saved(colours(), "WEBP", lossless=True))
    at = data.index(b"VP8L") + 9
    bits = int.from_bytes(data[at : at + 4], "little") >> 28 << 28
    data[at : at + 4] = (bits | (height - 1) << 14 | (width - 1)).to_bytes(4, "little")
    return bytes(data)


def avif_saying(width: int, height: int) -> bytes:
    """A small AVIF whose header says another size."""
    data = bytearray(saved(colours(), "AVIF"))
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", width, height)
    return bytes(data)


def good_ones() -> Iterator[tuple[str, bytes]]:
    """Pictures of kinds that are seldom met, by file name."""
    image = colours()
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.new("I;16", image.size, 40000)
    animated = {"save_all": True, "append_images": [Image.new("RGB", image.size, "green")] * 3}
    yield "cmyk.jpg", saved(image.convert("CMYK"), "JPEG")
    yield "cmyk.tif", saved(image.convert("CMYK"), "TIFF", compression="tiff_lzw")
    yield "sixteen.png", saved(deep, "PNG")
    yield "sixteen.tif", saved(deep, "TIFF")
    yield "sixteen-rgb.png", png_of(8, 8, zlib.compress((b"\0" + b"\xc8\x00\x1e\x00\x1e\x00" * 8) * 8), depth=16)
    yield "palette.png", saved(image.convert("P", palette=Image.Palette.ADAPTIVE), "PNG")
    yield "palette-alpha.png", saved(image.convert("P"), "PNG", transparency=0)
    yield (
        "alpha.png",
        saved(Image.merge("RGBA", (*image.split(), Image.linear_gradient("L").resize(image.size))), "PNG"),
    )
    yield "grey-alpha.png", saved(image.convert("LA"), "PNG")
    yield "bits.png", saved(image.convert("1"), "PNG")
    yield "two-eyed.jpg", saved(image, "MPO", save_all=True, append_images=[image])
    yield "turned.jpg", saved(image, "JPEG", exif=exif)
    yield "animated.gif", saved(image, "GIF", **animated)
    yield "animated.webp", saved(image, "WEBP", lossless=True, **animated)
    yield "progressive.jpg", saved(image, "JPEG", progressive=True)
    yield "sliver.png", png_of(1, 60_000, packed_zeros(60_000 * 2), colour=0)
    yield "png-in-truth.jpg", saved(image, "PNG")
    yield "million-frames.gif", gif_of(1_000_000)
    yield "self-followed.png", png_with(exif_loop())
