"""Pictures that the tiny model can describe: a shape in one colour on a ground of another."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 30, 30), "green": (30, 160, 50), "blue": (30, 60, 210), "yellow": (240, 220, 40),
    "black": (15, 15, 15), "white": (245, 245, 245), "orange": (250, 140, 20), "purple": (130, 40, 160),
}  # fmt: skip
SHAPES = ("square", "circle", "triangle")
SIZE = 112
DETAILED, BRIEF = "Describe this image in detail.", "Write one short caption:"
"""The two prompts that the model was trained with."""


@dataclass(frozen=True, slots=True)
class Coloured:
    """What is to be seen in a picture."""

    colour: str
    shape: str
    ground: str
    size: str

    @property
    def detailed(self) -> str:
        return f"a {self.size} {self.colour} {self.shape} on a {self.ground} background"

    @property
    def brief(self) -> str:
        return f"{self.colour} {self.shape}"


def draw(dice: random.Random) -> tuple[Image.Image, Coloured]:
    """A picture by chance, and what is on it. The colours vary a little."""
    ground, colour = dice.sample(list(COLOURS), 2)
    seen = Coloured(colour, dice.choice(SHAPES), ground, dice.choice(("large", "small")))
    image = Image.new("RGB", (SIZE, SIZE), _near(dice, ground))
    pen, ink = ImageDraw.Draw(image), _near(dice, colour)
    side = dice.randint(60, 84) if seen.size == "large" else dice.randint(24, 36)
    x, y = dice.randint(2, SIZE - 2 - side), dice.randint(2, SIZE - 2 - side)
    box = (x, y, x + side, y + side)
    if seen.shape == "square":
        pen.rectangle(box, fill=ink)
    elif seen.shape == "circle":
        pen.ellipse(box, fill=ink)
    else:
        pen.polygon([(x + side / 2, y), (x, y + side), (x + side, y + side)], fill=ink)
    return image, seen


def _near(dice: random.Random, colour: str) -> tuple[int, int, int]:
    red, green, blue = (max(0, min(255, value + dice.randint(-12, 12))) for value in COLOURS[colour])
    return red, green, blue


def png(image: Image.Image) -> bytes:
    """The picture as a file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
