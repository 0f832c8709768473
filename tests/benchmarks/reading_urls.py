"""How fast images are downloaded by their addresses, and at what cost, against the HTTP library alone and urllib.

A server of its own process serves the same bytes on the loopback; each way is measured in a process of its own with as
many threads (or tasks), so that its CPU is its own: `python -m benchmarks.reading_urls WAY PORT`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import httpx2
from benchmarks.figures import Reading
from benchmarks.spent import elsewhere, spending

from cfbus.config_downloads import Downloading
from cfbus.sources.base import Item
from cfbus.sources.list_locators import RowLocator
from cfbus.sources.url_lists import UrlSource

IMAGES, SIZE, AT_ONCE, ROUNDS = 4000, 100 * 1024, 64, 3
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % SIZE
WAYS = ("urllib", "httpx2 in tasks", "httpx2 in threads", "this source")


async def serve() -> None:
    """As little of a server as will do."""
    answer = HEAD + b"\xff\xd8" + bytes(SIZE - 2)

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answers, "127.0.0.1", 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def in_threads(get: Callable[[str], int], urls: list[str]) -> int:
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return sum(threads.map(get, urls))


def by_source(urls: list[str]) -> int:
    settings = Downloading(allow_private_addresses=True, at_once=AT_ONCE, per_host=AT_ONCE)
    source = UrlSource([Path("list.csv")], settings)
    total = in_threads(lambda url: len(source.read("", Item(0, "", RowLocator(url).pack())).data), urls)
    source.close()
    return total


def by_threads(urls: list[str]) -> int:
    with httpx2.Client(limits=httpx2.Limits(max_connections=AT_ONCE)) as client:

        def get(url: str) -> int:
            with client.stream("GET", url) as answer:
                return sum(map(len, answer.iter_raw()))

        return in_threads(get, urls)


async def by_tasks(urls: list[str]) -> int:
    left = iter(urls)

    async def work(client: httpx2.AsyncClient) -> int:
        total = 0
        for url in left:
            async with client.stream("GET", url) as answer:
                async for piece in answer.aiter_raw():
                    total += len(piece)
        return total

    async with httpx2.AsyncClient(limits=httpx2.Limits(max_connections=AT_ONCE)) as client:
        return sum(await asyncio.gather(*(work(client) for _ in range(AT_ONCE))))


def by_urllib(urls: list[str]) -> int:
    def get(url: str) -> int:
        with urllib.request.urlopen(url) as answer:
            return len(answer.read())

    return in_threads(get, urls)


def measure(way: str, port: int) -> None:
    """Print seconds and CPU seconds of a way."""
    urls = [f"http://127.0.0.1:{port}/{number}.jpg" for number in range(IMAGES)]
    acts: dict[str, Callable[[list[str]], int]] = dict(
        zip(WAYS, (by_urllib, lambda some: asyncio.run(by_tasks(some)), by_threads, by_source), strict=True)
    )
    acts[way](urls[:AT_ONCE])
    with spending() as spent:
        total = acts[way](urls)
    assert total == IMAGES * SIZE
    print(json.dumps([spent.wall, spent.cpu]))


def reading() -> list[Reading]:
    """All ways, in turns; against each of the others, the medians."""
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.reading_urls", "serve"], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    port = server.stdout.readline().strip()
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    try:
        for _ in range(ROUNDS):
            for way in WAYS:
                found[way].append(elsewhere("reading_urls", way, port))
    finally:
        server.terminate()
        server.wait()
    middle = {way: [median(column) for column in zip(*values, strict=True)] for way, values in found.items()}
    mine = middle.pop(WAYS[-1])
    return [
        Reading(
            what=f"addresses, images of {SIZE // 1024} KiB, {AT_ONCE} at once", items=IMAGES, bytes=IMAGES * SIZE,
            seconds=mine[0], cpu_seconds=mine[1], plainly=way, plain_seconds=took, plain_cpu_seconds=used,
        )
        for way, (took, used) in middle.items()
    ]  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve())
    else:
        measure(sys.argv[1], int(sys.argv[2]))
