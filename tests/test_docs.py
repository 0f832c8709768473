"""The pages say what the code says: generated parts, names, links, commands, snippets, which run in a folder in which
``captions`` is a small real store."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import duckdb
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from cfbus import config, errors
from cfbus.bus import messages as m
from cfbus.bus.columns import Table, build
from cfbus.bus.wire import checksum, encode_table
from cfbus.core.frame import JournalFrame
from cfbus.core.held import Use
from cfbus.core.outcome import Caption, EngineFacts, Outcome
from cfbus.core.results import pack
from cfbus.core.worker import WorkerRules
from cfbus.store.folder import Store
from cfbus.store.journal import Journal
from cfbus.store.listing import write_listing
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import ShardRow
from cfbus.store.seal import record, seal_journal
from cfbus.store.snapshots import write_contributors, write_jobs

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *(ROOT / "examples").glob("**/*.md")])
FENCE = re.compile(r"^```([a-z]*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELLS = {"sh", "bash", "console", "shell"}
sys.path.insert(0, str(DOCS))
generate = importlib.import_module("generate")
wording = importlib.import_module("wording")


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def prose_of(page: str) -> str:
    """What people wrote of it."""
    return generate.MARKED.sub("", text_of(page))  # type: ignore[no-any-return]


# Generated parts


def run_generate(docs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(docs / "generate.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=docs, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The pages and what they are generated with, elsewhere."""
    shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", ".importlinter"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path / "docs"


def test_generated_parts_are_what_the_code_says() -> None:
    done = run_generate(DOCS, "--check")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stale_part_is_named_and_written_again(copy: Path) -> None:
    page = copy / "protocol.md"
    fresh = page.read_text(encoding="utf-8")
    page.write_text(fresh.replace("| 524,288 |", "| 1 |"), encoding="utf-8")
    stale = run_generate(copy, "--check")
    assert stale.returncode == 2
    assert "docs/protocol.md: the part 'limits' is not what the code says. Run `make docs`." in stale.stderr
    assert "| 1 |" in page.read_text(encoding="utf-8"), "--check must not write"
    assert run_generate(copy).returncode == 0
    assert page.read_text(encoding="utf-8") == fresh


def test_meanings_fit_the_code(copy: Path) -> None:
    words = copy / "words.toml"
    known = words.read_text(encoding="utf-8")
    words.write_text(known.replace("MAX_HELD =", "MAX_HELP ="), encoding="utf-8")
    missing = run_generate(copy, "--check")
    assert (missing.returncode, missing.stderr) == (2, "docs/words.toml: [limits] has no line for 'MAX_HELD'.\n")
    words.write_text(known.replace("MAX_HELD =", 'MAX_HELP = "x"\nMAX_HELD ='), encoding="utf-8")
    left = run_generate(copy, "--check")
    assert left.returncode == 2
    assert "[limits] explains 'MAX_HELP', which the code no longer has." in left.stderr


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("<!-- generated: nonsense -->\n<!-- end -->", "there is no part 'nonsense'"),
        ("<!-- generated: limits -->\n", "no beginning or no end"),
        ("<!-- end -->", "no beginning or no end"),
    ],
)
def test_broken_marks_are_told(text: str, sentence: str) -> None:
    with pytest.raises(wording.PageError, match=sentence):
        generate.renewed("page.md", text)


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0"), (0.5, "0.5"), (5.0, "5"), (65536, "65,536"), (1 << 31, "2^31"), ((1 << 63) - 1, "2^63 - 1")],
)
def test_numbers_are_exact(number: float, shown: str) -> None:
    assert wording.number(number) == shown


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_no_page_names_this_machine(page: Path) -> None:
    assert str(ROOT) not in page.read_text(encoding="utf-8")


# Names


@pytest.mark.parametrize("tag", m.BY_TAG)
def test_every_message_is_explained(tag: str) -> None:
    assert re.search(rf"\b{tag}\b", prose_of("protocol.md")), f"{tag} is only in generated tables"


def calls(*folders: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call in these folders with the name of what is called."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                    yield node.func.id if isinstance(node.func, ast.Name) else node.func.attr, node


def error_codes() -> set[str]:
    """The codes of all ERRORs that the broker sends: those of unreadable messages, of refusals, of its own."""
    found: set[object] = set()
    for name, call in calls("cfbus/core", "cfbus/bus", "daemons"):
        values: list[ast.expr] = []
        if name == "WireError":
            values = call.args[:1]
        elif name == "refuse":
            values = call.args[1:2]
        elif name == "Error":
            values = [keyword.value for keyword in call.keywords if keyword.arg == "code"]
        found.update(value.value for value in values if isinstance(value, ast.Constant))
    return {str(code) for code in found} - {"table", "record"}  # of payloads and files, never sent


def test_every_error_code_is_explained() -> None:
    codes = error_codes()
    assert {"hello-first", "fields", "store"} <= codes, "the search finds nothing any more"
    assert {code for code in codes if f"`{code}`" not in prose_of("protocol.md")} == set()


def test_every_reason_to_wait_is_explained() -> None:
    tree = ast.parse((ROOT / "cfbus/core/granting.py").read_text(encoding="utf-8"))
    why = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "why")
    returns = [node.value for node in ast.walk(why) if isinstance(node, ast.Return)]
    reasons = {str(value.value) for value in returns if isinstance(value, ast.Constant) and value.value}
    assert {"paused", "finished"} <= reasons, "the search finds nothing any more"
    reasons |= {"nothing-free", "too-many-leases", *(f"writer-{state}" for state in ("full", "disk-full"))}
    assert {reason for reason in reasons if f"`{reason}`" not in prose_of("protocol.md")} == set()


def test_every_key_of_the_configuration_is_explained() -> None:
    parts = {(), ("scripted",), ("sampling",), ("downloads",), ("limits",)}
    paths = [path for path in config.SCHEMA.known_paths() if path[1:] not in parts]
    assert ("worker", "spool_dir") in paths
    assert {key for key in map(".".join, paths) if f"| `{key}` |" not in text_of("configuration.md")} == set()


def test_every_exit_code_is_explained() -> None:
    page = text_of("exit-codes.md")
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    codes = {value.exit_code for value in classes if issubclass(value, errors.CfbusError)}
    codes |= {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert {code for code in codes if f"| {code} |" not in page} == set()
    assert {value.__name__ for value in classes if f"`{value.__name__}`" not in page} == {"CfbusError"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:cfbus|daemons|tools|docs|tests)/[\w/.]+\.(?:py|md))`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


# Links


def anchors(page: Path) -> list[str]:
    """The anchors of a page's titles, as they are made on code hosts."""
    plain = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ +(.+)$", plain, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        if not target.exists() or (anchor and anchors(target).count(anchor) != 1):
            broken.append(link)
    assert broken == []


# Commands


def fences(page: Path, languages: set[str]) -> list[str]:
    return [body for name, body in FENCE.findall(page.read_text(encoding="utf-8")) if name in languages]


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """What stands in the shell blocks of all pages and begins with one of our commands."""
    for page in PAGES:
        for line in "\n".join(fences(page, SHELLS)).replace("\\\n", " ").split("\n"):
            lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if set(word) <= set("();<>|&"):
                    if words and words[0].split("/")[-1].startswith("cfbus"):
                        yield page.name, words
                    words = []
                elif words or not re.match(r"\w+=", word):
                    words.append(word)


COMMANDS = list(command_lines())


def test_there_are_commands_to_look_at() -> None:
    assert {"README.md", "configuration.md"} <= {page for page, _ in COMMANDS}


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> dict[str, click.Command]:
    """All commands, none of which does anything but read its command line."""
    for _, command in generate.commands():
        if not isinstance(command, click.Group):
            monkeypatch.setattr(command, "callback", lambda *_, **__: None)
    found: dict[str, click.Command] = generate.programs()
    return found


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=lambda value: value if isinstance(value, str) else value[-1])
def test_commands_in_the_pages_are_understood(page: str, words: list[str], programs: dict[str, click.Command]) -> None:
    name = Path(words[0]).name
    assert name in programs, f"{page}: there is no command {name}"
    done = CliRunner().invoke(programs[name], words[1:])
    assert done.exit_code == 0, f"{page}: {shlex.join(words)}: {done.output}"


def test_a_wrong_option_would_be_noticed(programs: dict[str, click.Command]) -> None:
    for words in (["run", "photographs"], ["run", "a", "--out", "b", "--slots", "c"], ["walk"]):
        assert CliRunner().invoke(programs["cfbus"], words).exit_code == 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configurations_in_the_pages_load(page: Path, tmp_path: Path) -> None:
    for number, text in enumerate(fences(page, {"yaml"})):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text, encoding="utf-8")
        config.load("run", path, (), {})


# Snippets


@dataclass(frozen=True)
class Snippet:
    page: str
    language: str
    text: str


def snippets() -> list[Snippet]:
    return [
        Snippet(page.name, name, body)
        for page in PAGES
        for name, body in FENCE.findall(page.read_text(encoding="utf-8"))
        if name in ("python", "sql")
    ]


SPEC = m.Spec(
    hash="0" * 16,
    engine="palette",
    pixel_budget=1000,
    max_pixels=1000,
    slots=(m.Slot(name="short", prompt="Short.", prompt_id="a"), m.Slot(name="tags", prompt="Tags.", prompt_id="b")),
)


def captions_frame(position: int, first: int, last: int) -> JournalFrame:
    """Captions of items first to last, both included, as a worker makes them."""
    slots = tuple(slot.name for slot in SPEC.slots)
    grant = m.Grant(
        lease="1" * 16, pass_number=1, shard=0, shard_name="birds-00000", start=0, end=8, slots=slots, backup=False,
        ttl=1.0, window=0,
    )  # fmt: skip
    outcomes = [
        Outcome(grant.lease, index, tuple(Caption(f"{slot} of {index}") for slot in slots))
        for index in range(first, last + 1)
    ]
    rules = WorkerRules("2" * 16, "worker", 1)
    message, payload = pack(outcomes, grant, Use(SPEC, 1), EngineFacts("palette", "palette-1"), rules, position)
    return frame(position, "captions", message.ranges, payload)


def failure_frame(position: int, index: int) -> JournalFrame:
    failure = one_row("failures", reason="truncated", fault="item", attempts=3, detail="cut off", who="c-1")
    return frame(position, "failures", ((index, index + 1),), encode_table(failure))


def one_row(kind: str, **values: object) -> Table:
    return build(kind, 1, {name: [value] for name, value in values.items()})


def frame(position: int, table: str, ranges: m.Ranges, payload: bytes) -> JournalFrame:
    return JournalFrame(
        position=position, table=table, lease="1" * 16, job="birds-00000:0-8@1.1", pass_number=1, shard=0,
        ranges=ranges, mask=None, contributor="c-1", key="SHA256:x", received=1_700_000_000_000_000,
        crc=checksum(payload), frame=payload,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store ``captions``: eight items, one of them a dead letter, sealed."""
    root = tmp_path_factory.mktemp("docs")
    with Store.open(root / "captions", "birds", create=True) as store:
        manifest = Manifest.open(store)
        keys = [f"{number}.jpg" for number in range(8)]
        digest = write_listing(store, 0, keys, [b""] * len(keys))
        manifest.add_shards([ShardRow(0, "birds-00000", len(keys), digest)])
        manifest.add_pass(["short", "tags"])
        journal = Journal.open(store, manifest)
        journal.append([captions_frame(1, 0, 6), failure_frame(2, 7)])
        closed = journal.roll()
        assert closed is not None
        record(manifest, journal, closed, seal_journal(store.root, closed.path))
        job = one_row(
            "jobs", job_id="birds-00000:0-8@1.1", shard=0, start=0, end=8, pass_number=1, status="ended",
            assigned_to="c-1", timestamp=1_700_000_000_000_000, last_error="",
        )  # fmt: skip
        write_jobs(store, manifest, job)
        people = one_row("contributors", contributor_id="c-1", name="local", trust_level=5)
        write_contributors(store, people, manifest.totals())
        journal.close()
        manifest.close()
    return root


def missing(text: str) -> list[str]:
    """What a snippet imports and is not installed here."""
    return [name for name in re.findall(r"^import (\w+)", text, re.MULTILINE) if not importlib.util.find_spec(name)]


@pytest.mark.parametrize("snippet", snippets(), ids=lambda one: f"{one.page}-{one.language}")
def test_snippets_run(
    snippet: Snippet, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    if snippet.language == "sql":
        with duckdb.connect() as database:
            assert database.sql(snippet.text).fetchall(), "it finds nothing"
        return
    if missing(snippet.text):
        pytest.skip(f"not installed: {', '.join(missing(snippet.text))}")
    exec(compile(snippet.text, snippet.page, "exec"), {})
    assert capsys.readouterr().out.strip(), "it shows nothing"


def test_files_of_a_store_are_those_that_formats_names(folder: Path) -> None:
    page, store = text_of("formats.md"), folder / "captions"
    found = {str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()}
    assert found >= {"store.json", "lock", "manifest.sqlite", "listing/00000000.parquet"}
    assert {name for name in found if name not in page and not name.endswith(("-wal", "-shm"))} == set()
    assert pq.read_table(store / "captions").num_rows == 14
