"""What the scripted incidents share: who does what, and how a story ends."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from segue.controller.procedures.declare_dead import declare_dead
from segue.sim.containers import Medium, Request
from segue.sim.host import Host
from segue.sim.plane import Part
from segue.sim.stage import MediumPlan, Stage

T = TypeVar("T")
Build = Callable[..., Stage]
SEGMENT = 128
UNCLEAN = [MediumPlan(segments=12, clean=False)]


def through(stage: Stage, number: int, name: str = "h", disk: int = 0) -> Host:
    """A host that uses the agent of that number only."""
    return stage.host(f"{name}{number}", disk, [stage.machines[number]], [0])


def done(stage: Stage, host: Host, op: str, first: int = 0, count: int = 0, flags: int = 0) -> int:
    """Does one I/O to its end; its errno."""
    task = host.do(op, first, count, flags)
    stage.wait(task.done, f"{op} {first}+{count} is not answered")
    return task.result()


def medium(stage: Stage) -> Medium:
    """The first container's."""
    return stage.media["sim://m0"]


def writing(stage: Stage, *, commanded: bool) -> bool:
    """Whether a host's write (or a `do_write`) is under way at the first container."""
    return any(
        r.kind == "write" and isinstance(r.tag, Part) and r.tag.commanded == commanded
        for r in medium(stage).under_way.values()
    )


def end(stage: Stage) -> None:
    """All heals, converges, and reads back right through every agent."""
    stage.mend()
    stage.converge()
    stage.read_everything()


def ask(stage: Stage, verb: Coroutine[Any, Any, T]) -> T:
    """What an operator's verb comes to."""
    task = stage.office.terms[-1].process.run(verb)
    stage.wait(task.done, "nothing comes of the verb")
    return task.result()


def declare(stage: Stage, name: str) -> list[int]:
    """`segue agent declare-dead`."""
    return ask(stage, declare_dead(stage.controller, name))


def zeroing(stage: Stage) -> list[Request]:
    """Writes of zeroes by a copier that are under way at the first container."""
    under_way = medium(stage).under_way.values()
    return [r for r in under_way if r.kind == "write" and r.tag == ("zero",)]
