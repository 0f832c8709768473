"""For all tests: what one of them configures does not reach the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def logs_as_they_come() -> Iterator[None]:
    """Logging as it is before anybody has set it up."""
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
