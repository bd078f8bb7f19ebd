"""`QATCallback`: quantization-aware training in the ``Trainer`` that people already use."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_quant.errors import ConfigError, UnsupportedModel
from hf_quant.qat.check import check_grids, negative_scales
from hf_quant.qat.distillation import Distillation
from hf_quant.qat.options import QATOptions
from hf_quant.qat.schedule import (
    Schedule,
    begin,
    change,
    drop_gradients,
    hold,
    never_learned,
    next_step,
    observes_inputs,
    unknown_ranges,
    untrained_bits,
)
from hf_quant.qat.statistics import TrainingStatistics
from hf_quant.quantizing.config import HfQuantConfig
from hf_quant.training.grid_groups import add_groups, base_rate, update_rates
from hf_quant.training.opened_parameters import take_parts
from hf_quant.training.prepared import prepared
from hf_quant.training.qat_record import check_record, write_record
from hf_quant.training.sharded_training import ShardedTraining
from hf_quant.workflows.distill import DistilledLoss, make_teacher
from hf_quant.workflows.qat import UNOBSERVED, convert, prepare

logger = logging.getLogger(__name__)

_CONTROL = "_hf_quant_control"
"""Attribute of a model: the control object of the Trainer whose callback trains it."""


class QATCallback(TrainerCallback):
    """Trains a float model with quantization in the loop, and leaves a quantized one.

    ```python
    Trainer(model, args, train_dataset=..., callbacks=[QATCallback("int4")]).train()
    model.save_pretrained("quantized")
    ```

    The model is prepared as the Trainer is made. Checkpoints hold float masters and grids, so that training resumes as
    if it had not stopped. Evaluation always computes as the quantized model will, also while training is still in
    float; so the best model is the best once quantized.

    Args:
        config: A config or a preset's name. Static inputs are observed in training: no calibration data. None for a
            model that was loaded to be trained, with ``HfQuantConfig(..., qat=True)``.
        weights: ``"lsq"`` learns scales and offsets of weights; ``"minmax"`` takes them from the weights in each step.
        initial: Where learned ones start: ``"mse"`` or ``"minmax"``.
        inputs: How grids of static inputs are learned: ``"lsq"`` or ``"pact"``.
        warmup_steps: Optimizer steps in float, at the start.
        observer_steps: Steps after these, in which static inputs are observed and not rounded yet.
        freeze_scales_at: Step from which learned scales and offsets stay as they are.
        bits: Step to bits of weights from there on: ``{0: 8, 500: 6, 1000: 4}``. The first holds from the start.
        scale_learning_rate: Rate of learned scales and offsets, which have no weight decay. None: as fast as weights,
            in relation to their size. It follows the schedule of the Trainer.
        teacher: A model whose logits, or hidden states, are learned from besides labels; ``"self"``: the float model
            that training starts from, which has to be the same where training is resumed.
        distillation: How much of what; None for the defaults of `Distillation`.
        convert: Convert at the end of training. False leaves that to `hf_quant.convert`.
        statistics: Log scales, clipping, error of rounding and flips of codes whenever the Trainer logs.

    Raises:
        ConfigError: A value is not valid.
        UnknownName: A preset, or a choice, is not known.
    """

    def __init__(
        self,
        config: HfQuantConfig | str | None = None,
        *,
        weights: str = "lsq",
        initial: str = "mse",
        inputs: str = "lsq",
        warmup_steps: int = 0,
        observer_steps: int = 10,
        freeze_scales_at: int | None = None,
        bits: Mapping[int, int] | None = None,
        scale_learning_rate: float | None = None,
        teacher: Any = None,
        distillation: Distillation | None = None,
        convert: bool = True,
        statistics: bool = True,
    ):
        self.config = HfQuantConfig(config) if isinstance(config, str) else config
        if not isinstance(self.config, HfQuantConfig | None):
            raise ConfigError(f"QATCallback takes an HfQuantConfig or a preset's name, not {config!r}")
        self.options = QATOptions(weights, initial, inputs)
        if self.config is None and self.options != QATOptions():
            raise ConfigError(
                "weights, initial and inputs are settled once a model is loaded: leave them out, or load float"
            )
        self.schedule = Schedule(warmup_steps, observer_steps, freeze_scales_at, {} if bits is None else bits)
        if scale_learning_rate is not None and not (
            isinstance(scale_learning_rate, int | float) and 0 <= scale_learning_rate < float("inf")
        ):
            raise ConfigError(f"scale_learning_rate is a number from 0 on, or None, not {scale_learning_rate!r}")
        self.scale_learning_rate = scale_learning_rate
        if not isinstance(distillation, Distillation | None) or (distillation is not None and teacher is None):
            raise ConfigError("distillation takes a Distillation, beside a teacher")
        self.teacher = teacher
        self.distillation = distillation or Distillation()
        self.convert = convert
        self.statistics = TrainingStatistics() if statistics else None
        self._taught_by: Any = None
        """What `teacher` asks for, for the model that is trained."""
        self._model: weakref.ref[Any] | None = None
        self._trainer: weakref.ref[Any] | None = None
        self._was_told = False
        """Whether of the optimizer of this run."""
        self._sharded: ShardedTraining | None = None
        """Until training begins."""
        self._negative: dict[str, Any] = {}
        """Which scales were negative when training began, or when grids were last taken anew."""

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Prepare the model, before there is an optimizer, and tell the optimizer of grids if there is one."""
        if getattr(model, _CONTROL, None) is control:
            raise ConfigError("there are two QATCallbacks: give one only")
        is_prepared = prepared(model) is not None
        before = dict(model.named_parameters())
        if is_prepared and self._owns(model):  # another Trainer goes on with it
            hold(model, self.schedule.at(0))  # grids that were frozen at the end learn again
        else:
            self._start(model, kwargs.get("processing_class"))
        setattr(model, _CONTROL, control)
        optimizer = kwargs.get("optimizer")
        if optimizer is not None:
            take_parts(optimizer, before, model)
            base = base_rate(optimizer, args)
            add_groups(optimizer, model, self.scale_learning_rate, base, kwargs.get("lr_scheduler"))

    def _start(self, model: Any, tokenizer: Any) -> None:
        if self.teacher is not None:
            if self.config is None and self.teacher == "self":
                raise ConfigError('a model that was loaded to be trained is no float teacher: give one, not "self"')
            self._taught_by = make_teacher(self.teacher, model, self.distillation, tokenizer)
        observes = self.schedule.observer_steps > 0
        if self.config is not None:
            prepare(model, self.config, self.options, observes)
        elif prepared(model) is None:
            raise ConfigError(
                'the model was not loaded to be trained: QATCallback("int4"), or another preset, scheme or plan'
            )
        elif not observes and unknown_ranges(model):
            raise ConfigError(UNOBSERVED)
        self._model = weakref.ref(model)
        begin(model, self.schedule.at(0))

    def on_optimizer_made(self, trainer: Any, is_new: bool) -> None:
        """Meet the optimizer that Trainer made: see `training.trainer.MeetsOptimizer`."""
        self._trainer, self._was_told = weakref.ref(trainer), True
        if self._taught_by is not None and not isinstance(trainer.compute_loss, DistilledLoss):
            trainer.compute_loss = DistilledLoss(trainer, self._taught_by, self.distillation)
        if prepared(trainer.model) is not None:
            if self._sharded is not None:
                self._sharded.begin()  # of a Trainer that never came to train
            self._sharded = ShardedTraining(trainer)
        if is_new and prepared(trainer.model) is not None:
            base = base_rate(trainer.optimizer, trainer.args)
            add_groups(trainer.optimizer, trainer.model, self.scale_learning_rate, base)

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Write beside a checkpoint what it is trained for."""
        known = prepared(model)
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if known is not None and state.is_world_process_zero and folder.is_dir():
            write_record(folder, known.resolution.plan, self.options)

    def on_checkpoint_load(self, folder: str) -> None:
        """Meet the checkpoint that Trainer goes on from: see `training.trainer.MeetsCheckpoint`."""
        model = None if self._model is None else self._model()
        known = None if model is None else prepared(model)
        if known is not None:
            check_record(Path(folder), known.resolution.plan, self.options)
        trainer = None if self._trainer is None else self._trainer()
        if model is not None and trainer is not None and self._sharded is not None:
            self._sharded.hold(never_learned(model, self.schedule, trainer.state.global_step))

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Go on where the schedule is, and say what of it training will not reach."""
        if self._sharded is not None:
            self._sharded.begin()
            self._sharded = None
        if not self._owns(model) or prepared(model) is None:
            raise UnsupportedModel(
                "the model that is trained is not the one that QATCallback prepared as the Trainer was made: pass it "
                "as model=, not by model_init, and make a new Trainer and callback after it was converted"
            )
        if not self._was_told:
            raise ConfigError(
                "QATCallback was not told of the optimizer, and learned scales and the teacher would do nothing: let "
                "create_optimizer and _prepare_for_training of your Trainer call those of transformers.Trainer"
            )
        self._was_told = False
        if state.max_steps > 0:  # otherwise nothing is trained at all
            self._warn(model, state)
        hold(model, self.schedule.at(max(state.global_step - 1, 0)))
        self._negative = negative_scales(model)

    def _warn(self, model: Any, state: Any) -> None:
        """Warn of what training will not reach."""
        last = self.schedule.last_change(observes_inputs(model))
        if last >= state.max_steps:
            logger.warning(
                "the schedule of QATCallback goes on until step %d, but training ends with step %d: shorten "
                "warmup_steps, observer_steps or bits, or train for longer",
                last,
                state.max_steps,
            )
        untrained = untrained_bits(model, self.schedule.at(state.max_steps - 1))
        if untrained:
            logger.warning(
                "%d weights, such as that of %s, are trained with more bits to the end than they are stored with: let "
                "bits go down to those of the scheme, before step %d",
                len(untrained),
                untrained[0],
                state.max_steps,
            )
        frozen = self.schedule.freeze_scales_at
        if frozen is not None and frozen >= state.max_steps:
            logger.warning(
                "freeze_scales_at=%d is after the last of %d steps: it does nothing", frozen, state.max_steps
            )

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Change to what the schedule says of this step."""
        step = state.global_step
        before, now = self.schedule.at(max(step - 1, 0)), self.schedule.at(step)
        if before == now or not change(model, before, now):
            return
        self._negative = negative_scales(model)
        if self.scale_learning_rate is None:
            optimizer = kwargs["optimizer"]
            base = optimizer.param_groups[0].get("initial_lr", base_rate(optimizer, args))
            update_rates(optimizer, kwargs.get("lr_scheduler"), model, float(base))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Let frozen and unused grids keep still."""
        drop_gradients(model)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Stop, before a checkpoint is written, where a learned grid has gone bad."""
        next_step(model)
        check_grids(model, self._negative)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Log how weights lie on their grids, where the Trainer is about to log."""
        trainer = None if self._trainer is None else self._trainer()
        if self.statistics is None or not control.should_log or trainer is None:
            return
        numbers = self.statistics.measure(model)
        if numbers:
            trainer.log(numbers)
            control.should_log = True  # logging has said that it was done

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Convert, once the best model is loaded."""
        trainer = None if self._trainer is None else self._trainer()
        if trainer is not None and isinstance(trainer.compute_loss, DistilledLoss):
            del trainer.compute_loss  # the method of its class is behind it
        if self.convert:
            converted = convert(model)
            if trainer is not None and converted is not model:  # what PEFT had wrapped
                trainer.model = trainer.model_wrapped = converted

    def _owns(self, model: Any) -> bool:
        return self._model is not None and self._model() is model
