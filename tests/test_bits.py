"""Numbers that must agree to the bit, in programs that XLA compiles as it does for users: without short cuts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LOOP = "conformance/test_algorithms.py::test_loop_equals_scan_goes_on_where_it_stopped_and_compiles_once"
SEEDS = "runs/test_loop.py::test_a_seed_alone_equals_the_seed_among_others"
METRICS = "runs/test_store.py::test_metrics_are_exact_and_shaped_seed_by_iteration"
SOME = (f"{SEEDS}[reps]",)
ALL = (LOOP, "runs/test_loop.py::test_a_split_scan_equals_the_whole", SEEDS, METRICS)


@pytest.mark.slow
@pytest.mark.parametrize("names", [SOME, ALL], ids=["some", "all"])
def test_host_loop_scan_and_single_seeds_agree_to_the_bit(names):
    options = ["-n", "0", "-p", "no:cacheprovider"]
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    command = [sys.executable, "-m", "pytest", *options, *(str(TESTS / name) for name in names)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
