"""`segue disk move`, `segue container drain | rebalance`, `segue job`."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from segue.api.jobs import JobInfo
from segue.cli import movement
from segue.cli.movement import tell
from segue.cli.progress import progress
from segue.client import ApiError, Client
from tests.unit.cli.conftest import ANSWERS, Api

JOB: dict[str, Any] = {
    "job": 7,
    "kind": "move",
    "disk": "d",
    "container": "c",
    "first_segment": 0,
    "segments": 0,
    "bandwidth": 0,
    "latency_us": 0,
    "state": "running",
    "reason": "",
    "felt_us": None,
    "allowed_bytes_per_s": None,
    "moved_segments": 30,
    "moved_bytes": 30 << 20,
    "left_segments": 10,
    "left_bytes": 10 << 20,
    "bytes_per_s": 5 << 20,
    "left_s": 2.0,
    "waiting_s": None,
}


@pytest.fixture(autouse=True)
def jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    drain = JOB | {"kind": "drain", "disk": ""}
    for call, answer in {
        ("GET", "/v1/jobs"): (200, [JOB]),
        ("GET", "/v1/jobs/7"): (200, JOB | {"state": "done"}),
        ("GET", "/v1/jobs/8"): (200, JOB | {"job": 8, "state": "failed", "reason": "it is full"}),
        ("POST", "/v1/jobs/7/cancel"): (200, JOB | {"state": "cancelling"}),
        ("POST", "/v1/jobs/7/limit"): (200, JOB),
        ("POST", "/v1/jobs/rebalance"): (201, JOB | {"kind": "rebalance", "container": ""}),
        ("POST", "/v1/disks/d/move"): (201, JOB),
        ("POST", "/v1/containers/c/drain"): (201, drain),
        ("POST", "/v1/containers/c/fill"): (204, None),
    }.items():
        monkeypatch.setitem(ANSWERS, call, answer)


def test_move_sends_what_was_said(api: Api) -> None:
    done = api.run(
        *[
            "disk",
            "move",
            "d",
            "--to",
            "c",
            "--segments",
            "3-9",
            "--bandwidth",
            "200M",
            "--latency",
            "1.5",
            "--wait",
        ]
    )
    assert done.exit_code == 0, done.output
    assert api.seen[0] == (
        "POST",
        "/v1/disks/d/move",
        {
            "to": "c",
            "first_segment": 3,
            "segments": 7,
            "bandwidth": 200 << 20,
            "latency_us": 1500,
        },
    )
    assert "job 7: done, 30M moved\n" in done.output


def test_move_without_wait_names_the_job(api: Api) -> None:
    assert api.run("disk", "move", "d", "--to", "c").output == "job 7: move d to c\n"
    assert json.loads(api.run("disk", "move", "d", "--to", "c", "--json").output) == JOB


@pytest.mark.parametrize("run", ["9-3", "x", "1-2-3", "-4"])
def test_a_run_of_segments_that_is_none(api: Api, run: str) -> None:
    done = api.run("disk", "move", "d", "--to", "c", f"--segments={run}")
    assert done.exit_code == 2
    assert api.seen == []


def test_drain_and_rebalance(api: Api) -> None:
    assert api.run("container", "drain", "c").output == "job 7: drain c\n"
    stopped = api.run("container", "drain", "c", "--stop")
    assert stopped.output == "container c is used again\n"
    assert api.run("container", "rebalance", "--bandwidth", "1M").exit_code == 0
    assert [path for method, path, _ in api.seen if method == "POST"] == [
        "/v1/containers/c/drain",
        "/v1/containers/c/fill",
        "/v1/jobs/rebalance",
    ]


def test_jobs(api: Api) -> None:
    listed = api.run("job", "list").output.splitlines()
    assert " ".join(listed[1].split()) == "7 move d to c running 30M 10M 5M/s 2 s"
    shown = api.run("job", "show", "7").output.splitlines()
    assert "state done" in [" ".join(line.split()) for line in shown]
    assert api.run("job", "cancel", "7").output == "job 7: cancelling\n"
    assert api.run("job", "limit", "7", "20M").output == "job 7: 20M/s\n"
    assert api.seen[-1][2] == {"bandwidth": 20 << 20}


def test_jobs_outlive_what_they_moved(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = JOB | {"state": "done", "disk": "", "container": "", "left_s": None}
    counted_by_an_older_term = {"moved_bytes": 0, "left_bytes": 0, "bytes_per_s": 0}
    rows = [gone, gone | {"kind": "drain"} | counted_by_an_older_term, gone | {"kind": "rebalance"}]
    monkeypatch.setitem(ANSWERS, ("GET", "/v1/jobs"), (200, rows))
    listed = [" ".join(line.split()) for line in api.run("job", "list").output.splitlines()[1:]]
    assert listed == [
        "7 move (deleted) to (removed) done 30M 10M 5M/s",
        "7 drain (removed) done - - -",
        "7 rebalance all containers done 30M 10M 5M/s",
    ]


def test_what_is_known_of_a_job_that_an_earlier_run_of_the_controller_ended(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How much it moved, but not how fast, nor what it left if it was cancelled."""
    over = JOB | {"left_bytes": 0, "bytes_per_s": 0, "left_s": None}
    rows = [over | {"state": "done"}, over | {"state": "cancelled"}]
    monkeypatch.setitem(ANSWERS, ("GET", "/v1/jobs"), (200, rows))
    listed = [" ".join(line.split()) for line in api.run("job", "list").output.splitlines()[1:]]
    assert listed == ["7 move d to c done 30M 0 -", "7 move d to c cancelled 30M - -"]


def test_waiting_for_a_job_that_was_cancelled_says_what_it_left(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ANSWERS, ("GET", "/v1/jobs/7"), (200, JOB | {"state": "cancelled"}))
    done = api.run("job", "wait", "7")
    assert done.stderr.splitlines()[-1] == "segue: job 7 was cancelled: 10M were not moved"


def test_waiting_for_a_job_that_failed_is_an_error(api: Api) -> None:
    done = api.run("job", "wait", "8")
    assert done.exit_code == 1
    assert "segue: job 8 failed: it is full\n" in done.output


class Answers:
    """What the controller says of a job, one after another; the last again and again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *said: BaseException | str) -> None:
        self._said = list(said)
        monkeypatch.setattr(Client, "job", lambda _, number: self.next(number))
        monkeypatch.setattr(movement, "LOOK_EVERY_S", 0.0)

    def next(self, number: int) -> JobInfo:
        now = self._said.pop(0) if len(self._said) > 1 else self._said[0]
        if isinstance(now, str):
            return msgspec.convert(JOB | {"job": number, "state": now}, JobInfo)
        raise now


WAITING = [["job", "wait", "7"], ["disk", "move", "d", "--to", "c", "--wait"]]
GONE = ApiError("cannot reach the controller")


@pytest.mark.parametrize("words", WAITING)
def test_a_controller_that_is_restarted(
    api: Api, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    ending = ApiError("the term has ended", 503)
    Answers(monkeypatch, "running", "running", ending, GONE, GONE, "running", "done")
    done = api.run(*words)
    assert done.exit_code == 0, done.output
    assert done.stdout == "job 7: done, 30M moved\n"
    again = [line for line in done.stderr.splitlines() if "%" not in line]
    assert again == ["the term has ended; trying again for 30 s"]


@pytest.mark.parametrize("words", WAITING)
def test_a_controller_that_does_not_come_back(
    api: Api, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setattr(movement, "KEEP_TRYING_S", 0.05)
    Answers(monkeypatch, "running", GONE)
    if words[0] == "job":  # of a job that was never seen nothing is known to go on
        assert api.run(*words).exit_code == 1
        Answers(monkeypatch, "running", "running", GONE)
    done = api.run(*words)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == (
        "segue: cannot reach the controller; "
        "job 7 goes on when it is there again (segue job wait 7)"
    )


def test_no_job_of_that_number_is_not_tried_again(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    Answers(monkeypatch, "running", ApiError("there is no job 7", 404))
    done = api.run("job", "wait", "7")
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (1, "segue: there is no job 7")


@pytest.mark.parametrize("words", WAITING)
def test_interrupted(api: Api, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    Answers(monkeypatch, "running", KeyboardInterrupt())
    done = api.run(*words)
    assert done.exit_code == 130
    assert done.stderr.splitlines()[-1] == (
        "segue: interrupted: job 7 goes on (segue job wait 7, segue job cancel 7)"
    )


def test_a_job_that_waits_says_for_how_long(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits = {"state": "waiting", "reason": "it is full", "waiting_s": 12.3}
    idle = JOB | waits | {"bytes_per_s": 0, "left_s": None}
    left = JOB | {"state": "cancelled", "moved_bytes": 0, "left_s": None}
    monkeypatch.setitem(ANSWERS, ("GET", "/v1/jobs"), (200, [idle, left]))
    listed = [" ".join(line.split()) for line in api.run("job", "list").output.splitlines()[1:]]
    assert listed[0] == "7 move d to c waiting 30M 10M 0/s it is full (for 12 s)"
    assert listed[1] == "7 move d to c cancelled 0 10M 5M/s"
    with progress("move d to c", 0) as shown:
        tell(shown, msgspec.convert(idle, JobInfo))
    assert capsys.readouterr().err.splitlines() == [
        "move d to c: 75 % of 40M",
        "move d to c: it is full",
    ]
