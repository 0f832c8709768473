"""What can be measured in a picture: its light, contrast, colours and where they lie.

It gets pixels and gives ``Facts``; it must not know prompts, sentences, files or processes.

Invariants: no I/O, no clock, no randomness, so the same pixels give the same facts; every threshold
has a gap beside it in which nothing is said, because silence is never wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops

from cfbus.engines.colour_names import FAMILY, KIN, NAMES, Floats, lab_of, name_indices, name_of

Bools: TypeAlias = npt.NDArray[np.bool_]

GRID = 72  # cells per axis in which colours are counted, at most
CELLS = 12  # cells per axis in which places are judged; divisible by 2, 3 and 4
NAMED_SHARE = 0.10  # a colour that covers less is not mentioned,
ACCENT_SHARE, ACCENT_CHROMA = 0.03, 45  # unless it is vivid: then it strikes the eye


@dataclass(frozen=True, slots=True)
class Patch:
    """A colour, the share of the picture it covers (0..1) and where; ``""`` is no clear place."""

    name: str
    share: float
    place: str
    sharp: bool  # one clear shade, not part of a gradual change: the share can be named


@dataclass(frozen=True, slots=True)
class Fade:
    """The picture changes steadily from the colour ``first`` at one end to ``last`` at the other."""

    first: str
    last: str
    horizontal: bool  # from left to right; else from top to bottom


@dataclass(frozen=True, slots=True)
class Facts:
    """What was measured, apart from the size as stored. Empty strings mean: not clear enough to say."""

    light: float  # mean CIE L*, 0..100
    light_word: str  # very dark, dark, dim, bright, very bright
    contrast: float  # L* between the 5th and 95th percentile, 0..100
    contrast_word: str  # low, moderate, strong
    plain: bool  # one flat colour
    greyscale: bool
    patches: tuple[Patch, ...]  # by falling share
    accent: Patch | None  # the largest vivid colour that is too small for a patch
    colourful: bool  # many different colours, each with little of the picture
    fine_mix: bool  # the colours alternate in less space than a grid cell
    fade: Fade | None
    lightest: str  # left, right, upper, lower, upper left, ..., centre, edges
    even: bool  # the same amount of light everywhere
    texture: str  # smooth, busy


def measure(pixels: bytes, width: int, height: int) -> Facts:
    """Measure a picture once, for any number of prompts.

    ``pixels`` is 8-bit RGB, row by row, ``width * height * 3`` bytes. Raises ValueError when the
    sizes do not fit.
    """
    if width < 1 or height < 1 or len(pixels) != width * height * 3:
        raise ValueError(f"{len(pixels)} bytes are no RGB picture of {width} by {height} pixels")
    image = Image.frombuffer("RGB", (width, height), pixels, "raw", "RGB", 0, 1)
    means = np.asarray(image.reduce((-(-width // GRID), -(-height // GRID))))
    samples = _samples(np.frombuffer(pixels, np.uint8).reshape(height, width, 3), means.shape)
    lab, real = lab_of(means), lab_of(samples)
    off = np.abs(samples.astype(np.int16) - means).max(axis=2)
    # a mean of unlike pixels is a colour that is not there; a mean of like ones is free of grain
    seen = np.where((off > 24)[..., None], real, lab)
    light = float(lab[..., 0].mean())
    contrast = float(np.subtract(*np.percentile(real[..., 0], (95, 5))))
    groups = _groups(seen)
    cells = _cells(lab[..., 0])
    fine_mix = bool(np.median(off) > 24)
    return Facts(
        light=light,
        light_word=_light_word(light, float(means.max(axis=2).mean()) / 255),
        contrast=contrast,
        contrast_word=_contrast_word(contrast),
        # what the cell means rule out needs no look at every pixel
        plain=bool(np.ptp(means, axis=(0, 1)).max() <= 6) and _plain(image),
        greyscale=_tint(means) < 16 and _greyscale(image),
        patches=tuple(_patch(name, mask, seen) for name, mask in groups[:4] if mask.mean() >= NAMED_SHARE),
        accent=None if fine_mix else _accent(groups, seen),
        colourful=len({FAMILY[name] for name, _ in groups}) >= 6,
        fine_mix=fine_mix,
        fade=_fade(lab),
        lightest=_lightest(cells),
        even=bool(np.ptp(_blocks(cells)) < 8) and light > 40,
        texture=_texture(np.asarray(image.convert("L"))),
    )


def _samples(pixels: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """One real pixel from each grid cell, its place scattered so that no stripe pattern falls in step."""
    rows, columns = shape[:2]
    height, width = pixels.shape[:2]
    step_y, step_x = -(-height // GRID), -(-width // GRID)
    number = np.arange(rows * columns).reshape(rows, columns)
    y = np.arange(rows)[:, None] * step_y + (number * 0.7548776662 % 1 * step_y).astype(np.intp)
    x = np.arange(columns)[None, :] * step_x + (number * 0.5698402910 % 1 * step_x).astype(np.intp)
    scattered: npt.NDArray[np.uint8] = pixels[np.minimum(y, height - 1), np.minimum(x, width - 1)]
    return scattered


def _groups(lab: Floats) -> list[tuple[str, Bools]]:
    """Cells of one colour name together, by falling share; close shades of one family as one group."""
    indices = name_indices(lab)
    flat = indices.ravel()
    counts = np.bincount(flat, minlength=len(NAMES))
    sums = [np.bincount(flat, lab[..., axis].ravel(), minlength=len(NAMES)) for axis in range(3)]
    means = np.stack(sums, axis=1) / np.maximum(counts, 1)[:, None]
    leader = np.arange(len(NAMES))
    for index in sorted(np.flatnonzero(counts), key=lambda i: (-counts[i], i)):
        for other in KIN[index]:
            larger = (counts[other], -other) > (counts[index], -index) and leader[other] == other
            if larger and np.linalg.norm(means[other] - means[index]) < 18:
                leader[index] = other
                break
    led = leader[indices]
    sizes = np.bincount(led.ravel(), minlength=len(NAMES))
    order = sorted(np.flatnonzero(sizes >= ACCENT_SHARE * led.size), key=lambda i: (-sizes[i], i))
    return [(NAMES[i], led == i) for i in order]


def _patch(name: str, mask: Bools, lab: Floats) -> Patch:
    share = float(mask.mean())
    place = "" if share > 0.8 else _place(_cells(mask.astype(np.float64)))
    return Patch(name, share, place, sharp=bool(np.linalg.norm(lab[mask].std(axis=0)) < 4.5))


def _accent(groups: list[tuple[str, Bools]], lab: Floats) -> Patch | None:
    for name, mask in groups:
        if mask.mean() < NAMED_SHARE:
            _, a, b = lab[mask].mean(axis=0)
            if np.hypot(a, b) > ACCENT_CHROMA:
                return _patch(name, mask, lab)
    return None


@lru_cache(maxsize=2 * GRID)
def _overlap(size: int) -> Floats:
    """(CELLS, size): how much of each of ``CELLS`` equal stretches lies in each of ``size`` pixels."""
    edges = np.linspace(0, size, CELLS + 1)
    start, end = edges[:-1, None], edges[1:, None]
    pixel = np.arange(size)[None, :]
    overlap: Floats = np.clip(np.minimum(end, pixel + 1) - np.maximum(start, pixel), 0, None)
    overlap /= overlap.sum(axis=1, keepdims=True)
    return overlap


def _cells(values: Floats) -> Floats:
    """Area means of a (rows, columns) map in CELLS x CELLS equal cells, whatever its size."""
    cells: Floats = _overlap(values.shape[0]) @ values @ _overlap(values.shape[1]).T
    return cells


def _blocks(cells: Floats) -> Floats:
    """Means of the nine thirds-by-thirds."""
    blocks: Floats = cells.reshape(3, 4, 3, 4).mean(axis=(1, 3))
    return blocks


def _place(cells: Floats) -> str:
    """Where most of ``cells`` (coverage of one colour, 0..1, of the whole frame) lies."""
    part = cells / cells.sum()
    return _central(part) or _one_sided(part) or _banded(part) or _around(part) or _loose(part)


def _central(part: Floats) -> str:
    middle = (np.arange(CELLS) + 0.5) / CELLS
    x, y = float(part.sum(axis=0) @ middle), float(part.sum(axis=1) @ middle)
    centred = abs(x - 0.5) < 0.09 and abs(y - 0.5) < 0.09
    return "in the centre" if centred and part[2:-2, 2:-2].sum() > 0.8 else ""


def _one_sided(part: Floats) -> str:
    half, third = CELLS // 2, CELLS // 3
    left, top = float(part[:, :half].sum()), float(part[:half].sum())
    across = float(part.reshape(CELLS, 3, third).sum(axis=(0, 2)).min())
    vertical = "upper" if top > 0.5 else "lower"
    horizontal = "left" if left > 0.5 else "right"
    quarter = part[:half] if top > 0.5 else part[half:]
    if (quarter[:, :half] if left > 0.5 else quarter[:, half:]).sum() > 0.78:
        return f"in the {vertical} {horizontal}"
    if max(top, 1 - top) >= max(left, 1 - left, 0.8):
        where = "top" if top > 0.5 else "bottom"
        strip = part[:third] if top > 0.5 else part[-third:]
        return f"{'along' if strip.sum() > 0.7 and across > 0.22 else 'at'} the {where}"
    return f"on the {horizontal}" if max(left, 1 - left) > 0.8 else ""


def _banded(part: Floats) -> str:
    thirds = part.reshape(3, CELLS // 3, 3, CELLS // 3).sum(axis=(1, 3))
    rows, columns = thirds.sum(axis=1), thirds.sum(axis=0)
    if rows[1] > 0.75 and columns.min() > 0.22:
        return "across the middle"
    if columns[1] > 0.75 and rows.min() > 0.22:
        return "down the middle"
    if rows[1] < 0.12 and columns.min() > 0.22 and min(rows[0], rows[2]) > 0.3:
        return "at the top and bottom"
    if columns[1] < 0.12 and rows.min() > 0.22 and min(columns[0], columns[2]) > 0.3:
        return "on both sides"
    return ""


def _around(part: Floats) -> str:
    corner = CELLS // 3
    corners = [part[y, x].sum() for y in (slice(corner), slice(-corner, None))
               for x in (slice(corner), slice(-corner, None))]  # fmt: skip
    if sum(corners) > 0.75 and min(corners) > 0.12:
        return "in the corners"
    sides = [part[:2].mean(), part[-2:].mean(), part[:, :2].mean(), part[:, -2:].mean()]
    if part[4:-4, 4:-4].mean() < 0.3 * min(sides) and min(sides) > 0.55 * max(sides):
        return "around the edges"
    return ""


def _loose(part: Floats) -> str:
    blocks = _blocks(part)
    if blocks.min() > 0.5 * blocks.max():
        return "throughout"
    half = CELLS // 2
    sides = {
        "towards the left": part[:, :half].sum(),
        "towards the right": part[:, half:].sum(),
        "towards the top": part[:half].sum(),
        "towards the bottom": part[half:].sum(),
    }
    best = max(sides, key=lambda side: float(sides[side]))
    return best if sides[best] > 0.68 else ""


def _light_word(light: float, value: float) -> str:
    """``value`` is the mean of the strongest channel, 0..1: a pure blue has a low L* and is not dark."""
    if light < 33 and value < 0.45:
        return "very dark" if light < 12 else "dark" if light < 25 else "dim"
    if light > 68:
        return "very bright" if light > 88 else "bright"
    return ""


def _contrast_word(contrast: float) -> str:
    if contrast < 20:
        return "low"
    if contrast > 65:
        return "strong"
    return "moderate" if 30 < contrast < 55 else ""


def _plain(image: Image.Image) -> bool:
    return all(high - low <= 6 for low, high in image.getextrema())  # type: ignore[misc]


def _tint(means: npt.NDArray[np.uint8]) -> float:
    red, green, blue = np.moveaxis(means.astype(np.int16), 2, 0)
    return float(np.maximum(np.abs(red - green), np.abs(green - blue)).mean())


def _greyscale(image: Image.Image) -> bool:
    red, green, blue = image.split()
    off = ImageChops.lighter(ImageChops.difference(red, green), ImageChops.difference(green, blue))
    return sum(off.histogram()[9:]) <= image.width * image.height // 1000


def _fade(lab: Floats) -> Fade | None:
    """A steady change of colour along one axis, the same in every line."""
    for axis in (1, 0):
        size = lab.shape[axis]
        if size < 8:
            continue
        lines = np.moveaxis(lab, axis, 0)
        edge = max(1, size // 12)
        first, last = lines[:edge].mean(axis=(0, 1)), lines[-edge:].mean(axis=(0, 1))
        change = last - first
        names = name_of(first), name_of(last)
        if np.linalg.norm(change) < 25 or names[0] == names[1]:
            continue
        along = lines @ change
        at = np.broadcast_to(np.arange(size)[:, None], along.shape)
        if np.corrcoef(along.ravel(), at.ravel())[0, 1] > 0.95:
            return Fade(*names, horizontal=axis == 1)
    return None


def _lightest(cells: Floats) -> str:
    half = CELLS // 2
    right = float(cells[:, half:].mean() - cells[:, :half].mean())
    lower = float(cells[half:].mean() - cells[:half].mean())
    vertical = "lower" if lower > 0 else "upper"
    horizontal = "right" if right > 0 else "left"
    small, large = sorted((abs(right), abs(lower)))
    if large > 9:
        if small > 0.6 * large:
            return f"{vertical} {horizontal}"
        if small < 0.4 * large:
            return horizontal if abs(right) > abs(lower) else vertical
        return ""
    inner = float(cells[3:-3, 3:-3].mean())
    outer = float(cells.sum() - cells[3:-3, 3:-3].sum()) / (CELLS**2 - (CELLS - 6) ** 2)
    if large < 6 and abs(inner - outer) > 12:
        return "centre" if inner > outer else "edges"
    return ""


def _texture(shade: npt.NDArray[np.uint8]) -> str:
    """From the share of neighbouring pixels that differ clearly, in every sixth line."""
    if min(shade.shape) < 16:
        return ""
    levels = shade.astype(np.int16)
    across, down = np.abs(np.diff(levels[::6], axis=1)), np.abs(np.diff(levels[:, ::6], axis=0))
    if float((across > 16).mean() + (down > 16).mean()) / 2 > 0.35:
        return "busy"
    return "smooth" if float((across > 8).mean() + (down > 8).mean()) / 2 < 0.03 else ""
