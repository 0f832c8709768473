"""``X-Robots-Tag`` as servers send it."""

from __future__ import annotations

import pytest

from cfbus.sources.robots import forbidden_by

ALL = ("noai", "noimageai", "noindex", "noimageindex")


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ([], ""),
        (["noai"], "noai"),
        (["NoAI"], "noai"),
        (["index, follow"], ""),
        (["nofollow, noimageai"], "noimageai"),
        (["nofollow", "noindex"], "noindex"),
        (["noaiatall"], ""),
        (["googlebot: noai"], ""),
        (["googlebot: nofollow, noai"], ""),
        (["cfbus: noai"], "noai"),
        (["CFBUS: noai"], "noai"),
        (["*: noai"], "noai"),
        (["otherbot: nofollow, cfbus: noai"], "noai"),
        (["noai, otherbot: index"], "noai"),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"], "noai"),
        (["max-snippet: 20, noai"], "noai"),
        ([",,:,"], ""),
    ],
)
def test_what_counts_for_us(headers: list[str], said: str) -> None:
    assert forbidden_by(headers, ALL, "cfbus/1.0 (+https://example.org)") == said


def test_only_what_is_disallowed_counts() -> None:
    assert forbidden_by(["noindex, noai"], ("NoAI ",), "cfbus") == "noai"
    assert forbidden_by(["noindex, noai"], (), "cfbus") == ""
