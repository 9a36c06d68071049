"""The simulated medium: what is seen, what survives power loss, who may still have I/O there."""

from collections.abc import Sequence
from typing import Any

from segue.sim.containers import Holder, Medium, Request
from segue.sim.loop import SECOND, World


class Desk:
    """A medium of two segments with one user."""

    def __init__(self, seed: int = 1, clean: bool = True, write_unit_bytes: int = 1) -> None:
        self.world = World(seed)
        self.medium = Medium(self.world, "sim://m", 65536, clean, write_unit_bytes)
        self.medium.format(2 * 65536, b"id", b"in", 1)
        self.process = self.world.process("user")
        self.holder = Holder(self.process, 77, "user")
        self.medium.lock(self.holder)
        self.answers: list[tuple[int, list[int]]] = []

    def submit(self, kind: str, sector: int, count: int, **kwargs: Any) -> Request:
        def done(errno: int, tokens: Sequence[int]) -> None:
            self.answers.append((errno, list(tokens)))

        return self.medium.submit(kind, self.holder, sector, count, done, **kwargs)

    def do(self, kind: str, sector: int = 0, count: int = 0, **kwargs: Any) -> list[int]:
        before = len(self.answers)
        self.submit(kind, sector, count, **kwargs)
        assert self.world.run_until(lambda: len(self.answers) > before, SECOND)
        assert self.answers[-1][0] == 0
        return self.answers[-1][1]


def test_what_was_written_is_read() -> None:
    desk = Desk()
    desk.do("write", 3, 4, tokens=[7, 8, 9, 10])
    assert desk.do("read", 2, 6) == [0, 7, 8, 9, 10, 0]


def test_unclean_medium_holds_rubbish() -> None:
    assert all(Desk(clean=False).do("read", 0, 8))


def test_power_loss_takes_the_unflushed_only() -> None:
    outcomes = set()
    for seed in range(30):
        desk = Desk(seed)
        desk.do("write", 0, 2, tokens=[1, 2])
        desk.do("flush")
        desk.do("write", 0, 1, tokens=[3])
        desk.do("write", 5, 1, tokens=[4], fua=True)
        desk.medium.lose_power()
        outcomes.add(desk.medium.seen[0])
        assert desk.medium.seen[1] == 2
        assert desk.medium.seen[5] == 4
    assert outcomes == {1, 3}


def test_flush_does_not_cover_a_later_write() -> None:
    lost = 0
    for seed in range(40):
        desk = Desk(seed)
        desk.submit("flush", 0, 0)
        desk.submit("write", 0, 1, tokens=[9])
        assert desk.world.run_until(lambda d=desk: len(d.answers) == 2, SECOND)  # type: ignore[misc]
        desk.medium.lose_power()
        lost += desk.medium.seen[0] == 0
    assert lost


def test_failed_flush_may_lose_data_that_a_later_one_does_not_save() -> None:
    lost = 0
    for seed in range(40):
        desk = Desk(seed)
        desk.do("write", 0, 1, tokens=[9])
        desk.medium.failing = frozenset({"flush"})
        while not desk.answers[-1][0]:
            desk.medium.fail_until_ns = desk.world.now_ns + SECOND
            desk.submit("flush", 0, 0)
            desk.world.run_for(SECOND)
        desk.medium.heal()
        assert desk.do("read", 0, 1) == [9]
        desk.do("flush")
        desk.medium.lose_power()
        lost += desk.medium.seen[0] == 0
    assert lost


def test_fence_outlives_its_process_while_requests_are_under_way() -> None:
    seen_late = 0
    for seed in range(30):
        desk = Desk(seed)
        desk.submit("write", 0, 1, tokens=[5])
        assert not desk.medium.fence_ended(77)
        desk.process.pause()
        assert not desk.medium.fence_ended(77)
        desk.process.kill()
        if desk.medium.under_way:
            seen_late += 1
            assert not desk.medium.fence_ended(77)
        desk.world.run_for(SECOND)
        assert desk.medium.fence_ended(77)
        assert desk.answers == []
    assert seen_late


def test_torn_write_can_be_seen_half_done() -> None:
    halves = 0
    for seed in range(60):
        desk = Desk(seed)
        desk.submit("write", 0, 8, tokens=list(range(1, 9)))
        while len(desk.answers) == 0:
            desk.world.step()
            halves += desk.medium.seen[0] != 0 and desk.medium.seen[7] == 0
    assert halves
