"""`segue attach`: what it says while it waits, and when it fails."""

from __future__ import annotations

from collections.abc import Callable

import click
import pytest

from segue.block_devices import AttachError, BlockDevices
from segue.cli import attach as attaching
from segue.installation import wait_until
from tests.unit.cli.conftest import ANSWERS, Api

AWAY = "container c has been missing for 5 s: d cannot be opened"
ASKED = ("GET", "/v1/disks/d/problems", None)
Making = Callable[[Callable[[], str]], None]


@pytest.fixture
def making(monkeypatch: pytest.MonkeyPatch) -> Making:
    """Lets a function stand for what makes the device."""

    def replace(make: Callable[[], str]) -> None:
        monkeypatch.setattr(BlockDevices, "attach", lambda *_: make())

    return replace


@pytest.mark.parametrize("problems", [[AWAY], []])
def test_what_it_waits_for_is_said(
    api: Api, making: Making, monkeypatch: pytest.MonkeyPatch, problems: list[str]
) -> None:
    monkeypatch.setitem(ANSWERS, ASKED[:2], (200, {"problems": problems}))
    monkeypatch.setattr(attaching, "SAY_AFTER_S", 0.01)
    said: list[str] = []
    monkeypatch.setattr(click, "echo", lambda text, **_: said.append(text))

    def make() -> str:
        wait_until("it is said", lambda: bool(said))
        return "/dev/x"

    making(make)
    assert api.run("attach", "d").exit_code == 0
    why = AWAY if problems else "`segue status` may say what it waits for"
    assert said == [f"d is not open yet: {why}", "/dev/x"]


def test_what_is_attached_at_once_says_nothing(api: Api, making: Making) -> None:
    making(lambda: "/dev/x")
    result = api.run("attach", "d")
    assert (result.stdout, result.stderr) == ("/dev/x\n", "")
    assert ASKED not in api.seen


def test_a_failure_has_its_reason(
    api: Api, making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make() -> str:
        raise AttachError("server policy prevents NBD_OPT_GO")

    making(make)
    for status, answer, why in (
        (200, {"problems": [AWAY]}, f": {AWAY}"),
        (200, {"problems": []}, ""),
        (503, {"error": "the term has ended"}, ""),
    ):
        monkeypatch.setitem(ANSWERS, ASKED[:2], (status, answer))
        result = api.run("attach", "d")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == f"segue: server policy prevents NBD_OPT_GO{why}\n"
