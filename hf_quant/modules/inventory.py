"""What of a model can be quantized, what shares a weight, and what makes the output: surveyed once and handed on."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import dataclass, field

from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_quant.config.plan import Candidate
from hf_quant.config.scheme import Scheme
from hf_quant.errors import PlanError
from hf_quant.modules.derived import is_float, way_of
from hf_quant.modules.experts import expert_layers
from hf_quant.modules.filters import Filters
from hf_quant.modules.ties import shared_parameters

_NO_HEAD = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What ``get_output_embeddings`` of models without a head raises."""


@dataclass(frozen=True)
class Inventory:
    """The modules of one model as plans see them. Call `of`.

    Args:
        candidates: Every module that can be quantized, by name, in the order of the model.
        ties: Candidate whose weight is another's, to the candidate that owns it, which is tied to none itself. Owners
            are what Transformers declares as the source of a tie, whose name is the one that it saves.
        held: Candidate whose weight is also held by what cannot be quantized with it, to the name of that.
        heads: Linears that make an output, quantized or not.
        unsupported: Other modules with parameters of their own, to the reason why they cannot be quantized.
        prefix: ``base_model_prefix``; empty where the class has none.
        experts: Linear of an expert in an opened model, to that of the layer's first expert: all of these are planned
            as one.
    """

    candidates: Mapping[str, Candidate] = field(default_factory=dict)
    ties: Mapping[str, str] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)
    heads: frozenset[str] = frozenset()
    unsupported: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    experts: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module) -> Inventory:
        """Survey a model, on any device; of quantized modules only the heads are told.

        A head is what ``get_output_embeddings`` of the model or of one inside it gives, a linear outside the base model
        (``base_model_prefix``), or one whose weight is an embedding's or a head's.
        """
        modules = dict(model.named_modules())
        groups = [group for group in shared_parameters(model) if any(name.endswith(".weight") for name in group)]
        computed = _computed(model, groups)
        found = {
            name: each
            for name, each in modules.items()
            if name and name not in computed and is_float(each) and way_of(each) is not None
        }
        prefix = getattr(model, "base_model_prefix", "") or ""
        heads = _heads(model, modules, groups, prefix)
        candidates, ties, held = {}, {}, {}
        for name, module in found.items():
            width = int(module.weight.shape[0 if isinstance(module, Conv1D) else 1])
            kind = "embedding" if isinstance(module, nn.Embedding) else "head" if name in heads else "linear"
            is_sequential = isinstance(module, Filters) and len(module.kernel_size) == 1
            candidates[name] = Candidate("filters" if isinstance(module, Filters) else kind, width, is_sequential)
        for group in groups:
            names = [name.removesuffix(".weight") for name in group]
            # A Conv1D reads along the other axis, so that codes of its rows are of no use to the others.
            axes = {name: isinstance(found[name], Conv1D) for name in names if name in found and name not in group}
            for name in axes:
                if name != (owner := next(iter(axes))):
                    ties[name] = owner
                others = [each for each in names if axes.get(each) != axes[name]]
                if others:
                    held[name] = others[0]
        unsupported = _unsupported(modules, found, computed)
        return cls(candidates, ties, held, heads, unsupported, prefix, _experts(model, found))

    def linears(self) -> list[str]:
        """Candidates that are neither embeddings nor heads."""
        return [name for name, candidate in self.candidates.items() if candidate.kind == "linear"]

    def measured(self) -> dict[str, list[str]]:
        """Candidates whose sensitivity is measured, each with all that it stands for: itself, or experts of a layer."""
        members: dict[str, list[str]] = {}
        for name in self.candidates:
            members.setdefault(self.experts.get(name, name), []).append(name)
        return members

    def group(self, name: str) -> list[str]:
        """All candidates that share the weight of one, the owner first; itself alone where none does."""
        owner = self.ties.get(name, name)
        return [owner, *(target for target, source in self.ties.items() if source == owner)]

    def carried_out(self, schemes: Mapping[str, Scheme | None], reasons: dict[str, str]) -> dict[str, Scheme]:
        """What is quantized of what is asked for: a module tied to one that stays float stays float.

        Args:
            schemes: Resolved for the candidates; absent or None stays float.
            reasons: Candidate that stays float to the reason; those that are found here are added.

        Raises:
            PlanError: Tied modules get different weight schemes.
        """
        chosen = {n: scheme for n, scheme in schemes.items() if scheme is not None and n not in reasons}
        for name in [*chosen]:
            group = self.group(name)
            floats = [self.held[each] for each in group if each in self.held]
            floats += [each for each in group if schemes.get(each) is None or each in reasons]
            if floats:
                del chosen[name]
                reasons[name] = f"tied to {floats[0]}, which stays float"
        for target, source in self.ties_among(chosen).items():
            if chosen[target].weight != chosen[source].weight:
                raise PlanError(
                    f"{target} ({chosen[target]}) is tied to {source} ({chosen[source]}): one set of codes serves "
                    "both, so give both the same weight scheme, or keep both float"
                )
        return chosen

    def ties_among(self, chosen: Container[str], in_checkpoint: Container[str] | None = None) -> dict[str, str]:
        """Ties between modules of `chosen`.

        Args:
            chosen: Names of candidates.
            in_checkpoint: Names of the parameters that a checkpoint holds, whose weights may differ though they are
                declared to be tied: all but the first such member of a group are left out.
        """
        ties = {target: source for target, source in self.ties.items() if target in chosen and source in chosen}
        if in_checkpoint is None:
            return ties
        givers: dict[str, str] = {}
        for target, source in ties.items():
            for name in (source, target):
                if f"{name}.weight" in in_checkpoint:
                    givers.setdefault(source, name)
        return {t: s for t, s in ties.items() if f"{t}.weight" not in in_checkpoint or givers[s] == t}


def _heads(model: nn.Module, modules: Mapping[str, nn.Module], groups: list[list[str]], prefix: str) -> frozenset[str]:
    linears = {name: module for name, module in modules.items() if isinstance(module, nn.Linear | Conv1D)}
    outputs = {id(part) for head in _output_embeddings(model) for part in head.modules()}
    has_base = bool(prefix) and hasattr(model, prefix)
    heads = {
        name
        for name, module in linears.items()
        if id(module) in outputs or (has_base and not name.startswith(f"{prefix}."))
    }
    for group in groups:
        members = {name.removesuffix(".weight") for name in group if name.endswith(".weight")}
        if members & heads or any(isinstance(modules.get(name), nn.Embedding) for name in members):
            heads |= members & linears.keys()
    return frozenset(heads)


def _experts(model: nn.Module, found: Collection[str]) -> dict[str, str]:
    return {
        f"{name}.{expert}.{part}": f"{name}.0.{part}"
        for name, module in expert_layers(model)
        for part in (each.removeprefix(f"{name}.0.") for each in found if each.startswith(f"{name}.0."))
        for expert in range(module.experts)
        if f"{name}.{expert}.{part}" in found
    }


def _output_embeddings(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        try:
            head = module.get_output_embeddings()  # type: ignore[operator]
        except _NO_HEAD:
            continue
        if isinstance(head, nn.Module):
            yield head


def _computed(model: nn.Module, groups: list[list[str]]) -> set[str]:
    """Modules whose weight Transformers never writes, as that of positions which are sines."""
    shared = {name for group in groups for name in group}
    unwritten = set(getattr(model, "_keys_to_ignore_on_save", None) or ()) - shared
    return {name.removesuffix(".weight") for name in unwritten if name.endswith(".weight")}


def _unsupported(modules: Mapping[str, nn.Module], found: Collection[str], computed: Collection[str]) -> dict[str, str]:
    reasons = {}
    for name, module in modules.items():
        if name in found or not any(True for _ in module.parameters(recurse=False)):
            continue
        kind = type(module).__name__
        if name in computed:
            reasons[name] = "computed by the model: Transformers saves no weight of it"
        elif "norm" in kind.lower():
            reasons[name] = "normalisation: few weights, sensitive"
        elif is_float(module) and not isinstance(module, nn.Embedding):
            reasons[name] = f"its class computes something else than a linear: {kind}"
        elif is_float(module):
            reasons[name] = f"its class computes something else than an embedding, or reads all of it: {kind}"
        elif all(parameter.ndim < 2 for parameter in module.parameters(recurse=False)):
            reasons[name] = "holds vectors only, such as a bias"
        else:
            reasons[name] = f"no quantized counterpart for {kind}"
    return reasons
