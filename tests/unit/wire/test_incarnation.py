"""Places: one process has one at a time, and whoever has it next can say so."""

from __future__ import annotations

import os
import subprocess
import sys

from segue.wire.incarnation import INCARNATION_BITS, Place, begun_at, same_place

ONE = f"one-{os.getpid()}"
"""Of this run of the tests: places are the machine's."""
HOLD = f"""
from segue.wire.incarnation import Place
place = Place("{ONE}", "unix:///s")
print(place.incarnation(), flush=True)
input()
"""


def hold() -> tuple[subprocess.Popen[str], int]:
    """A process that has the place, and an incarnation of it."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_a_place_is_had_by_one_process_at_a_time() -> None:
    first, began = hold()
    other = Place(ONE, "unix:///s")
    assert not other.is_own
    assert not same_place(other.incarnation(), began)
    first.kill()
    first.communicate()
    second, again = hold()
    assert same_place(began, again)
    assert began != again
    second.kill()
    second.communicate()


def test_another_name_or_controller_is_another_place() -> None:
    two, three = f"two-{os.getpid()}", f"three-{os.getpid()}"
    places = [Place(two, "unix:///s"), Place(two, "unix:///t"), Place(three, "unix:///s")]
    assert all(place.is_own for place in places)
    assert len({place.incarnation() >> 32 for place in places}) == 3


def test_incarnations_have_61_bits_and_are_never_0() -> None:
    assert begun_at(0, 0) == 1
    assert begun_at((1 << 29) - 1, (1 << 32) - 1) == (1 << INCARNATION_BITS) - 1
