"""A disk moves while two agents' hosts write it: every byte is right, whatever dies."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from segue import _native
from segue.failpoints import POINTS, VARIABLE
from segue.installation import wait_until
from tests.tools.movement import Mover, lies_in, two_containers

MOVEMENT = ("movement.", "job.", "flush_set.", "do_write.closed", "complete.")
BY_HAND = ("complete.abandoned", "complete.hints_flushed")
"""Need a container that fails, or a segment of many megabytes: see below, and the simulator."""
TIMES = {"job.ending": 2, "flush_set.shrunk": 1}
OFTEN = 15
KILLS = 8


@pytest.mark.parametrize(
    "point", [p for p in POINTS if p.startswith(MOVEMENT) and p not in BY_HAND]
)
def test_the_controller_dies_at_each_step(folder: Path, point: str) -> None:
    with two_containers(folder) as load:
        controller = load.installation.controller
        controller.kill()
        controller.start(**{VARIABLE: f"{point}=kill:{TIMES.get(point, OFTEN)}"})
        load.installation.wait_for_controller()
        with load.running(), Mover(load.installation):
            wait_until(f"the controller to die at {point}", lambda: not controller.running)
            load.installation.start_controller()
        wait_until(
            "the last move",
            lambda: lies_in(load.installation, "left") or lies_in(load.installation, "right"),
        )


def test_processes_die_at_random(folder: Path) -> None:
    rng = random.Random(7)
    with two_containers(folder) as load:
        installation = load.installation
        with load.running(), Mover(installation) as mover:
            for _ in range(KILLS):
                moves, writes = mover.moves, load.tally.writes
                most = writes + rng.randrange(5, 400)

                def worked(moves: int = moves, most: int = most) -> bool:
                    return mover.moves > moves or load.tally.writes > most

                wait_until("some work", worked)
                victim = rng.choice([installation.controller, *installation.agents.values()])
                victim.kill()
                victim.start()
            installation.wait_for_controller()
            wait_until("a move after all", lambda m=mover.moves: mover.moves > m)  # type: ignore[misc]


def test_a_drained_container_is_empty_while_hosts_write(folder: Path) -> None:
    with two_containers(folder) as load:
        client = load.installation.client
        with load.running():
            assert client.drain_container("left").kind == "drain"
            wait_until("the drain", lambda: lies_in(load.installation, "right"))
            writes = load.tally.writes
            wait_until("more writes", lambda: load.tally.writes > writes + 50)
        info = client.container("left")
        assert (info.used_segments, info.held_segments) == (0, 0)
        client.remove_container("left")
        assert [job.container for job in client.jobs()] == ["left"], "its name is known still"


def test_a_drain_without_room_says_so(folder: Path) -> None:
    """Two containers, the other one too small: it waits, named, at no rate; and what it left."""
    with two_containers(folder, agents=("one",)) as load:
        client = load.installation.client
        client.create_disk("other", 4 << 20)
        host = load.installation.uri("other", "one")
        connection = _native.NbdClient(host, "other")
        connection.pwrite(b"x" * (2 << 20), 0)
        connection.close()
        lying = client.container("left").used_segments
        room = client.container("right").free_segments
        job = client.drain_container("left").job

        def problem() -> str:
            return next((p for p in client.status().problems if p.startswith("job ")), "")

        wait_until("the problem", lambda: bool(problem()))
        assert problem().startswith(f"job {job} (drain of container left) has waited")
        assert "no location is free (`segue container add` gives it room)" in problem()
        info = client.job(job)
        assert (info.state, info.reason) == ("waiting", "no location is free")
        assert (info.bytes_per_s, info.left_s) == (0, None)
        assert info.waiting_s is not None and info.waiting_s >= 2
        assert info.left_segments == lying - room > 0
        client.cancel_job(job)
        wait_until("its end", lambda: client.job(job).state == "cancelled")
        over = client.job(job)
        assert (over.left_segments, over.waiting_s) == (info.left_segments, None)
        assert (over.reason, over.left_bytes > 0) == ("", True)
        assert not problem()


def test_a_failing_destination_is_named_and_given_up(folder: Path) -> None:
    with two_containers(folder, ["one"], faulty="faulty+") as load:
        client, controller = load.installation.client, load.installation.controller
        rules = folder / "right.faults"
        rules.write_text("fail write 5 1048576 99999999\n")
        job = client.move_disk("disk", "right").job
        wait_until("the error", lambda: "cannot be copied" in client.job(job).reason)
        assert client.job(job).state == "waiting"
        host = load.host("one")
        host.compare_all()
        controller.kill()
        controller.start(**{VARIABLE: "complete.abandoned=kill"})
        load.installation.wait_for_controller()
        client.cancel_job(job)
        wait_until("the controller to die", lambda: not controller.running)
        load.installation.start_controller()
        wait_until("the end of the job", lambda: client.job(job).state == "cancelled")
        assert client.status().incomplete_extents == 0
        rules.unlink()
        host.compare_all()
        host.close()
        assert load.tally.wrong == []
