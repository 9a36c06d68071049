"""What a shell gets when somebody presses the tab key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from segue.cli.main import main
from tests.unit.cli.conftest import Api


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert f"_SEGUE_COMPLETE={shell}_complete" in result.output


def completed(words: str, **environment: str) -> list[str]:
    """As bash asks."""
    asked = {
        "_SEGUE_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - (not words.endswith(" "))),
        **environment,
    }
    result = CliRunner().invoke(main, [], prog_name="segue", env=asked)
    assert result.exit_code == 0, result.output
    return [line.removeprefix("plain,") for line in result.output.splitlines() if line]


def test_verbs() -> None:
    assert completed("segue disk cl") == ["clear-error"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("disk delete ", ["d"]),
        ("disk map d", ["d"]),
        ("disk show x", []),
        ("container show ", ["c"]),
        ("agent show o", ["one"]),
    ],
)
def test_names_come_from_the_installation(api: Api, words: str, names: list[str]) -> None:
    assert completed(f"segue {words}", SEGUE_DATA=str(api.data)) == names
    assert completed(f"segue --data {api.data} {words}") == names


def test_no_controller_no_names(api: Api) -> None:
    assert completed("segue disk delete ", SEGUE_DATA=str(api.data / "nothing")) == []
    assert completed("segue disk delete ") == []


def test_detach_knows_what_is_attached(tmp_path: Path) -> None:
    attached = tmp_path / "attached"
    attached.mkdir()
    record = {"uri": "", "read_only": False, "kind": "loop", "boot": "", "number": 7}
    (attached / "@7.json").write_text(json.dumps({**record, "disk": "q", "device": "/dev/loop9"}))
    (attached / "@8.json").touch()  # as a loss of power may leave it
    words = f"segue --data {tmp_path} detach "
    assert completed(words) == ["q"]
    assert completed(f"{words}/d") == ["/dev/loop9"]
    assert completed(f"segue --data {tmp_path}/none detach ") == []
    assert completed("segue detach ") == []


def test_detach_where_nothing_is(tmp_path: Path) -> None:
    where = tmp_path / "none"
    result = CliRunner().invoke(main, ["--data", str(where), "detach", "x"])
    assert result.exit_code == 1
    assert result.stderr == f"segue: x is not attached: no {where} is there\n"
    assert not where.exists()
