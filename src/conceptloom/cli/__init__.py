"""The command line: one module per verb; nothing else in the package reads arguments or prints.

A verb's module has ``register(app)``, which adds its command. It imports torch, and whatever imports torch, inside
the command only, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import os
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from conceptloom import __version__
from conceptloom.errors import ConceptloomError, one_line

VERBS: tuple[str, ...] = ("learn", "generate", "segment", "discover", "info", "demo", "evaluate", "basemodel")
"""Modules of this package, in the order in which ``--help`` lists their commands."""

FAILED = 2
"""Exit code when the input or the disk is at fault."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells give it."""

# What the disk refuses is for the user to mend, as a wrong argument is.
_REFUSED_BY_DISK = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG}
)


def main() -> None:
    """The program ``conceptloom``: runs the command that the arguments name and exits with its code."""
    build_app()(prog_name="conceptloom")


def build_app() -> typer.Typer:
    """The application with every verb registered."""
    app = typer.Typer(
        cls=_Verbs,
        callback=_root,
        help="Learn concepts from a few pictures without masks, and generate new pictures of them together.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for verb in VERBS:
        import_module(f"{__name__}.{verb}").register(app)
    return app


class _Verbs(TyperGroup):
    """Turns what a user can mend into one line on stderr and an exit code, instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except ConceptloomError as error:
            raise _failed(str(error)) from error
        except OSError as error:
            if error.errno not in _REFUSED_BY_DISK:
                raise
            reason = os.strerror(error.errno)
            raise _failed(f"{error.filename}: {reason}" if error.filename else reason) from error


def _failed(message: str) -> typer.Exit:
    typer.echo(f"error: {one_line(message)}", err=True)
    return typer.Exit(FAILED)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"conceptloom {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass
