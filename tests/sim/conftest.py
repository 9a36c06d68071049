"""What scripted incidents share."""

from collections.abc import Callable

import pytest

from segue.sim.loop import World
from segue.sim.stage import DiskPlan, MediumPlan, Plan, Stage


@pytest.fixture
def stage() -> Callable[..., Stage]:
    """Builds and starts a small installation: two agents, one disk of six segments."""

    def build(seed: int = 1, **changes: object) -> Stage:
        plan = Plan(media=[MediumPlan(segments=12)], disks=[DiskPlan(sectors=6 * 128)])
        for name, value in changes.items():
            assert hasattr(plan, name)
            setattr(plan, name, value)
        made = Stage(World(seed), plan)
        made.start()
        return made

    return build
