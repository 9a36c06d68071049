"""What scripted incidents share."""

import os
from collections.abc import Callable

import pytest

from segue.sim.loop import World
from segue.sim.stage import DiskPlan, MediumPlan, Plan, Stage

SEED = int(os.environ.get("STAGE_SEED", "1"))
"""Of the stages whose test names none: an incident ends as it says whatever is drawn."""


@pytest.fixture
def stage() -> Callable[..., Stage]:
    """Builds and starts a small installation: two agents, one disk of six segments."""

    def build(seed: int = SEED, **changes: object) -> Stage:
        plan = Plan(media=[MediumPlan(segments=12)], disks=[DiskPlan(sectors=6 * 128)])
        for name, value in changes.items():
            assert hasattr(plan, name)
            setattr(plan, name, value)
        made = Stage(World(seed), plan)
        made.start()
        return made

    return build
