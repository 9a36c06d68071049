"""A few drawn worlds hold; campaigns are `make sim` (docs/simulator.md)."""

import pytest

from segue.sim.scenario import run_seed


@pytest.mark.parametrize("seed", range(24))
def test_seed(seed: int) -> None:
    outcome = run_seed(seed)
    assert not outcome.failure, f"replay: python -m segue.sim --seed {seed} --trace"
    assert outcome.host_ios > 0
    assert outcome.checked > 0
