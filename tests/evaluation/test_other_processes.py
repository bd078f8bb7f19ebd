import subprocess
import sys
import time

from hf_quant.evaluation.other_processes import OtherProcesses, _own_seconds

BURN = "import time; end = time.process_time() + 0.8\nwhile time.process_time() < end: pass"


def test_own_work_and_that_of_children_counts_as_own():
    before = _own_seconds()
    subprocess.run([sys.executable, "-c", BURN], check=True)
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert _own_seconds() - before > 0.9


def test_work_of_a_process_that_is_no_child_is_seen():
    others = OtherProcesses()
    # The shell ends at once, and its child is nobody's.
    subprocess.run(["sh", "-c", '"$0" -c "$1" &', sys.executable, BURN], check=True)
    end = time.monotonic() + 20
    while others.cores() < 0.2:
        assert time.monotonic() < end
        time.sleep(0.1)
