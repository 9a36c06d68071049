"""What the controller is at, what that waits for, and since when (`segue status`, slow faults).

A *work* is one thing under way: a fault, a request of an operator, a piece of background work.
`Controller.spawn` begins one with its task; whatever the task, or a task made by it, waits for
while it lasts is registered with it: ``with waits.on("commit", "the store"): await done``.  What
nobody is waiting for costs nothing, and nothing is kept of what has ended.

This file decides nothing, and nothing may be decided by what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import Context, ContextVar, copy_context
from typing import Literal

Kind = Literal[
    "lease", "lock", "blocks", "commit", "answer", "agent", "space", "fence", "storage", "takeover"
]
"""A session's first lease; a lock; blocks of an incomplete extent; a commit; an agent's answer to a
command; an agent to come back or to have ended; a clean location; an old copier's end; a container;
a new term's taking over of what older ones left."""


class Work:
    """One thing under way.

    `what` says it for people when it is turned into text, and has `ids` for the log where it is a
    fault.  `commit` and `command` are the last ones it made: they join the log's lines.
    """

    __slots__ = ("begun_ns", "command", "commit", "held", "spent_ns", "waits", "what")

    def __init__(self, what: object, now_ns: int) -> None:
        self.what = what
        self.begun_ns = now_ns
        self.waits: dict[Wait, None] = {}
        """What it waits for now; several at once while it commands several agents."""
        self.held: dict[Hashable, int] = {}
        """Locks that it holds -> how often."""
        self.spent_ns: dict[Kind, int] = {}
        """Waited so far, by kind."""
        self.commit = 0
        self.command = 0

    @property
    def ids(self) -> str:
        """``key=value`` words that name it in the log."""
        return getattr(self.what, "ids", None) or f"work={str(self.what)!r}"


_current: ContextVar[Work | None] = ContextVar("segue_work", default=None)
_nothing: AbstractContextManager[None] = nullcontext()


def current_work() -> Work | None:
    """The work of the running task."""
    return _current.get()


class Wait:
    """One wait, registered from entering to leaving."""

    __slots__ = ("_now_ns", "_work", "kind", "since_ns", "what")

    def __init__(self, work: Work, kind: Kind, what: object, now_ns: Callable[[], int]) -> None:
        self.kind = kind
        self.what = what
        self.since_ns = 0
        self._work = work
        self._now_ns = now_ns

    def __enter__(self) -> None:
        self.since_ns = self._now_ns()
        self._work.waits[self] = None

    def __exit__(self, *_: object) -> None:
        work = self._work
        del work.waits[self]
        if not work.waits or all(other.kind != self.kind for other in work.waits):
            # Of several at once, the last to end counts for all of them.
            spent_ns = self._now_ns() - self.since_ns
            work.spent_ns[self.kind] = work.spent_ns.get(self.kind, 0) + spent_ns


class Waits:
    """All works of one controller; `now_ns` is its clock."""

    def __init__(self, now_ns: Callable[[], int] = lambda: 0) -> None:
        self._now_ns = now_ns
        self.works: dict[Work, None] = {}
        """In the order they began."""

    @contextmanager
    def work(self, what: object) -> Iterator[Work]:
        """What is done inside is this work's."""
        work = Work(what, self._now_ns())
        before = _current.set(work)
        self.works[work] = None
        try:
            yield work
        finally:
            del self.works[work]
            # A task that its loop left behind is closed wherever it is collected.
            with suppress(ValueError):
                _current.reset(before)

    def begin(self, what: object) -> tuple[Work | None, Context]:
        """A work as long as a task that runs in this context, until `end`.

        Without `what` the task is nobody's and shown nowhere.
        """
        context = copy_context()
        if what is None:
            context.run(_current.set, None)
            return None, context
        work = Work(what, self._now_ns())
        context.run(_current.set, work)
        self.works[work] = None
        return work, context

    def end(self, work: Work | None) -> None:
        """The task has ended."""
        if work is not None:
            del self.works[work]

    def on(self, kind: Kind, what: object) -> AbstractContextManager[None]:
        """A wait of the current work; `what` becomes text when somebody asks."""
        work = _current.get()
        return _nothing if work is None else Wait(work, kind, what, self._now_ns)

    def holders(self, key: Hashable) -> list[Work]:
        """The works that hold a lock."""
        return [work for work in self.works if key in work.held]

    def waiters(self, what: Hashable) -> list[Work]:
        """The works that wait for a lock."""
        return [
            work
            for work in self.works
            if any(w.what == what and w.kind == "lock" for w in work.waits)
        ]


def note_held(key: Hashable) -> None:
    """The current work has taken a lock."""
    work = _current.get()
    if work is not None:
        work.held[key] = work.held.get(key, 0) + 1


def note_released(key: Hashable) -> None:
    """The current work has given a lock back; one that another work took is not its own."""
    work = _current.get()
    if work is None or key not in work.held:
        return
    left = work.held[key] - 1
    if left:
        work.held[key] = left
    else:
        del work.held[key]
