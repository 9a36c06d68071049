"""`segue agent`."""

from __future__ import annotations

from tests.unit.cli.conftest import Api


def test_show_agent(api: Api) -> None:
    assert "incarnation  ab\n" in api.run("agent", "show", "one").output
    assert api.run("agent", "show", "two").exit_code == 1
