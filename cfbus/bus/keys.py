"""CURVE keypairs: made, kept in files, shown to people.

Knows the two file formats of pyzmq's certificates and the one-line form in which people mail
a public key. Must not know roles, states or sockets: whether a key is let in is decided in
``auth``.

Invariants: a secret is never printed, logged or part of a ``repr``; a secret file is created
exclusively, 0600, and never through a symbolic link; a pair whose halves do not belong
together never leaves ``load``, because on the wire it would only look like an endless handshake.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

import zmq
from zmq.utils import z85

from cfbus.errors import KeyRefusedError, UnsafeError, UsageError

KEY_BYTES: Final = 32
Z85_BYTES: Final = 40
NAME_LIMIT: Final = 64

_LINE_PREFIX: Final = "cfbus-key1"
_CHECKSUM_CHARS: Final = 6
_FILE_LIMIT: Final = 64 * 1024
_PAIR_SUFFIX: Final = ".key_secret"
_PUBLIC_SUFFIX: Final = ".key"
_HOW_TO_MAKE: Final = (
    "`cfbus join` makes one for somebody's bus, `cfbus init` those of a whole setup, `cfbus keygen` a single one."
)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Both halves of a CURVE key, each as 40 bytes of Z85; the secret never shows in ``repr``."""

    public: bytes
    secret: bytes = field(repr=False)


def generate() -> KeyPair:
    """A new pair from the operating system's randomness."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public, secret)


def raw_key(text: bytes) -> bytes | None:
    """The 32 bytes behind 40 bytes of Z85, or ``None`` if ``text`` is no such key."""
    if len(text) != Z85_BYTES:
        return None
    try:
        raw = z85.decode(text)
    except (KeyError, ValueError, struct.error):
        return None
    return raw if z85.encode(raw) == text else None


def check_name(name: str) -> str:
    """``name`` as it is if it can stand in a key file and on a line, else ``UsageError``."""
    if not name or len(name) > NAME_LIMIT or not name.isprintable() or name != name.strip():
        raise UsageError(
            f"A key's name must be 1 to {NAME_LIMIT} printable characters without outer spaces, not {name!r}.",
            "Choose a short name such as `night-gpu`.",
        )
    return name


def save(pair: KeyPair, path: Path, name: str, role: str = "") -> None:
    """Write the secret file (0600) at ``path`` and the public half (0644) beside it; durable on return.

    ``path`` ends in ``.key_secret``; the public half goes to the same stem with ``.key``.
    Raises ``UsageError`` if either file exists already or cannot be created: nothing is ever overwritten.
    """
    check_name(name)
    if path.suffix != _PAIR_SUFFIX:
        raise UsageError(f"A secret key's file must end in {_PAIR_SUFFIX}, not {path}.")
    meant = f"    role = {role}\n" if role else ""
    public_half = f'metadata\n    name = {name}\n{meant}curve\n    public-key = "{pair.public.decode("ascii")}"\n'
    secret_half = f'    secret-key = "{pair.secret.decode("ascii")}"\n'
    warning = "# A CURVE *secret*: whoever has this file can act as its owner. Never copy or mail it.\n"
    _create(path, warning + public_half + secret_half, 0o600)
    try:
        _create(path.with_suffix(_PUBLIC_SUFFIX), "# The public half of a CURVE key.\n" + public_half, 0o644)
    except UsageError:
        path.unlink()
        raise
    _sync_folder(path.parent)


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What a key file says, unchecked; ``match`` is None where there is no secret half. No secret is in it."""

    public: bytes | None
    has_secret: bool
    match: bool | None
    name: str
    role: str
    mode: int


def look(path: Path) -> KeyFile:
    """What is in a key file, whatever is wrong with it. Errors as for ``load``, but only those of reading."""
    text, status = _read(path)
    public, secret = _parse(text)
    usable = public if public is not None and raw_key(public) is not None else None
    whole = secret is not None and raw_key(secret) is not None
    match = (whole and zmq.curve_public(secret) == usable) if secret is not None else None
    return KeyFile(usable, secret is not None, match, _said(text, b"name"), _said(text, b"role"), status.st_mode)


def load(path: Path) -> KeyPair:
    """The pair in a ``.key_secret`` file.

    Raises ``UsageError`` if there is no such file, ``UnsafeError`` if others could read or
    swap it, ``KeyRefusedError`` if it holds no usable pair.
    """
    text, status = _read(path)
    public, secret = _parse(text)
    if public is not None and secret is None:
        raise KeyRefusedError(
            f"{path} holds only the public half of a key.",
            f"Name the {_PAIR_SUFFIX} file that was made with it.",
        )
    _check_private(path, status)
    if public is None or secret is None or raw_key(public) is None or raw_key(secret) is None:
        raise KeyRefusedError(f"The key file {path} is damaged.", f"Restore it, or move it away. {_HOW_TO_MAKE}")
    if zmq.curve_public(secret) != public:
        raise KeyRefusedError(
            f"The public and the secret half in {path} do not belong together.",
            f"Restore the file, or move it away. {_HOW_TO_MAKE}",
        )
    return KeyPair(public, secret)


def load_public(path: Path) -> bytes:
    """The public key (Z85) in a ``.key`` file; errors as for ``load``, but it may be readable by all."""
    text, _ = _read(path)
    public, _ = _parse(text)
    if public is None or raw_key(public) is None:
        raise KeyRefusedError(f"The key file {path} is damaged.", "Ask its owner for it again.")
    return public


@lru_cache(maxsize=4096)
def fingerprint(public: bytes) -> str:
    """How a public key is named on screens and in logs: ``SHA256:`` and base64url without padding."""
    return "SHA256:" + _base64(hashlib.sha256(_raw_or_refuse(public)).digest())


def public_line(public: bytes, name: str) -> str:
    """The line that a contributor mails: ``cfbus-key1 <base64url>.<checksum> name``."""
    raw = _raw_or_refuse(public)
    return f"{_LINE_PREFIX} {_base64(raw)}.{_checksum(raw)} {check_name(name)}"


def parse_public_line(line: str) -> tuple[bytes, str]:
    """The public key (Z85) and the name in a line of ``public_line``; ``UsageError`` if it is none."""
    words = line.split(maxsplit=2)
    if not words or words[0] != _LINE_PREFIX:
        raise UsageError(
            f"This is not a line with a public key: it must begin with {_LINE_PREFIX}.",
            "The owner of the key prints the line with `cfbus keygen`.",
        )
    encoded, dot, checksum = words[1].partition(".") if len(words) == 3 else ("", "", "")
    raw = _unbase64(encoded)
    if not dot or raw is None or _checksum(raw) != checksum:
        raise UsageError(
            "The public key's line was damaged in copying.", "Copy the whole line again, from cfbus-key1 on."
        )
    return z85.encode(raw), check_name(words[2].strip())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _unbase64(text: str) -> bytes | None:
    """The 32 bytes that ``text`` spells, or ``None``; of several spellings only ours is taken."""
    try:
        raw = base64.b64decode(text + "=", altchars=b"-_", validate=True)
    except ValueError:
        return None
    return raw if len(raw) == KEY_BYTES and _base64(raw) == text else None


def _checksum(raw: bytes) -> str:
    return _base64(hashlib.sha256(_LINE_PREFIX.encode() + raw).digest())[:_CHECKSUM_CHARS]


def _raw_or_refuse(public: bytes) -> bytes:
    raw = raw_key(public)
    if raw is None:
        raise KeyRefusedError("This is not a public key: 40 characters of Z85 are wanted.")
    return raw


def _parse(text: bytes) -> tuple[bytes | None, bytes | None]:
    halves: dict[bytes, bytes] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition(b"=")
        if equals and name.strip() in (b"public-key", b"secret-key"):
            halves.setdefault(name.strip(), value.strip(b" \t'\""))
    return halves.get(b"public-key"), halves.get(b"secret-key")


def _said(text: bytes, what: bytes) -> str:
    """A line of the file's metadata."""
    for line in text.splitlines():
        name, equals, value = line.strip().partition(b"=")
        if equals and name.strip() == what:
            return value.strip().decode("utf-8", "replace")[:NAME_LIMIT]
    return ""


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    """The bytes of a small regular file and the state of the very file that was read."""
    if path.is_symlink():
        raise UnsafeError(
            f"The key file {path} is a symbolic link, which somebody else could turn elsewhere.",
            "Put the file itself there.",
        )
    try:
        # NONBLOCK: a named pipe in the key's place must be an error, not a start that hangs.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UsageError(f"There is no key file {path}.", _HOW_TO_MAKE) from None
    except OSError as error:
        raise KeyRefusedError(f"The key file {path} cannot be read: {error.strerror}.") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise KeyRefusedError(f"{path} is not a file with a key.", _HOW_TO_MAKE)
        return os.read(descriptor, _FILE_LIMIT), status
    finally:
        os.close(descriptor)


def _check_private(path: Path, status: os.stat_result) -> None:
    if _is_credential(path, status):
        return
    if status.st_uid != os.geteuid():
        raise UnsafeError(
            f"The key file {path} belongs to another user (uid {status.st_uid}), who can read and change it.",
            f"Run as that user, or `chown {os.geteuid()} {path}`.",
        )
    if status.st_mode & 0o077:
        raise UnsafeError(
            f"Others may read or change the key file {path} (mode {stat.S_IMODE(status.st_mode):04o}).",
            f"Run `chmod 600 {path}`; if it lay open on a shared machine, make a new key.",
        )


def _is_credential(path: Path, status: os.stat_result) -> bool:
    """Whether systemd lent us this file: then it may be root's, and open to a group that holds us alone (an ACL)."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return bool(folder) and path.parent == Path(folder) and status.st_uid == 0 and not status.st_mode & 0o037


def _create(path: Path, text: str, mode: int) -> None:
    """A new file with exactly this mode, whatever the umask, flushed to the disk."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, mode)
    except FileExistsError:
        raise UsageError(
            f"{path} exists already and is not overwritten.", "Choose another name, or move it away."
        ) from None
    except OSError as error:
        raise UsageError(f"The key file {path} cannot be made: {error.strerror}.") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)
        file.write(text)
        file.flush()
        os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
