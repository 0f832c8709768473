"""Pictures as they travel from the children that decode them to a model.

Children import this, so it imports nothing but Pillow and what they have anyway.
"""

from __future__ import annotations

from PIL import Image

from cfbus.images import Picture


def unchanged(picture: Picture) -> Picture:
    """The picture itself: what a child is asked for when a model looks at it elsewhere."""
    return picture


def as_image(picture: Picture) -> Image.Image:
    """The pixels for a library that takes Pillow's images; they are not copied."""
    return Image.frombuffer("RGB", (picture.width, picture.height), picture.pixels, "raw", "RGB", 0, 1)
