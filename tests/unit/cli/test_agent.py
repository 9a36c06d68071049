"""`segue agent`."""

from __future__ import annotations

import json

import pytest

from tests.unit.cli.conftest import ANSWERS, Api


def test_show_agent(api: Api) -> None:
    shown = api.run("agent", "show", "one").output
    assert "incarnation  ab\n" in shown
    assert "\nd:\n" in shown
    assert "write-zeroes" in shown
    [info] = json.loads(api.run("agent", "show", "one", "--json").output)
    assert info["incarnation"] == "ab"
    assert info["latency"][0]["rows"][0]["count"] == 12


def test_an_agent_that_has_ended_is_not_unknown(api: Api) -> None:
    """What is known of one is shown whether it answers or not."""
    assert api.run("agent", "show", "two").stderr == (
        "segue: agent two has ended: none of that name is there now\n"
    )
    assert api.run("agent", "show", "three").stderr == "segue: no agent is called three\n"
    assert [path for _, path, _ in api.seen[:2]] == ["/v1/agents", "/v1/agents/two/latency"]


def test_what_is_known_is_shown_before_the_agent_is_asked(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"error": "the controller's term has ended"}
    monkeypatch.setitem(ANSWERS, ("GET", "/v1/agents/one/latency"), (503, said))
    done = api.run("agent", "show", "one")
    assert "incarnation  ab\n" in done.stdout
    assert (done.exit_code, done.stderr) == (1, "segue: the controller's term has ended\n")


def test_declare_dead(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    assert api.run("agent", "declare-dead", "one").output == (
        "agent one: incarnation ab is taken for dead\n"
    )
    answer = ANSWERS["POST", "/v1/agents/one/declare-dead"]
    monkeypatch.setitem(ANSWERS, ("POST", "/v1/agents/ab/declare-dead"), answer)
    said = api.run("agent", "declare-dead", "ab").output
    assert said == "incarnation ab is taken for dead\n"
    assert api.run("agent", "declare-dead", "one", "--json").output == '[\n  "ab"\n]\n'
