"""What a checkpoint of another program is as one of ours: schemes and headers, which its numbers decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hf_quant.config.scheme import Scheme
from hf_quant.importing.headers import DTYPES, Headers
from hf_quant.importing.source import Source


@dataclass(frozen=True)
class Described:
    """A `Source`, and what becomes of it.

    Args:
        source: The checkpoint.
        schemes: Scheme of each quantized module.
        headers: Tensor name to shape and dtype, as one of our checkpoints has them.
    """

    source: Source
    schemes: Mapping[str, Scheme]
    headers: Headers

    @classmethod
    def of(cls, source: Source) -> Described:
        """Read each weight once, one at a time: zero points, the lowest codes and the order of groups decide.

        Raises:
            CheckpointError: A tensor is damaged.
            LayoutError: Our formats cannot hold a weight bit for bit.
        """
        schemes: dict[str, Scheme] = {}
        headers = {name: source.headers[name] for name in source.rest()}
        with source.reader() as reader:
            for name in source.modules:
                schemes[name], tensors = reader.converted(name)
                headers |= {f"{name}.{key}": (tuple(each.shape), DTYPES[each.dtype]) for key, each in tensors.items()}
        schemes |= {name: schemes[owner] for name, owner in source.ties.items() if owner in schemes}
        return cls(source, schemes, headers)
