"""From the float weights of a model in memory to codes, with data or without."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import distributed
from tqdm.auto import tqdm

from hf_quant.calibration.pairs import weight_matrix
from hf_quant.calibration.resume import Progress
from hf_quant.errors import ConfigError
from hf_quant.modules.swap import Places, share_tied
from hf_quant.quantizing.algorithms import Algorithms, algorithms_of
from hf_quant.quantizing.calibrated import CalibratedRun
from hf_quant.quantizing.config import HfQuantConfig
from hf_quant.quantizing.fill import replace_module
from hf_quant.quantizing.fingerprint import fingerprint
from hf_quant.quantizing.observed import is_observed_whole, observe_whole
from hf_quant.quantizing.resolve import Resolution

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a calibrated run leaves beside the codes; nothing where no data was needed.

    Args:
        block_errors: Name of each block to the relative error of its output on the first batch, against the float block
            on the same inputs.
        fingerprint: Digest of the calibration data; None without any.
        starved_experts: Name of each linear of an expert that got too few tokens for the recipe, to their number.
    """

    block_errors: dict[str, float] = field(default_factory=dict)
    fingerprint: str | None = None
    starved_experts: dict[str, int] = field(default_factory=dict)


def quantize_weights(
    model: Any,
    config: HfQuantConfig,
    resolution: Resolution,
    progress: bool = True,
    resume: str | Path | None = None,
    restart: bool = False,
) -> Outcome:
    """Replace the modules of the plan, one at a time.

    Args:
        model: Float, changed in place.
        config: Its recipe and data are used.
        resolution: Schemes and ties that the config means for the model.
        progress: Show a progress bar.
        resume: Folder to keep progress in and go on from; only for what needs data.
        restart: Throw away what it holds of other work.

    Raises:
        ConfigError: The recipe or plan needs data and there is none, or the folder holds other work.
    """
    algorithms = algorithms_of(config.recipe)
    if not check_data(algorithms, config, resolution):
        places = Places(model)
        for name, scheme in tqdm(resolution.plan.modules.items(), desc="Quantizing", disable=not progress):
            if scheme is None:
                continue
            solved = None
            if scheme.weight.has_scales and name not in resolution.ties:
                weight = weight_matrix(model.get_submodule(name))
                solved = algorithms.solver.solve(weight, scheme.weight, f"{name}.weight")
            replace_module(model, name, scheme, resolution.ties, solved, places=places)
        share_tied(model, resolution.ties)
        return Outcome()
    assert config.calibration is not None
    if is_observed_whole(model, resolution, algorithms, config.calibration):
        if resume is not None:
            logger.warning("no progress is kept: all static inputs are observed in one run")
        starved = observe_whole(model, resolution, algorithms, config.calibration)
        return Outcome({}, config.calibration.fingerprint(model.config), starved.tokens)
    run = CalibratedRun(model, resolution, algorithms, config.calibration, progress)
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        if resume is not None:
            raise ConfigError("several processes cannot keep progress in one folder: leave resume out")
        if algorithms.block_solver is not None:
            # Each would learn other roundings from its own share of the data.
            raise ConfigError("a solver of whole blocks, such as signround, works in one process: start only one")
    kept = None
    if resume is not None:
        kept = Progress(Path(resume), fingerprint(model, resolution, config.recipe, config.calibration), restart)
    run.quantize(kept)
    return Outcome(run.losses, config.calibration.fingerprint(model.config), run.starved.tokens)


def check_data(algorithms: Algorithms, config: HfQuantConfig, resolution: Resolution) -> bool:
    """Whether data is needed. A warning says so where there is some in vain.

    Raises:
        ConfigError: It is, and there is none.
    """
    if not algorithms.needs_data(resolution.plan):
        if config.calibration is not None:
            logger.warning("the calibration data is not used: neither the recipe nor a static input needs any")
        return False
    if config.calibration is None:
        raise ConfigError(
            "the recipe, or a static input in the plan, needs data: "
            "HfQuantConfig(..., calibration=hf_quant.Calibration(dataset, tokenizer)), or --data on the command line"
        )
    return True
