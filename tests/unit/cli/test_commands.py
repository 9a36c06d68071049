"""What holds for every verb: listings, errors, exit status, which installation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from segue.cli.main import main
from tests.unit.cli.conftest import ANSWERS, Api


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
