"""What a sweep costs, in CPU seconds: python benchmarks/sweep.py [--task double-link] [--iterations 25]

Five values of `kl_step`, three seeds each, as runs of their own and as one sweep, whose arms share one program: with
programs compiled anew, then with those that this left. All judge and keep what they learned, and draw no films.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from pilotfish.runs.store import Run

VALUES = ("0.03", "0.05", "0.1", "0.2", "0.3")


def seconds(words: list[str], environment: dict[str, str]) -> float:
    """CPU seconds of one command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "pilotfish", *words], env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(task: str, iterations: int, rollouts: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = os.environ | {"XDG_CACHE_HOME": name}
        for setting in ("JAX_COMPILATION_CACHE_DIR", "TF_CPP_MIN_LOG_LEVEL"):  # the second is set by importing jax here
            environment.pop(setting, None)
        sizes = ["--seeds", "3", "--iterations", str(iterations), "--rollouts", str(rollouts)]
        naive = 0.0
        for value in VALUES:
            words = [
                "train",
                task,
                "--algorithm",
                "moto",
                *sizes,
                "--algorithm.kl-step",
                value,
                "--no-film",
                "--no-cache",
            ]
            naive += seconds([*words, "--out", str(folder / value)], environment)
        sweep = ["sweep", task, "--algorithm", "moto", *sizes, "--algorithm.kl-step", ",".join(VALUES), "--out"]
        first = seconds([*sweep, str(folder / "first")], environment)
        second = seconds([*sweep, str(folder / "second")], environment)
        done = seconds([*sweep, str(folder / "second")], environment)
        alike = sum(
            Run.open(folder / value).metrics()["cost"].tobytes()
            == Run.open(folder / "first" / f"kl_step={value}").metrics()["cost"].tobytes()
            for value in VALUES
        )
    print(f"| 5 values x 3 seeds, {iterations} iterations of {rollouts} rollouts on {task} | CPU seconds | ratio |")
    print("|---|---|---|")
    for what, found in (
        ("five runs, programs compiled anew", naive),
        ("one sweep, the first time", first),
        ("one sweep, programs kept", second),
        ("the same sweep again, all of it done", done),
    ):
        print(f"| {what} | {found:.1f} | {found / naive:.3f} |")
    print(f"\nArms whose costs are those of their run to the bit: {alike} of {len(VALUES)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="double-link")
    parser.add_argument("--iterations", type=int, default=25)
    parser.add_argument("--rollouts", type=int, default=30)
    arguments = parser.parse_args()
    main(arguments.task, arguments.iterations, arguments.rollouts)
