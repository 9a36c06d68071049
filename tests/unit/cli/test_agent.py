"""`segue agent`."""

from __future__ import annotations

from tests.unit.cli.conftest import Api


def test_show_agent(api: Api) -> None:
    assert "incarnation  ab\n" in api.run("agent", "show", "one").output
    assert api.run("agent", "show", "two").exit_code == 1


def test_declare_dead(api: Api) -> None:
    assert api.run("agent", "declare-dead", "one").output == (
        "agent one: incarnation ab is taken for dead\n"
    )
    assert api.run("agent", "declare-dead", "one", "--json").output == '[\n  "ab"\n]\n'
