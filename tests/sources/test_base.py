"""What sources raise must survive the way between processes."""

from __future__ import annotations

import pickle  # noqa: TID251 - the test is that errors survive it

import pytest

from cfbus.sources.base import ReadError, ReadReason


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(ReadError(ReadReason.VANISHED, "The file is gone.", "item")))
    assert (error.reason, error.detail, error.fault) == (ReadReason.VANISHED, "The file is gone.", "item")


def test_a_status_of_http_is_a_reason_too() -> None:
    reason = ReadReason("http-404")
    assert (str(reason), reason.value) == ("http-404", "http-404")
    assert reason is ReadReason("http-404")
    assert pickle.loads(pickle.dumps(reason)) is reason
    assert reason not in list(ReadReason)
    for odd in ("http-4040", "http-40", "http-abc", "http-099", "http-404\n", "HTTP-404"):
        with pytest.raises(ValueError):
            ReadReason(odd)
