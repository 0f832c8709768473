"""Downloads for the tests of this folder."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cfbus.config_downloads import Downloading
from cfbus.sources import downloads as subject
from cfbus.sources.downloads import Downloads

LOCAL: dict[str, Any] = {"allow_private_addresses": True}


@pytest.fixture
def open_downloads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Downloads]]:
    """Makes `Downloads` that do not pause between attempts, and closes them."""
    monkeypatch.setattr(subject, "pause_before", lambda attempt: 0.0)
    made: list[Downloads] = []

    def make(resolve: Any = None, trust: ssl.SSLContext | None = None, **settings: Any) -> Downloads:
        more = {} if resolve is None else {"resolve": resolve}
        made.append(Downloads(Downloading(**(LOCAL | settings)), trust=trust, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()
