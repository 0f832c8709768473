"""The built-in engine: true sentences about a picture's size, light and colours, without a GPU.

It is for people who try the bus before they have a model, and it is no vision-language model:
it never says what a picture shows. Here facts become English; ``palette_facts`` measures them.
It must not know about leases, prompts' templates, files or processes; children that decode import
it, so it imports no more than numpy, Pillow and what those children have anyway.

Invariants: the same facts and prompt give the same words; nothing is said that the facts do not
hold; a caption is never empty, and a brief one has at most ``BRIEF_WORDS`` words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from cfbus.engines.palette_facts import Facts, Patch, measure
from cfbus.images import Picture

__all__ = ["ENGINE", "MODEL", "Facts", "describe", "describe_picture", "measure", "sentence"]

ENGINE = "palette"
MODEL = "palette-1 (not a vision-language model)"
BRIEF_WORDS = 15

_TAGS = re.compile(r"\b(hash)?tags?\b|\bkey ?words?\b|\bcomma[- ]separated\b|\blabels?\b", re.I)
_SHORT = re.compile(
    r"\b(short(er|en)?|brief(ly)?|concise(ly)?|few words|(one|a|single|1)[- ](line|sentence|phrase))\b", re.I
)
_LONG = re.compile(
    r"\b(in detail|details?|detailed|long(er)?|paragraphs?|thorough(ly)?|comprehensive(ly)?|everything)\b",
    re.I,
)
_TITLE = re.compile(r"\b(title|headline)\b", re.I)


def describe(pixels: bytes, width: int, height: int, prompt: str, original_width: int, original_height: int) -> str:
    """Say what can truthfully be said about a picture, in the length that ``prompt`` asks for.

    ``pixels`` is 8-bit RGB, row by row, ``width * height * 3`` bytes; ``original_*`` is the size
    as stored, in pixels, orientation applied. Raises ValueError when the sizes do not fit.
    """
    return sentence(measure(pixels, width, height), prompt, original_width, original_height)


def describe_picture(prompts: tuple[str | None, ...], picture: Picture) -> tuple[Picture, tuple[str | None, ...]]:
    """The picture without its pixels, and a description for each prompt (None for none), measured once."""
    facts = measure(picture.pixels, picture.width, picture.height)
    size = picture.original_width, picture.original_height
    return replace(picture, pixels=b""), tuple(
        prompt if prompt is None else sentence(facts, prompt, *size) for prompt in prompts
    )


def sentence(facts: Facts, prompt: str, original_width: int, original_height: int) -> str:
    """Word the facts: tags, one sentence, two, or several, as ``prompt`` asks; never empty."""
    size = original_width, original_height
    if _TAGS.search(prompt):
        return _tags(facts, *size)
    if _SHORT.search(prompt) or (_TITLE.search(prompt) and not _LONG.search(prompt)):
        return _brief(facts, *size)
    return _detailed(facts, *size) if _LONG.search(prompt) else _middle(facts, *size)


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


# --- captions of each length ---------------------------------------------------------------------


def _tags(facts: Facts, width: int, height: int) -> str:
    shape = orientation(width, height)
    contrast = f"{facts.contrast_word} contrast" if facts.contrast_word and not facts.plain else ""
    tags = [shape, facts.light_word, contrast, "greyscale" if facts.greyscale else ""]
    tags += [patch.name for patch in facts.patches]
    tags += ["plain" if facts.plain else facts.texture, "many colours" if facts.colourful else ""]
    return ", ".join(tag for tag in tags if tag)


def _brief(facts: Facts, width: int, height: int) -> str:
    """One line: what is least worth its words is left out until it is short enough."""
    most = 3 if sum(patch.share > 0.2 for patch in facts.patches) > 2 else 2
    accent = replace(facts.accent, place="") if facts.accent and most == 2 else None
    toneless = replace(facts, contrast_word="", light_word="")
    text = ""
    for (count, places), touch, less in product(_cuts(facts, most), (accent, None), (facts, toneless)):
        text = _line(replace(less, accent=touch), width, height, count, places)
        if len(text.split()) <= BRIEF_WORDS:
            break
    return text if len(text.split()) >= 9 else text.replace(",", f" of {_size(width, height)},", 1)


def _cuts(facts: Facts, most: int) -> Sequence[tuple[int, bool]]:
    """How many colours to name and whether to say where they lie: first the best, last the shortest."""
    return (most, True), (1 if facts.colourful else 2, True), (most, False), (2, False), (1, False)


def _line(facts: Facts, width: int, height: int, most: int, places: bool) -> str:
    subject = _subject(facts, width, height, brief=True)
    if places:
        return f"{subject}, {_colours(facts, most, brief=True)}."
    if facts.fade:
        return f"{subject}, fading from {facts.fade.first} to {facts.fade.last}."
    unplaced = tuple(replace(patch, place="") for patch in facts.patches)
    return f"{subject}, {_colours(replace(facts, patches=unplaced), most, brief=True)}."


def _middle(facts: Facts, width: int, height: int) -> str:
    first = f"{_subject(facts, width, height)} of {_size(width, height)}, {_colours(facts, 3)}."
    return f"{first} {_tone(facts) or _surface(facts) or _shares(facts) or _medium(facts)}".strip()


def _detailed(facts: Facts, width: int, height: int) -> str:
    subject = _subject(facts, width, height)
    first = f"This is {subject[0].lower()}{subject[1:]}, {_pixels(width)} wide and {_pixels(height)} high."
    shares = _shares(facts)
    # with a single colour its share says it all
    colours = "" if shares and len(facts.patches) == 1 and not facts.accent else f"It is {_colours(facts, 4)}."
    colours = colours.replace("It is fading", "It fades", 1)
    parts = [first, colours, shares, _tone(facts) or _medium(facts), _surface(facts)]
    return " ".join(part for part in parts if part)


# --- the subject ---------------------------------------------------------------------------------


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


# --- the colours ---------------------------------------------------------------------------------


def _colours(facts: Facts, most: int, brief: bool = False) -> str:
    """What follows both "A picture, " and "It is "; in brief, "partly" alone says that there are others."""
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
    if patches[0].share > 0.52:
        return _led(patches[0], patches[1:], touch)
    text = _together(patches)
    _, accompanied, others = text.partition(", with ")
    if touch:
        comma = "," if not accompanied or " and " in others else ""
        return f"{text}{comma} {'and' if accompanied else 'with'} {_placed(touch)}"
    if brief or accompanied or not text.startswith("partly "):
        return text
    return f"{text}, among other {'shades' if facts.greyscale else 'colours'}"


def _led(first: Patch, rest: Sequence[Patch], touch: Sequence[Patch]) -> str:
    """One colour covers more than half."""
    clear = _placed([patch for patch in (*rest, *touch) if patch.place])
    vague = [f"some {patch.name}" for patch in rest if not patch.place]
    vague += [patch.name for patch in touch if not patch.place]
    others = _listed([part for part in (clear, *vague) if part])
    amount = "almost entirely" if first.share > 0.97 else "mostly"
    # of the larger part "mostly" has said already that it is everywhere
    lead = first.name if first.place == "throughout" else _placed([first])
    return f"{amount} {lead}" + (f", with {others}" if others else "")


def _together(patches: Sequence[Patch]) -> str:
    """Several colours, none of which covers more than half."""
    clear, vague = [patch for patch in patches if patch.place], [patch for patch in patches if not patch.place]
    if len(clear) < len(patches) and _covered(vague) >= _covered(clear):
        alike = len(vague) > 1 and _covered(patches) > 0.6 and patches[0].share >= 0.3
        names = _listed([patch.name for patch in vague])
        return f"{'a mix of' if alike else 'partly'} {names}" + (f", with {_placed(clear)}" if clear else "")
    covered = _covered(clear)
    amount = "partly " if covered < 0.6 or patches[0].share < 0.3 else "" if covered > 0.88 else "mostly "
    others = _listed([patch.name for patch in vague])
    return f"{amount}{_placed(clear)}" + (f", with some {others}" if others else "")


def _covered(patches: Sequence[Patch]) -> float:
    return sum(patch.share for patch in patches)


def _mixture(facts: Facts, patches: Sequence[Patch]) -> str:
    if not patches or facts.colourful:
        return "a fine mix of many colours"
    covered = _covered(patches)
    if len(patches) == 1:
        return f"{'mostly' if covered > 0.6 else 'partly'} {patches[0].name}, finely mixed with other shades"
    return f"a fine mix of {_listed([p.name for p in patches] + (['other shades'] if covered < 0.8 else []))}"


def _placed(patches: Sequence[Patch]) -> str:
    """Colours that have places, each place said once."""
    names = {place: [p.name for p in patches if p.place == place] for place in (p.place for p in patches)}
    groups = [f"{_listed(these)} {place}".rstrip() for place, these in names.items()]
    if len(groups) > 1 and any(len(these) > 1 for these in names.values()):
        return f"{', '.join(groups[:-1])}, and {groups[-1]}"
    return _listed(groups)


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


# --- light and surface ---------------------------------------------------------------------------


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
        return f"the picture is lightest towards the {facts.lightest}"
    return "the light is even from side to side" if facts.even else ""


def _surface(facts: Facts) -> str:
    if facts.plain or not facts.texture:
        return ""
    if facts.texture == "busy":
        return "The picture is full of fine detail."
    return "Most of the picture is smooth, with few sharp edges."
