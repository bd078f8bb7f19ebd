"""The contract of an export target."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hf_quant.errors import ConfigError, MissingDependency
from hf_quant.registry import unknown


@dataclass(frozen=True)
class Comparison:
    """What an artefact computes in its own runtime, against the model that it was made of.

    Args:
        runtime: Name and version of what ran it.
        figures: What was measured, to a number.
        is_right: Whether the numbers are what the target promises.
        note: What else to know, in a sentence.
    """

    runtime: str
    figures: Mapping[str, float]
    is_right: bool
    note: str = ""

    def __str__(self) -> str:
        figures = ", ".join(f"{name} {value:.2g}" for name, value in self.figures.items())
        return f"{self.runtime}: {figures}: {'right' if self.is_right else 'WRONG'}" + (
            f"; {self.note}" * bool(self.note)
        )


@dataclass(frozen=True)
class Target:
    """How a quantized model is written for another program.

    Args:
        write: Called as ``write(model, directory, tokenizer, **options)``, after no module was refused: writes the
            files into an empty folder. `model` is in memory, in eval mode, and must be left as it was; `tokenizer` may
            be None. Keyword-only parameters are the options that users may give. Raises ExportError for what it finds
            only then.
        run: How to run what was written, line by line; ``{directory}`` stands for where it is, ``{model}`` for the
            class of the model.
        packages: Packages that `write` imports, by the names that they are imported under.
        runtime: Packages that `verify` needs, likewise.
        extra: Extra of this package that installs both; empty if there is none.
        verify: Called as ``verify(model, directory)`` on what was written, which is not yet where it goes to; None
            where nothing here can run it.
        takes_tokenizer: Whether files of the tokenizer, and the generation config, are put beside what was written.
    """

    write: Callable[..., None]
    run: tuple[str, ...]
    packages: tuple[str, ...] = ()
    runtime: tuple[str, ...] = ()
    extra: str = ""
    verify: Callable[[Any, Path], Comparison] | None = None
    takes_tokenizer: bool = field(default=True)

    def require(self, packages: tuple[str, ...], purpose: str) -> None:
        """Raise MissingDependency, which says what to install, unless all packages are here."""
        missing = [name for name in packages if find_spec(name) is None]
        if missing:
            what = f'"hf-quant[{self.extra}]"' if self.extra else " ".join(missing).replace("_", "-")
            raise MissingDependency(f"{purpose} needs {', '.join(missing)}: pip install {what}")

    @property
    def can_verify(self) -> bool:
        """Whether there is a runtime here to run what was written in."""
        return self.verify is not None and all(find_spec(name) is not None for name in self.runtime)

    @property
    def options(self) -> list[str]:
        """Names of the options that `write` takes."""
        parameters = inspect.signature(self.write).parameters.values()
        return [each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]

    def check_options(self, name: str, options: Mapping[str, Any]) -> None:
        """Raise ConfigError for an option that `write` does not take."""
        for option in options:
            if option not in self.options:
                raise ConfigError(unknown(f"option of the target {name}", option, self.options or ["none at all"]))

    def how_to_run(self, model: str, directory: Path | str) -> list[str]:
        """The lines of `run` for a model's class and a directory."""
        return [line.replace("{directory}", str(directory)).replace("{model}", model) for line in self.run]

    def versions(self) -> dict[str, str]:
        """Versions of the packages, as far as they are here."""
        found = {}
        for name in dict.fromkeys(["torch", "transformers", *self.packages, *self.runtime]):
            try:
                found[name] = version(name.replace("_", "-"))
            except PackageNotFoundError:
                continue
        return found
