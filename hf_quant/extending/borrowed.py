"""What is extended, or relied on though it is private, in Transformers, PEFT, accelerate and torch: the whole list."""

from __future__ import annotations

from typing import NamedTuple


class Borrowed(NamedTuple):
    """One attribute of another library.

    Args:
        name: ``"package.module:Class.attribute"``.
        used_in: The file of this package that does so.
        reason: What for.
        is_extended: Whether it is replaced by a function that calls it, rather than only called or read.
    """

    name: str
    used_in: str
    reason: str
    is_extended: bool = False


BORROWED = (
    Borrowed("transformers:PreTrainedModel.save_pretrained", "integration/extend.py", "all or nothing", True),
    Borrowed("transformers:PreTrainedModel._upload_modified_files", "integration/extend.py", "the model card", True),
    Borrowed("transformers:PreTrainedModel.get_memory_footprint", "integration/extend.py", "bytes of codes", True),
    Borrowed("transformers:PreTrainedModel.resize_token_embeddings", "integration/extend.py", "a refusal", True),
    Borrowed("transformers:Trainer.create_optimizer", "training/trainer.py", "groups of learned grids", True),
    Borrowed("transformers:Trainer._prepare_for_training", "training/trainer.py", "optimizers of subclasses", True),
    Borrowed("transformers:Trainer._load_from_checkpoint", "training/trainer.py", "checks before resuming", True),
    Borrowed(
        "transformers.quantizers.auto:AUTO_QUANTIZER_MAPPING", "integration/register.py", "reloads of the package"
    ),
    Borrowed(
        "transformers.quantizers.auto:LOADING_ATTRIBUTES_CONFIG_TYPES",
        "integration/register.py",
        "qat=True beside a quantized checkpoint",
        True,
    ),
    Borrowed(
        "transformers.quantizers.auto:AutoHfQuantizer.merge_quantization_configs",
        "integration/foreign.py",
        "checkpoints of other programs",
        True,
    ),
    Borrowed("transformers:AttentionInterface.register", "integration/attention.py", "sdpa of chosen models", True),
    Borrowed("transformers.core_model_loading:ConversionOps", "integration/weight_ops.py", "quantizing while loading"),
    Borrowed("transformers.core_model_loading:WeightConverter", "integration/foreign.py", "tensors of a module"),
    Borrowed("transformers.core_model_loading:rename_source_key", "integration/checkpoint.py", "names in checkpoints"),
    Borrowed("transformers.core_model_loading:MergeModulelist", "integration/merged.py", "experts of one kind"),
    Borrowed("transformers:PreTrainedModel._init_weights", "integration/buffers.py", "buffers of no checkpoint"),
    Borrowed("transformers.initialization:guard_torch_init_functions", "integration/buffers.py", "weights stay"),
    Borrowed(
        "transformers.conversion_mapping:get_model_conversion_mapping", "integration/checkpoint.py", "split tensors"
    ),
    Borrowed("transformers.quantizers.quantizers_utils:should_convert_module", "quantizing/resolve.py", "skips"),
    Borrowed("torch.nn:Conv2d._conv_forward", "opening/convolutions.py", "whether a class convolves as its base does"),
    Borrowed("peft.tuners.lora.model:LoraModel._create_new_module", "integration/peft.py", "LoRA that merges", True),
    Borrowed("peft.tuners.tuners_utils:BaseTuner._inject_parameters", "integration/peft_experts.py", "a refusal", True),
    Borrowed(
        "peft.utils.transformers_weight_conversion:convert_peft_config_for_transformers",
        "integration/peft_experts.py",
        "adapters of opened experts",
        True,
    ),
    Borrowed(
        "peft.utils.transformers_weight_conversion:convert_peft_adapter_state_dict_for_transformers",
        "integration/peft_experts.py",
        "saved adapters of opened experts",
        True,
    ),
    Borrowed("torch._dynamo.config:install_free_tensors", "integration/compile.py", "weights within a graph"),
    Borrowed("torch.serialization:add_safe_globals", "integration/register.py", "state dicts in files"),
    Borrowed(
        "torch.distributed.fsdp._fully_shard._fsdp_param:FSDPParam", "modules/tensor.py", "it cuts by torch.chunk"
    ),
    Borrowed("torch.jit._recursive:jit_ignored_properties", "modules/base.py", "it asks before it copies parameters"),
)
"""A release in which one of these is gone, or does something else, is one that this package has to be looked at for."""
