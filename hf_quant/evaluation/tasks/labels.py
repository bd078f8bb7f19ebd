"""Class numbers of a dataset's labels, as the models number them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets

from hf_quant.errors import EvaluationError


class Labels:
    """Maps a dataset's labels to the models' class numbers: by name where both sides have names, else by number.

    Args:
        id2label: Class numbers to names, from the models' configs.
        names: The dataset's names for its own numbers; None where labels are plain numbers or strings.
        given: Labels of the dataset to the models' class numbers or names, from the user; None: found by name.

    Raises:
        EvaluationError: `given` leads to a class that the models do not have.
    """

    def __init__(
        self, id2label: Mapping[Any, str], names: Sequence[str] | None, given: Mapping[Any, Any] | None = None
    ):
        self.id2label = {int(number): str(name) for number, name in id2label.items()}
        self.numbers = {name.lower(): number for number, name in self.id2label.items()}
        # LABEL_0 and so on says nothing: numbers are then taken as they are.
        self.is_named = self.id2label != {number: f"LABEL_{number}" for number in self.id2label}
        self.names = names if self.is_named or given is not None else None
        self.given = None if given is None else {str(label): self._target(target) for label, target in given.items()}

    def _target(self, target: Any) -> int:
        number = self.numbers.get(str(target).lower(), target)
        if number not in self.id2label:
            raise EvaluationError(f"labels leads to {target!r}, which is no class of the models: {self.id2label}")
        return int(number)

    def number(self, label: Any, where: str) -> int:
        """The models' class number for a label of the dataset.

        Args:
            label: Label, a number or a string.
            where: Row and column of the label, for error messages.

        Raises:
            EvaluationError: The models have no such class.
        """
        said, number, has_name = f"{label!r},", label, False
        if self.names is not None and isinstance(label, int) and 0 <= label < len(self.names):
            label, has_name = self.names[label], True
            said = f"{number}, {label!r},"
        if self.given is not None:
            found = next((self.given[key] for key in (str(label), str(number)) if key in self.given), None)
            if found is None:
                raise EvaluationError(
                    f"{where} is {said} which labels=... (--label) has not: {list(self.given)}; give each label, or "
                    "leave out the row"
                )
            return found
        if isinstance(label, str):
            found = self.numbers.get(label.lower())
            # A name that is another number than its own, such as that of stars, says nothing of the models' numbers.
            if found is None and label.lstrip("-").isdigit() and not (has_name and label != str(number)):
                found = int(label)
        else:
            found = int(label) if isinstance(label, int | float) and float(label).is_integer() else None
        if found is None or found not in self.id2label:
            raise EvaluationError(
                f"{where} is {said} which is no class of the models ({', '.join(self.id2label.values())}): say "
                f"which one it stands for by labels={{{label!r}: ...}}, or --label {label}=..., or leave out the row"
            )
        return found


def class_names(feature: Any) -> list[str] | None:
    """Names of the class numbers in a column, or in its lists; None if the column's type names none."""
    while isinstance(feature, datasets.Sequence | datasets.List | datasets.LargeList):
        feature = feature.feature
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None
