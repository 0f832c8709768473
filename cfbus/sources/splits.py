"""Which files of a dataset belong to which configuration and split, by their paths and what its card says.

What it is for: `selected`, the files that `dataset.hub_config` and `dataset.split` stand for.
What it must not know: the hub, the disk, what is in the files.

Rules, those of the library `datasets` as far as they are about files that are there:
- A card (the head of ``README.md``) with ``configs`` says which files a configuration has, and which split each is of.
  Of several configurations the one that is called so is taken, else the one marked ``default`` or called ``default``.
- Without one, a configuration is a folder (``<config>/…`` or ``data/<config>/…``), and a split is read from a path: the
  name before ``-00000-of-00001``, else a word for it in the file's name, else a folder called so, else ``train``.
- No split named: all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any, Final

from cfbus.errors import SourceError
from cfbus.logs import display

_SHARDED: Final = re.compile(r"(?P<split>.+)-[0-9]{4,6}-of-[0-9]{4,6}(?:[-.].*)?")
_WORDS: Final = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_CANONICAL: Final = {word: split for split, words in _WORDS.items() for word in words}
_MAX_PATTERNS: Final = 10_000
_MAX_DEPTH: Final = 3
"""A list of splits, each a list of patterns."""


def selected(paths: Sequence[str], card: Mapping[str, Any], config: str, split: str, where: str) -> list[str]:
    """The files of this configuration and split, in the order of their paths. Raises SourceError for one that the
    dataset does not have; ``where`` is the dataset for people."""
    configs = _configs(card)
    if configs:
        chosen = _chosen(configs, config, where)
        known = dict(_by_card(chosen, paths))
    else:
        known = {path: split_of(path) for path in _in_config(paths, config, where)}
    if not split:
        return sorted(known)
    found = sorted(path for path, of in known.items() if of in (split, _canonical(split)))
    if not found and known:
        splits = ", ".join(display(name, 60) for name in sorted(set(known.values()))[:20])
        raise SourceError(
            f"{where}: there is no split {display(split, 60)} (its splits: {splits}).", "Say another dataset.split."
        )
    return found


def split_of(path: str) -> str:
    """The split of a file, by its path."""
    parts = PurePosixPath(path)
    sharded = _SHARDED.fullmatch(parts.name)
    if sharded is not None:
        return _canonical(sharded["split"])
    folders = [folder.removeprefix("partial-") for folder in reversed(parts.parts[:-1])]
    words = [*re.split(r"[^a-z]+", parts.name.partition(".")[0].lower()), *(folder.lower() for folder in folders)]
    found = next((_CANONICAL[word] for word in words if word in _CANONICAL), "")
    if not found and parts.stem.isdigit() and len(folders) > 1:  # <config>/<split>/0000.parquet
        return folders[0]
    return found or "train"


def in_split(path: str, split: str) -> bool:
    """Whether a file is of a split, by its path; any is of none."""
    return not split or split_of(path) in (split, _canonical(split))


def _canonical(split: str) -> str:
    return _CANONICAL.get(split.lower(), split)


def matches(path: str, pattern: str) -> bool:
    """Whether a path is what a pattern stands for: itself, all in a folder, or by stars, which cross folders too."""
    pattern = pattern.removeprefix("./").strip("/")
    if not pattern or path == pattern or path.startswith(f"{pattern}/"):
        return True
    return fnmatchcase(path, pattern) or ("**/" in pattern and fnmatchcase(path, pattern.replace("**/", "")))


# -- by the card


def _configs(card: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    configs = card.get("configs")
    found = [each for each in configs if isinstance(each, Mapping)] if isinstance(configs, list) else []
    return [
        each
        for each in found
        if isinstance(each.get("config_name"), str) and ("data_files" in each or "data_dir" in each)
    ]


def _chosen(configs: Sequence[Mapping[str, Any]], config: str, where: str) -> Mapping[str, Any]:
    names = [str(each["config_name"]) for each in configs]
    shown = ", ".join(display(name, 60) for name in names[:20])
    if config:
        if config in names:
            return configs[names.index(config)]
        raise SourceError(
            f"{where}: there is no configuration {display(config, 60)} (there are {shown}).",
            "Say another dataset.hub_config.",
        )
    if len(configs) == 1:
        return configs[0]
    default = next((each for each in configs if each.get("default") is True), None)
    if default is None and "default" in names:
        default = configs[names.index("default")]
    if default is None:
        raise SourceError(
            f"{where}: it has several configurations ({shown}).", "Say with dataset.hub_config which one."
        )
    return default


def _by_card(config: Mapping[str, Any], paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The files of a configuration and their splits."""
    folder = str(config.get("data_dir") or "").strip("/")
    inside = [path for path in paths if matches(path, folder)]
    for split, pattern in list(_patterns(config.get("data_files", "")))[:_MAX_PATTERNS]:
        whole = f"{folder}/{pattern}" if folder and pattern else pattern
        yield from ((path, split or split_of(path)) for path in inside if matches(path, whole))


def _patterns(said: object, split: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    match said:
        case str():
            yield split, said[:500]
        case _ if depth == _MAX_DEPTH:
            return
        case Mapping() if "split" in said or "path" in said:
            yield from _patterns(said.get("path", ""), str(said.get("split", "")), depth + 1)
        case Mapping():
            for name, each in said.items():
                yield from _patterns(each, str(name), depth + 1)
        case list():
            for each in said:
                yield from _patterns(each, split, depth + 1)


# -- by folders


def _in_config(paths: Iterable[str], config: str, where: str) -> list[str]:
    everything = list(paths)
    if not config:
        return everything
    found = [path for path in everything if path.removeprefix("data/").startswith(f"{config}/")]
    if not found and config != "default":
        raise SourceError(
            f"{where}: there is no configuration {display(config, 60)}; no card or folder is called so.",
            "Say another dataset.hub_config, or none.",
        )
    return found or everything
