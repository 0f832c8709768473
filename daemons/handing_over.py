"""The program that takes a worker's place when everything is captioned (``worker.when_finished: run:PROGRAM``)."""

from __future__ import annotations

import shlex
import shutil

from cfbus import logs
from cfbus.errors import ConfigError


def program(when_finished: str) -> list[str]:
    """The program of ``run:PROGRAM``, by its whole path, with its arguments. Raises ConfigError if it is not there."""
    if not when_finished.startswith("run:"):
        return []
    name, *arguments = shlex.split(when_finished.removeprefix("run:"))
    path = shutil.which(name)
    if path is None:
        raise ConfigError(
            f"worker.when_finished: there is no program {logs.display(name, 200)} that can be run here.",
            "Give its whole path.",
        )
    return [path, *arguments]
