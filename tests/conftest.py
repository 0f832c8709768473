"""For all tests: what one of them configures does not reach the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

# How long an example takes says something about the machine, not about the code.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


@pytest.fixture(scope="session", autouse=True)
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Their library, where a test imports it, fetches nothing and keeps its cache in a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hugging-face")))
        yield


@pytest.fixture(autouse=True)
def logs_as_they_come() -> Iterator[None]:
    """Logging as it is before anybody has set it up."""
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
