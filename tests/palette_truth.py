"""Pictures whose truth is known, and a judge of what captions say about them.

A small parser reads the captions of the palette engine; the judge shares no code and no thresholds
with it: colours are compared by CIEDE2000 (scikit-image) with a list written here, places are counted
in the pixels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage import color

difference: Callable[..., Any] = color.deltaE_ciede2000
Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Statement = tuple[str, ...]  # kind, then what is said

# What a person may call these colours; the first name is the obvious one.
COLOURS = {
    "000000": "black", "404040": "dark grey", "808080": "grey", "c0c0c0": "light grey", "ffffff": "white",
    "ff0000": "red", "b22222": "red|dark red", "7a0000": "dark red", "ff8c00": "orange", "ff7f50": "orange|pink",
    "8b4513": "brown", "a0522d": "brown", "3c1e0c": "dark brown|black", "cd9b60": "light brown", "f5deb3": "beige",
    "fff8dc": "cream|white", "ffff00": "yellow", "ffd700": "yellow", "b8860b": "dark yellow",
    "6b8e23": "green|olive|yellow-green",
    "707000": "olive", "9acd32": "yellow-green|green|light green", "00ff00": "green", "228b22": "green",
    "006400": "dark green|green", "98fb98": "light green", "00808a": "teal", "40e0d0": "turquoise", "00ffff": "cyan",
    "0000ff": "blue", "4169e1": "blue", "000080": "dark blue", "191970": "dark blue", "87ceeb": "light blue",
    "add8e6": "light blue", "800080": "purple", "9932cc": "purple", "4b0082": "dark purple|purple",
    "b89ae0": "light purple", "ff00ff": "magenta", "c71585": "magenta", "ffb6c1": "pink", "ff69b4": "pink|magenta",
    "d2b48c": "beige|light brown", "708090": "bluish grey", "786c60": "brownish grey", "607060": "greenish grey",
    "50a060": "green", "a0c080": "green|light green|yellow-green", "5090b0": "blue|light blue|teal",
    "70b090": "green|light green|turquoise|teal", "a06080": "purple|pink|magenta", "8070b0": "purple|light purple",
    "b07060": "brown|light brown|pink|red", "a0a050": "olive|yellow-green|dark yellow", "604060": "purple|dark purple",
}  # fmt: skip
RGB = {code: tuple(bytes.fromhex(code)) for code in COLOURS}
NAMES = sorted({n for names in COLOURS.values() for n in names.split("|")}, key=len, reverse=True)
PLACES = (
    "in the upper left|in the upper right|in the lower left|in the lower right|in the centre|in the corners|"
    "around the edges|along the top|along the bottom|at the top and bottom|at the top|at the bottom|on both sides|"
    "on the left|on the right|across the middle|down the middle|throughout|towards the left|towards the right|"
    "towards the top|towards the bottom"
)
SHAPES = "nearly square|square|landscape|portrait|panoramic|tall and narrow"
LIGHTS = "very dark|dark|dim|very bright|bright"
SHARES = {"a quarter": 0.25, "a third": 1 / 3, "half": 0.5, "two thirds": 2 / 3}


# --- the parser --------------------------------------------------------------------------------


def statements(text: str) -> list[Statement]:
    """Everything a caption claims."""
    if not text.endswith("."):
        return list(_tags(text))
    found: list[Statement] = []
    for pattern in (r"(\d+) by (\d+) pixel", r"(\d+) pixels? wide and (\d+) pixels? high"):
        found += [("size", *m.groups()) for m in re.finditer(pattern, text)]
    subject = re.match(rf"(?:A|This is a) ((?:{LIGHTS}) )?((?:low|high)-contrast )?(greyscale )?({SHAPES})", text)
    assert subject, text
    light, contrast, grey, shape = (group and group.strip() for group in subject.groups())
    found.append(("shape", shape))
    found += [("light", light)] if light else []
    found += [("contrast", contrast.replace("high", "strong").removesuffix("-contrast"))] if contrast else []
    found += [("greyscale",)] if grey else []
    found += [("contrast", m[1].lower()) for m in re.finditer(r"[Cc]ontrast is (\w+)", text)]
    found += [("lighter", m[1].lower()) for m in re.finditer(r"(\w+)(?: half is| is| are) lighter than", text)]
    found += [("lighter", m[1]) for m in re.finditer(r"lightest towards the (\w+ \w+)", text)]
    fixed = {"light is even": "even", "full of fine detail": "busy", "few sharp edges": "smooth",
             "no visible contrast": "flat",
             "fine mix": "fine", "neither dark nor bright": "medium", "many colours": "many"}  # fmt: skip
    found += [(kind,) for words, kind in fixed.items() if words in text]
    shares = rf"(?i)({'|'.join(NAMES)})(?: covers)? (nearly all|about [\w ]*?(?:percent|{'|'.join(SHARES)}))"
    found += [("share", m[1].lower(), m[2]) for m in re.finditer(shares, text)]
    text = text.replace("It fades from", "It is fading from")
    begin = (
        rf"(?:picture(?: of \d+ by \d+ pixels?)?,|It is) ((?:fading|plain|mostly|almost|partly|a |{'|'.join(NAMES)})"
    )
    clause = re.search(rf"{begin}[^.]*)\.", text)
    return found + (list(_clause(clause[1])) if clause else [])


def _tags(text: str) -> Iterator[Statement]:
    kinds = {"shape": SHAPES, "light": LIGHTS, "greyscale": "greyscale", "busy": "busy", "smooth": "smooth",
             "many": "many colours", "flat": "plain"}  # fmt: skip
    for tag in text.split(", "):
        if tag.endswith(" contrast"):
            yield "contrast", tag.removesuffix(" contrast")
        elif tag in NAMES:
            yield "colour", tag, ""
        else:
            kind = next(kind for kind, words in kinds.items() if tag in words.split("|"))
            yield (kind, tag) if kind in ("shape", "light") else (kind,)


def _clause(clause: str) -> Iterator[Statement]:
    ends = r"(?: (?:on|at) the (left|top))?", r"(?: (?:on|at) the (?:right|bottom))?"
    fade = re.fullmatch(rf"fading from ([a-z -]+?){ends[0]} to ([a-z -]+?){ends[1]}", clause)
    if fade:
        yield "fade", fade[1], fade[3], fade[2] or ""
        return
    pending: list[str] = []
    seen: list[str] = []
    leading: list[str] = []  # the colours that "mostly" speaks of
    for token in re.findall(rf"\b(?:{'|'.join(NAMES)}|{PLACES}|with)\b|$", clause):
        if token in NAMES:
            pending.append(token)
            continue
        for name in pending:
            yield "colour", name, token if token != "with" else ""
        leading += pending if "with" not in seen else []
        seen.append(token)
        pending = []
    if clause.startswith(("mostly", "almost entirely", "plain")):
        yield "amount", clause.split()[0], *leading


# --- the judge ---------------------------------------------------------------------------------


class Truth:
    """What is true of a picture, from its pixels, by means other than the engine's."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels
        self.lab = color.rgb2lab(pixels)
        self.light = self.lab[..., 0]
        # one comparison per group of nearly equal colours, for speed
        codes = (pixels.astype(np.int32) // 8) @ np.array([1024, 32, 1])
        unique, self.index = np.unique(codes.ravel(), return_inverse=True)
        colours = np.stack([unique // 1024, unique // 32 % 32, unique % 32], axis=1) * 8 + 4
        table = color.rgb2lab(np.array(list(RGB.values()), np.uint8)[None])[0]
        self.distance = difference(color.rgb2lab(colours.astype(np.uint8)[:, None]), table[None])
        self.nearest = self.distance.min(axis=1)

    def mask(self, name: str) -> Mask:
        own = [i for i, names in enumerate(COLOURS.values()) if name in names.split("|")]
        fits = self.distance[:, own].min(axis=1) <= 1.5 * self.nearest + 5
        return np.asarray(fits[self.index.ravel()].reshape(self.pixels.shape[:2]))

    def judge(self, statement: Statement) -> bool:
        kind, *said = statement
        return bool(getattr(self, f"_{kind}")(*said))

    def _size(self, width: str, height: str) -> bool:
        return (int(height), int(width)) == self.pixels.shape[:2]

    def _shape(self, shape: str) -> bool:
        ratio = self.pixels.shape[1] / self.pixels.shape[0]
        low, high = {"square": (1, 1), "nearly square": (0.95, 1.05), "landscape": (1.03, 2.3),
                     "portrait": (0.43, 0.97), "panoramic": (2, 1e9), "tall and narrow": (0, 0.5)}[shape]  # fmt: skip
        return bool(low <= ratio <= high)

    def _light(self, word: str) -> bool:
        low, high = {"very dark": (0, 15), "dark": (8, 30), "dim": (22, 38), "bright": (64, 92),
                     "very bright": (84, 101)}[word]  # fmt: skip
        return low <= float(self.light.mean()) <= high

    def _medium(self) -> bool:
        return 35 <= float(self.light.mean()) <= 66

    def _contrast(self, word: str) -> bool:
        low, high = {"low": (0, 24), "moderate": (25, 62), "strong": (58, 101)}[word]
        return low <= float(np.ptp(np.percentile(self.light, (5, 95)))) <= high

    def _greyscale(self) -> bool:
        return bool(np.hypot(self.lab[..., 1], self.lab[..., 2]).max() < 6)

    def _flat(self) -> bool:
        return bool(np.ptp(self.light) < 5)

    def _lighter(self, where: str) -> bool:
        height, width = self.light.shape
        y, x = (np.arange(height)[:, None] + 0.5) / height, (np.arange(width)[None, :] + 0.5) / width
        inner = (abs(x - 0.5) < 0.25) & (abs(y - 0.5) < 0.25)
        areas = {
            "left": x < 0.5,
            "right": x > 0.5,
            "upper": y < 0.5,
            "lower": y > 0.5,
            "centre": inner,
            "edges": ~inner,
        }
        picked = [np.broadcast_to(areas[word], self.light.shape) for word in where.split()]
        return all(float(self.light[area].mean() - self.light[~area].mean()) > 4 for area in picked)

    def _even(self) -> bool:
        rows, columns = (np.linspace(0, n, 4).astype(int) for n in self.light.shape)
        blocks = [self.light[a:b, c:d].mean() for a, b in pairwise(rows)
                  for c, d in pairwise(columns) if b > a and d > c]  # fmt: skip
        return bool(np.ptp(blocks) < 10)

    def _steps(self, size: float) -> float:
        return float(np.mean([(abs(np.diff(self.light, axis=axis)) > size).mean() for axis in (0, 1)]))

    def _busy(self) -> bool:
        return self._steps(5) > 0.3

    def _smooth(self) -> bool:
        return self._steps(5) < 0.05

    def _fine(self) -> bool:
        return self._steps(2) + float(abs(np.diff(self.lab[..., 1:], axis=1)).mean()) / 50 > 0.1

    def _many(self) -> bool:
        shares = np.bincount(self.distance.argmin(axis=1)[self.index.ravel()], minlength=len(COLOURS)) / self.index.size
        return bool((shares > 0.02).sum() >= 5 and shares.max() < 0.5)

    def _share(self, name: str, about: str) -> bool:
        words = about.removeprefix("about ")
        value = 0.98 if words == "nearly all" else SHARES.get(words) or int(words.split()[0]) / 100
        return abs(float(self.mask(name).mean()) - value) < 0.07

    def _amount(self, word: str, *names: str) -> bool:
        covered = np.logical_or.reduce([self.mask(name) for name in names]).mean()
        return bool(covered > {"mostly": 0.5, "almost": 0.94, "plain": 0.99}[word])

    def _fade(self, first: str, last: str, start: str) -> bool:
        if not start:
            return self._fade(first, last, "left") or self._fade(first, last, "top")
        turned = [self.mask(name) if start == "left" else self.mask(name).T for name in (first, last)]
        width = turned[0].shape[1]
        edge = max(1, width // 8)
        return bool(turned[0][:, :edge].mean() > 0.6 and turned[1][:, -edge:].mean() > 0.6)

    def _colour(self, name: str, place: str) -> bool:
        mask = self.mask(name)
        return bool(mask.mean() >= 0.03) and (not place or lies(mask, place))


def lies(mask: Mask, place: str) -> bool:
    """Whether the pixels of ``mask`` lie where ``place`` says."""
    height, width = mask.shape
    rows, columns = np.nonzero(mask)
    y, x = (rows + 0.5) / height, (columns + 0.5) / width
    left, top = (x < 0.5).mean() + (x == 0.5).mean() / 2, (y < 0.5).mean() + (y == 0.5).mean() / 2
    side = {"left": left, "right": 1 - left, "top": top, "bottom": 1 - top, "upper": top, "lower": 1 - top}
    thirds = (
        [((x * 3).astype(int) == i).mean() for i in range(3)],
        [((y * 3).astype(int) == i).mean() for i in range(3)],
    )
    inner = (abs(x - 0.5) < 1 / 6) & (abs(y - 0.5) < 1 / 6)
    corner = (abs(x - 0.5) > 1 / 6) & (abs(y - 0.5) > 1 / 6)
    quarters = [((x < 0.5) == a)[(y < 0.5) == b].sum() / len(x) for a in (True, False) for b in (True, False)]
    special = {
        "in the centre": ((abs(x - 0.5) < 0.36) & (abs(y - 0.5) < 0.36)).mean() > 0.7 and inner.mean() > 1 / 9,
        "in the corners": corner.mean() > 0.65 and min(quarters) > 0.08,
        "around the edges": inner.mean() < 0.06 and min(*thirds[0], *thirds[1]) > 0.12,
        "at the top and bottom": thirds[1][1] < 0.2 and min(thirds[1][0], thirds[1][2]) > 0.2,
        "on both sides": thirds[0][1] < 0.2 and min(thirds[0][0], thirds[0][2]) > 0.2,
        "across the middle": thirds[1][1] > 0.65 and min(thirds[0]) > 0.15,
        "down the middle": thirds[0][1] > 0.65 and min(thirds[1]) > 0.15,
        "throughout": min(quarters) > 0.14,
    }
    words = [word for word in place.split() if word in side]
    if place in special:
        return bool(special[place])
    least = 0.64 if place.startswith("towards") else 0.74
    return all(side[word] > least for word in words)


# --- the pictures ------------------------------------------------------------------------------


def _canvas(rng: np.random.Generator) -> tuple[int, int, npt.NDArray[Any], npt.NDArray[Any]]:
    height, width = (int(n) for n in rng.integers(24, 300, 2))
    if rng.random() < 0.2:
        height = width
    y, x = (np.arange(height)[:, None] + 0.5) / height, (np.arange(width)[None, :] + 0.5) / width
    return height, width, y, x


def _two(rng: np.random.Generator) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Two colours that nobody calls by one name."""
    while True:
        a, b = rng.choice(list(RGB), 2, replace=False)
        near = set(COLOURS[a].split("|")) & set(COLOURS[b].split("|"))
        apart = difference(*(color.rgb2lab(np.array(RGB[code], np.uint8)) for code in (a, b)))
        if not near and apart > 25:
            return np.array(RGB[a], float), np.array(RGB[b], float)


def _mixed(rng: np.random.Generator, amount: Callable[[Any, Any, int, int], npt.NDArray[Any]]) -> Pixels:
    height, width, y, x = _canvas(rng)
    first, second = _two(rng)
    share = np.broadcast_to(amount(x, y, height, width), (height, width))[..., None]
    jitter = rng.normal(0, rng.choice([0, 2]), (height, width, 1))
    blend: Pixels = np.clip(first * (1 - share) + second * share + jitter, 0, 255).astype(np.uint8)
    return blend


def _blobs(rng: np.random.Generator) -> Pixels:
    height, width, _, _ = _canvas(rng)
    coarse = rng.integers(0, 256, (int(rng.integers(2, 6)), int(rng.integers(2, 6)), 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _noise(rng: np.random.Generator) -> Pixels:
    height, width, _, _ = _canvas(rng)
    noise = rng.integers(0, 256, (height, width, int(rng.choice([1, 3]))), np.uint8)
    return np.ascontiguousarray(np.broadcast_to(noise, (height, width, 3)))


KINDS: dict[str, Callable[[np.random.Generator], Pixels]] = {
    "halves": lambda r: _mixed(r, lambda x, y, h, w: x > 0.5 if w > h else y > 0.5),
    "unequal": lambda r: _mixed(r, lambda x, y, h, w: (x if w % 2 else y) > r.uniform(0.2, 0.8)),
    "disc": lambda r: _mixed(r, lambda x, y, h, w: np.hypot(x - 0.5, y - 0.5) < r.uniform(0.2, 0.42)),
    "off disc": lambda r: _mixed(r, lambda x, y, h, w: np.hypot(x - r.uniform(0, 1), y - r.uniform(0, 1)) < 0.25),
    "frame": lambda r: _mixed(r, lambda x, y, h, w: np.maximum(abs(x - 0.5), abs(y - 0.5)) > r.uniform(0.3, 0.46)),
    "band": lambda r: _mixed(r, lambda x, y, h, w: abs((x if w % 2 else y) - 0.5) < r.uniform(0.06, 0.2)),
    "block": lambda r: _mixed(r, lambda x, y, h, w: (x < 0.45) == (w % 2 == 0) if h % 3 else (y < 0.4) & (x > 0.55)),
    "gradient": lambda r: _mixed(r, lambda x, y, h, w: x if w % 2 else y),
    "radial": lambda r: _mixed(r, lambda x, y, h, w: np.minimum(1, 1.6 * np.hypot(x - 0.5, y - 0.5))),
    "stripes": lambda r: _mixed(r, lambda x, y, h, w: ((x if w % 2 else y) * int(r.integers(4, 12))).astype(int) % 2),
    "hairlines": lambda r: np.repeat(_mixed(r, lambda x, y, h, w: (x * w).astype(int) % 2), 2, axis=0),
    "checks": lambda r: _mixed(r, lambda x, y, h, w: ((x * 8).astype(int) + (y * 8).astype(int)) % 2),
    "blobs": _blobs,
    "noise": _noise,
}  # fmt: skip


def pictures(seed: int, of_each_kind: int) -> list[tuple[str, Pixels]]:
    """(kind, pixels) of each colour as it is and of so many of each kind, each time the same."""
    rng = np.random.default_rng(seed)
    solid = [("solid", np.full((40, 60, 3), RGB[code], np.uint8)) for code in COLOURS]
    return solid + [
        (kind, np.ascontiguousarray(make(rng))) for kind, make in KINDS.items() for _ in range(of_each_kind)
    ]
