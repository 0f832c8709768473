"""`cfbus`: the verbs that people type. Each verb's module is imported only when it is called, so that help is quick."""

from __future__ import annotations

import importlib

import click

from cfbus import __version__

VERBS = {
    "run": ("cfbus.tools.run", "Caption folders of images: one command, all on this machine."),
    "init": ("cfbus.tools.init", "Write a commented configuration and keys for a bus of your own."),
    "keygen": ("cfbus.tools.keygen", "Make a keypair."),
    "demo": ("cfbus.tools.demo", "Caption a dozen photographs and show the result."),
}


class Verbs(click.Group):
    """A group that loads its commands late and names the nearest on a typo."""

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


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cfbus")
def command() -> None:
    """Caption very large image sets with many GPUs.

    One folder on one machine: cfbus run PHOTOS --out captions
    """


def main() -> None:
    """Entry point."""
    command()


if __name__ == "__main__":
    main()
