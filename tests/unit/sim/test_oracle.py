"""The oracle allows what rule 1 allows, and nothing else: right and wrong histories."""

import random

import pytest

from segue.sim.oracle import Disk, Ticket, Write, WrongRead


class History:
    """A disk of one sector and a clock that moves with every call."""

    def __init__(self) -> None:
        self.disk = Disk("d", 1)
        self.now = 0

    def tick(self) -> int:
        self.now += 10
        return self.now

    def write(self, token: int, fua: bool = False) -> Write:
        return self.disk.issue_write(self.tick(), 0, 1, token, fua)

    def ack(self, write: Write) -> None:
        self.disk.acknowledge(self.tick(), write)

    def fail(self, write: Write) -> None:
        self.disk.end(self.tick(), write)

    def done(self, token: int, fua: bool = False) -> None:
        self.ack(self.write(token, fua))

    def begin(self) -> Ticket:
        return self.disk.begin(self.tick(), 0, 1)

    def end(self, ticket: Ticket, token: int) -> None:
        self.disk.read(self.tick(), ticket, [token])

    def read(self, token: int) -> None:
        self.end(self.begin(), token)

    def refuses(self, *tokens: int) -> None:
        for token in tokens:
            ticket = self.begin()
            with pytest.raises(WrongRead):
                self.end(ticket, token)

    def flush(self) -> None:
        self.disk.flushed(self.tick(), self.disk.begin(self.tick()))

    def power(self) -> None:
        self.disk.lose_power(self.tick())


def test_zero_before_any_write() -> None:
    h = History()
    h.read(0)
    h.refuses(5)


def test_acknowledged_write_kills_its_elders() -> None:
    h = History()
    h.done(1)
    h.read(1)
    h.refuses(0)
    h.done(2)
    h.refuses(0, 1)
    h.read(2)


def test_write_under_way_may_be_read_or_not_until_it_is() -> None:
    h = History()
    h.done(1)
    write = h.write(2)
    h.read(1)
    h.read(2)
    h.refuses(1)
    h.ack(write)
    h.read(2)


def test_concurrent_writes_either_may_win_but_only_one_does() -> None:
    h = History()
    a, b = h.write(1), h.write(2)
    h.ack(a)
    h.ack(b)
    h.read(1)
    h.refuses(2)
    h.read(1)


def test_unacknowledged_write_may_come_again_once_for_every_attempt() -> None:
    h = History()
    slow = h.write(1)
    h.read(1)
    h.done(2)
    h.read(2)
    h.read(1)  # the lease ended, the piece was decided again
    h.ack(slow)
    h.read(1)
    h.refuses(2)


def test_later_write_after_both_ended_kills_both() -> None:
    h = History()
    a, b = h.write(1), h.write(2)
    h.ack(a)
    h.ack(b)
    h.done(3)
    h.refuses(1, 2)


def test_failed_write_stays_possible_until_something_is_seen() -> None:
    h = History()
    h.done(1)
    h.fail(h.write(2))
    h.read(2)
    h.refuses(1)
    h = History()
    h.done(1)
    h.fail(h.write(2))
    h.read(1)
    h.refuses(2)


def test_read_that_began_before_the_acknowledgement_may_return_the_old() -> None:
    h = History()
    h.done(1)
    write = h.write(2)
    early = h.begin()
    h.ack(write)
    late = h.begin()
    h.end(early, 1)
    with pytest.raises(WrongRead):
        h.end(late, 1)


def test_read_may_return_a_write_issued_while_it_was_under_way() -> None:
    h = History()
    ticket = h.begin()
    h.write(4)
    h.end(ticket, 4)


def test_zero_is_one_token_of_many_writes() -> None:
    h = History()
    h.done(1)
    h.done(0)
    h.read(0)
    h.refuses(1)


def test_trim_proves_nothing_but_must_be_seen_one_way() -> None:
    h = History()
    h.done(1)
    h.fail(h.write(0))  # a trim: ended, never an observation
    h.read(1)
    h.refuses(0)


def test_power_loss_may_bring_back_what_no_flush_covered() -> None:
    for token in (0, 1, 2):
        h = History()
        h.done(1)
        h.done(2)
        h.power()
        h.read(token)
    h = History()
    h.done(1)
    h.flush()
    h.done(2)
    h.power()
    h.refuses(0)
    h.read(1)
    h.refuses(2)


def test_flush_covers_what_was_acknowledged_before_it_was_sent() -> None:
    h = History()
    h.done(1)
    ticket = h.disk.begin(h.tick())
    h.done(2)
    h.disk.flushed(h.tick(), ticket)
    h.power()
    h.refuses(0)
    h.read(1)


def test_failed_flush_covers_nothing() -> None:
    h = History()
    h.done(1)
    h.disk.give_up(h.disk.begin(h.tick()))
    h.power()
    h.read(0)


def test_fua_write_is_a_floor_for_its_sectors() -> None:
    h = History()
    h.done(1)
    h.done(2, fua=True)
    h.power()
    h.refuses(0, 1)
    h.read(2)


def test_what_power_loss_left_is_durable() -> None:
    h = History()
    h.done(1)
    h.done(2)
    h.power()
    h.read(1)
    h.done(3)
    h.power()
    h.refuses(0, 2)
    h.read(1)


def test_write_cut_by_power_loss_will_not_come_later() -> None:
    h = History()
    h.done(1, fua=True)
    h.write(2)
    h.power()
    h.read(1)
    h.refuses(2)


class Register:
    """A sector with a volatile and a durable value, and writers that may try more than once."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.h = History()
        self.value = 0
        self.since_durable = [0]
        self.writes: list[tuple[Write, int]] = []
        self.reads: list[tuple[Ticket, int]] = []
        self.token = 0

    def effect(self, token: int) -> None:
        self.value = token
        self.since_durable.append(token)

    def step(self) -> None:
        rng, h = self.rng, self.h
        choice = rng.random()
        if choice < 0.25 and len(self.writes) < 3:
            self.token += 1
            self.writes.append((h.write(self.token, fua=rng.random() < 0.2), self.token))
        elif choice < 0.5 and self.writes:
            self.effect(rng.choice(self.writes)[1])  # an attempt, maybe not the last
        elif choice < 0.65 and self.writes:
            write, token = self.writes.pop(rng.randrange(len(self.writes)))
            if rng.random() < 0.2:
                h.fail(write)
                return
            self.effect(token)
            if write.fua:
                self.since_durable = [token]
            h.ack(write)
        elif choice < 0.75:
            self.reads.append((h.begin(), self.value))
        elif choice < 0.9 and self.reads:
            ticket, found = self.reads.pop(rng.randrange(len(self.reads)))
            h.end(ticket, found if rng.random() < 0.5 else self.value)
        elif choice < 0.95:
            h.flush()
            self.since_durable = [self.value]
        elif choice < 0.97:
            self.value = rng.choice(self.since_durable)
            self.since_durable = [self.value]
            self.writes, self.reads = [], []
            h.power()


@pytest.mark.parametrize("seed", range(60))
def test_a_real_register_is_never_refused(seed: int) -> None:
    register = Register(random.Random(seed))
    for _ in range(400):
        register.step()
    register.h.read(register.value)


def test_a_register_that_forgets_is_caught() -> None:
    caught = 0
    for seed in range(40):
        register = Register(random.Random(seed))
        try:
            for i in range(400):
                register.step()
                if i % 50 == 49:
                    register.value = register.rng.randrange(register.token // 2 + 1)
                    register.h.read(register.value)
        except WrongRead:
            caught += 1
    assert caught == 40
