"""Parameters that several modules share, by the names they have."""

from __future__ import annotations

from torch import nn


def shared_parameters(model: nn.Module) -> list[list[str]]:
    """Names of parameters that are one, a list each: the owner first, then in the order of declared ties.

    The owner is what Transformers declares as the source of a tie, else the first in the model. Modules with several
    names count under the first. In memory, ties are one object; on the meta device, only what is declared counts, as it
    does for a checkpoint.
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

    ties = [tuple(map(place, pair)) for pair in (getattr(model, "all_tied_weights_keys", None) or {}).items()]
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
