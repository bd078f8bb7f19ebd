"""`QATCallback` under FSDP2 in two processes: what is promised of several processes, on parameters that are cut."""

import pytest

from tests.integration import test_qat_distributed as distributed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sharded_folder(tmp_path_factory):
    return distributed.in_one_and_in_two(tmp_path_factory.mktemp("sharded"), distributed.SHARDED)


@pytest.mark.parametrize(
    "promise",
    [
        distributed.test_the_loss_curve_is_that_of_one_process,
        distributed.test_all_ranks_end_with_the_same_bits,
        distributed.test_what_is_saved_is_what_each_rank_holds_and_reloads,
        distributed.test_codes_are_nearly_those_of_one_process,
    ],
)
@pytest.mark.parametrize("case", distributed.SHARDED)
def test_what_holds_of_several_processes_holds_of_cut_parameters(case, promise, sharded_folder):
    promise(case, sharded_folder)
