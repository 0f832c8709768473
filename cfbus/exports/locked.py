"""A duckdb that reads some folders and nothing else, whatever SQL it is given.

Knows duckdb's settings; no table and no question. Invariant: what it returns cannot be unlocked again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cfbus.store.view import library

if TYPE_CHECKING:
    import duckdb

MEMORY = "1GB"


def text(value: str | Path) -> str:
    """A literal."""
    return "'" + str(value).replace("'", "''") + "'"


def connect(work: Path, folders: Sequence[Path]) -> duckdb.DuckDBPyConnection:
    """A database in memory that may read these folders, and put what does not fit into ``work``."""
    source = library("duckdb", 'pip install "cfbus[export]"')
    connection: duckdb.DuckDBPyConnection = source.connect(
        config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    )
    run = connection.execute
    run(f"SET memory_limit = {text(MEMORY)}")
    run(f"SET temp_directory = {text(work / 'spill')}")
    run("SET python_enable_replacements = false")
    run("SET enable_progress_bar = false")
    run("SET TimeZone = 'UTC'")
    run(f"SET allowed_directories = [{', '.join(text(folder) for folder in (work, *folders))}]")
    run("SET enable_external_access = false")
    run("SET lock_configuration = true")
    return connection
