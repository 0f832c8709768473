"""Writes the parts of the pages here that the code knows better: `make docs`, or with ``--check`` only compares.

A part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``. What the code says is taken from the code;
what no model can say (a meaning in words) is taken from ``words.toml``, and must be there for every name.

Invariant: the same code gives the same text on every machine, so a default that depends on the machine is told in
words.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from configparser import ConfigParser
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

import click
import events
import pyarrow as pa
from pydantic.fields import FieldInfo
from wording import Meanings, Names, PageError, Row, cell, code, number, sections, table, type_of

from cfbus import config, config_reload, config_types, config_vllm, errors
from cfbus.bus import columns, fields, figures, messages, wire
from cfbus.bus.columns import LAYOUTS, Layout
from cfbus.bus.fields import Message, Part, Role
from cfbus.bus.messages import BY_TAG, MAY_SEND
from cfbus.config_overlay import ENV_PREFIX
from cfbus.config_sections import KeyLimits
from cfbus.config_words import Section
from cfbus.store.schema import DESCRIPTIONS, SCHEMAS
from cfbus.tools import captionflow_keys
from cfbus.tools.captionflow_keys import SOURCES as KINDS_THERE

HERE = Path(__file__).parent
ROOT = HERE.parent
MARKED = re.compile(r"(<!-- generated: ([a-z-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
MARK = re.compile(r"<!-- (?:generated: [a-z-]+|end) -->")
WORDS = Meanings(HERE / "words.toml")


# ---------------------------------------------------------------------- the protocol

TYPES: Names = [(value, name) for name, value in vars(fields).items() if get_origin(value) is Annotated]
LINKS: Names = [(value, f"[{name}](#types)") for value, name in TYPES]


def _types() -> str:
    rows = [
        (code(name), type_of(value, [link for link in LINKS if link[0] is not value]), WORDS.of("types", name))
        for value, name in TYPES
    ]
    return table(("type", "what it is", "what for"), rows)


def _payloads_of(message: type[Message]) -> str:
    """The tables that a payload may be: named by a field of the header, or by the prose."""
    if not message.PAYLOAD:
        return ""
    naming = [message.model_fields[name] for name in ("table", "kind") if name in message.model_fields]
    named = [name for info in naming for name in get_args(info.annotation) if name in LAYOUTS]
    mentioned = re.findall(r"`(\w+)` table", message.__doc__ or "")
    return ", ".join(map(code, named or mentioned)) + (" or empty" if named and "kind" in message.model_fields else "")


def _messages() -> str:
    rows = []
    for tag, message in BY_TAG.items():
        senders = ", ".join(role.value for role in Role if message in MAY_SEND[role])
        told = "" if senders and tag not in WORDS.names("from_broker_to") else WORDS.of("from_broker_to", tag)
        rows.append((f"[{tag}](#{tag.lower()})", senders, told, _payloads_of(message), message.__doc__ or ""))
    return table(("message", "to the broker from", "from the broker to", "payload", "what it says"), rows)


def _inside(hint: object) -> Iterator[type[Part]]:
    """The parts that a type is made of, each before its own parts."""
    for argument in get_args(hint):
        yield from _inside(argument)
    if isinstance(hint, type) and issubclass(hint, Part):
        if not issubclass(hint, Message):
            yield hint
        hints = get_type_hints(hint, include_extras=True)
        for name in hint.model_fields:
            yield from _inside(hints[name])


def _field_table(model: type[Part]) -> str:
    hints = get_type_hints(model, include_extras=True)
    rows = [
        (
            code(name),
            type_of(hints[name], LINKS),
            "" if info.is_required() else _default(info.default),
            WORDS.of("fields", f"{model.__name__}.{name}", name),
        )
        for name, info in model.model_fields.items()
    ]
    return table(("field", "type and bounds", "when left out", "meaning"), rows) if rows else "No fields."


def _fields() -> str:
    return sections("###", ((tag, _field_table(message)) for tag, message in BY_TAG.items()))


def _parts() -> str:
    parts = dict.fromkeys(part for message in messages.MESSAGES for part in _inside(message))
    bodies = (f"{cell(part.__doc__ or '')}\n\n{_field_table(part)}" for part in parts)
    return sections("###", zip((part.__name__ for part in parts), bodies, strict=True))


def _roles() -> str:
    said = [tag for tag, message in BY_TAG.items() if any(message in allowed for allowed in MAY_SEND.values())]
    rows = [(tag, *("yes" if BY_TAG[tag] in MAY_SEND[role] else "" for role in Role)) for tag in said]
    return table(("message", *(role.value for role in Role)), rows)


KINDS = {
    columns.TEXT: "text", columns.BINARY: "bytes", columns.WORD: "word", columns.HASH: "32 bytes",
    "<i4": "int32", "<i8": "int64", "<u4": "uint32", "<f4": "float32",
}  # fmt: skip


def _payload(name: str, layout: Layout) -> str:
    kinds = [(one, kind, "item") for one, kind in layout.items.items()]
    kinds += [(one, kind, "caption") for one, kind in layout.captions.items()]
    kinds += [(one, columns.WORD, "slot") for one in layout.per_slot]
    kinds += [(one, columns.WORD, "table") for one in layout.constants]
    own = WORDS.names("columns")
    rows = []
    for column, kind, each in kinds:
        described = "" if f"{name}.{column}" in own else DESCRIPTIONS.get(name, {}).get(column, "")
        rows.append((code(column), KINDS[kind], each, described or WORDS.of("columns", f"{name}.{column}")))
    return table(("column", "kind", "one for each", "meaning"), rows)


def _payloads() -> str:
    return sections("###", ((f"Table `{name}`", _payload(name, layout)) for name, layout in LAYOUTS.items()))


def _limits() -> str:
    constants = {
        name: value
        for module in (fields, messages, figures, columns, wire)
        for name, value in vars(module).items()
        if isinstance(value, int) and re.fullmatch(r"MAX_[A-Z_]+|[A-Z_]+_BYTES", name)
    }
    rows = [(code(name), number(value), WORDS.of("limits", name)) for name, value in constants.items()]
    return table(("limit", "value", "of what"), rows)


def _value(place: str) -> float | Sequence[float]:
    """A constant, ``module:NAME``, or the default of a field of a dataclass, ``module:Class.field``."""
    module, _, name = place.partition(":")
    owner, _, field = name.partition(".")
    try:
        found = getattr(importlib.import_module(module), owner)
        value = next(each.default for each in dataclasses.fields(found) if each.name == field) if field else found
    except (ImportError, AttributeError, StopIteration):
        raise PageError(f"docs/words.toml: [timers] explains {place!r}, which the code no longer has.") from None
    assert isinstance(value, float | int | tuple)
    return value


def _timers() -> str:
    rows = []
    for place in WORDS.names("timers"):
        value = _value(place)
        shown = ", ".join(map(number, [value] if isinstance(value, float | int) else value))
        rows.append((code(place.partition(":")[2]), shown, WORDS.of("timers", place)))
    return table(("timer", "seconds", "what it is for"), rows)


# ---------------------------------------------------------------------- files, configuration, commands, layers


def _column_type(kind: pa.DataType) -> str:
    shown = "words" if pa.types.is_dictionary(kind) else str(kind)
    return re.sub(r"^list<\w+: string>$", "list of string", shown)


def _parquet() -> str:
    def body(name: str, schema: pa.Schema) -> str:
        rows = [(code(one.name), _column_type(one.type), DESCRIPTIONS[name][one.name]) for one in schema]
        return table(("column", "type", "meaning"), rows)

    return sections("###", ((f"Table `{name}`", body(name, schema)) for name, schema in SCHEMAS.items()))


def _default(value: object) -> str:
    if isinstance(value, bool):
        return code("true" if value else "false")
    if isinstance(value, Mapping):
        return ", ".join(f"`{name}: {getattr(each, 'prompt', each)}`" for name, each in value.items()) or "none"
    if value is None or value == ():
        return "none"
    if isinstance(value, tuple):
        return ", ".join(code(str(each)) for each in value)
    return "empty" if value == "" else code(value)


CONFIG_TYPES: Names = [
    (config_types.AnyPath, "path"),
    (config_types.Line, "one line of text"),
    (config_types.Endpoint, "address, `tcp://HOST:PORT`"),
    (config_types.SlotName, "slot name"),
    (config_vllm.Modality, "`image`, `video` or `audio`"),
]


def _config_rows(section: type[Section], path: tuple[str, ...]) -> Iterator[Row]:
    hints = get_type_hints(section, include_extras=True)
    for name, info in section.model_fields.items():
        here = (*path, name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            yield from _config_rows(info.annotation, here)
            continue
        shown = ".".join(here)
        if info.default_factory is not None:
            default = WORDS.of("defaults", shown)
        else:
            default = "must be given" if info.is_required() else _default(info.default)
        own = getattr(hints[name], "__metadata__", ())
        kind = type_of(hints[name], CONFIG_TYPES, [each for each in info.metadata if each not in own])
        reload = config_reload.class_of(here).value
        yield (code(shown), kind, default, code(ENV_PREFIX + "__".join(here).upper()), reload, info.description or "")
        inside = get_args(info.annotation)[1] if get_origin(info.annotation) is Mapping else None
        if isinstance(inside, type) and issubclass(inside, Section):
            yield from _config_rows(inside, (*here, "NAME"))


def _configuration() -> str:
    def body(name: str, info: FieldInfo) -> str:
        assert isinstance(info.annotation, type)
        rows = _config_rows(info.annotation, (name,))
        return f"{info.description}\n\n" + table(
            ("key", "type and bounds", "default", "environment", "reload", "meaning"), rows
        )

    return sections("###", ((code(name), body(name, info)) for name, info in config.Config.model_fields.items()))


def _key_limits() -> str:
    rows = [(key, default, meaning) for key, _, default, _, _, meaning in _config_rows(KeyLimits, ("broker", "limits"))]
    return table(("key", "default", "meaning"), rows)


def _exit_codes() -> str:
    rows: list[tuple[int, str, str]] = []
    for name, value in vars(errors).items():
        if name.startswith("EXIT_"):
            rows.append((value, "", WORDS.of("exit_codes", name)))
        elif value is errors.CfbusError:
            rows.append((value.exit_code, "", WORDS.of("exit_codes", name)))
        elif isinstance(value, type) and issubclass(value, errors.CfbusError):
            rows.append((value.exit_code, code(name), value.__doc__ or ""))
    rows.sort(key=lambda row: row[0])
    return table(("code", "error", "when"), [(str(number), name, text) for number, name, text in rows])


def programs() -> dict[str, click.Command]:
    """Every installed command, by its name."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    return {name: importlib.import_module(place.partition(":")[0]).command for name, place in scripts.items()}


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every installed command and every verb of those that have some."""
    for name, program in programs().items():
        yield from _with_verbs(name, program)


def _with_verbs(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        for verb in command.list_commands(context):
            found = command.get_command(context, verb)
            assert found is not None
            yield from _with_verbs(f"{name} {verb}", found)


def _verbs() -> str:
    rows = [(code(name), (command.help or "").partition("\n\n")[0]) for name, command in commands()]
    return table(("command", "what it does"), rows)


def _option(option: click.Option, context: click.Context) -> Row:
    name = ", ".join(option.opts) + ("" if option.is_flag else f" {option.make_metavar(context)}")
    return code(name), (option.help or "") + (" Must be given." if option.required else "")


def _options() -> str:
    parts = []
    for name, command in commands():
        arguments = [each.human_readable_name for each in command.params if isinstance(each, click.Argument)]
        options = [each for each in command.params if isinstance(each, click.Option) and each.help and not each.hidden]
        context = click.Context(command, info_name=name)
        rows = [_option(each, context) for each in options if "--version" not in each.opts]
        if rows:
            parts.append((code(" ".join([name, *arguments])), table(("option", "meaning"), rows)))
    return sections("###", parts)


def _layers() -> str:
    parser = ConfigParser()
    parser.read(ROOT / ".importlinter", encoding="utf-8")
    lines = parser["importlinter:contract:layers"]["layers"].split("\n")
    rows = [[name.strip() for name in re.split("[|:]", line)] for line in lines if line]
    shown = [(", ".join(map(code, row)), "; ".join(WORDS.of("layers", name) for name in row)) for row in rows]
    return table(("modules", "what they are"), shown)


def _captionflow() -> str:
    """Keys of CaptionFlow; those of which the same is to be said share a row."""
    together: dict[str, dict[tuple[str, str, str], list[str]]] = {}
    for row in captionflow_keys.ROWS.values():
        component, _, key = row.key.partition(".")
        said = (code(row.ours) if row.ours else "", row.fate.value, row.why)
        together.setdefault(component, {}).setdefault(said, []).append(key)
    head = ("there", "here", "fate", "remark")
    tables = {
        component: table(head, [(", ".join(map(code, keys)), *said) for said, keys in rows.items()])
        for component, rows in together.items()
    }
    return sections("###", ((code(component), body) for component, body in tables.items()))


def _captionflow_sources() -> str:
    return table(("there", "here"), [(code(kind), code(source)) for kind, (source, _) in KINDS_THERE.items()])


PARTS: Mapping[str, Callable[[], str]] = {
    "messages": _messages, "types": _types, "fields": _fields, "parts": _parts, "roles": _roles,
    "payloads": _payloads, "limits": _limits, "timers": _timers, "parquet": _parquet, "configuration": _configuration,
    "exit-codes": _exit_codes, "key-limits": _key_limits, "verbs": _verbs, "options": _options, "layers": _layers,
    "captionflow": _captionflow, "captionflow-sources": _captionflow_sources, "events": lambda: events.page(WORDS),
}  # fmt: skip


# ---------------------------------------------------------------------- pages


def renewed(page: str, text: str) -> tuple[str, list[str]]:
    """A page's text with its parts as they should be, and the names of those that were not."""
    stale: list[str] = []

    def part(match: re.Match[str]) -> str:
        begin, name, old, end = match.groups()
        if name not in PARTS:
            raise PageError(f"docs/{page}: there is no part {name!r} to generate.")
        new = f"\n{PARTS[name]()}\n\n"
        stale.extend([name] if new != old else [])
        return f"{begin}{new}{end}"

    fresh = MARKED.sub(part, text)
    if len(MARK.findall(fresh)) != 2 * len(MARKED.findall(fresh)):
        raise PageError(f"docs/{page}: a generated part has no beginning or no end.")
    return fresh, stale


def _go_through(pages: Iterable[Path], *, check: bool) -> Iterator[str]:
    """Write all pages, or compare them; what is wrong, a sentence each."""
    missing = set(PARTS)
    for path in pages:
        fresh, stale = renewed(path.name, path.read_text(encoding="utf-8"))
        missing.difference_update(match[1] for match in MARKED.findall(fresh))
        if stale and not check:
            path.write_text(fresh, encoding="utf-8")
        for name in stale if check else ():
            yield f"docs/{path.name}: the part {name!r} is not what the code says. Run `make docs`."
    yield from (f"No page in docs/ has the part {name!r}." for name in PARTS if name in missing)
    if not missing:
        yield from WORDS.unused()


def main(arguments: Sequence[str]) -> int:
    """0 when all is well; 2 when something is stale or does not fit, with a sentence for each."""
    try:
        problems = list(_go_through(sorted(HERE.glob("*.md")), check="--check" in arguments))
    except PageError as error:
        problems = [str(error)]
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
