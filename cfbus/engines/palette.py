"""The built-in engine: true sentences about a picture's size, light and colours, without a GPU.

It is for people who try the bus before they have a model, and it is no vision-language model:
it never says what a picture shows. It must not know about leases, prompts' templates, files
or processes; it gets pixels and gives text.

Invariants: no I/O, no clock, no randomness, so the same pixels give the same words; every
threshold has a gap beside it in which nothing is said, because silence is never wrong; colours
are named by the nearest of a list of common colours in CIELAB.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops

ENGINE = "palette"
MODEL = "palette-1 (not a vision-language model)"

Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]

GRID = 72  # cells per axis in which colours are counted, at most
CELLS = 12  # cells per axis in which places are judged; divisible by 2, 3 and 4
NAMED_SHARE = 0.10  # a colour that covers less is not mentioned,
ACCENT_SHARE, ACCENT_CHROMA = 0.03, 45  # unless it is vivid: then it strikes the eye

# name, family, examples; colours of one family that lie close together count as one.
_COLOURS = (
    ("black", "black", "000000 0c0c0c 171717 140b07 060a16 160606 061206"),
    ("dark grey", "grey", "303030 3e3e3e 4d4d4d"),
    ("grey", "grey", "666666 7a7a7a 8e8e8e"),
    ("light grey", "grey", "a8a8a8 bebebe d2d2d2"),
    ("white", "white", "ffffff f0f0f0 fbfaf2"),
    ("bluish grey", "cool grey", "454f5c 5f6b7a 7d8a9a 9dabbb"),
    ("greenish grey", "green grey", "4a544a 667566 86968a"),
    ("brownish grey", "warm grey", "4c443e 6b6058 857a70 a3978b"),
    ("red", "red", "ff0000 e01010 d43030 c41818 f04040"),
    ("dark red", "red", "8b0000 600808 a01c1c 701828"),
    ("orange", "orange", "ff8000 ff9a20 ea6c14 f25c1c ffa64d e08030"),
    ("brown", "brown", "8b4513 7a4a28 965c30 a0643c 6e4a30 a87048"),
    ("dark brown", "brown", "482812 38200e 583418 443024"),
    ("light brown", "brown", "b98a5e c69c70 b49474"),
    ("beige", "beige", "e8d8b8 dac8a4 f0dcc4 d6c6b4"),
    ("cream", "cream", "fffdd0 faf2d6"),
    ("yellow", "yellow", "ffff00 ffe010 f4d01c fff060 e6c020"),
    ("dark yellow", "yellow", "b8860b b08c28 c8a020"),
    ("olive", "olive", "808000 6a6a20 8e8c34 585420"),
    ("yellow-green", "green", "9acd32 b4e040 86b040"),
    ("green", "green", "008000 00b400 00ff00 30a030 4a9030 50a060"),
    ("dark green", "green", "004000 1a4a1e 2a5020 0a3020 344824"),
    ("light green", "green", "90ee90 a8e0a0 b8e8b8"),
    ("teal", "teal", "008080 107272 0a5a5c 2c8c8c"),
    ("turquoise", "cyan", "40e0d0 24b8b0 60c8c0"),
    ("cyan", "cyan", "00ffff 20e8f4"),
    ("blue", "blue", "0000ff 1848d0 2060c0 4169e1 3878c0 2828c8 4682b4"),
    ("dark blue", "blue", "000080 191970 14104c 0a1a50 102c64 1e2e56 14244a"),
    ("light blue", "blue", "87ceeb a0c8f0 b8dcec 68b0f0 88acd8"),
    ("purple", "purple", "800080 780850 6b0c44 6a20a0 8844b4 9932cc 7030d0 8a5a9a"),
    ("dark purple", "purple", "340a48 4b0082 3c2048"),
    ("light purple", "purple", "c8a2e8 b090d8 d8bfd8 c0a8d8"),
    ("magenta", "magenta", "ff00ff e020c0 c71585 e04cd0"),
    ("pink", "pink", "ffc0cb ff90b0 f0a0b0 ff69b4 e8a4a0 f4b8a8"),
)


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


def describe(pixels: bytes, width: int, height: int, prompt: str, original_width: int, original_height: int) -> str:
    """Say what can truthfully be said about a picture, in the length that ``prompt`` asks for.

    ``pixels`` is 8-bit RGB, row by row, ``width * height * 3`` bytes; ``original_*`` is the size
    as stored, in pixels, orientation applied. Raises ValueError when the sizes do not fit.
    """
    return sentence(measure(pixels, width, height), prompt, original_width, original_height)


def measure(pixels: bytes, width: int, height: int) -> Facts:
    """Measure a picture once, for any number of prompts. Arguments and errors as in ``describe``."""
    if width < 1 or height < 1 or len(pixels) != width * height * 3:
        raise ValueError(f"{len(pixels)} bytes are no RGB picture of {width} by {height} pixels")
    image = Image.frombuffer("RGB", (width, height), pixels, "raw", "RGB", 0, 1)
    means = np.asarray(image.reduce((-(-width // GRID), -(-height // GRID))))
    samples = _samples(np.frombuffer(pixels, np.uint8).reshape(height, width, 3), means.shape)
    lab, real = _lab(means), _lab(samples)
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
        colourful=len({_FAMILY[name] for name, _ in groups}) >= 6,
        fine_mix=fine_mix,
        fade=_fade(lab),
        lightest=_lightest(cells),
        even=bool(np.ptp(_blocks(cells)) < 8) and light > 40,
        texture=_texture(np.asarray(image.convert("L"))),
    )


def orientation(width: int, height: int) -> str:
    """One of square, nearly square, landscape, portrait, panoramic (> 2.2:1), tall and narrow (< 1:2.2)."""
    if width == height:
        return "square"
    if max(width, height) <= 1.04 * min(width, height):
        return "nearly square"
    if width > 2.2 * height:
        return "panoramic"
    if height > 2.2 * width:
        return "tall and narrow"
    return "landscape" if width > height else "portrait"


# --- measuring ---------------------------------------------------------------------------------


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


_ENCODED = np.arange(256) / 255
_LINEAR: Floats = np.where(_ENCODED <= 0.04045, _ENCODED / 12.92, ((_ENCODED + 0.055) / 1.055) ** 2.4)
# linear sRGB to XYZ, rows divided by the D65 white point
_TO_XYZ: Floats = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                    [0.0193339, 0.1191920, 0.9503041]]) / np.array([[0.95047], [1.0], [1.08883]])  # fmt: skip


def _lab(rgb: npt.NDArray[np.uint8]) -> Floats:
    """sRGB (..., 3) to CIELAB (..., 3) under D65: L* 0..100, a* and b* around 0."""
    xyz = _LINEAR[rgb] @ _TO_XYZ.T
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), xyz * (841 / 108) + 4 / 29)
    lab = np.empty_like(f)
    lab[..., 0] = 116 * f[..., 1] - 16
    lab[..., 1] = 500 * (f[..., 0] - f[..., 1])
    lab[..., 2] = 200 * (f[..., 1] - f[..., 2])
    return lab


_NAMES = tuple(name for name, _, _ in _COLOURS)
_FAMILY = {name: family for name, family, _ in _COLOURS}
_KIN = [[j for j, other in enumerate(_NAMES) if _FAMILY[other] == _FAMILY[name]] for name in _NAMES]
_EXAMPLES: Floats = _lab(
    np.array([list(bytes.fromhex(code)) for _, _, codes in _COLOURS for code in codes.split()], np.uint8)
)
_EXAMPLES_32 = _EXAMPLES.astype(np.float32)  # half the time, and names do not hang on the eighth digit
_NAME_OF_EXAMPLE = np.array([i for i, colour in enumerate(_COLOURS) for _ in colour[2].split()])


def _name_indices(lab: Floats) -> npt.NDArray[np.intp]:
    """The index into ``_NAMES`` of the nearest example, for each colour of (..., 3)."""
    flat = lab.reshape(-1, 3).astype(np.float32)
    # Squared distance without the part that is the same for all examples; no matrix product,
    # whose threads would fight with the other workers for the cores.
    distance = np.tile((_EXAMPLES_32**2).sum(axis=1), (len(flat), 1))
    for axis in range(3):
        distance -= np.multiply.outer(flat[:, axis], 2 * _EXAMPLES_32[:, axis])
    indices: npt.NDArray[np.intp] = _NAME_OF_EXAMPLE[distance.argmin(axis=1)].reshape(lab.shape[:-1])
    return indices


def _name(lab: Floats) -> str:
    return _NAMES[int(_name_indices(lab.reshape(1, 3))[0])]


def _groups(lab: Floats) -> list[tuple[str, Bools]]:
    """Cells of one colour name together, by falling share; close shades of one family as one group."""
    indices = _name_indices(lab)
    flat = indices.ravel()
    counts = np.bincount(flat, minlength=len(_NAMES))
    sums = [np.bincount(flat, lab[..., axis].ravel(), minlength=len(_NAMES)) for axis in range(3)]
    means = np.stack(sums, axis=1) / np.maximum(counts, 1)[:, None]
    leader = np.arange(len(_NAMES))
    for index in sorted(np.flatnonzero(counts), key=lambda i: (-counts[i], i)):
        for other in _KIN[index]:
            larger = (counts[other], -other) > (counts[index], -index) and leader[other] == other
            if larger and np.linalg.norm(means[other] - means[index]) < 18:
                leader[index] = other
                break
    led = leader[indices]
    sizes = np.bincount(led.ravel(), minlength=len(_NAMES))
    order = sorted(np.flatnonzero(sizes >= ACCENT_SHARE * led.size), key=lambda i: (-sizes[i], i))
    return [(_NAMES[i], led == i) for i in order]


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
        names = _name(first), _name(last)
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


# --- wording -----------------------------------------------------------------------------------

_TAGS = re.compile(r"\b(hash)?tags?\b|\bkey ?words?\b|\bcomma[- ]separated\b|\blabels?\b", re.I)
_SHORT = re.compile(
    r"\b(short(er|en)?|brief(ly)?|concise(ly)?|few words|(one|a|single|1)[- ](line|sentence|phrase))\b", re.I
)
_LONG = re.compile(
    r"\b(in detail|details?|detailed|long(er)?|paragraphs?|thorough(ly)?|comprehensive(ly)?|everything)\b",
    re.I,
)
_TITLE = re.compile(r"\b(title|headline)\b", re.I)


def sentence(facts: Facts, prompt: str, original_width: int, original_height: int) -> str:
    """Word the facts: tags, one sentence, two, or several, as ``prompt`` asks; never empty."""
    size = original_width, original_height
    if _TAGS.search(prompt):
        return _tags(facts, *size)
    if _SHORT.search(prompt) or (_TITLE.search(prompt) and not _LONG.search(prompt)):
        return _brief(facts, *size)
    return _detailed(facts, *size) if _LONG.search(prompt) else _middle(facts, *size)


def _tags(facts: Facts, width: int, height: int) -> str:
    shape = orientation(width, height)
    contrast = f"{facts.contrast_word} contrast" if facts.contrast_word and not facts.plain else ""
    tags = [shape, facts.light_word, contrast, "greyscale" if facts.greyscale else ""]
    tags += [patch.name for patch in facts.patches]
    tags += ["plain" if facts.plain else facts.texture, "many colours" if facts.colourful else ""]
    return ", ".join(tag for tag in tags if tag)


def _brief(facts: Facts, width: int, height: int) -> str:
    most = 3 if sum(patch.share > 0.2 for patch in facts.patches) > 2 else 2
    accent = replace(facts.accent, place="") if facts.accent and most == 2 else None
    facts = replace(facts, accent=accent)
    text = f"{_subject(facts, width, height, brief=True)}, {_colours(facts, most)}."
    return text if len(text.split()) >= 9 else text.replace(",", f" of {_size(width, height)},", 1)


def _middle(facts: Facts, width: int, height: int) -> str:
    first = f"{_subject(facts, width, height)} of {_size(width, height)}, {_colours(facts, 3)}."
    return f"{first} {_tone(facts) or _surface(facts) or _shares(facts) or _medium(facts)}".strip()


def _detailed(facts: Facts, width: int, height: int) -> str:
    subject = _subject(facts, width, height)
    first = f"This is {subject[0].lower()}{subject[1:]}, {_pixels(width)} wide and {_pixels(height)} high."
    shares = _shares(facts)
    # with a single colour its share says it all
    colours = "" if shares and len(facts.patches) == 1 and not facts.accent else f"It is {_colours(facts, 4)}."
    parts = [first, colours, shares, _tone(facts), _surface(facts)]
    return " ".join(part for part in parts if part)


def _pixels(count: int) -> str:
    return "1 pixel" if count == 1 else f"{count} pixels"


def _size(width: int, height: int) -> str:
    return f"{width} by {_pixels(height) if width == 1 else f'{height} pixels'}"


def _subject(facts: Facts, width: int, height: int, brief: bool = False) -> str:
    shape = orientation(width, height)
    shape += "-format" if shape in ("landscape", "portrait") else ""
    contrast = {"low": "low-contrast", "strong": "high-contrast"}.get(facts.contrast_word, "") if brief else ""
    tone = "" if facts.plain else facts.light_word or contrast
    words = " ".join(word for word in (tone, "greyscale" if facts.greyscale else "", shape) if word)
    return f"A {words} picture"


def _colours(facts: Facts, most: int) -> str:
    """What follows both "A picture, " and "It is "."""
    if facts.fade:
        ends = ("on the left", "on the right") if facts.fade.horizontal else ("at the top", "at the bottom")
        return f"fading from {facts.fade.first} {ends[0]} to {facts.fade.last} {ends[1]}"
    if facts.plain and facts.patches:
        return f"plain {facts.patches[0].name} all over"
    patches = facts.patches[:most]
    if facts.fine_mix:
        return _mixture(facts, patches)
    if facts.colourful and (not patches or patches[0].share < 0.3):
        striking = _placed([patch for patch in patches if patch.place])
        return "a mix of many colours" + (f", with {striking}" if striking else "")
    if not patches:
        return "without a dominant colour"
    touch = [replace(facts.accent, name=f"a touch of {facts.accent.name}")] if facts.accent else []
    first, rest = patches[0], patches[1:]
    if first.share > 0.52:
        clear = _placed([patch for patch in (*rest, *touch) if patch.place])
        vague = [f"some {patch.name}" for patch in rest if not patch.place]
        vague += [patch.name for patch in touch if not patch.place]
        others = _listed([part for part in (clear, *vague) if part])
        amount = "almost entirely" if first.share > 0.97 else "mostly"
        # of the larger part "mostly" has said already that it is everywhere
        lead = first.name if first.place == "throughout" else _placed([first])
        return f"{amount} {lead}" + (f", with {others}" if others else "")
    tail = f", with {_placed(touch)}" if touch else ""
    if first.share < 0.3 or sum(patch.share for patch in patches) < 0.6:
        return f"partly {_placed(patches)}{tail or ', among other colours'}"
    mixed = len({bool(patch.place) for patch in patches}) == 2
    return f"{'a mix of' if mixed else 'mostly'} {_placed(patches)}{tail}"


def _mixture(facts: Facts, patches: Sequence[Patch]) -> str:
    if not patches or facts.colourful:
        return "a fine mix of many colours"
    covered = sum(patch.share for patch in patches)
    if len(patches) == 1:
        return f"{'mostly' if covered > 0.6 else 'partly'} {patches[0].name}, finely mixed with other shades"
    return f"a fine mix of {_listed([p.name for p in patches] + (['other shades'] if covered < 0.8 else []))}"


def _placed(patches: Sequence[Patch]) -> str:
    """Colours with their places, each place said once; those without one first, so that none seems theirs."""
    names = {place: _listed([p.name for p in patches if p.place == place]) for place in (p.place for p in patches)}
    clear = _listed([f"{these} {place}" for place, these in names.items() if place])
    return " with ".join(part for part in (names.get("", ""), clear) if part)


def _listed(items: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(items[:-1]), *items[-1:]) if part)


def _shares(facts: Facts) -> str:
    sharp = [patch for patch in facts.patches if patch.sharp]
    if facts.plain or facts.fade or facts.fine_mix or not sharp:
        return ""
    parts = [f"{sharp[0].name.capitalize()} covers {_share(sharp[0].share)} of it"]
    return f"{_listed(parts + [f'{patch.name} {_share(patch.share)}' for patch in sharp[1:]])}."


def _share(share: float) -> str:
    if share > 0.97:
        return "nearly all"
    for value, words in ((1 / 4, "a quarter"), (1 / 3, "a third"), (1 / 2, "half"), (2 / 3, "two thirds")):
        if abs(share - value) < 0.03:
            return f"about {words}"
    return f"about {5 * round(share * 20)} percent"


def _tone(facts: Facts) -> str:
    """A sentence about contrast and where the light is, or nothing."""
    if facts.plain:
        return "It has no visible contrast."
    contrast = f"contrast is {facts.contrast_word}" if facts.contrast_word else ""
    where = "" if facts.fade else _lighter(facts)
    text = f"{contrast} and {where}" if contrast and where else contrast or where
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _medium(facts: Facts) -> str:
    return "It is neither dark nor bright." if 38 < facts.light < 63 else ""


def _lighter(facts: Facts) -> str:
    opposite = {"left": "right", "right": "left", "upper": "lower", "lower": "upper"}
    if facts.lightest in opposite:
        return f"the {facts.lightest} half is lighter than the {opposite[facts.lightest]}"
    if facts.lightest == "centre":
        return "the centre is lighter than the edges"
    if facts.lightest == "edges":
        return "the edges are lighter than the centre"
    if facts.lightest:
        return f"it is lightest towards the {facts.lightest}"
    return "the light is even from side to side" if facts.even else ""


def _surface(facts: Facts) -> str:
    if facts.plain or not facts.texture:
        return ""
    if facts.texture == "busy":
        return "It is full of fine detail."
    return "Most of it is smooth, with few sharp edges."
