"""Labels of data to class numbers of models."""

import datasets
import pytest

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.tasks.labels import Labels, class_names

NAMED = {0: "NEGATIVE", 1: "POSITIVE"}
UNNAMED = {0: "LABEL_0", 1: "LABEL_1"}


@pytest.mark.parametrize(
    ("id2label", "names", "given", "label", "number"),
    [
        (NAMED, None, None, "positive", 1),
        (NAMED, None, None, 1, 1),
        (NAMED, None, None, 1.0, 1),
        (NAMED, None, None, "1", 1),
        ({"0": "NEGATIVE", "1": "POSITIVE"}, None, None, "Positive", 1),
        # The dataset numbers its labels the other way round; names decide.
        (NAMED, ["positive", "negative"], None, 0, 1),
        (NAMED, ["positive", "negative"], None, "positive", 1),
        # One of the data's names is of no class, but rows need not have it.
        (NAMED, ["positive", "negative", "unknown"], None, 1, 0),
        (NAMED, ["0", "1"], None, 1, 1),
        (UNNAMED, ["positive", "negative"], None, 0, 0),
        (UNNAMED, None, None, "LABEL_1", 1),
        (NAMED, None, {"pos": "POSITIVE", "neg": 0}, "pos", 1),
        (NAMED, None, {"pos": "POSITIVE", "neg": 0}, "neg", 0),
        (NAMED, None, {5: "positive"}, 5, 1),
        (NAMED, ["pos", "neg"], {"pos": "POSITIVE", "neg": 0}, 0, 1),
        (NAMED, ["pos", "neg"], {0: "POSITIVE", 1: 0}, 0, 1),
        (UNNAMED, ["pos", "neg"], {"pos": 1, "neg": 0}, 0, 1),
    ],
)
def test_labels_are_numbered_as_the_models_number_them(id2label, names, given, label, number):
    assert Labels(id2label, names, given).number(label, "row 0") == number


@pytest.mark.parametrize("label", [2, -1, "great", "7", None, 0.5, [1]])
def test_labels_that_the_models_do_not_have_are_refused_with_how_to_translate_them(label):
    with pytest.raises(EvaluationError, match=r"row 3 of label is .*NEGATIVE, POSITIVE.*labels="):
        Labels(NAMED, None).number(label, "row 3 of label")


@pytest.mark.parametrize("names", [["pos", "neg"], ["positive", "bad"], ["1", "2"]], ids=["none", "one", "stars"])
def test_names_that_do_not_match_are_not_taken_for_numbers(names):
    with pytest.raises(
        EvaluationError, match=rf"row 3 is 1, '{names[1]}', which is no class.*--label {names[1]}=\.\.\."
    ):
        Labels(NAMED, names).number(1, "row 3")


def test_a_translation_has_to_hold_every_label_and_lead_to_a_class():
    with pytest.raises(EvaluationError, match=r"row 3 is 'neutral', which labels=\.\.\. .* has not: \['pos'\]"):
        Labels(NAMED, None, {"pos": 1}).number("neutral", "row 3")
    with pytest.raises(EvaluationError, match="leads to 'good', which is no class of the models"):
        Labels(NAMED, None, {"pos": "good"})


def test_names_of_classes_are_found_in_columns_of_lists_too():
    kind = datasets.ClassLabel(names=["a", "b"])
    assert class_names(kind) == class_names(datasets.Sequence(kind)) == class_names(datasets.List(kind)) == ["a", "b"]
    assert class_names(datasets.Value("int64")) is None
