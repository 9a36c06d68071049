"""Which installation: flags win over the environment, and what is no use is named.

A file stands for a folder that this user cannot read: tests may be run by root.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from segue.cli import options
from segue.cli.main import main


def test_a_flag_and_verbs_that_need_none_do_without_the_environments_folder(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    env = {"SEGUE_DATA": str(tmp_path / "file")}
    there = str(tmp_path)
    for words in (["--data", there, "status"], ["status", "--data", there]):
        result = CliRunner().invoke(main, words, env=env)
        assert f"cannot reach the controller at {there}/api.sock" in result.stderr
    result = CliRunner().invoke(main, ["--api", "http://127.0.0.1:1", "status"], env=env)
    assert "cannot reach the controller at http://127.0.0.1:1" in result.stderr
    words = ["serve", f"{there}/none", "--listen", f"unix://{there}/s"]
    assert "none: No such file" in CliRunner().invoke(main, words, env=env).stderr


def test_what_is_no_url_of_an_api(tmp_path: Path) -> None:
    nowhere = {"SEGUE_DATA": None}
    results = [
        CliRunner().invoke(main, ["--api", "foo", "status"], env=nowhere),
        CliRunner().invoke(main, ["status"], env={**nowhere, "SEGUE_API": str(tmp_path)}),
    ]
    assert [result.exit_code for result in results] == [2, 2]
    assert results[0].stderr.startswith("segue: --api: 'foo' is no URL (https://HOST:PORT)")
    assert results[1].stderr.startswith(f"segue: SEGUE_API: '{tmp_path}' is no URL")


def test_who_names_what_is_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for verb in ("status", "check", "up"):
        results = [
            CliRunner().invoke(main, [verb], env={"SEGUE_DATA": str(file)}),
            CliRunner().invoke(main, ["--data", str(file), verb]),
        ]
        assert [result.exit_code for result in results] == [2, 2]
        assert results[0].stderr.startswith(f"segue: SEGUE_DATA: {file} is no directory (")
        assert results[1].stderr.startswith(f"segue: --data: {file} is no directory (")


def test_a_controller_that_is_kept_running_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = iter([True, True, False])
    monkeypatch.setattr(options, "_is_kept_running", lambda _: next(asked))
    result = CliRunner().invoke(main, ["--data", str(tmp_path), "status"])
    assert f"cannot reach the controller at {tmp_path}/api.sock" in result.stderr
    assert next(asked, None) is None, "it was asked until nobody kept it running"
