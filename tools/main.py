"""`cfbus`: the verbs that people type.

Must not import what the verbs need: each verb's module is imported when it is called, so that help is quick.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from difflib import get_close_matches

import click

from cfbus import __version__, logs
from cfbus.errors import EXIT_INTERRUPTED, TryAgainError

VERBS = {
    "run": ("cfbus.tools.run", "Caption folders of images: one command, all on this machine."),
    "check": ("cfbus.tools.check", "Try a configuration on the first images, and find what is wrong with it."),
    "init": ("cfbus.tools.init", "Write a commented configuration and keys for a bus of your own."),
    "join": ("cfbus.tools.join", "Join a bus with an invite."),
    "doctor": ("cfbus.tools.doctor", "Find what keeps a daemon of this host from its broker or its work."),
    "keys": ("cfbus.tools.key_files", "Look at a key file."),
    "keygen": ("cfbus.tools.keygen", "Make a keypair."),
    "journal": ("cfbus.tools.journal", "Look at a store's journal, or rescue what is whole of a damaged one."),
    "view": ("cfbus.tools.view", "Look at captions next to their pictures, in a browser."),
    "systemd": ("cfbus.tools.systemd", "Install units, so that systemd runs the daemons of this machine."),
    "export": ("cfbus.tools.export", "Write captions as parquet, JSON lines, CSV, text files or tars."),
    "compact": ("cfbus.tools.compact", "Join the small files of a store."),
    "import": ("cfbus.tools.import_captions", "Take captions that another captioner wrote."),
    "demo": ("cfbus.tools.demo", "Caption a dozen photographs and show the result."),
}


class Verbs(click.Group):
    """A group that names the nearest verb on a typo, whatever the version of click, and repeats nothing hostile."""

    def invoke(self, ctx: click.Context) -> object:
        """Carry out the verb; what click says of its arguments is harmless to a terminal."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            said = "\n".join(logs.display(line, 1000) for line in error.format_message().split("\n"))
            raise click.UsageError(said, error.ctx) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb that is meant by the first argument."""
        name, verbs = args[0], self.list_commands(ctx)
        if name in verbs or name.startswith("-"):
            return super().resolve_command(ctx, args)
        shown = logs.display(name, 500)
        near = get_close_matches(name, verbs, 1, 0.5)
        if near:
            ctx.fail(f"There is no verb {shown!r}. Did you mean {near[0]!r}?")
        if "run" in verbs and os.path.isdir(name):  # noqa: PTH112 - never raises
            ctx.fail(f"{shown!r} is a folder, and the verb is missing. Did you mean: cfbus run {shown}?")
        return ctx.fail(f"There is no verb {shown!r}; the verbs are {', '.join(verbs)}.")


class LateVerbs(Verbs):
    """Verbs whose modules are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command, or None when there is none."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(VERBS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs, without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


@click.group(
    cls=LateVerbs, subcommand_metavar="VERB [ARGS]...", context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="cfbus")
def command() -> None:
    """Caption very large image sets with many GPUs.

    \b
    See it work first:            cfbus demo
    A folder, on this machine:    cfbus run PHOTOS --out captions
    A bus for several machines:   cfbus init BUS --images PHOTOS
    Lend a GPU to somebody's bus: cfbus join
    """
    logs.setup("cfbus", "warning")


def begin(command: click.Command) -> None:
    """Run a command to its exit. What click and rich call 1 (Ctrl-C too early, a reader that is gone) is 130."""
    _need_output()
    try:
        command()
    except SystemExit as end:
        raise SystemExit(EXIT_INTERRUPTED if end.code == 1 else end.code) from None
    except OSError as error:  # click's own printing; the verbs look after theirs
        with contextlib.suppress(OSError):
            sys.stderr.write(f"The output could not be written: {error.strerror}.\n")
        raise SystemExit(TryAgainError.exit_code) from None
    finally:
        _settle_output()


def _need_output() -> None:
    """Started with a closed output, Python has none at all."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - to the end
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 - to the end


def _settle_output() -> None:
    """What finds no room must not change the exit code, as Python would have it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Entry point."""
    begin(command)


if __name__ == "__main__":
    main()
