"""PEFT's adapters in the loop: what is rounded is the base weight with the adapter merged, ``W + scaling * B A``.

So the trained model is a plain quantized one, with nothing to add at inference and nothing that rounding a merge would
spoil. PEFT's layers stay where they are, with their parameters, for its checkpoints; they only compute otherwise.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from hf_quant.errors import ConfigError, UnsupportedModel
from hf_quant.qat.modules import FakeQuantized
from hf_quant.qat.options import QATOptions
from hf_quant.quantizing.config import HfQuantConfig
from hf_quant.quantizing.resolve import Resolution
from hf_quant.training.prepared import has_static_inputs

if TYPE_CHECKING:
    from peft import PeftModel


def as_adapted(model: Any) -> PeftModel | None:
    """`model`, if it is one of PEFT."""
    if importlib.util.find_spec("peft") is None:
        return None
    from peft import PeftModel

    return model if isinstance(model, PeftModel) else None


class LoraDelta:
    """What a LoRA layer adds to the weight of its base, as `qat.modules.Adapter`.

    Args:
        layer: LoRA layer of PEFT with one adapter.
        adapter: Its name.
    """

    def __init__(self, layer: Any, adapter: str):
        self.layer, self.adapter = layer, adapter

    def __call__(self, weight: Tensor) -> Tensor:
        """``weight + scaling * B A``; `weight` alone while adapters are disabled."""
        return weight if self.layer.disable_adapters else weight + self.layer.get_delta_weight(self.adapter)

    def tensors(self) -> list[Tensor]:
        """Both matrices, and whether they count."""
        if self.layer.disable_adapters:
            return []
        return [self.layer.lora_A[self.adapter].weight, self.layer.lora_B[self.adapter].weight]


class Adapters:
    """The adapters of a model, taken out and put back.

    Args:
        model: PEFT model with LoRA adapters.
        in_training: Whether layers compute in the loop already.

    Raises:
        UnsupportedModel: Something of it cannot be merged into what is rounded; the message says what to change.
    """

    def __init__(self, model: PeftModel, in_training: bool = False):
        from peft.tuners.lora import LoraLayer
        from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper

        self.base: Any = model.get_base_model()
        self.layers: dict[str, Any] = {}
        self.wrappers: dict[str, Any] = {}
        active = model.active_adapters
        if len(active) != 1 or len(model.peft_config) != 1:
            raise UnsupportedModel(
                f"the model has the adapters {', '.join(model.peft_config)}: one is trained in the loop, so delete the "
                "others (model.delete_adapter)"
            )
        self.adapter = active[0]
        _check_config(model.peft_config[self.adapter])
        for name, module in self.base.named_modules():
            if isinstance(module, LoraLayer):
                if not in_training:
                    _check_layer(module, name)
                self.layers[name] = module
            elif isinstance(module, ModulesToSaveWrapper):
                self.wrappers[name] = module
            elif isinstance(module, AuxiliaryTrainingWrapper):
                raise UnsupportedModel(f"{name} trains single tokens, which cannot be rounded: leave them out")

    def take_out(self) -> None:
        """Leave the model as it was before PEFT wrapped it."""
        for name, layer in self.layers.items():
            self.base.set_submodule(name, layer.base_layer)
        for name, wrapper in self.wrappers.items():
            self.base.set_submodule(name, wrapper.modules_to_save[self.adapter])

    def put_back(self) -> None:
        """Wrap it again, with what is in the places of the modules now; adapters are merged where those round."""
        for name, layer in self.layers.items():
            base = self.base.get_submodule(name)
            layer.base_layer = base
            if isinstance(base, FakeQuantized):
                if len(base.sharing) > 1:
                    raise UnsupportedModel(f"{name} shares its weight with another module: train no adapter on it")
                base.adapter = LoraDelta(layer, self.adapter)
                layer.__class__ = _merged_class()
            self.base.set_submodule(name, layer)
        for name, wrapper in self.wrappers.items():
            wrapper.modules_to_save[self.adapter] = self.base.get_submodule(name)
            self.base.set_submodule(name, wrapper)

    def merge_float(self) -> None:
        """Merge adapters into what was not quantized, once and for all."""
        for layer in self.layers.values():
            if not isinstance(layer.base_layer, FakeQuantized):
                layer.merge(adapter_names=[self.adapter])


def check_options(config: HfQuantConfig, resolution: Resolution, options: QATOptions | None) -> None:
    """Raise ConfigError where a checkpoint of PEFT, which holds adapters only, would not hold what is learned."""
    if options is None or options.weights != "minmax":
        raise ConfigError(
            "PEFT's checkpoints hold adapters and no learned scales: with adapters, take scales from the weights in "
            'each step, QATCallback(..., weights="minmax")'
        )
    if has_static_inputs(resolution):
        raise ConfigError(
            "PEFT's checkpoints hold adapters and no ranges of static inputs: with adapters, quantize inputs "
            "dynamically, as int8 and int4 do"
        )


def forget_adapters(base: Any, wrapper: Any) -> None:
    """Remove what PEFT leaves on a model whose adapters are merged; what was `wrapper` saves the model from now on."""
    for attribute in ("peft_config", "_hf_peft_config_loaded"):
        base.__dict__.pop(attribute, None)
    # PEFT's own would write a file of an adapter, with nothing in it.
    for method in ("save_pretrained", "push_to_hub"):
        setattr(wrapper, method, getattr(base, method))


def _merged_class() -> type[nn.Module]:
    from hf_quant.training.merged_lora import MergedInTheLoop

    return MergedInTheLoop


def _check_config(config: Any) -> None:
    from peft import LoraConfig

    if not isinstance(config, LoraConfig):
        raise UnsupportedModel(f"{type(config).__name__} adapters are not merged into what is rounded: use LoraConfig")
    if config.use_dora or getattr(config, "alora_invocation_tokens", None):
        raise UnsupportedModel("only plain LoRA is merged into what is rounded: LoraConfig without use_dora and alora")
    if config.lora_dropout:
        raise UnsupportedModel(
            f"lora_dropout={config.lora_dropout} drops inputs of the adapter alone, which has none of its own once it "
            "is merged: set lora_dropout=0"
        )
    if config.bias != "none" or config.lora_bias:
        raise UnsupportedModel('biases of adapters are not merged: LoraConfig(bias="none", lora_bias=False)')


def _check_layer(layer: Any, name: str) -> None:
    from peft.tuners.lora.layer import Linear

    if type(layer) is not Linear:
        raise UnsupportedModel(
            f"{name} is a {type(layer).__name__} adapter on a {type(layer.get_base_layer()).__name__}: adapters in the "
            "loop are those of linears; leave it out of target_modules"
        )
    if layer.merged:
        raise UnsupportedModel(f"the adapter of {name} is merged already: model.unmerge_adapter() first")
