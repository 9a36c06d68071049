"""What a shell gets when somebody presses the tab key."""

from __future__ import annotations

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
