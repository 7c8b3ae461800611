"""The learning rate of several cosine phases, in updates from 0."""

import math
from types import SimpleNamespace

import pytest

from dinosr_plugin.errors import UserError
from dinosr_plugin.runs.cosine_phases import CosinePhases, CosinePhasesConfig


def schedule(**settings) -> CosinePhases:
    rates = SimpleNamespace(value=None)
    rates.set_lr = lambda value: setattr(rates, "value", value)
    rates.get_lr = lambda: rates.value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fairseq.optim.lr_scheduler.fairseq_lr_scheduler.FairseqOptimizer", SimpleNamespace)
        return CosinePhases(CosinePhasesConfig(**settings), rates)


def test_two_phases_are_those_of_ssrl():
    """From 1e-4 to 1e-5 in 4 updates, then from 5e-4 to 1e-5 in 8, then 1e-5."""
    scheduler = schedule(lr=[1e-4, 5e-4], min_lr=1e-5, phase_updates=[4, 8])
    values = [scheduler.step_update(number) for number in range(14)]
    first = [1e-5 + 9e-5 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    second = [1e-5 + 49e-5 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    assert values == pytest.approx([*first, *second, 1e-5, 1e-5], rel=1e-12)
    assert values[0] == 1e-4 and values[4] == 5e-4


def test_a_warm_up_precedes_the_first_phase():
    scheduler = schedule(lr=[0.2], min_lr=0.1, phase_updates=[2], warmup_updates=4)
    values = [scheduler.step_update(number) for number in range(7)]
    assert values == pytest.approx([0.1, 0.125, 0.15, 0.175, 0.2, 0.15, 0.1])


@pytest.mark.parametrize("phases", [[], [4, 4]])
def test_every_phase_has_a_rate(phases):
    with pytest.raises(UserError, match="lr_scheduler.phase_updates=.*give one number of updates for each of the 1 "):
        schedule(lr=[0.1], phase_updates=phases)
