"""The whole story of a contributor, on two networks: invited, joined, at work, suspended, resumed, revoked.

Run as a program in a network of its own (see ``apart``); ``test_lending`` does. Maintainer, broker and writer are on
one network, the contributor on the other; nothing but the line of the invite goes from one to the other by hand.
"""

from __future__ import annotations

import json
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

if __name__ == "__main__":
    sys.path[:1] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

import pyarrow.dataset as ds
from chaos import apart
from chaos.nest import Daemon, Nest
from processes.support import until
from processes.tables import exact_pictures, make_pictures

PICTURES = 2500
BROKER = f"tcp://{apart.NEAR}:7710"


class Maintainer:
    """Near: the bus, and what is asked of it."""

    def __init__(self, nest: Nest, folder: Path, pictures: Path) -> None:
        self.nest = nest
        self.folder = folder
        self.config = folder / "cfbus.yaml"
        host = ["--set", f"broker.host={apart.NEAR}"]
        # Small leases, so that a few are held whenever somebody is put out.
        small = ["--set", "broker.chunk_size=20"]
        nest.start("cfbus.tools.init", folder, "--images", pictures, *host, *small).ends(0)

    def daemon(self, name: str, *more: str) -> Daemon:
        return self.nest.start(f"cfbus.daemons.{name}", "--config", self.config, *more)

    def ask(self, *words: str | Path) -> str:
        return self.nest.start("cfbus.tools.admin", "--config", self.config, *words).ends(0)

    def status(self) -> dict[str, int]:
        said: dict[str, int] = json.loads(self.ask("status", "--json"))
        return said

    def key(self, verb: str, mark: str, *more: str) -> dict[str, int]:
        said: dict[str, int] = json.loads(self.ask("keys", verb, mark, "--json", *more))
        return said

    def until_done(self, more_than: int) -> int:
        return until(
            f"more than {more_than} are done",
            lambda: done if (done := self.status()["done"]) > more_than else None,
        )


def tell(folder: Path, near: Nest, far: Nest) -> None:
    """All of it; an AssertionError where it goes another way."""
    pictures = folder / "pictures"
    make_pictures(pictures, 0, PICTURES)
    maintainer = Maintainer(near, folder / "bus", pictures)
    broker, writer = maintainer.daemon("broker"), maintainer.daemon("writer")
    until("the writer is there", lambda: maintainer.status()["items"] == PICTURES)

    maintainer.ask("invite", "ada", "--out", folder / "invite")
    me = folder / "me"
    slow = ["--set", "worker.concurrency=1", "--set", "worker.decoders=1"]
    images = ["--set", f"dataset.paths=[{json.dumps(str(pictures))}]"]
    said = far.start("cfbus.tools.join", f"@{folder / 'invite'}", "--yes", "--dir", me, *images, *slow).ends(0)
    assert f"cfbus-gpu --config {me}/gpu.yaml" in said
    assert f"server: {BROKER}" in (me / "gpu.yaml").read_text()
    (mark,) = (each["fingerprint"] for each in json.loads(maintainer.ask("keys", "list", "--json"))
               if each["contributor"] == "ada")  # fmt: skip

    worker = far.start("cfbus.daemons.gpu", "--config", me / "gpu.yaml")
    maintainer.until_done(0)
    put_out = maintainer.key("suspend", mark)
    assert put_out["connections_cut"] == 1, put_out
    assert put_out["leases_returned"] >= 1, put_out
    worker.says("this key is suspended")
    worker.says("the key awaits approval or is suspended")
    assert worker.code is None
    status = maintainer.status()
    assert (status["leased"], status["workers"]) == (0, 0), status
    assert status["done"] < PICTURES, "it was too quick to be suspended at work"

    maintainer.key("resume", mark)
    maintainer.until_done(status["done"] + 1)
    put_out = maintainer.key("revoke", mark, "--reason", "the night is over")
    assert put_out["connections_cut"] == 1, put_out
    assert "it said: this key was revoked (the night is over)." in worker.ends(77)
    assert maintainer.status()["leased"] == 0
    assert "is there already" in far.start("cfbus.tools.join", f"@{folder / 'invite'}", "--yes", "--dir", me).ends(2)

    own = maintainer.daemon("gpu", "--gpu-id", "0", "--when-finished", "exit")
    own.ends(0)
    until("all is sealed", lambda: maintainer.status()["sealed"])
    for daemon in (writer, broker):
        daemon.signal(signal.SIGTERM)
        daemon.ends(0)
    store = maintainer.folder / "captions"
    exact_pictures(store, pictures, ["caption"])
    credited = ds.dataset(store / "captions", format="parquet").to_table(columns=["contributor_id"])
    assert len(set(credited["contributor_id"].to_pylist())) == 2


def main(folder: Path) -> int:
    """0 if the story went as it should."""
    with ExitStack() as stack:
        near = stack.enter_context(Nest(folder / "near"))
        far = stack.enter_context(Nest(folder / "far", apart.ALONE))
        apart.Wire(far)
        tell(folder, near, far)
    sys.stdout.write("lending: told to the end\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
