"""What it costs to let seeds learn on a cluster, and how that scales: python benchmarks/cluster.py [--seeds 12]

The same seeds here, one after the other, and on clusters of this machine, of one and of two nodes with a core each,
whose workers have compiled before. Seeds of one short iteration show what a task costs by itself; longer ones what is
gained. The bits are compared as well. Pin it to two cores that nobody else uses.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pilotfish import algorithms, tasks
from pilotfish.runs import cluster, parts
from pilotfish.runs.spec import Spec
from pilotfish.runs.store import Run

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


def spec(task: str, algorithm: str, seeds: range, iterations: int, rollouts: int) -> Spec:
    made = (task, tasks.find(task).make()), (algorithm, algorithms.find(algorithm).make())
    return Spec.of(*made, rollouts=rollouts, iterations=iterations, seeds=seeds, checkpoint_every=iterations)


def here(run: Run) -> None:
    with run.writing():
        parts.finish(run)


def seconds(learn: Callable[[Run], None], path: Path, spec: Spec) -> float:
    """Wall time of learning, the programs of which are compiled before."""
    began = time.perf_counter()
    learn(Run.create(path, spec))
    return time.perf_counter() - began


def main(count: int) -> None:
    from ray.cluster_utils import Cluster

    short = spec("lq", "reps", range(count), 1, 10), "one iteration of 10 rollouts on lq"
    long = spec("double-link", "lqr-gps", range(count), 20, 50), "20 iterations of 50 rollouts on double-link"
    with tempfile.TemporaryDirectory() as name:
        folder, number = Path(name), 0
        found: dict[tuple[int, str], tuple[float, Path]] = {}
        found_nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})

        def there(run: Run) -> None:
            cluster.finish([run], "auto")

        import ray

        for nodes, learn in ((0, here), (1, there), (2, there)):
            if nodes == 1:
                ray.init(address=found_nodes.address, log_to_driver=False)
            if nodes == 2:
                found_nodes.add_node(num_cpus=1)
                time.sleep(5.0)
            for settings, what in (short, long):
                seconds(learn, folder / f"warm{number}", settings)
                found[nodes, what] = seconds(learn, folder / f"run{number}", settings), folder / f"run{number}"
                number += 1
        print(
            f"| {count} seeds of | here, s | one node, s | two nodes, s | a task, ms | two nodes to one | same bits |"
        )
        print("|---|---|---|---|---|---|---|")
        for what in (short[1], long[1]):
            alone, one, two = (found[nodes, what][0] for nodes in range(3))
            metrics = {(found[nodes, what][1] / "metrics.csv").read_bytes() for nodes in range(3)}
            each = f"{1e3 * (one - alone) / count:.0f}"
            same = "yes" if len(metrics) == 1 else "no"
            print(f"| {what} | {alone:.2f} | {one:.2f} | {two:.2f} | {each} | {one / two:.2f} | {same} |", flush=True)
        ray.shutdown()
        found_nodes.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=12)
    main(parser.parse_args().seeds)
