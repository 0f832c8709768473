"""What a name's suffix says of a file: a picture, or a column of an item."""

from __future__ import annotations

from typing import Final

PICTURES: Final = (
    ".jpg .jpeg .jfif .png .webp .gif .bmp .tif .tiff .ppm .pgm .pnm .avif".split()  # noqa: SIM905
)
COLUMNS: Final = (".json", ".txt", ".cls")
_PICTURES: Final = frozenset(suffix.encode() for suffix in PICTURES)
_COLUMNS: Final = frozenset(suffix.encode() for suffix in COLUMNS)


def suffix(name: bytes) -> bytes:
    """The last suffix in small letters, with its dot; empty for a name that has none or only begins with a dot."""
    dot = name.rfind(b".")
    return name[dot:].lower() if dot > 0 else b""


def is_picture(name: bytes) -> bool:
    """Whether the name says that this is a picture that can be decoded here."""
    return suffix(name) in _PICTURES


def is_column(name: bytes) -> bool:
    """Whether the name says that this is read as columns."""
    return suffix(name) in _COLUMNS
