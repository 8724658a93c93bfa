"""The command line: parses, calls the library, prints. `run` is the entry point of the `vaekit` command."""

from __future__ import annotations

import logging
import os
import sys

INTERRUPTED = 130


def run(arguments: list[str] | None = None) -> None:
    """Run a command and leave with its exit code; one line on standard error whatever goes wrong."""
    sys.exit(main(sys.argv[1:] if arguments is None else arguments))


def main(arguments: list[str]) -> int:
    """Run a command. 0: done; 2: the user can mend it; 1: the machine failed; 130: interrupted."""
    # pydantic, by which typer reads options, asks every installed package whether it is a plugin of it
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from vaekit.cli.app import app

    debug = "--debug" in arguments
    _tell_on_stderr(quiet="--quiet" in arguments or "-q" in arguments)
    try:
        code = app(args=arguments, prog_name="vaekit", standalone_mode=False)
        sys.stdout.flush()
        return _interrupted() if code == INTERRUPTED else int(code or 0)
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:  # `vaekit … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        return _explain(error)


def _explain(error: Exception) -> int:
    from vaekit.errors import VaekitError

    if isinstance(error, VaekitError):
        return _fail(str(error), error.exit_code)
    if type(error).__name__ == "Abort":  # typer's word for Ctrl-C, in some of its versions
        return _interrupted()
    if type(error).__name__ == "NoArgsIsHelpError":  # nothing was asked for: the message is the help
        print(error, file=sys.stderr)
        return 2
    if hasattr(error, "format_message"):  # a mistake in the command itself, in typer's words
        return _fail(f"{error.format_message()} (vaekit COMMAND --help shows how)", 2)
    return _fail(f"unexpected {type(error).__name__}: {error}; --debug shows where", 1)


def _interrupted() -> int:
    return _fail("interrupted; nothing half-written was left", INTERRUPTED)


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split())
    print(f"vaekit: {line}", file=sys.stderr)
    return code


def _tell_on_stderr(*, quiet: bool) -> None:
    """What the library decides is told in one line each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("vaekit: %(message)s"))
    log = logging.getLogger("vaekit")
    log.handlers = [handler]
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    log.propagate = False
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what matters of it comes as a PictureError
