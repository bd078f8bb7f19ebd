import time

import pytest
import torch

from hf_quant.evaluation.clock import clock_for


def test_work_on_the_cpu_is_timed_by_the_processor():
    clock = clock_for(torch.device("cpu"))
    assert clock.name == "perf_counter"
    assert 0.02 <= clock.seconds(lambda: time.sleep(0.02)) < 2


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_work_on_a_device_is_timed_by_its_own_events(kind):
    if not getattr(torch, kind).is_available():
        assert clock_for(torch.device(kind)).name == f"{kind} events"
        return
    matrix = torch.randn(1024, 1024, device=kind)
    assert 0 < clock_for(torch.device(kind)).seconds(lambda: matrix @ matrix) < 1


def test_devices_without_events_are_waited_for():
    assert "synchronized" in clock_for(torch.device("xpu")).name
