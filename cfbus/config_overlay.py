"""Values that are given outside the file: environment variables and ``--set``, laid over what was read.

It must not know what the configuration means (see ``config_file.Schema``) nor touch ``os.environ``.

Invariants: what is laid over replaces what was there, its origin too; nothing that looks like ours and is
not (one underscore too few, the same key twice) is passed over in silence; what is wrong is told by the name
under which the person gave it, be it a variable, a ``--set`` or a flag of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from cfbus.config_file import KeyPath, Origin, Problem, Schema, Tree, read_fragment
from cfbus.logs import display

ENV_PREFIX = "CFBUS_"


@dataclass(frozen=True, slots=True)
class Option:
    """A command-line option for one key: ``--port 7710`` for ``broker.port``. ``said`` is what the person typed."""

    said: str
    path: KeyPath
    text: str


def overlay_environment(tree: Tree, environ: Mapping[str, str], schema: Schema, cwd: Path) -> None:
    """Lays ``CFBUS_BROKER__PORT=7710`` over the tree. Names without ``__`` are none of ours."""
    seen: dict[KeyPath, str] = {}
    for name in sorted(each for each in environ if each.upper().startswith(ENV_PREFIX)):
        rest = name[len(ENV_PREFIX) :].lower()
        path = tuple(rest.split("__"))
        if len(path) == 1:
            sentence = _nearly_ours(rest, schema)
            tree.problems += [Problem(display(name), sentence)] if sentence else []
        elif path in seen:
            tree.problems.append(Problem(display(name), f"says the same as {display(seen[path])}."))
        else:
            seen[path] = name
            _lay(tree, path, environ[name], Origin(display(name), cwd), schema)


def _nearly_ours(name: str, schema: Schema) -> str:
    """What to say of a variable without two underscores; nothing if it is somebody else's."""
    keys = [path for path in schema.known_paths() if len(path) > 1]
    inside = next((path for path in keys if path[0] == name), None)
    if inside is not None:
        return f"names a whole section; give one key of it, as {_variable(inside)}."
    squeezed = {"".join(path).replace("_", ""): path for path in keys}
    near = get_close_matches(name.replace("_", ""), squeezed, 1, 0.85)
    return f"did you mean {_variable(squeezed[near[0]])}, with two underscores?" if near else ""


def _variable(path: KeyPath) -> str:
    return ENV_PREFIX + "__".join(path).upper()


def overlay_sets(tree: Tree, overrides: Sequence[str | Option], schema: Schema, cwd: Path) -> None:
    """Lays options and the ``a.b=c`` of ``--set`` over the tree; of several for one key the last wins."""
    for override in overrides:
        if isinstance(override, Option):
            _lay(tree, override.path, override.text, Origin(display(override.said, 200), cwd), schema)
            continue
        name, equals, text = override.partition("=")
        origin = Origin(f"--set {display(name.strip(), 80)}", cwd)
        path = tuple(name.strip().split("."))
        if not equals or not all(path):
            tree.problems.append(Problem(origin.where, "write it as --set section.key=value"))
        else:
            _lay(tree, path, text, origin, schema)


def _lay(tree: Tree, path: KeyPath, text: str, origin: Origin, schema: Schema) -> None:
    folder = tree.values
    for depth, key in enumerate(path[:-1], start=1):
        below = folder.get(key)
        if below is None or (isinstance(below, str) and schema.has_short_form(path[:depth])):
            below = folder[key] = {}
            tree.origins.setdefault(path[:depth], origin)
        if not isinstance(below, dict):
            return  # a section that is no section is reported where it was written
        folder = below
    for known in [each for each in tree.origins if each[: len(path)] == path]:
        del tree.origins[known]
    tree.origins[path] = origin
    folder[path[-1]], read = read_fragment(text, path, origin, schema)
    tree.problems += read.problems
    tree.origins |= read.origins
