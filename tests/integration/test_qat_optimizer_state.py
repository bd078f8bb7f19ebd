import pytest

from hf_quant import HfQuantConfig
from hf_quant.qat.schedule import Schedule, never_learned
from hf_quant.training.grid_groups import learned_grids
from tests.integration.qat_training import STATIC, trainer

STEPS = 3


@pytest.mark.parametrize(
    "schedule",
    [
        {"observer_steps": 2},
        {"observer_steps": STEPS},
        {"warmup_steps": 1, "observer_steps": 1},
        {"warmup_steps": STEPS - 1, "observer_steps": 1},
        {"warmup_steps": STEPS, "observer_steps": 1},
        {"freeze_scales_at": 0, "observer_steps": 1},
        {"freeze_scales_at": 1, "observer_steps": 1},
        {"freeze_scales_at": 2, "observer_steps": 1},
    ],
    ids=str,
)
def test_an_optimizer_has_no_state_of_grids_that_have_never_learned(schedule, tmp_path):
    config = HfQuantConfig(scheme=STATIC)
    training = trainer(tmp_path, config, "gpt2", max_steps=STEPS, convert=False, **schedule)
    expected = {id(parameter) for parameter in never_learned(training.model, Schedule(**schedule), STEPS)}
    training.train()
    grids = [grid for kind in learned_grids(training.model).values() for grid in kind]
    parameters = {id(parameter): parameter for grid in grids for parameter in grid.parameters()}
    assert expected == {key for key, parameter in parameters.items() if parameter not in training.optimizer.state}
