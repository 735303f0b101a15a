from __future__ import annotations

import resource
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from conceptloom.cli import VERBS, build_app
from conceptloom.errors import ConceptloomError, PictureError

HEAVY = ("torch", "diffusers", "transformers", "scipy", "PIL")


def run_program(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The program in a fresh interpreter; stderr ends with the heavy modules it imported."""
    code = f"""
import sys
from conceptloom.cli import main
try:
    main()
finally:
    print(sorted({set(HEAVY)!r} & set(sys.modules)), file=sys.stderr)
"""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)])
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    result = run_program(*arguments)
    assert result.returncode == 0
    assert result.stderr == "[]\n"


def test_help_takes_less_than_half_a_second() -> None:
    def seconds() -> float:
        # Processor time: how long the machine was busy with other things is not ours to bound.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "conceptloom.cli", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.5


def test_help_lists_every_verb() -> None:
    text = CliRunner().invoke(build_app(), ["--help"]).stdout
    assert all(verb in text for verb in VERBS)


def failing_app(error: BaseException) -> typer.Typer:
    app = build_app()

    @app.command()
    def fail() -> None:
        raise error

    return app


def test_a_users_mistake_is_one_line_on_stderr_and_exit_code_2() -> None:
    result = CliRunner().invoke(failing_app(PictureError("x.png is no picture: give another")), ["fail"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: x.png is no picture: give another\n"


def test_a_hostile_file_name_cannot_write_lines_or_control_codes() -> None:
    result = CliRunner().invoke(failing_app(ConceptloomError("a\nb\x1b[31m\u202e.png")), ["fail"])
    assert result.stderr == "error: a b�[31m�.png\n"


def test_a_full_disk_is_one_line_naming_the_file() -> None:
    result = CliRunner().invoke(failing_app(OSError(28, "No space left on device", "out/a.png")), ["fail"])
    assert (result.exit_code, result.stderr) == (2, "error: out/a.png: No space left on device\n")


def test_ctrl_c_exits_with_130() -> None:
    result = CliRunner().invoke(failing_app(KeyboardInterrupt()), ["fail"])
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(9, "Bad file descriptor")])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    assert CliRunner().invoke(failing_app(error), ["fail"]).exception is error
