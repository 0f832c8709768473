"""The flags that all daemons share, and what is made of them: configuration, logging, family, exit code."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cfbus import __version__, config, logs
from cfbus.config import Loaded
from cfbus.config_overlay import Option
from cfbus.runtime import Family, last_frame

COMMON = (
    click.version_option(__version__, prog_name="cfbus"),
    click.option("--config", "config_file", type=click.Path(path_type=Path), help="The configuration file."),
    click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Set one key of the configuration."),
    click.option("--log-level", default="info", show_default=True, help="debug, info, warning or error."),
    click.option("--log-json", is_flag=True, help="Log in JSON, a line an event."),
    click.option("--ready-fd", type=int, hidden=True),
    click.option("--parent-fd", type=int, hidden=True),
)


@dataclass(frozen=True, slots=True)
class Start:
    """What a daemon starts from."""

    config: config.Config
    family: Family
    origins: Mapping[str, str]
    """For each key that was given, by whom (``cfbus.yaml:12``), for what is only found wrong later."""
    load: Callable[[], Loaded]
    """Reads and checks the configuration again: the same places, environment and flags. Raises ConfigError."""


def common_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the shared flags to a command."""
    for option in reversed(COMMON):
        command = option(command)
    return command


def start(component: str, serve: Callable[[Start], int], overrides: list[Option], common: dict[str, Any]) -> int:
    """Load the configuration, set up logging, and serve; ``overrides`` come from a daemon's own flags."""

    def command() -> int:
        logs.setup(component, common["log_level"], common["log_json"])
        wanted = [*common["overrides"], *overrides]

        def load() -> Loaded:
            loaded = config.load(component, common["config_file"], wanted, os.environ)
            config.check_effects(loaded)
            logs.get_logger().info("config.loaded", path=str(loaded.path or "defaults"))
            return loaded

        loaded = load()
        return serve(Start(loaded.config, Family(common["ready_fd"], common["parent_fd"]), loaded.origins, load))

    return last_frame(command)


def override(said: str, key: str, value: object) -> list[Option]:
    """A flag for one key of the configuration, if it was given."""
    return [] if value is None else [Option(said, tuple(key.split(".")), str(value))]
