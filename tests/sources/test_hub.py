"""The hub through its own client, against a small server: pages, ranges, refusals, waits, cut connections."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from huggingface_hub import constants
from sources.hub_rig import FIRST, PAGE, SECOND, Asked, FakeHub, cut, says, serving

from cfbus.errors import SourceError
from cfbus.sources import hub as subject
from cfbus.sources.hub import Hub, HubAddress, HubError, HubFile

FILES = {f"data/{number}.parquet": bytes([number]) * 1000 for number in range(8)} | {"README.md": b"# x"}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serving() as fake:
        monkeypatch.setattr(constants, "ENDPOINT", fake.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        fake.add("org/set", FILES)
        fake.add("org/set", {"data/0.parquet": b"new"}, SECOND, "dev/more")
        yield fake


@pytest.fixture
def hub(fake: FakeHub) -> Iterator[Hub]:
    one = Hub("org/set", pause=0.0)
    yield one
    one.close()


def refused(act: Callable[[], object]) -> HubError:
    with pytest.raises(HubError) as caught:
        act()
    assert caught.value.detail.endswith(".")
    assert "hf_secret" not in f"{caught.value.detail} {caught.value.hint}"
    return caught.value


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("hf://org/set", ("org/set", "", "")),
        ("hf://datasets/org/set", ("org/set", "", "")),
        ("hf://org/set@v1.0/data/*.parquet", ("org/set", "v1.0", "data/*.parquet")),
        ("hf://datasets/org/set@refs/convert/parquet", ("org/set", "refs/convert/parquet", "")),
        (
            "hf://datasets/org/set@refs/convert/parquet/default/train",
            ("org/set", "refs/convert/parquet", "default/train"),
        ),
        ("hf://org/set@dev%2Fmore/", ("org/set", "dev/more", "")),
    ],
)
def test_addresses(address: str, parts: tuple[str, str, str]) -> None:
    assert HubAddress.parse(address) == HubAddress(*parts)


@pytest.mark.parametrize("address", ["hf://set", "hf://", "https://huggingface.co/org/set", "hf://org/s?t"])
def test_what_is_no_address_is_said(address: str) -> None:
    with pytest.raises(SourceError, match="no address of a dataset"):
        HubAddress.parse(address)


def test_branches_files_and_ranges(hub: Hub, fake: FakeHub) -> None:
    assert (hub.commit(""), hub.commit("dev/more")) == (FIRST, SECOND)
    files = [HubFile(path, len(data)) for path, data in sorted(FILES.items())]
    assert hub.files(FIRST) == files
    assert fake.times("/tree/") == 3, "the listing comes in pages"
    assert hub.read("data/3.parquet", FIRST, 10, 5) == b"\3" * 5
    assert hub.read("data/3.parquet", FIRST, 10, 0) == b""
    assert hub.whole("README.md", FIRST, 100) == b"# x"
    assert fake.tokens == {"Bearer hf_secret"}


@pytest.mark.parametrize(
    ("fault", "reason", "who", "words"),
    [
        (says(401, X_Error_Code="GatedRepo"), "source-missing", "worker", "accepted its terms"),
        (says(403, X_Error_Code="GatedRepo"), "source-missing", "worker", "Accept its terms at "),
        (says(401), "source-missing", "worker", "no dataset of this name, or does not show it"),
        (says(403), "source-missing", "worker", "set HF_TOKEN"),
        (says(404), "source-missing", "worker", "no dataset of this name"),
        (says(404, X_Error_Code="RepoNotFound"), "source-missing", "worker", "Check its name"),
        (says(404, X_Error_Code="RevisionNotFound"), "source-missing", "worker", "no such revision"),
        (says(404, X_Error_Code="EntryNotFound"), "vanished", "item", "does not have the file"),
        (says(429, Retry_After="0"), "http-429", "network", "answered 429"),
        (says(503), "http-503", "network", "answered 503"),
        (says(418), "http-418", "network", "answered 418"),
    ],
)
def test_refusals_are_sentences_that_say_what_to_do(
    hub: Hub, fake: FakeHub, fault: Callable[[Asked], bool], reason: str, who: str, words: str
) -> None:
    fake.faults["/resolve/"] = fault
    error = refused(lambda: hub.read("data/0.parquet", FIRST, 0, 10))
    assert (error.reason, error.fault) == (reason, who)
    assert words in f"{error.detail} {error.hint}"
    assert fake.times("/resolve/") == (subject.ATTEMPTS if who == "network" and reason != "http-418" else 1)


def test_a_dataset_that_is_not_there(fake: FakeHub) -> None:
    error = refused(lambda: Hub("org/nothing").commit("main")).for_listing()
    assert "org/nothing: the hub has no dataset of this name" in error.message
    assert "HF_TOKEN" in error.hint
    assert "no such revision" in refused(lambda: Hub("org/set").commit("v9")).detail


def test_the_hub_is_asked_again_when_it_says(hub: Hub, fake: FakeHub) -> None:
    fake.faults["/resolve/"] = says(429, 2, Retry_After="1")
    began = time.monotonic()
    assert hub.read("data/1.parquet", FIRST, 0, 3) == b"\1\1\1"
    assert time.monotonic() - began >= 2
    assert fake.times("/resolve/") == 3


def test_a_hub_that_says_to_wait_for_hours_is_not_waited_for(hub: Hub, fake: FakeHub) -> None:
    fake.faults["/resolve/"] = says(429, Retry_After="7200")
    assert refused(lambda: hub.read("data/1.parquet", FIRST, 0, 3)).reason == "http-429"
    assert fake.times("/resolve/") == 1


def test_a_cut_connection_is_an_error_and_never_an_end(hub: Hub, fake: FakeHub) -> None:
    fake.faults["/resolve/"] = cut(2)
    assert hub.read("data/1.parquet", FIRST, 0, 500) == b"\1" * 500
    fake.faults["/resolve/"] = cut()
    error = refused(lambda: hub.read("data/1.parquet", FIRST, 0, 500))
    assert (error.reason, error.fault) == ("connection-failed", "network")
    fake.shutdown()
    fake.server_close()
    assert refused(lambda: hub.commit("")).reason == "connection-failed"


def test_an_answer_of_another_length_is_not_taken(hub: Hub, fake: FakeHub) -> None:
    error = refused(lambda: hub.read("data/1.parquet", FIRST, 900, 200))
    assert (error.reason, error.fault) == ("bad-answer", "network")
    assert "100 of 200 bytes" in error.detail
    fake.faults["/resolve/"] = says(200)
    assert "gives no parts of files" in refused(lambda: hub.read("data/1.parquet", FIRST, 0, 2)).detail
    fake.faults.clear()
    assert refused(lambda: hub.whole("data/1.parquet", FIRST, 999)).reason == "too-large-file"


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"sha": "main"}', b"{"])
def test_nonsense_from_the_hub(hub: Hub, fake: FakeHub, body: bytes) -> None:
    def nonsense(asked: Asked) -> bool:
        asked.answer(200, body)
        return True

    fake.faults["/api/"] = nonsense
    assert refused(lambda: hub.commit("")).reason == "bad-answer"
    if body != b"[]":
        assert refused(lambda: hub.files(FIRST)).reason == "bad-answer"


def test_a_listing_leads_to_no_other_server_and_ends_where_the_list_does(hub: Hub, fake: FakeHub) -> None:
    fake.commits["org/set"][FIRST] = {f"{number}.txt": b"x" for number in range(2 * PAGE + 1)}
    fake.links = "http://169.254.169.254"
    assert len(hub.files(FIRST)) == 2 * PAGE + 1


def test_a_listing_that_goes_round_is_no_listing(hub: Hub, fake: FakeHub) -> None:
    def again(asked: Asked) -> bool:
        asked.json([], Link='</x?recursive=true>; rel="next"')
        return True

    fake.faults["/tree/"] = again
    assert "again and again" in refused(lambda: hub.files(FIRST)).detail
    assert len(fake.asked) == 1


def test_who_waits_is_let_go(fake: FakeHub) -> None:
    fake.faults["/resolve/"] = says(503)
    hub = Hub("org/set", pause=60.0)
    hub.close()
    began = time.monotonic()
    assert refused(lambda: hub.read("data/1.parquet", FIRST, 0, 3)).reason == "http-503"
    assert time.monotonic() - began < 30


def test_offline_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "is_offline_mode", lambda: True)
    assert "HF_HUB_OFFLINE" in refused(lambda: hub.commit("")).detail
