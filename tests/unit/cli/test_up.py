"""`segue up` and `down` where they cannot: one line each."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from segue.cli.main import main
from segue.supervisor import Up, UpError


def run(data: Path, *args: str) -> Result:
    return CliRunner().invoke(main, ["--data", str(data), *args])


@pytest.mark.parametrize("verb", ["up", "down"])
def test_a_lock_that_cannot_be_opened(tmp_path: Path, verb: str) -> None:
    """As another user's cannot; a folder is what root cannot open either."""
    (tmp_path / "up.lock").mkdir()
    result = run(tmp_path, verb)
    assert result.exit_code == 1
    assert result.stderr == f"segue: cannot open {tmp_path}/up.lock: Is a directory\n"


@pytest.mark.parametrize(
    ("python", "said"), [("/none/python", "/none/python"), ("", "the interpreter")]
)
def test_no_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: str, said: str
) -> None:
    monkeypatch.setattr(sys, "executable", python)
    result = run(tmp_path, "up", "--detach")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"segue: cannot run {said}: ")
    assert result.stderr.count("\n") == 1
    (tmp_path / "controller.log").write_text("of an earlier run\n")
    with pytest.raises(UpError, match=rf"cannot start it: {said}: "):
        asyncio.run(Up(str(tmp_path), [], lambda _: None).run())


def test_no_log_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "up.log").mkdir()
    result = run(tmp_path, "up", "--detach")
    assert result.exit_code == 1
    assert result.stderr == f"segue: cannot write {tmp_path}/up.log: Is a directory\n"
