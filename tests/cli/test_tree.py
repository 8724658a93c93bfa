"""The tree of commands, each of which is imported when it is asked for."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module

import pytest

from vaekit.cli import main
from vaekit.cli.app import COMMANDS, GROUPS


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_each_says_of_itself(name: str) -> None:
    module = import_module(f"vaekit.cli.{COMMANDS[name][0]}")
    own = module.app.info.help if name in GROUPS else inspect.getdoc(getattr(module, name))
    assert own.splitlines()[0] == COMMANDS[name][1]


def test_help_imports_no_command_and_a_command_only_its_own() -> None:
    code = (
        "import sys; from vaekit.cli import main; main(sys.argv[1:]); "
        "print('loaded', *sorted(m for m in sys.modules if m.startswith('vaekit.cli.')))"
    )

    def loaded(*arguments: str) -> list[str]:
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()[-1].split()[1:]

    assert loaded("--help") == ["vaekit.cli.app"]
    assert loaded("info", "--help") == ["vaekit.cli.app", "vaekit.cli.common", "vaekit.cli.info"]


def test_a_wrong_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["txt2imgs"]) == 2
    assert "'txt2img'" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["vae"], ["latents"]])
def test_where_nothing_is_asked_for_stands_the_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("Usage: vaekit") and "Commands:" in told
