"""The types that the keys of the configuration have: whole numbers, flags, paths, addresses, names.

They must not know a single key. Each says itself what it accepts, as the end of "… is not …".

Invariants: nothing is converted in silence ("yes" is no flag, 7.0 no whole number); every path is absolute.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Strict, ValidationInfo

from cfbus.config_file import absolute
from cfbus.logs import display

_SLOT_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_GPU = re.compile(r"0|[1-9][0-9]{0,2}|10[01][0-9]|102[0-3]|GPU-[0-9A-Fa-f-]{4,36}|MIG-[0-9A-Za-z/-]{4,60}")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s]+", re.IGNORECASE)
_ENDPOINT = re.compile(r"tcp://(\[[0-9A-Fa-f:.%a-z]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})")


def _path(given: object, info: ValidationInfo) -> object:
    if not isinstance(given, str | Path):
        return given
    return absolute(given, (info.context or {}).get("folder") or Path.cwd())


def is_url(given: object) -> bool:
    """Whether this names something by a scheme and not by a path."""
    return isinstance(given, str) and _URL.fullmatch(given) is not None


def shown_url(address: str) -> str:
    """An address for people and logs: without user, password, query and fragment."""
    try:
        parts = urlsplit(address)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return display(address.partition("://")[0], 20) + "://…"
    more = "?…" if parts.query else ""
    return display(f"{parts.scheme.lower()}://{host}{parts.path}{more}", 500)


def holds_secret(address: str) -> bool:
    """Whether an address may only be read by its owner: it has a user, a password or a query."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return True
    return "@" in parts.netloc or bool(parts.query)


def _place(given: object, info: ValidationInfo) -> object:
    if not isinstance(given, str | Path):
        raise ValueError("a path or an address")
    return given if is_url(given) else _path(given, info)


def folder_problem(path: Path) -> str:
    """What keeps ``path`` from being a folder or becoming one, as the end of a sentence; empty if nothing does."""
    try:
        str(path).encode()
        there = next((each for each in (path, *path.parents) if each.exists() or each.is_symlink()), path)
        if there.is_dir() or not (there.exists() or there.is_symlink()):
            return ""
        what = "a file" if there.exists() else "a link to nothing"
    except UnicodeEncodeError:
        return "its name is not UTF-8, which the tables need"
    except OSError as error:
        return (error.strerror or "it cannot be used").lower()
    return f"{'it' if there == path else display(str(there), 200)} is {what}"


def _folder(path: Path) -> Path:
    problem = folder_problem(path)
    if problem:
        raise ValueError(f"a place for a folder: {problem}")
    return path


def _one_line(text: str) -> str:
    if display(text, len(text) + 1) != text:
        raise ValueError("one line of printable text")
    return text


def _endpoint(text: str) -> str:
    match = _ENDPOINT.fullmatch(text)
    if match is None or not 0 < int(match[2]) < 65536:
        raise ValueError("an address like tcp://HOST:PORT")
    return text


def _slot_name(name: str) -> str:
    if not _SLOT_NAME.fullmatch(name):
        raise ValueError("a small letter, then at most 31 small letters, digits or _")
    return name


MAX_GPUS = 64


def _gpus(given: object) -> str:
    """GPUs in one form, ``0,1``, whether they came as a number, a list or a text."""
    listed = given if isinstance(given, list | tuple) else [given]
    if len(listed) == 1 and isinstance(listed[0], str):
        listed = listed[0].split(",")
    names = [str(each).strip() for each in listed if isinstance(each, str | int) and not isinstance(each, bool)]
    fit = len(names) == len(listed) and all(_GPU.fullmatch(name) for name in names)
    if not fit or not 1 <= len(names) <= MAX_GPUS or len({name.lower() for name in names}) < len(names):
        raise ValueError("a GPU or several, each once: numbers from 0 to 1023, or names that begin with GPU- or MIG-")
    return ",".join(names)


Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]
AnyPath = Annotated[Path, BeforeValidator(_path)]
Place = Annotated[Path | str, BeforeValidator(_place)]
Folder = Annotated[Path, BeforeValidator(_path), AfterValidator(_folder)]
Line = Annotated[str, AfterValidator(_one_line)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
Gpus = Annotated[str, BeforeValidator(_gpus)]
SlotName = Annotated[str, AfterValidator(_slot_name)]
