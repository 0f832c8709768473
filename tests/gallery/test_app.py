"""The gallery's answers over HTTP: inert whatever the store holds, and only for whom they are."""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from types import SimpleNamespace
from xml.etree import ElementTree

import anyio
import httpx2
import pytest
from gallery.rig import HOSTILE, ITEMS, Shelf
from starlette.testclient import TestClient

from cfbus.gallery import app as module
from cfbus.gallery.app import make_app
from cfbus.gallery.pictures import Pictures
from cfbus.gallery.query import Gallery
from cfbus.sources.folder import FolderSource

Open = Callable[..., TestClient]


@pytest.fixture
def open_page(filled: Shelf) -> Iterator[Open]:
    pictures = Pictures(filled.store, FolderSource([filled.pictures]))
    gallery = Gallery(filled.store.root)

    def made(password: str | None = None, host: str = "localhost") -> TestClient:
        app = make_app(filled.store.dataset, gallery, pictures, ["localhost"], password)
        return TestClient(app, base_url=f"http://{host}")

    yield made
    pictures.close()


class Seen(HTMLParser):
    """The tags and attributes of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def harmless(text: str) -> Seen:
    seen = Seen(text)
    assert seen.tags.count("script") == 1
    assert "i" not in seen.tags or 'class="flag"' in text
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert not [value for name, value in seen.attributes if name in ("href", "src") and ":" in value]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e\u2066]", text)
    return seen


@pytest.mark.parametrize(
    "path",
    ["/", "/?order=dataset", "/?q=bird&slot=tags", "/failures", "/item?shard=pictures-00000&index=20", "/?q=<script>"],
)
def test_pages_are_inert(open_page: Open, path: str) -> None:
    answer = open_page().get(path)
    assert answer.status_code == 200
    harmless(answer.text)


def test_hostile_captions_are_shown_as_they_are_and_do_nothing(open_page: Open) -> None:
    client = open_page()
    for index, text in enumerate(HOSTILE):
        seen = harmless(client.get(f"/item?shard=pictures-00000&index={index}").text)
        shown = module.lines(f"{text} short")
        assert shown in seen.text, text
    assert "<b>birds</b>" in seen.text
    assert "\\x1b" in module.lines(HOSTILE[4])


def test_every_answer_has_the_headers(open_page: Open) -> None:
    client = open_page(password="long enough")
    for path, status in {"/": 401, "/static/gallery.js": 401, "/nothing": 401}.items():
        answer = client.get(path)
        assert (answer.status_code, answer.headers["X-Content-Type-Options"]) == (status, "nosniff")
    client = open_page()
    for path, status in {"/": 200, "/nothing": 404, "/item?shard=x&index=9": 404, "/static/gallery.js": 200}.items():
        answer = client.get(path)
        assert answer.status_code == status
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert client.post("/").status_code == 405
    assert client.get("/static/../app.py").status_code == 404
    assert client.get("/static/%2e%2e/app.py").status_code == 404


def test_another_host_name_is_not_answered(open_page: Open) -> None:
    assert open_page(host="evil.example").get("/").status_code == 400


def test_the_password(open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRONG_SECONDS", 0.0)
    client = open_page(password="sesame öffne dich")
    for path in ("/", "/picture?shard=pictures-00000&index=0", "/live.json", "/static/gallery.css"):
        assert client.get(path).status_code == 401
        assert client.get(path, auth=("cfbus", "wrong")).status_code == 401
        assert client.get(path, auth=("other", "sesame öffne dich")).status_code == 401
        assert client.get(path, headers={"Authorization": "Basic !!!"}).status_code == 401
        assert client.get(path, auth=("cfbus", "sesame öffne dich")).status_code == 200


class Clock:
    """Time that passes only while somebody sleeps; it is noted when a password is looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.looked: list[float] = []
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(module, "anyio", SimpleNamespace(sleep=self.sleep, Lock=anyio.Lock))
        monkeypatch.setattr(module, "hmac", SimpleNamespace(compare_digest=self.compare))

    def compare(self, said: bytes, wanted: bytes) -> bool:
        self.looked.append(self.now)
        return hmac.compare_digest(said, wanted)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now += max(seconds, 0.0)


def test_wrong_passwords_that_come_at_once_are_looked_at_one_a_second(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = open_page(password="sesame öffne dich").app
    clock = Clock(monkeypatch)

    async def all_at_once(count: int) -> list[int]:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            asked = (client.get("/live.json", auth=("cfbus", f"wrong {number}")) for number in range(count))
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    assert asyncio.run(all_at_once(5)) == [401] * 5
    assert clock.looked == [1000.0, 1001.0, 1002.0, 1003.0, 1004.0]
    statuses = asyncio.run(all_at_once(module.MOST_WAITING + 10))
    assert statuses.count(401) == module.MOST_WAITING + 1
    assert statuses.count(503) == 9


def test_what_a_sign_says_is_whole_xml(open_page: Open) -> None:
    words = " ".join(f"<{number}>&'\"" for number in range(100))
    said = "".join(ElementTree.fromstring(module._sign(words)).itertext())
    assert said.startswith("<0>&'\"")
    assert said.endswith("…")


def test_pictures_and_signs(open_page: Open) -> None:
    client = open_page()
    answer = client.get("/picture?shard=pictures-00000&index=1&size=large")
    assert (answer.headers["content-type"], answer.content[:2]) == ("image/jpeg", b"\xff\xd8")
    answer = client.get("/picture?shard=<script>&index=1")
    assert answer.headers["content-type"] == "image/svg+xml"
    assert "script" not in answer.text


def test_pages_lead_on(open_page: Open) -> None:
    client = open_page()
    seen: list[str] = []
    path: str | None = "/?order=dataset"
    while path:
        text = client.get(path).text
        seen += re.findall(r"item\?shard=pictures-00000&amp;index=(\d+)", text)
        found = re.search(r'id="next" href="\./([^"]+)"', text)
        path = "/" + found[1].replace("&amp;", "&") if found else None
    assert [int(index) for index in seen] == list(range(ITEMS - 1))


@pytest.mark.parametrize(
    "query", ["after=x&at=99999999999999999999&index=-1", "at=%00&after=%00", "index=²&after=1", "q=" + "x" * 5000]
)
def test_nonsense_is_answered(open_page: Open, query: str) -> None:
    assert open_page().get(f"/?{query}").status_code == 200


def test_live_figures(open_page: Open) -> None:
    live = open_page().get("/live.json").json()
    assert (live["captions"], live["failures"]) == (ITEMS - 1 + 3, 1)
    assert live["leaders"][0] == ["c0", 53]
    assert len(live["spark"].split()) == 120
