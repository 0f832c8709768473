"""`cfbus view`: captions next to their pictures, in a browser or as one HTML file."""

from __future__ import annotations

import importlib.util
import ipaddress
import json
import os
import signal
import socket
import sys
from pathlib import Path

import click

from cfbus import config
from cfbus.config_overlay import Option
from cfbus.errors import EXIT_DONE, ConfigError, TryAgainError, UsageError
from cfbus.logs import display, register_secret
from cfbus.runtime import last_frame
from cfbus.sources.base import Source
from cfbus.sources.opening import open_source
from cfbus.store.folder import Store
from cfbus.tools.local import place
from cfbus.tools.screen import answer

PASSWORD_VARIABLE = "CFBUS_VIEW_PASSWORD"  # noqa: S105 - a name
LEAST_PASSWORD = 8
LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")


def settings_of(store: Path | None, config_file: Path | None, images: tuple[str, ...]) -> config.Config:
    """The configuration that says where captions and pictures are: of ``--config``, beside the store, or the usual."""
    beside = store / "cfbus.yaml" if store is not None else None
    explicit = config_file or (beside if beside is not None and beside.is_file() else None)
    sets: list[Option] = []
    if store is not None:
        sets.append(Option("STORE", ("storage", "data_dir"), str(store.absolute())))
    if images:
        sets.append(Option("--images", ("dataset", "paths"), json.dumps([place(image) for image in images])))
    return config.load("view", explicit, sets, os.environ).config


def source_of(settings: config.Config) -> tuple[Source | None, str]:
    """The source of the pictures; without one, why not."""
    if settings.dataset.source != "scripted" and not settings.dataset.paths:
        return None, "Where the pictures are is not known: --images."
    try:
        source = open_source(settings.dataset)
    except ConfigError as error:
        return None, str(error)
    return source, source.out_of_reach() or ""


def password_for(host: str, asked: bool) -> str | None:
    """The password, from the environment or asked for; needed where others can reach the page."""
    given = os.environ.get(PASSWORD_VARIABLE)
    if given is None and asked:
        given = click.prompt("Password for the page (its user is cfbus)", hide_input=True, confirmation_prompt=True)
    if given is not None:
        if len(given) < LEAST_PASSWORD:
            raise UsageError(f"The password has less than {LEAST_PASSWORD} characters.", "Take a longer one.")
        register_secret(given)
    elif not _is_local(host):
        raise UsageError(
            f"{display(host)} can be reached by others, and the page has no password.",
            f"Give --password, or {PASSWORD_VARIABLE} in the environment; or leave --host out and come by ssh -L.",
        )
    return given


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise TryAgainError(
            f"{display(host)}:{port} cannot be listened on: {getattr(error, 'strerror', None) or error}.",
            "Take another --port, or 0 for any that is free.",
        ) from None
    return made


def serve(settings: config.Config, host: str, port: int, names: tuple[str, ...], password: str | None) -> int:
    """Until Ctrl-C."""
    _need_libraries()
    import uvicorn

    from cfbus.gallery.app import make_app
    from cfbus.gallery.pictures import Pictures
    from cfbus.gallery.query import Gallery

    store = Store.peek(settings.storage.data_dir)
    gallery = Gallery(settings.storage.data_dir)
    source, why_not = source_of(settings)
    pictures = Pictures(store, source if not why_not else None, why_not)
    door = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    hosts = ["*"] if password is not None and not names else [*LOCAL_NAMES, shown, *names]
    app = make_app(store.dataset, gallery, pictures, hosts, password)
    answer(f"http://{shown}:{door.getsockname()[1]}/  (Ctrl-C ends it)")
    if why_not:
        sys.stderr.write(f"Captions only: {display(why_not, 500)}\n")
    if password is not None and not _is_local(host):
        sys.stderr.write("The password travels unencrypted: put a TLS proxy in front, or come by ssh -L.\n")
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, lifespan="off")
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        server.run([door])
    except KeyboardInterrupt:  # uvicorn gives the signal that ended it to whoever had it before
        pass
    finally:
        pictures.close()
    return EXIT_DONE


def _need_libraries() -> None:
    for name in ("uvicorn", "starlette", "jinja2", "duckdb"):
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"cfbus view needs {name}, which is not installed.", "pip install 'cfbus[view]'")


def write(settings: config.Config, path: Path, most: int, filters: dict[str, str]) -> int:
    """`--html`."""
    _need_libraries()
    from cfbus.gallery import static_page
    from cfbus.gallery.pictures import Pictures
    from cfbus.gallery.query import Filters, Gallery

    store = Store.peek(settings.storage.data_dir)
    gallery = Gallery(settings.storage.data_dir)
    source, why_not = source_of(settings)
    pictures = Pictures(store, source if not why_not else None, why_not)
    try:
        with click.progressbar(length=most, label=str(path.name), file=sys.stderr) as bar:
            count = static_page.write(
                path, store.dataset, gallery, pictures, Filters(**filters), most, done=lambda n: bar.update(1)
            )
    finally:
        pictures.close()
    if not count:
        raise UsageError("There is no such caption in the sealed tables.", "Look at the filters, or wait for a seal.")
    answer(f"{count} items are in {display(str(path), 500)}.")
    return EXIT_DONE


@click.command()
@click.argument("store", metavar="[STORE]", required=False, type=click.Path(path_type=Path, readable=False))
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path, readable=False), help="The bus's configuration."
)
@click.option(
    "--images",
    multiple=True,
    metavar="PATH",
    help="Where the pictures are now, in a folder called as before; repeatable.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=7780, show_default=True, help="The port; 0: any.")
@click.option("--name", "names", multiple=True, help="A host name under which the page is reached; repeatable.")
@click.option("--password", "ask", is_flag=True, help=f"Ask for a password; or set {PASSWORD_VARIABLE}.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the grid into this file instead.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=200, show_default=True, help="Items in that file.")
@click.option("--slot", default="", help="Of that file: captions of this slot only.")
@click.option("--shard", default="", help="Of that file: items of this shard only.")
@click.option("--search", default="", help="Of that file: items with these words in a caption only.")
def command(
    store: Path | None, config_file: Path | None, images: tuple[str, ...], host: str, port: int,
    names: tuple[str, ...], ask: bool, html: Path | None, limit: int, slot: str, shard: str, search: str,
) -> None:  # fmt: skip
    """Look at captions next to their pictures, in a browser, while a run goes on or afterwards.

    STORE is the folder that holds the captions, such as the --out of `cfbus run`; without it the configuration says.
    """

    def go() -> int:
        settings = settings_of(store, config_file, images)
        if html is not None:
            return write(settings, html, limit, {"slot": slot, "shard": shard, "q": search})
        return serve(settings, host, port, names, password_for(host, ask))

    sys.exit(last_frame(go))
