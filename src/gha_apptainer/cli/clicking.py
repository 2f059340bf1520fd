"""The commands that click parses, loaded one at a time."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import click

from gha_apptainer.cli import COMMANDS
from gha_apptainer.domain.errors import InputError
from gha_apptainer.node.main import BROKEN_PIPE, INTERRUPTED, failed, silence_stdout


class _Lazy(click.Group):
    """A group whose commands are the rows of `COMMANDS`, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's signature
        """The command itself."""
        if cmd_name not in COMMANDS:
            return None
        module, name, _ = COMMANDS[cmd_name]
        found = getattr(import_module(module), name)
        if not isinstance(found, click.Command):
            raise TypeError("%s.%s is no click command" % (module, name))
        return found


group = _Lazy("gha-apptainer", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
"""All click commands; also what shell completion asks."""


def run(words: Sequence[str]) -> int:
    """Run one command; errors are told once, here."""
    try:
        code = group.main(list(words), "gha-apptainer", standalone_mode=False)
        sys.stdout.flush()
    except click.Abort:
        return INTERRUPTED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        silence_stdout()
        return BROKEN_PIPE
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "gha-apptainer %s" % words[0]
        return failed(words[0], InputError("%s: %s" % (where, error.format_message()), remedy="%s --help" % where))
    except Exception as error:  # noqa: BLE001  # the door: whatever comes is told in one form
        return failed(words[0], error)
    return code if isinstance(code, int) else 0
