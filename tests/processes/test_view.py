"""`cfbus view` in a real Chromium: looking, searching, keys, a phone; captions that would do harm do none."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from gallery.rig import HOSTILE, ITEMS, Shelf, captions, fill, shelf
from PIL import Image
from playwright.sync_api import Browser, Dialog, Page, expect, sync_playwright
from processes.asking import needs
from processes.support import Command, Nursery, until

SCREENSHOT = Path(__file__).resolve().parents[2] / "docs" / "view.png"
PATIENCE_MS = 120_000
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        needs("Chromium is not here: apt-get install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"], timeout=PATIENCE_MS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails the test when a script of a stranger runs, or when one of ours breaks."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE_MS)
    told: list[str] = []

    def refuse(dialog: Dialog) -> None:
        told.append(dialog.message)
        dialog.dismiss()

    opened.on("console", lambda message: told.append(message.text))
    opened.on("pageerror", lambda error: told.append(str(error)))
    opened.on("dialog", refuse)
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    yield opened
    assert not told
    assert all(re.match(r"http://127\.0\.0\.1:\d+/", url) for url in asked)
    context.close()


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Shelf]:
    with shelf(tmp_path) as made:
        fill(made)
        yield made


def serve(nursery: Nursery, store: Path, *arguments: str | Path) -> tuple[Command, str]:
    command = nursery.start("cfbus.tools.main", "view", store, "--port", "0", *arguments)
    found = until(lambda: f"an address: {command.said}", lambda: re.search(r"http://127\.0\.0\.1:\d+/", command.said))
    return command, found[0]


def ends(command: Command) -> None:
    command.signal(signal.SIGINT)
    command.ends(0)


def loaded(page: Page) -> int:
    """How many pictures are there, when none is missing."""
    script = "[...document.images].every((i) => i.complete && i.naturalWidth > 0) ? document.images.length : 0"
    return until("pictures", lambda: int(page.evaluate(script)))


def test_looking_around(nursery: Nursery, full: Shelf, page: Page) -> None:
    command, url = serve(nursery, full.store.root, "--images", full.pictures)
    page.goto(url + "?order=dataset")
    expect(page.locator("#captions")).to_have_text(str(ITEMS - 1 + 3))
    expect(page.locator(".card")).to_have_count(60)
    for at, text in enumerate(HOSTILE[:4]):
        expect(page.locator(".card").nth(at)).to_contain_text(text)
    assert page.title().startswith("<b>birds</b> ")
    with page.expect_navigation():
        page.keyboard.press("n")
    expect(page.locator(".card .key").first).to_have_text("0060.png")
    page.keyboard.press("/")
    page.keyboard.type("better")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(3)
    with page.expect_navigation(url=re.compile("slot=tags")):
        page.locator("select[name=slot]").select_option("tags")
    page.keyboard.press("j")
    page.keyboard.press("ArrowRight")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("0021.png")
    expect(page.locator("section")).to_have_count(3)
    expect(page.locator("section.replaced .text")).to_have_text("a bird 21 short")
    with page.expect_navigation():
        page.keyboard.press("Escape")
    expect(page.locator(".card")).to_have_count(3)
    page.get_by_role("link", name="dead letters").click()
    expect(page.locator("table").last).to_contain_text("<i>no</i>")
    ends(command)


def test_a_phone(nursery: Nursery, full: Shelf, page: Page) -> None:
    command, url = serve(nursery, full.store.root, "--images", full.pictures)
    page.set_viewport_size({"width": 360, "height": 740})
    for path in ("", "item?shard=pictures-00000&index=4", "failures"):
        page.goto(url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.goto(url + "?order=dataset")
    left, right = page.evaluate(
        "(({left, right}) => [left, right])(document.querySelector('.card').getBoundingClientRect())"
    )
    assert 0 <= left < 40
    assert 320 < right <= 360
    ends(command)


def test_a_store_that_grows(nursery: Nursery, tmp_path: Path, page: Page) -> None:
    with shelf(tmp_path) as made:
        command, url = serve(nursery, made.store.root, "--images", made.pictures)
        page.goto(url)
        expect(page.locator(".empty")).to_contain_text("Nothing is sealed")
        made.write(0, captions(["first", "second"]), 2)
        page.get_by_role("link", name="newer captions").click(timeout=PATIENCE_MS)
        expect(page.locator(".card")).to_have_count(2)
        made.write(2, captions(["third"]), 1)
        expect(page.locator("#captions")).to_have_text("3", timeout=PATIENCE_MS)
        expect(page.locator("#leaders span")).to_have_text("3")
        ends(command)


def test_a_run_that_just_ended_looks_like_the_picture_in_the_readme(
    nursery: Nursery, tmp_path: Path, page: Page
) -> None:
    nursery.start("cfbus.tools.main", "demo", "--out", tmp_path / "demo").ends(0)
    command, url = serve(nursery, tmp_path / "demo" / "captions")
    page.goto(url + "?order=dataset")
    for card in page.locator(".card").all():
        card.scroll_into_view_if_needed()
    assert loaded(page) >= 12
    page.evaluate("scrollTo(0, 0)")
    shot = tmp_path / "view.png"
    page.screenshot(path=shot)
    if os.environ.get("UPDATE_SCREENS"):
        Image.open(shot).convert("RGB").quantize(128).save(SCREENSHOT, optimize=True)
    with Image.open(shot) as now, Image.open(SCREENSHOT) as shown:
        assert now.size == shown.size
        small = [image.convert("L").resize((32, 22)).tobytes() for image in (now, shown)]
        assert sum(abs(a - b) for a, b in zip(*small, strict=True)) / (32 * 22) < 25
    ends(command)
