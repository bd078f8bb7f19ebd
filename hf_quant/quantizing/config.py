"""`HfQuantConfig`: what a user passes to ``from_pretrained``, and what ``config.json`` keeps."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from transformers.utils.quantization_config import QuantizationConfigMixin

from hf_quant.calibration.data import Calibration
from hf_quant.config.name_ranges import folded, unfolded
from hf_quant.config.overrides import Override
from hf_quant.config.plan import FORMAT_VERSION, Candidate, Plan, check_format_version
from hf_quant.config.recipe import Recipe
from hf_quant.config.request import Request
from hf_quant.config.scheme import Scheme
from hf_quant.errors import ConfigError
from hf_quant.importing.described import Described
from hf_quant.importing.source import Source, folder_of
from hf_quant.quantizing.left_float import OF_SOURCE
from hf_quant.registry import unknown

QUANT_METHOD = "hf_quant"


class HfQuantConfig(QuantizationConfigMixin):
    """How to quantize a model: one of a preset, a scheme or a plan, with exceptions.

    ```python
    HfQuantConfig("int4")
    HfQuantConfig("int4", overrides={"*.down_proj": "int8", "re:model\\\\.layers\\\\.0\\\\..*": None})
    HfQuantConfig(scheme=Scheme(weight=TensorScheme(bits=3, symmetric=False, granularity="group", group_size=64)))
    HfQuantConfig(plan=Plan({"*.mlp.*": scheme}))
    ```

    Args:
        preset: ``fp32 fp16 bf16 int16 int8 int8-static w8a16 int4 w4a16``: linears as the name says; embeddings and
            heads INT8 per row for integer presets of at most 8 bits.
        scheme: A scheme for every linear; embeddings and heads are INT8 per row, the head with the scheme's input.
        plan: Patterns to schemes. Modules that no pattern matches stay float.
        overrides: Patterns to a preset's name, a scheme or None (keep float), on top of `preset` or `scheme`.
            An exact name wins over patterns; among patterns the last that matches wins.
        rotation: Block size of a Hadamard rotation of every integer weight whose width it divides, and of the inputs to
            match (`TensorScheme.rotation`), instead of what the preset says: 64 for weights of 8 bits. 0 turns it off.
        recipe: Algorithms for the weights and static inputs (`Recipe`); without one, weights are rounded to nearest.
            What else it says counts as if it were said here. `from_recipe` takes one from a file.
        calibration: Data for what needs any. It is not written to ``config.json``; its fingerprint is.
        modules_to_not_convert: Names, starts or ends of names, or regular expressions, of modules to keep float, as in
            every Transformers quantizer, and all that is in them. A module tied to one of them stays float with it.
        kept_float: Module name to the reason why it stayed float; written when a model is quantized.
        kept_float_ranges: The same for names with ranges, such as ``layers.{0-47}.mlp``.
        left_float: How much stays float though nobody asked for it, in a sentence; written when a model is quantized.
        calibration_fingerprint: Digest of the data that a model was quantized with; written when it is.
        qat: Give a model that trains with quantization in the loop, in place of a quantized one. A checkpoint that is
            quantized already goes on from its codes and grids; nothing else need be said of it. `hf_quant.convert` then
            makes it a quantized model.
        format_version: Version of the checkpoint's layout; written when a model is saved.
        quant_method: Accepted because ``config.json`` holds it.

    Raises:
        ConfigError: Unknown names or keys, values of the wrong type, more than one of preset, scheme and plan, or
            something else here than in the recipe.
    """

    def __init__(
        self,
        preset: str | None = None,
        *,
        scheme: Scheme | Mapping[str, Any] | None = None,
        plan: Plan | Mapping[str, Any] | None = None,
        overrides: Mapping[str, Override] | None = None,
        rotation: int | None = None,
        recipe: Recipe | Mapping[str, Any] | None = None,
        calibration: Calibration | None = None,
        modules_to_not_convert: Sequence[str] | None = None,
        kept_float: Mapping[str, str] | None = None,
        kept_float_ranges: Mapping[str, str] | None = None,
        left_float: str = "",
        calibration_fingerprint: str | None = None,
        qat: bool = False,
        format_version: int = FORMAT_VERSION,
        quant_method: str = QUANT_METHOD,
        **unknown_keys: Any,
    ):
        check_format_version(format_version)
        if quant_method != QUANT_METHOD:
            raise ConfigError(f"HfQuantConfig reads quant_method {QUANT_METHOD!r}, not {quant_method!r}")
        for key in unknown_keys:
            known = [name for name in signature(HfQuantConfig).parameters if name != "unknown_keys"]
            raise ConfigError(unknown("HfQuantConfig key", key, known))
        self.recipe = Recipe.from_dict(recipe) if isinstance(recipe, Mapping) else recipe
        self.calibration = calibration
        self.calibration_fingerprint = calibration_fingerprint
        if not isinstance(self.recipe, Recipe | None) or not isinstance(calibration, Calibration | None):
            raise ConfigError("recipe takes a Recipe or what its to_dict() writes, and calibration a Calibration")
        if not isinstance(qat, bool):
            raise ConfigError(f"qat is True or False, not {qat!r}")
        self.qat = qat
        self.quant_method = QUANT_METHOD
        self.format_version = format_version
        for key, value in (("kept_float", kept_float), ("kept_float_ranges", kept_float_ranges)):
            if not isinstance(value, Mapping | None):
                raise ConfigError(f"{key} takes a dict, not {value!r}")
        if not isinstance(left_float, str):
            raise ConfigError(f"left_float takes a sentence, not {left_float!r}")
        Request(preset)  # checks the name
        # A model's own config has the plan that was carried out, and the preset for people.
        is_written = kept_float is not None and plan is not None
        asked: dict[str, Any] = {"preset": None if is_written else preset, "scheme": scheme, "plan": plan}
        asked |= {"overrides": overrides, "rotation": rotation, "modules_to_not_convert": modules_to_not_convert}
        request = Request(**asked)
        if self.recipe is not None and kept_float is None:
            request = request.joined(self.recipe)
        if request.asked() or self.recipe is not None or not self.qat:
            request.require_target()
        self.preset = preset if is_written else request.preset
        self.scheme, self.plan = request.scheme, request.plan
        self.overrides, self.rotation = dict(request.overrides), request.rotation
        self.modules_to_not_convert = list(request.modules_to_not_convert) or None
        self.kept_float = unfolded(_texts(kept_float), _texts(kept_float_ranges))
        self.left_float = left_float
        self.foreign: Described | None = None
        """The checkpoint of another program that the plan is of; see `from_checkpoint`."""

    @property
    def request(self) -> Request:
        """What is asked for; of a model's own config, the plan that was carried out."""
        preset = self.preset if self.plan is None else None
        names = tuple(self.modules_to_not_convert or ())
        return Request(preset, self.scheme, self.plan, self.overrides, self.rotation, names)

    @classmethod
    def from_recipe(
        cls, recipe: Recipe | Mapping[str, Any] | str | Path, calibration: Calibration | None = None
    ) -> HfQuantConfig:
        """The config of a recipe, of a YAML file, or of one that comes with the package by its name, with its data.

        Raises:
            ConfigError: The file cannot be read, or is no recipe.
        """
        return cls(
            recipe=Recipe.from_file(recipe) if isinstance(recipe, str | Path) else recipe, calibration=calibration
        )

    @classmethod
    def from_checkpoint(cls, source: str | Path) -> HfQuantConfig:
        """The config to open a checkpoint of GPTQ, AWQ, compressed-tensors or bitsandbytes with, bit for bit.

        ```python
        config = HfQuantConfig.from_checkpoint("user/model-GPTQ")
        model = AutoModelForCausalLM.from_pretrained("user/model-GPTQ", quantization_config=config)
        ```

        Args:
            source: Folder or repository id of the checkpoint; all of its weights are read once, one at a time.

        Raises:
            ConfigError: It is no checkpoint of a program that is known.
            LayoutError: Our formats cannot hold it bit for bit; the message says what to take instead.
            CheckpointError: A file is damaged, or tensors do not belong together.
        """
        return cls.of_described(Described.of(Source.open(folder_of(source))))

    @classmethod
    def of_described(cls, described: Described) -> HfQuantConfig:
        """The config of a checkpoint of another program that was read already."""
        matrices = [name for name in described.source.rest() if len(described.headers[name][0]) == 2]
        kept = {name.removesuffix(".weight"): OF_SOURCE for name in matrices if name.endswith(".weight")}
        config = cls(plan=Plan(described.schemes), kept_float=kept)
        config.foreign = described
        return config

    def requested_plan(self, candidates: Mapping[str, Candidate]) -> Plan:
        """The plan for a model with these modules, before ties and skips are looked at.

        Raises:
            ConfigError: ``qat=True`` was all that was said.
            PlanError: A pattern matches nothing, or a group size does not divide a width.
        """
        request = self.request
        if self.qat and not request.targets():
            raise ConfigError(
                "qat=True alone is for checkpoints that are quantized, and this model is float: say to what as well, "
                'such as HfQuantConfig("int4", qat=True)'
            )
        return request.requested_plan(candidates)

    def resolved(
        self, plan: Plan, kept_float: Mapping[str, str], calibration_fingerprint: str | None = None
    ) -> HfQuantConfig:
        """A config of the plan that a model was really quantized with; preset and recipe are kept for people."""
        return HfQuantConfig(
            self.preset,
            plan=plan,
            kept_float=dict(kept_float),
            recipe=self.recipe,
            calibration_fingerprint=calibration_fingerprint or self.calibration_fingerprint,
        )

    def get_loading_attributes(self) -> dict[str, Any]:
        """What counts of a config that is given beside the one in a quantized checkpoint."""
        return {"qat": True} if self.qat else {}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; ``HfQuantConfig(**config.to_dict())`` is equal. Without the plan within ``torch.compile``."""
        values: dict[str, Any] = {"quant_method": self.quant_method, "format_version": self.format_version}
        if torch.compiler.is_compiling():
            return values  # encoder-decoders ask for the names of their config's keys, and a plan has thousands
        values |= self.request.to_dict()
        if self.preset is not None:
            values["preset"] = self.preset
        if self.plan is not None:
            values["kept_float"], ranges = folded(self.kept_float)
            if ranges:
                values["kept_float_ranges"] = ranges
        if self.left_float:
            values["left_float"] = self.left_float
        if self.recipe is not None:
            values["recipe"] = self.recipe.to_dict()
        if self.calibration_fingerprint is not None:
            values["calibration_fingerprint"] = self.calibration_fingerprint
        if self.qat:
            values["qat"] = True
        return copy.deepcopy(values)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Items of `to_dict`, so that ``dict(config)`` is JSON-ready."""
        return iter(self.to_dict().items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HfQuantConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]


def _texts(values: Mapping[Any, Any] | None) -> dict[str, str]:
    return {str(key): str(value) for key, value in (values or {}).items()}
