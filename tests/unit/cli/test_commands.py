"""What holds for every verb: listings, errors, exit status, which installation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from segue.cli.main import main
from tests.unit.cli.conftest import ANSWERS, Api

WITHOUT_JSON = {
    ("controller",): "a daemon: it prints its log",
    ("agent",): "a daemon: it prints its log",
    ("completion",): "prints a script",
}
WITHOUT_API = {
    ("up",): "runs processes here",
    ("down",): "stops processes here",
    ("controller",): "is what is asked",
    ("agent",): "finds its controller by another address",
    ("check",): "reads the store itself",
    ("serve",): "belongs to no installation",
    ("attach",): "makes a device here, remembered in the installation's folder",
    ("detach",): "takes it away",
    ("completion",): "asks nobody",
}


def verbs(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every verb of the command tree."""
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from verbs(below, (*path, name))
    if path and (not isinstance(command, click.Group) or command.invoke_without_command):
        yield path


def flags(path: tuple[str, ...]) -> set[str]:
    """A verb's own."""
    command: click.Command = main
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    return {flag for param in command.params for flag in param.opts}


@pytest.mark.parametrize(
    ("flag", "exempt"), [("--json", WITHOUT_JSON), ("--api", WITHOUT_API)], ids=["json", "api"]
)
def test_every_verb_has_the_flag_or_a_reason(flag: str, exempt: dict[tuple[str, ...], str]) -> None:
    found = set(verbs(main))
    assert len(found) > 30
    assert {path for path in found if flag not in flags(path)} == exempt.keys()


def test_the_readme_names_every_verb() -> None:
    """Its block of commands, and nothing that is not there."""
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    block = readme.partition("## Commands")[2].partition("```\n")[2].partition("```")[0]
    assert named(block) == set(verbs(main))


def test_every_verb_is_shown_as_it_runs() -> None:
    """In docs/commands.md, but for those that show nothing."""
    page = (Path(__file__).parents[3] / "docs" / "commands.md").read_text()
    shown = set(verbs(main)) - WITHOUT_JSON.keys()
    assert [path for path in shown if f"$ segue {' '.join(path)}" not in page] == []


def named(block: str) -> set[tuple[str, ...]]:
    """The verbs of lines such as ``segue disk create | list  what they do``."""
    found: set[tuple[str, ...]] = set()
    for line in re.sub(r"\|\n +", "| ", block).splitlines():
        words = re.split(r"  +", line)[0].removeprefix("segue ")
        group, _, rest = words.partition(" ")
        if isinstance(main.commands[group], click.Group) and not rest.startswith("|"):
            found |= {(group, name) for name in rest.split(" | ")}
        else:
            found |= {(name,) for name in words.split(" | ")}
    return found


@pytest.mark.parametrize("noun", ["disk", "container", "agent"])
def test_listings_print_tables_and_json(api: Api, noun: str) -> None:
    table = api.run(noun, "list")
    lines = table.output.splitlines()
    assert table.exit_code == 0
    assert len(lines) == 2
    assert lines[0].startswith("NAME")
    listing = json.loads(api.run(noun, "list", "--json").output)
    assert listing == ANSWERS["GET", f"/v1/{noun}s"][1]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("no", "no disk is called no"),
        ("odd", "the controller answered with HTTP status 500"),
        ("a/b", "no disk is called a/b"),
    ],
)
def test_an_error_is_one_line_and_exit_1(api: Api, name: str, sentence: str) -> None:
    result = api.run("disk", "show", name)
    assert result.exit_code == 1
    assert result.stderr == f"segue: {sentence}\n"
    assert result.stdout == ""


@pytest.mark.parametrize(
    "args",
    [
        ["disk", "create", "d"],
        ["disk", "create", "d", "10GB"],
        ["disk", "create", "d", "1G", "--block-size", "1024"],
        ["container", "add", "c", "file:///c", "--size", "1G", "--cache", "none"],
        ["frobnicate"],
    ],
)
def test_wrong_usage_is_exit_2(api: Api, args: list[str]) -> None:
    result = api.run(*args)
    assert result.exit_code == 2
    assert api.seen == []


def test_no_controller_is_one_line_and_exit_1(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--data", str(tmp_path), "disk", "list"])
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    assert line.startswith(f"segue: cannot reach the controller at {tmp_path}/api.sock: ")


def test_the_installation_comes_from_the_environment(api: Api) -> None:
    result = CliRunner().invoke(main, ["disk", "list"], env={"SEGUE_DATA": str(api.data)})
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(main, ["disk", "list"], env={"SEGUE_DATA": None})
    assert result.exit_code == 2
