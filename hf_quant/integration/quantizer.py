"""`HfQuantQuantizer`: the hooks that ``from_pretrained`` and ``save_pretrained`` call."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import get_module_from_name

from hf_quant.algorithms import SOLVERS
from hf_quant.algorithms.base import Solver
from hf_quant.config.name_ranges import with_ranges
from hf_quant.config.plan import Plan
from hf_quant.config.scheme import Scheme
from hf_quant.errors import CheckpointError, ConfigError, HfQuantError, UnsupportedModel
from hf_quant.fusion.fuse import fuse, unfuse
from hf_quant.integration import attention, checkpoint, peft
from hf_quant.integration.buffers import restore_buffers
from hf_quant.integration.merged import check_merged
from hf_quant.integration.tags import tag, untag
from hf_quant.integration.weight_ops import QuantizeOnLoad
from hf_quant.kernels.openmp import no_threads_left
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.inventory import Inventory
from hf_quant.modules.opened import Opened, opened_modules
from hf_quant.modules.state import cast_floats, stored_state
from hf_quant.modules.stored import StoredModule
from hf_quant.modules.swap import quantized_modules, restore_float, share_tied, swap
from hf_quant.modules.ties import declared_ties
from hf_quant.opening.open import Opening, close, opened
from hf_quant.quantizing.algorithms import algorithms_of
from hf_quant.quantizing.config import HfQuantConfig
from hf_quant.quantizing.left_float import LeftFloat
from hf_quant.quantizing.resolve import Resolution, resolve, with_closed
from hf_quant.quantizing.solve import Outcome, check_data, quantize_weights
from hf_quant.training import trainer
from hf_quant.training.prepared import begin_training, check_config, go_on_training

logger = logging.getLogger(__name__)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class HfQuantQuantizer(HfQuantizer):
    """Quantizes while loading, or loads what was quantized before."""

    requires_calibration = False
    quantization_config: HfQuantConfig

    def __init__(self, quantization_config: HfQuantConfig, **kwargs: Any):
        super().__init__(quantization_config, **kwargs)
        if self.pre_quantized and quantization_config.plan is None:
            raise CheckpointError('quantization_config in config.json has no "plan": the checkpoint is not complete')
        self.resolution = Resolution(Plan({}), {}, {}, Inventory())
        self.names_are_own = False
        """Whether a quantized checkpoint calls its tensors as the model does, so that none is renamed or converted."""
        self.failures: list[HfQuantError] = []
        self.in_checkpoint: set[str] = set()
        self.split: dict[str, list[str]] = {}
        """Names of the parts of each tensor that is split while it is read, by the first of them."""
        self.solver: Solver = SOLVERS["rtn"]()
        self.is_calibrated = False
        self.block_errors: dict[str, float] = {}
        """Errors of the blocks, if the model was calibrated in this process; see `Outcome`."""
        self.starved_experts: dict[str, int] = {}
        """Linears of experts that calibration in this process had too few tokens for; see `Outcome`."""

    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        """Refuse what would give wrong results."""
        if not self.pre_quantized and isinstance(device_map, dict) and "disk" in device_map.values():
            raise ConfigError(
                "weights cannot be quantized while they are offloaded to disk: quantize once with "
                'device_map="cpu", save_pretrained, and load the saved checkpoint with this device_map'
            )

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Only dtypes that kernels compute in."""
        if dtype not in DTYPES:
            raise ConfigError(f"dtype must be torch.float32, torch.bfloat16 or torch.float16, not {dtype}")
        return dtype

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: list[str] | None = None, **kwargs: Any
    ) -> None:
        if checkpoint_files is None:
            raise ConfigError(
                "weights given as state_dict= cannot be checked before they are loaded: load the float model without "
                "quantization_config and call hf_quant.quantize(model, config)"
            )
        headers = checkpoint.read_headers(checkpoint_files)
        names = checkpoint.model_names(model, headers)
        self.split = checkpoint.split_names(model, headers)
        if not self.pre_quantized:
            checkpoint.check_layers(model, names)
            check_merged(model, headers)
        with opened(model) as opening:
            names = checkpoint.opened_names(model, names)
            self.in_checkpoint = set(names)
            if self.pre_quantized:
                self._prepare_quantized(model, headers, opening)
            elif not self._prepare_float(model, names, opening):
                return
        for _, module in quantized_modules(model):
            # Codes are never drawn at random; without this mark Transformers tries to where they stay on disk.
            module.weight._is_hf_initialized = True  # type: ignore[attr-defined]

    def _prepare_float(self, model: Any, names: checkpoint.Headers, opening: Opening) -> bool:
        """Settle what is quantized; whether modules were exchanged, so that tensors are quantized as they are read."""
        config = self.quantization_config
        self.resolution = resolve(model, config, self.in_checkpoint)
        checkpoint.check_float_headers(self.resolution.plan, names)
        algorithms = algorithms_of(config.recipe)
        self.solver = algorithms.solver
        if config.qat:
            check_config(config)
            return False  # trains on float weights
        self.is_calibrated = check_data(algorithms, config, self.resolution)
        if self.is_calibrated:
            # Float weights are loaded first: blocks need them to run.
            return False
        closed = opening.keep(self.resolution.plan.modules)
        self.resolution = with_closed(self.resolution, model, closed)
        swap(model, self.resolution.plan, self.resolution.ties, device="meta")
        tied = {name for pair in (getattr(model, "all_tied_weights_keys", None) or {}).items() for name in pair}
        for name, each in opened_modules(model):
            full = {stack.name: f"{name}.{stack.name}" for stack in each.stacks}
            each.expect_stacks([stack for stack in full if full[stack] in names or full[stack] not in tied])
        model.all_tied_weights_keys = declared_ties(model)
        return True

    def _prepare_quantized(self, model: Any, headers: checkpoint.Headers, opening: Opening) -> None:
        config = self.quantization_config
        assert config.plan is not None
        inventory = Inventory.of(model)
        found = inventory.candidates
        same_class = checkpoint.written_by(model)
        names = checkpoint.match_names(config.plan.modules, found, inventory.prefix, same_class)
        plan = Plan({names[name]: scheme for name, scheme in config.plan.modules.items() if name in names})
        chosen = plan.resolve(found)
        if dict(chosen.modules) != dict(plan.modules):
            raise CheckpointError("the plan in config.json does not fit the modules of the model: save it again")
        if not same_class:
            chosen = self._with_tied_heads(chosen, inventory)
        ties = inventory.ties_among(chosen.modules, self.in_checkpoint)
        prefix = f"{inventory.prefix}."
        reasons = {
            next((other for other in (name, prefix + name, name.removeprefix(prefix)) if other in found), name): reason
            for name, reason in config.kept_float.items()
        }
        for name in found:
            if name not in chosen.modules:
                reasons.setdefault(name, "float in the checkpoint, or not in it")
        closed = opening.keep(chosen.modules)
        self.resolution = with_closed(Resolution(chosen, ties, reasons, inventory), model, closed)
        inventory = self.resolution.inventory
        swap(model, chosen, ties, device="meta")
        model.all_tied_weights_keys = declared_ties(model)
        self.names_are_own = checkpoint.names_are_own(model, headers, inventory.prefix)
        headers = checkpoint.model_names(model, headers, converted=not self.names_are_own)
        checkpoint.check_quantized_headers(model, headers, inventory)
        checkpoint.check_same_model(model, headers, config.kept_float, inventory)

    def _with_tied_heads(self, plan: Plan, inventory: Inventory) -> Plan:
        # A head that the checkpoint of another class lacks, tied to an embedding, reads the embedding's codes.
        modules = dict(plan.modules)
        for target, source in inventory.ties.items():
            scheme = modules.get(source)
            if scheme is not None and f"{target}.weight" not in self.in_checkpoint:
                modules.setdefault(target, Scheme(scheme.weight))
        return Plan(modules)

    def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
        """Whether a tensor of the checkpoint has to become codes."""
        if self.pre_quantized:
            return False
        return any(_is_quantized(model, name) for name in self.split.get(param_name, (param_name,)))

    def update_weight_conversions(self, weight_conversions: list[Any], model: Any) -> list[Any]:
        """None for a checkpoint that calls its tensors as the model does: other libraries' names may be among them."""
        return [] if self.names_are_own else weight_conversions

    def get_quantize_ops(self) -> QuantizeOnLoad:
        """The conversion for one such tensor."""
        return QuantizeOnLoad(self.resolution.ties, self.in_checkpoint, self.failures, self.solver)

    @no_threads_left()
    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        if self.failures:
            raise self.failures[0]
        for _, each in opened_modules(model):
            each.forget_stacks()
        if self.quantization_config.qat:
            return self._trainable(model)
        if self.is_calibrated:
            self.resolution = as_loaded(model, self.resolution)
            outcome = quantize_weights(model, self.quantization_config, self.resolution)
        else:
            outcome = Outcome()
            self._share_tied(model)
        self.block_errors, self.starved_experts = outcome.block_errors, outcome.starved_experts
        self.quantization_config = self.quantization_config.resolved(
            self.resolution.plan, self.resolution.kept_float, outcome.fingerprint
        )
        finish(model, self.quantization_config, self)
        restore_buffers(model)
        return model

    def _trainable(self, model: Any) -> Any:
        config = self.quantization_config
        if self.pre_quantized:
            self._share_tied(model)
            for name, module in quantized_modules(model):
                module.check_values(name)
            go_on_training(model, config, self.resolution)
        else:
            self.resolution = as_loaded(model, self.resolution)
            begin_training(model, config, self.resolution)
        trainer.install()
        # In training it is a float model, to Trainer and to its checkpoints.
        self.remove_quantization_config(model)
        return model

    def get_state_dict_and_metadata(self, model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Quantized weights as the tensors that go to disk."""
        return stored_state(model, model.state_dict()), {}

    def _share_tied(self, model: Any) -> None:
        # Transformers ties two weights of a checkpoint whose codes are equal, even where their scales are not.
        resolution = self.resolution
        ties = dict(resolution.ties)
        for name, owner in resolution.inventory.ties_among(resolution.plan.modules).items():
            target, source = model.get_submodule(name), model.get_submodule(owner)
            if name in ties or not isinstance(target, QuantizedModule) or not isinstance(source, QuantizedModule):
                continue
            is_on_disk = target.weight.is_meta or source.weight.is_meta
            if not is_on_disk and _same(target.neutral(), source.neutral()):
                ties[name] = owner
                continue
            model.all_tied_weights_keys.pop(f"{name}.weight", None)
        self.resolution = replace(resolution, ties=ties)
        share_tied(model, ties)

    def is_serializable(self) -> bool:
        """Quantized models are saved as they are."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Adapters train on top; the codes themselves do not."""
        return True

    @property
    def is_compileable(self) -> bool:
        """``torch.compile`` makes one graph of a quantized model."""
        return True

    @no_threads_left()
    def _dequantize(self, model: Any, dtype: torch.dtype | str | None = None) -> Any:
        # After a save, Transformers keeps config.dtype as a string.
        if isinstance(dtype, str):
            dtype = getattr(torch, dtype.removeprefix("torch."))
        dtype = dtype or model.dtype
        if dtype not in DTYPES:
            raise ConfigError(f"dequantize to torch.float32, torch.bfloat16 or torch.float16, not {dtype}")
        unfuse(model)
        attention.restore(model)
        restore_float(model, dtype)
        close(model)
        parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        model.all_tied_weights_keys = {t: s for t, s in declared_ties(model).items() if t in parameters}
        cast_floats(model, dtype)
        untag(model)
        model.config.dtype = dtype
        return model

    def remove_quantization_config(self, model: Any) -> None:
        """Forget that the model was quantized."""
        super().remove_quantization_config(model)
        # Code of models asks whether the attribute is there, not what it says.
        for module in model.modules():
            vars(getattr(module, "config", model.config)).pop("_is_quantized", None)


def finish(model: Any, config: HfQuantConfig, quantizer: HfQuantQuantizer) -> None:
    """Last steps of quantizing or loading: check values, freeze, lay weights out for kernels.

    Raises:
        CheckpointError: A tensor holds values that no quantizer writes.
    """
    for name, module in quantized_modules(model):
        module.check_values(name)
        if not module.is_offloaded:
            module.prepare()
        if not module.tied:
            for parameter, weight in module.weights.items():
                weight.name = f"{name}.{parameter}"  # for messages
    for module in model.modules():
        if isinstance(module, QuantizedModule | StoredModule):
            module.requires_grad_(False)
    for _, each in opened_modules(model):
        each.let_go()
    fuse(model)
    attention.choose(model)
    model.config.quantization_config = config
    quantizer.quantization_config = config
    tag(model)
    peft.install()
    kept = [name for name, reason in config.kept_float.items() if not reason.startswith("normalisation")]
    config.left_float = str(LeftFloat.of(model, config.kept_float))
    if config.left_float:
        logger.warning("%s. hf_quant.inspect(model) lists every module", config.left_float)
    elif kept:
        logger.info("left float: %s. hf_quant.inspect(model) tells why.", ", ".join(with_ranges(kept)))


def require_pretrained(model: Any) -> None:
    """Raise UnsupportedModel unless `model` is a Transformers model that is not quantized yet."""
    if not hasattr(model, "save_pretrained") or not hasattr(model, "config"):
        raise UnsupportedModel(f"hf_quant works on Transformers models, not on {type(model).__name__}")
    if getattr(model, "is_quantized", False) or any(True for _ in quantized_modules(model)):
        raise UnsupportedModel("the model is quantized already; call model.dequantize() first")


def as_loaded(model: Any, resolution: Resolution) -> Resolution:
    """`resolution` with the ties of the float model, which are only certain once it is loaded, and is opened here."""
    closed = Opening(model).keep(resolution.plan.modules)
    inventory = Inventory.of(model)
    opened = replace(resolution, ties=inventory.ties_among(resolution.plan.modules), inventory=inventory)
    return with_closed(opened, model, closed)


def _is_quantized(model: Any, parameter: str) -> bool:
    module, name = get_module_from_name(model, parameter)
    if isinstance(module, Opened):
        return any(stack.name == name for stack in module.stacks)
    return isinstance(module, QuantizedModule) and name == "weight"


def _same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())
