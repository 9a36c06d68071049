"""Settings: file, environment, flags, the later the stronger; what makes no sense is refused."""

from __future__ import annotations

import socket
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from segue.cli.config import COMMANDS, configured, settings_of
from segue.cli.main import main
from segue.cli.options import Size, data_option


@configured
@click.command("controller")
@data_option
@click.option("--lease", "lease_s", type=float, default=30.0)
@click.option("--segment-size", "segment_bytes", type=Size(), default="1M")
@click.option("--listen", multiple=True)
@click.option("--insecure", is_flag=True)
def echo(lease_s: float, segment_bytes: int, listen: tuple[str, ...], insecure: bool) -> None:
    click.echo(f"{lease_s:g} {segment_bytes} {','.join(listen)} {insecure}")


def run(data: Path, *args: str, **environment: str) -> Result:
    return CliRunner().invoke(echo, ["--data", str(data), *args], env=environment)


def write(data: Path, text: str, name: str = "segue.toml") -> None:
    (data / name).write_text(text)


def test_the_later_is_the_stronger(tmp_path: Path) -> None:
    assert run(tmp_path).output == "30 1048576  False\n"
    write(tmp_path, '[controller]\nlease = 5\nsegment-size = "2M"\nlisten = ["a", "b"]\n')
    assert run(tmp_path).output == "5 2097152 a,b False\n"
    environment = {"SEGUE_CONTROLLER_LEASE": "6", "SEGUE_CONTROLLER_INSECURE": "1"}
    assert run(tmp_path, **environment).output == "6 2097152 a,b True\n"
    assert run(tmp_path, "--lease=7", **environment).output == "7 2097152 a,b True\n"


def test_another_file_can_be_named(tmp_path: Path) -> None:
    write(tmp_path, "[controller]\nlease = 5\n")
    write(tmp_path, "[controller]\nlease = 8\n[agent]\nnot = 'looked at'\n", "other.toml")
    named = str(tmp_path / "other.toml")
    assert run(tmp_path, "--config", named).output.startswith("8 ")
    assert run(tmp_path, SEGUE_CONFIG=named).output.startswith("8 ")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[controller", "is no TOML"),
        ("[controller]\nleas = 5", "[controller] has no setting 'leas', only listen, "),
        ("[controller]\ndata = '/x'", "[controller] has no setting 'data'"),
        ("[controler]\nlease = 5", "'controler' is no table of settings"),
        ("lease = 5", "'lease' is no table of settings"),
        ("[controller]\nlease = 'long'", "Invalid value for lease in [controller] of "),
        ("[controller]\nlease = 'long'", "segue.toml: 'long' is no number: write how many seconds"),
        ("[controller]\nlease = true", "lease takes one value, a number or a text"),
        ("[controller]\ninsecure = 1", "insecure takes true or false"),
        ("[controller]\nlisten = [true]", "listen takes a list of texts"),
        ("[controller]\nlease = [1, 2]", "lease takes one value"),
        ("[controller]\nlisten = 'x'", "listen takes a list"),
        ("[controller]\nsegment-size = '1MB'", "'1MB' is no size"),
        ("\xff", "is no TOML"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "segue.toml").write_text(text, encoding="latin-1")
    result = CliRunner().invoke(main, ["--data", str(tmp_path), "controller"])
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("segue: ")
    assert sentence in line
    assert [path.name for path in tmp_path.iterdir()] == ["segue.toml"]


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    result = run(tmp_path, "--config", str(tmp_path / "nothing"))
    assert result.exit_code == 2
    assert "No such file" in result.output


def test_a_flag_before_the_verb_is_stronger_than_the_environment(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["--data", str(tmp_path), "status"], env={"SEGUE_DATA": "/nowhere"}
    )
    assert f"{tmp_path}/api.sock" in result.output


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("SEGUE_CONTROLLER_LEASE", "abc", "Invalid value for SEGUE_CONTROLLER_LEASE: 'abc' is no"),
        ("SEGUE_CONTROLLER_BOGUS", "1", "SEGUE_CONTROLLER_BOGUS is no setting, only SEGUE_CONT"),
        ("SEGUE_CONTROLLER_DATA", "/x", "SEGUE_CONTROLLER_DATA is no setting, only SEGUE_CONT"),
        ("SEGUE_CONFIG", "/", "Invalid value for SEGUE_CONFIG: File '/' is a directory"),
    ],
)
def test_a_variable_that_makes_no_sense(
    tmp_path: Path, variable: str, value: str, said: str
) -> None:
    words = ["--data", str(tmp_path), "controller"]
    result = CliRunner().invoke(main, words, env={variable: value})
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith(f"segue: {said}")
    assert list(tmp_path.iterdir()) == []


def test_another_agents_variable_is_nobody_elses(tmp_path: Path) -> None:
    assert run(tmp_path, SEGUE_AGENT_BOGUS="1").exit_code == 0
    words = ["--data", str(tmp_path), "agent"]
    result = CliRunner().invoke(main, words, env={"SEGUE_AGENT_BOGUS": "1"})
    assert (result.exit_code, "SEGUE_AGENT_BOGUS is no" in result.stderr) == (2, True)


def test_where_an_address_that_is_taken_was_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        write(tmp_path, f'[agent]\nlisten = ["{address}"]\n')
        words = ["--data", str(tmp_path), "agent"]
        results = [
            CliRunner().invoke(main, words),
            CliRunner().invoke(main, words, env={"SEGUE_AGENT_LISTEN": address}),
            CliRunner().invoke(main, [*words, "--listen", address]),
        ]
    where = [
        f" (from listen in [agent] of {tmp_path}/segue.toml; every agent needs its own)",
        " (from SEGUE_AGENT_LISTEN; every agent needs its own)",
        "",
    ]
    lines = [f"segue: {address}: Address already in use{said}" for said in where]
    assert [result.stderr.splitlines()[-1] for result in results] == lines


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_of_settings_is_whole(name: str) -> None:
    text = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    missing = [
        setting
        for setting in settings_of(main.commands[name])
        if not any(f"`{setting}`" in row.split(" | ")[1] for row in rows)
    ]
    assert missing == []
