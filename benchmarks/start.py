"""What a short run costs from its start to its film, in CPU seconds: python benchmarks/start.py [--rounds 3]

The same run with programs compiled anew, with those that the run before left, and without pictures, one after the
other; the median of each. `list` compiles nothing.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

RUN = ["train", "double-link", "--algorithm", "moto", "--iterations", "5", "--rollouts", "30"]


def seconds(words: list[str], environment: dict[str, str]) -> float:
    """CPU seconds of one command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "pilotfish", *words], env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(rounds: int) -> None:
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"XDG_CACHE_HOME": folder}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        for number in range(rounds + 1):
            out = ["--out", str(Path(folder) / f"run-{number}")]
            for name, words in (
                ("`list`", ["list"]),
                ("compiled anew", [*RUN, *out, "--no-cache"]),
                ("programs kept", [*RUN, *(f"{word}-kept" if word == out[1] else word for word in out)]),
                ("programs kept, `--no-film`", [*RUN, "--no-film", "--out", f"{out[1]}-bare"]),
            ):
                times.setdefault(name, []).append(seconds(words, environment))
    print("| 5 iterations of 30 rollouts on double-link | CPU seconds | of those of compiling anew |\n|---|---|---|")
    medians = {name: float(np.median(found[1:])) for name, found in times.items()}  # the first round fills the folder
    for name, found in medians.items():
        print(f"| {name} | {found:.1f} | {found / medians['compiled anew']:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    main(parser.parse_args().rounds)
