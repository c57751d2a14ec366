"""What short runs cost from their start to their film, in CPU seconds: python benchmarks/start.py [--rounds 3]

Each run with programs compiled anew, with those that the run before left, and without pictures that move, one after
the other; the median of each. `list` compiles nothing.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

RUNS = {
    "`train double-link`: 8 episodes of iLQG on learned dynamics": [],
    "5 iterations of 10 rollouts of LQR-GPS on it": ["--algorithm", "lqr-gps", "--iterations", "5", "--rollouts", "10"],
}


def seconds(words: list[str], environment: dict[str, str]) -> float:
    """CPU seconds of one command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "pilotfish", *words], env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(rounds: int) -> None:
    print("| CPU seconds | compiled anew | programs kept | programs kept, `--no-film` |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"XDG_CACHE_HOME": folder}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        for i, (name, words) in enumerate(RUNS.items()):
            train = ["train", "double-link", *words]
            found = []
            for number in range(rounds + 1):
                out = str(Path(folder) / f"{i}-{number}-")
                every = (["--no-cache", "--out", f"{out}anew"], ["--out", f"{out}kept"], ["--no-film", "--out", out])
                found.append([seconds([*train, *more], environment) for more in every])
            anew, kept, bare = np.median(found[1:], 0)  # the first round fills the folder
            print(f"| {name} | {anew:.1f} | {kept:.1f} ({kept / anew:.2f}) | {bare:.1f} ({bare / anew:.2f}) |")
        print(f"| `list` | | {np.median([seconds(['list'], environment) for _ in range(rounds)]):.1f} | |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    main(parser.parse_args().rounds)
