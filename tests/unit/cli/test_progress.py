"""Progress where nobody looks: a line for each tenth, on stderr."""

from __future__ import annotations

import pytest

from segue.cli.progress import progress


def test_a_line_for_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("import d", 1000 << 20) as work:
        for _ in range(1000):
            work.advance(1 << 20)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [f"import d: {tenth}0 % of 1000M" for tenth in range(1, 11)]


def test_work_that_comes_in_leaps_and_grows(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("move d", 100) as work:
        work.update(55)
        work.update(60, 200)
        work.update(200)
    assert capsys.readouterr().err.splitlines() == ["move d: 55 % of 100", "move d: 100 % of 200"]


def test_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("export d", 0) as work:
        work.update(0)
    assert capsys.readouterr().err == "export d: 100 % of 0\n"


def test_why_it_does_not_go_on_is_said_when_it_changes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress("drain c", 100) as work:
        for text in ("", "it is full", "it is full", "", ""):
            work.note(text)
    assert capsys.readouterr().err.splitlines() == ["drain c: it is full", "drain c: goes on"]
