"""The error tree: one sentence and one exit code per class.

An error that a person can cause or mend is raised as one of these. The message says what
happened and where; ``hint`` says what to do next. Entry points print both and exit with
``exit_code``; nothing else decides an exit code. Code 1 is Python's own and never used.
"""

from __future__ import annotations

EXIT_DONE = 0
EXIT_DEAD_LETTERS = 3
EXIT_NOTHING_FOUND = 4
EXIT_PARTLY = 5
EXIT_INTERRUPTED = 130


class CfbusError(Exception):
    """Base of all errors that are told to a person instead of shown as a traceback."""

    exit_code = 70

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class UsageError(CfbusError):
    """The command line or the configuration is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file, environment variable or ``--set`` is wrong."""


class SourceError(UsageError):
    """The images named cannot be listed: missing, empty, unreadable."""


class StoreMismatchError(UsageError):
    """The store belongs to another dataset, or was written by a newer version."""


class DamagedLineError(UsageError):
    """An invite or a join file was damaged in copying: its checksum does not fit."""

    exit_code = 65


class ExpiredInviteError(UsageError):
    """The invite has ended."""

    exit_code = 66


class UsedInviteError(UsageError):
    """The invite was used as often as it may be."""

    exit_code = 67


class OtherProjectError(UsageError):
    """What answers is not the bus that the invite is for."""

    exit_code = 68


class DamagedStoreError(CfbusError):
    """What was durable is missing, altered, or could not be flushed."""

    exit_code = 74


class TryAgainError(CfbusError):
    """Nothing is wrong with the input; the same command may work later."""

    exit_code = 75


class UnreachableError(TryAgainError):
    """Nobody answers at the address of an invite or a join file."""

    exit_code = 69


class ClockError(TryAgainError):
    """The clock of the broker's host is behind what its audit log saw, so it enrols nobody."""

    exit_code = 71


class StoreInUseError(TryAgainError):
    """Another process holds the store's lock."""


class AddressInUseError(TryAgainError):
    """Another process listens where this one should."""


class DiskFullError(TryAgainError):
    """There is no room on the disk; nothing that was acknowledged is lost."""


class KeyRefusedError(CfbusError):
    """The other side does not admit this key, or the key cannot be used."""

    exit_code = 77


class KeyClosedError(KeyRefusedError):
    """The other side knows this key and has closed it for good: it was revoked or has expired."""


class WrongServerError(KeyRefusedError):
    """What answers at the broker's address has another key than was expected."""


class UnsafeError(CfbusError):
    """Going on would be unsafe: lax key files, an open bus, a store that went backwards."""

    exit_code = 78
