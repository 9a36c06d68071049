"""`segue agent`."""

from __future__ import annotations

import json

from tests.unit.cli.conftest import Api


def test_show_agent(api: Api) -> None:
    shown = api.run("agent", "show", "one").output
    assert "incarnation  ab\n" in shown
    assert "\nd:\n" in shown
    assert "write-zeroes" in shown
    [info] = json.loads(api.run("agent", "show", "one", "--json").output)
    assert info["incarnation"] == "ab"
    assert info["latency"][0]["rows"][0]["count"] == 12
    assert api.run("agent", "show", "two").exit_code == 1


def test_declare_dead(api: Api) -> None:
    assert api.run("agent", "declare-dead", "one").output == (
        "agent one: incarnation ab is taken for dead\n"
    )
    assert api.run("agent", "declare-dead", "one", "--json").output == '[\n  "ab"\n]\n'
