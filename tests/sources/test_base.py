"""What sources raise must survive the way between processes."""

from __future__ import annotations

import pickle  # noqa: TID251 - the test is that errors survive it

from cfbus.sources.base import ReadError, ReadReason


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(ReadError(ReadReason.VANISHED, "The file is gone.", "item")))
    assert (error.reason, error.detail, error.fault) == (ReadReason.VANISHED, "The file is gone.", "item")
