"""The command line: finds the command that is meant, and says in one line what is wrong with its input."""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn, Protocol

from gqn_rl.commands import benchmark, doctor, evaluate, imagine, pretrain, probe, push, record, report, train, view
from gqn_rl.commands.configurations import find_config
from gqn_rl.config import UserError
from gqn_rl.files import DISK_FULL
from gqn_rl.types import RenderError


class Command(Protocol):
    """A module of :mod:`gqn_rl.commands`."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Say what it takes."""

    def run(self, options: argparse.Namespace) -> None:
        """Do it; the docstring is the help, with an example."""


#: Each with a line about it.
COMMANDS: Final[dict[str, tuple[Command, str]]] = {
    "train": (train, "train a policy (the default)"),
    "evaluate": (evaluate, "replay a trained policy and measure it"),
    "benchmark": (benchmark, "train all arms of a comparison, with several seeds"),
    "record": (record, "photograph random scenes to pretrain on"),
    "view": (view, "make a contact sheet of an environment"),
    "pretrain": (pretrain, "pretrain a GQN on a recording"),
    "probe": (probe, "measure what a frozen encoder knows"),
    "imagine": (imagine, "show what a GQN draws of unseen sides as views arrive"),
    "report": (report, "report on a benchmark's runs"),
    "push": (push, "publish an encoder on the Hugging Face Hub"),
    "doctor": (doctor, "check rendering here"),
}
#: Exit codes: something the user can mend; stopped by Ctrl-C (128 + SIGINT, as shells have it).
BAD_INPUT: Final = 2
INTERRUPTED: Final = 130
#: Nobody reads what is printed any more (128 + SIGPIPE).
READER_GONE: Final = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Errors that the user can mend are one line on standard error."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as `python -m` does, so that my_pkg:MyEnv-v0 is found where one stands
    warnings.filterwarnings("ignore", module="glfw")  # where there is no display; what fails for it says so
    try:
        options = _parse(list(sys.argv[1:] if arguments is None else arguments))
        options.run(options)
        sys.stdout.flush()
    except (UserError, RenderError) as error:
        return _stopped(error) or _bad_input(_no_opengl(error.__cause__) or error)
    except BrokenPipeError:  # whoever read along has gone (`| head`)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - or Python's last flush would complain
        return READER_GONE
    except OSError as error:
        if error.filename is None and error.errno not in DISK_FULL:
            raise
        return _bad_input(f"{error.filename or 'output'}: {error.strerror}")
    except KeyboardInterrupt as stop:
        return _interrupted(stop)
    except Exception as error:
        if stopped := _stopped(error):
            return stopped
        said = _no_opengl(error)
        if said is None:
            raise
        return _bad_input(said)
    return 0


def _interrupted(stop: object) -> int:
    print(stop if str(stop) else "interrupted", file=sys.stderr)
    return INTERRUPTED


def _stopped(error: BaseException | None) -> int:
    """The exit code if Ctrl-C is what ``error`` came of: MuJoCo, while it is imported, makes an ImportError of it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return _interrupted(error)
        error = error.__cause__ or error.__context__
    return 0


def _bad_input(error: object) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return BAD_INPUT


def _no_opengl(error: BaseException | None) -> str | None:
    """What to say if ``error`` is that MuJoCo could not be imported, which looks for OpenGL at once; otherwise None."""
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    if "mujoco" in sys.modules or not any("mujoco" in Path(frame.filename).parts for frame in frames):
        return None
    return f"MuJoCo finds no OpenGL ({type(error).__name__}: {error}); `gqn-rl doctor` says what to install or set"


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Options, with ``run``; raises :class:`UserError`."""
    arguments = _with_command(arguments)
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        raise UserError(f"unrecognized arguments: {' '.join(unknown)}; see `gqn-rl {arguments[0]} --help`")
    return options


def _with_command(arguments: list[str]) -> list[str]:
    """``train`` is meant when no command is named; raises :class:`UserError` for what is no command of any kind."""
    if arguments and (arguments[0] in COMMANDS or arguments[0] in ("-h", "--help", "--version")):
        return arguments
    if arguments and not arguments[0].startswith("-"):
        try:
            find_config(arguments[0])
        except UserError as error:
            close = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
            said = f"unknown command {arguments[0]!r}, did you mean {close[0]!r}?" if close else f"{error};"
            raise UserError(f"{said} valid commands: {', '.join(COMMANDS)}") from None
    return ["train", *arguments]


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


def _parser() -> _Parser:
    from gqn_rl import __version__

    parser = _Parser(
        prog="gqn-rl",
        description="Train robot policies from the scene vectors of a Generative Query Network.",
        epilog="Without a command, train is meant. 'gqn-rl COMMAND --help' says more about one.",
    )
    parser.add_argument("--version", action="version", version=f"gqn-rl {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (command, summary) in COMMANDS.items():
        description, _, example = inspect.cleandoc(command.run.__doc__ or "").partition("Example:\n")
        subparser = subparsers.add_parser(
            name,
            help=summary,
            description=description.strip(),
            epilog=f"example:\n{example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_options(subparser)
        subparser.set_defaults(run=command.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
