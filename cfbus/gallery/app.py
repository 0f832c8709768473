"""The gallery over HTTP: pages, pictures and figures, for one store.

What it is for: `make_app`, an ASGI application.
What it must not know: SQL, how pictures are made, where it listens.

Invariants: everything that comes from captions, names and columns reaches a page through an escaping template, and
scripts, styles and pictures come from this server alone (Content-Security-Policy); only hosts that are named are
answered, so that no other page's script can ask by a name of its own; with a password nothing is given without it.
"""

from __future__ import annotations

import base64
import hmac
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from textwrap import wrap
from urllib.parse import urlencode

import anyio
from jinja2 import Environment, PackageLoader
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cfbus import __version__
from cfbus.gallery.pictures import SIZES, NoPictureError, Pictures
from cfbus.gallery.query import MAX_TEXT, Figures, Filters, Gallery, Place
from cfbus.logs import display

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
}
USER = "cfbus"
WRONG_SECONDS = 1.0
MOST_WAITING = 100
"""So many passwords wait to be looked at, while wrong ones come in."""
MAX_LINES = 400
_MAX_INDEX = 1 << 53


def lines(text: str, most: int = 20_000) -> str:
    """A text with its line breaks, and everything else that is not to be seen made visible."""
    return "\n".join(display(line, most) for line in text[:most].split("\n")[:MAX_LINES])


def when(moment: datetime) -> str:
    """A time for people."""
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def templates() -> Environment:
    """All pages; every value is escaped."""
    made = Environment(loader=PackageLoader("cfbus.gallery"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {
        "lines": lines,
        "line": lambda text: display(str(text), 300),
        "thousands": lambda n: f"{n:,}",
        "when": when,
    }
    made.globals |= {"version": __version__, "item_url": item_url, "picture_url": picture_url, "spark": spark}
    return made


def item_url(shard: str, index: int) -> str:
    """Where an item is shown."""
    return f"item?{urlencode({'shard': shard, 'index': index})}"


def picture_url(shard: str, index: int, size: str) -> str:
    """Where its picture is."""
    return f"picture?{urlencode({'shard': shard, 'index': index, 'size': size})}"


def spark(minutes: Collection[int], width: int = 240, height: int = 36) -> str:
    """The points of a line through these counts, as SVG has them."""
    if not minutes:
        return ""
    top = max(1, *minutes)
    step = width / max(1, len(minutes) - 1)
    return " ".join(f"{at * step:.1f},{height - 1 - (height - 2) * n / top:.1f}" for at, n in enumerate(minutes))


@dataclass(frozen=True, slots=True)
class Pages:
    """The answers."""

    name: str
    gallery: Gallery
    pictures: Pictures
    environment: Environment

    def _page(self, template: str, status: int = 200, **values: object) -> HTMLResponse:
        figures = self.gallery.figures()
        text = self.environment.get_template(template).render(name=self.name, figures=figures, **values)
        return HTMLResponse(text, status)

    def grid(self, request: Request) -> Response:
        """Items in a grid."""
        filters, order, after = asked(request.query_params)
        page = self.gallery.page(filters, order, after)
        given = filters.given() | ({"order": order} if order != "newest" else {})
        further = "" if page.after is None else "?" + urlencode(given | _place(page.after))
        return self._page(
            "grid.html", page=page, filters=filters, order=order, further=further,
            first=after is None, unfiltered=not filters.given(),
        )  # fmt: skip

    def item(self, request: Request) -> Response:
        """One item, with all revisions."""
        shard, index = _item(request.query_params)
        entry = self.gallery.entry(shard, index)
        if entry is None:
            return self._page("nothing.html", 404, said="There is no caption of this item.")
        return self._page("item.html", entry=entry)

    def failed(self, _: Request) -> Response:
        """Dead letters."""
        counts, newest = self.gallery.failed()
        return self._page("failures.html", counts=counts, newest=newest)

    def picture(self, request: Request) -> Response:
        """A JPEG; where there is none to be had, a sentence."""
        shard, index = _item(request.query_params)
        size = request.query_params.get("size", "small")
        try:
            data = self.pictures.jpeg(shard, index, size if size in SIZES else "small")
        except NoPictureError as error:
            return Response(_sign(str(error)), 200, media_type="image/svg+xml")
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    def live(self, _: Request) -> Response:
        """What changes while a run goes on."""
        figures = self.gallery.figures()
        return JSONResponse(_figures(figures))


def _figures(figures: Figures) -> dict[str, object]:
    return {
        "position": figures.position, "captions": figures.captions, "failures": figures.failures,
        "spark": spark(figures.minutes),
        "leaders": [[display(figures.names.get(who, who), 100), count] for who, count in figures.leaders],
    }  # fmt: skip


def _sign(why: str) -> str:
    """A picture that says why there is none; shown as an image, where nothing in it can run."""
    lines = wrap(display(why, 300), 42, max_lines=5, placeholder=" …")
    spans = "".join(f'<tspan x="160" dy="18">{escape(line)}</tspan>' for line in lines)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 320 200" width="320" height="200">'
        '<rect width="320" height="200" fill="#8883"/>'
        '<text x="160" y="60" text-anchor="middle" font-family="sans-serif" font-size="12" fill="#888">'
        f"{spans}</text></svg>"
    )


def asked(given: Mapping[str, str]) -> tuple[Filters, str, Place | None]:
    """What a query string asks for; nonsense in it counts as nothing."""
    names = ("q", "slot", "shard", "contributor", "flag", "finish")
    filters = Filters(**{name: given.get(name, "")[:MAX_TEXT].replace("\0", "") for name in names})
    order = "dataset" if given.get("order") == "dataset" else "newest"
    position, index = _number(given.get("at", "")), _number(given.get("index", ""))
    shard = given.get("after", "")[:MAX_TEXT]
    return filters, order, Place(position, shard, index) if shard else None


def _place(place: Place) -> dict[str, object]:
    return {"after": place.shard, "index": place.index, "at": place.position}


def _item(given: Mapping[str, str]) -> tuple[str, int]:
    return given.get("shard", "")[:MAX_TEXT], _number(given.get("index", ""))


def _number(text: str) -> int:
    return min(int(text), _MAX_INDEX) if text.isdecimal() and text.isascii() and len(text) < 20 else 0


class Guard:
    """The password, if there is one, and the headers of every answer: an ASGI middleware."""

    def __init__(self, app: ASGIApp, password: str | None) -> None:
        self._app = app
        self._wanted = None if password is None else f"{USER}:{password}".encode()
        self._again_at = 0.0
        self._one = anyio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        app = self._app
        if self._wanted is not None and self._one.statistics().tasks_waiting >= MOST_WAITING:
            app = PlainTextResponse("Too many passwords wait to be looked at; try again.\n", 503, {"Retry-After": "10"})
        elif self._wanted is not None and not await self._knows(Headers(scope=scope).get("authorization", "")):
            ask = {"WWW-Authenticate": 'Basic realm="cfbus view", charset="UTF-8"'}
            app = PlainTextResponse("The password, please.\n", 401, ask)
        elif scope["method"] not in ("GET", "HEAD"):
            app = PlainTextResponse("There is nothing to be changed here.\n", 405)
        await app(scope, receive, send_with_headers)

    async def _knows(self, header: str) -> bool:
        """After a wrong password the next one is looked at a second later, whoever brings it: one after another."""
        kind, _, coded = header.partition(" ")
        if kind.lower() != "basic" or not coded:
            return False
        try:
            said = base64.b64decode(coded, validate=True)
        except ValueError:
            said = b""
        assert self._wanted is not None
        async with self._one:
            await anyio.sleep(max(0.0, self._again_at - time.monotonic()))
            right = hmac.compare_digest(said, self._wanted)
            if not right:
                self._again_at = time.monotonic() + WRONG_SECONDS
        return right


def make_app(
    name: str, gallery: Gallery, pictures: Pictures, hosts: Collection[str], password: str | None
) -> Starlette:
    """The application; ``hosts`` are the names under which it may be asked."""
    pages = Pages(display(name, 100), gallery, pictures, templates())
    static = StaticFiles(directory=Path(__file__).parent / "static")
    return Starlette(
        routes=[
            Route("/", pages.grid), Route("/item", pages.item), Route("/failures", pages.failed),
            Route("/picture", pages.picture), Route("/live.json", pages.live), Mount("/static", static),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts)), Middleware(Guard, password=password)],
    )  # fmt: skip
