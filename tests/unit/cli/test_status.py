"""`segue status`."""

from __future__ import annotations

import pytest

from tests.unit.cli.conftest import STATUS, Api


def test_status_fails_when_something_wants_looking_at(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert api.run("status").exit_code == 0
    monkeypatch.setitem(STATUS, "problems", ["container c is full"])
    result = api.run("status")
    assert result.exit_code == 1
    assert "container c is full" in result.output


def test_top_looks_again(api: Api) -> None:
    result = api.run("top", "--every", "0", "--times", "2")
    assert result.exit_code == 0, result.output
    assert result.output.count("term 1, commit 2") == 2


def test_top_ends_by_interrupt(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("segue.cli.top.time.sleep", interrupt)
    result = api.run("top", "--json")
    assert (result.exit_code, result.stderr, result.stdout.count("\n")) == (0, "", 1)
