"""Parameters that several modules share, by the names they have."""

from __future__ import annotations

from torch import nn

from hf_quant.modules.opened import opened_modules


def declared_ties(model: nn.Module) -> dict[str, str]:
    """What Transformers declares to be tied, a parameter's name to its source's.

    Of tensors that are taken apart, such as those of opened experts, it is their parts.
    """
    parts = {
        f"{name}.{stack.name}": [f"{name}.{part}" for part in module.parts(stack)]
        for name, module in opened_modules(model)
        for stack in module.stacks
    }
    declared: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    return {
        target: source
        for names in declared.items()
        for target, source in zip(*(parts.get(name, [name]) for name in names), strict=False)
    }


def shared_parameters(model: nn.Module) -> list[list[str]]:
    """Names of parameters that are one, a list each: the owner first, then in the order of declared ties.

    Of tensors that are taken apart, it is their parts. The owner is what Transformers declares as the source of a tie,
    else the first in the model. Modules with several names count under the first. In memory, ties are one object; on
    the meta device, only what is declared counts, as it does for a checkpoint.
    """
    first: dict[int, str] = {}
    modules = {name: first.setdefault(id(each), name) for name, each in model.named_modules(remove_duplicate=False)}
    found = {
        f"{name}.{key}".removeprefix("."): parameter
        for name, module in model.named_modules()
        for key, parameter in module._parameters.items()
        if parameter is not None
    }

    def place(name: str) -> str:
        parent, _, key = name.rpartition(".")
        return f"{modules.get(parent, parent)}.{key}".removeprefix(".")

    owners: dict[str, str] = {}

    def owner(name: str) -> str:
        while name in owners:
            name = owners[name]
        return name

    ties = [(place(target), place(source)) for target, source in declared_ties(model).items()]
    ties = [(target, source) for target, source in ties if target in found and source in found]
    objects: dict[int, str] = {}
    for name in dict.fromkeys([*(source for _, source in ties), *found]):
        if not found[name].is_meta:
            ties.append((name, objects.setdefault(id(found[name]), name)))
    for target, source in ties:
        is_one = found[target] is found[source] or found[target].is_meta or found[source].is_meta
        if is_one and owner(target) != owner(source):
            owners[owner(target)] = owner(source)
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys([*(target for target, _ in ties), *found]):
        if name in owners:
            groups.setdefault(owner(name), [owner(name)]).append(name)
    return list(groups.values())
