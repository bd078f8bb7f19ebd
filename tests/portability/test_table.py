from pathlib import Path

from hf_quant.portability import TARGETS
from hf_quant.portability.table import ROWS, markdown

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy.md"


def test_the_table_of_the_document_is_that_of_the_code():
    assert markdown() in DEPLOY.read_text(encoding="utf-8")


def test_no_two_rows_show_the_same_module():
    assert len({repr(part) for part in ROWS.values()}) == len(ROWS)


def test_every_target_takes_some_rows_and_refuses_others():
    for target in TARGETS:
        kinds = {TARGETS[target].verdict(part).kind for part in ROWS.values()}
        assert "refused" in kinds and len(kinds) > 1
