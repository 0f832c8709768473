"""`cfbus import`: rows of another captioner are revision 0, their items are done, and nothing that was done changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from click.testing import CliRunner

import cfbus
from cfbus.core.frame import JournalFrame
from cfbus.core.writer import Writer, WriterRules
from cfbus.daemons.taking_up import take_up
from cfbus.errors import EXIT_DONE, EXIT_NOTHING_FOUND, EXIT_PARTLY
from cfbus.store import importing
from cfbus.store.folder import Store
from cfbus.store.importing import Given, bring_in
from cfbus.store.journal import Journal
from cfbus.store.listing import write_listing
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import ShardRow
from cfbus.tools.import_captions import command


class Opened(Protocol):
    store: Store
    manifest: Manifest
    journal: Journal


KEYS = ["a/1.jpg", "a/2.jpg", "b/1.jpg", "c.jpg", "=d.jpg", "e.jpg"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store that is listed, with two passes of which the newest has the slot ``short``."""
    with Store.open(tmp_path / "store", "birds", create=True) as store:
        manifest = Manifest.open(store)
        manifest.add_shards([ShardRow(0, "birds-00000", len(KEYS), write_listing(store, 0, KEYS, [b""] * len(KEYS)))])
        manifest.add_pass(["tags"])
        manifest.add_pass(["short"])
        manifest.close()
    return tmp_path / "store"


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(root: Path, path: Path, *options: str) -> tuple[int, str]:
    done = CliRunner().invoke(command, [str(root), str(path), *options])
    return done.exit_code, done.output + done.stderr


def done_items(root: Path) -> dict[tuple[int, int], Any]:
    """As the writer takes them up."""
    with Store.open(root, "birds", create=False) as store:
        manifest = Manifest.open(store)
        journal = Journal.open(store, manifest)
        core = Writer(WriterRules(store.store_id, "birds", "1" * 16, "writer"), journal.position, 0.0)
        take_up(core, manifest, journal)
        journal.close()
        manifest.close()
        return core.inventory.done()


def test_rows_of_another_captioner(root: Path, tmp_path: Path) -> None:
    path = lines(
        tmp_path / "blip.jsonl",
        {"filename": "a/2.jpg", "caption": "two"},
        {"filename": "c.jpg", "captions": {"caption": "sea \N{WATER WAVE}"}},
        {"filename": "=d.jpg", "caption": ["first", "second"]},
        {"filename": "1.jpg", "caption": "of two items"},
        {"filename": "nowhere.jpg", "caption": "x"},
        {"filename": "e.jpg", "caption": "  "},
    )
    code, said = run(root, path, "--contributor", "blip", "--model", "blip-2")
    assert code == EXIT_PARTLY, said
    assert "3 items have 3 captions of blip" in said
    assert "1 names are those of several items" in said
    assert "1 names are those of no item" in said
    assert "1 have no caption for a slot" in said
    rows = cfbus.open(root).arrow().to_pylist()
    assert [(row["item_key"], row["caption"]) for row in rows] == [
        ("a/2.jpg", "two"), ("c.jpg", "sea \N{WATER WAVE}"), ("=d.jpg", "first")
    ]  # fmt: skip
    assert {(row["revision"], row["engine"], row["model"], row["contributor_id"], row["slot"]) for row in rows} == {
        (0, "imported", "blip-2", "blip", "short")
    }
    assert json.loads(rows[0]["metadata"]) == {"origin": "blip.jsonl"}
    found = done_items(root)
    assert [tuple(map(int, pair)) for pair in found[2, 0]] == [(1, 2), (3, 5)]
    assert (1, 0) not in found
    code, said = run(root, path)
    assert code == EXIT_NOTHING_FOUND
    assert "3 were done already" in said
    assert cfbus.open(root).rows == 3


def test_the_whole_of_it_again_is_no_failure(root: Path, tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", {"filename": "c.jpg", "text": "sea"})
    assert run(root, path, "--slot", "short=text")[0] == EXIT_DONE
    assert run(root, path, "--slot", "short=text")[0] == EXIT_DONE
    assert cfbus.open(root).rows == 1


def test_the_run_goes_on_after_it(opened: Opened, simple: Callable[..., JournalFrame], tmp_path: Path) -> None:
    """What waits in the journal is sealed first; positions go on; what was done stays as it is."""
    opened.journal.append([simple(1)])
    opened.journal.close()
    keys = {f"säck0/no\nline/{item:04d}.jpg": dict.fromkeys(("short", "tags", "long"), "x") for item in (0, 50)}
    told = bring_in(opened.store, opened.manifest, Given(keys, "blip", "", "x", 1))
    assert (told.items, told.rows, told.position) == (2, 6, 2)
    journal = Journal.open(opened.store, opened.manifest)
    assert journal.position == 2
    journal.append([simple(3)])
    journal.close()
    assert cfbus.open(opened.store.root).rows == 4 + 6
    assert opened.manifest.totals() == {"contributor1": 4, "blip": 6}


@pytest.mark.parametrize("step", ["publish", "merge_ranges"])
def test_killed_in_the_middle(root: Path, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = getattr(importing, step)

    def die(*given: Any) -> None:
        real(*given)
        raise KeyboardInterrupt

    path = lines(tmp_path / "x.jsonl", {"filename": "c.jpg", "caption": "sea"})
    monkeypatch.setattr(importing, step, die)
    assert run(root, path)[0] == 130
    monkeypatch.setattr(importing, step, real)
    assert done_items(root) == {}
    assert cfbus.open(root).rows == 0
    assert run(root, path)[0] == EXIT_DONE
    assert cfbus.open(root).arrow()["caption"].to_pylist() == ["sea"]


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("no json\n", (), "line 1: it is no JSON"),
        ('{"filename": "c.jpg", "caption": "x"}\n[1]\n', (), "line 2: it names no file"),
        ('{"caption": "x"}\n', (), "it names no file"),
        (json.dumps({"filename": "c.jpg", "caption": "x" * 70_000}) + "\n", (), "70,000 bytes"),
        ('{"filename": "c.jpg", "caption": "\\ud800"}\n', (), "is no text"),
        ("[" * 100_000 + "\n", (), "it is no JSON"),
        ("", ("--slot", "tags=x"), "the slots are short"),
    ],
)
def test_lines_that_cannot_be_taken(root: Path, tmp_path: Path, text: str, options: tuple[str, ...], said: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    code, output = run(root, path, *options)
    assert code == 2
    assert said in output
    assert cfbus.open(root).rows == 0


def test_where_it_cannot_be(root: Path, tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", {"filename": "c.jpg", "caption": "sea"})
    with Store.open(root, "birds", create=False):
        assert run(root, path)[0] == 75, "a writer has the store"
    with Store.open(tmp_path / "new", "birds", create=True) as store:
        Manifest.open(store).close()
    code, said = run(tmp_path / "new", path)
    assert code == 2
    assert "knows no items or no slots yet" in said
    assert run(root, tmp_path / "nowhere")[0] == 2
