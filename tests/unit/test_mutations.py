"""A deliberate mistake whose place is gone proves nothing, and is only found when all are run."""

from pathlib import Path

from segue.sim.mutations import MUTATIONS

ROOT = Path(__file__).parents[2]


def test_every_mutation_has_its_place() -> None:
    stale = [m.name for m in MUTATIONS if (ROOT / m.path).read_text().count(m.old) != 1]
    assert not stale
