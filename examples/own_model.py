"""Your own MuJoCo model: its file, and a cost in JAX. Here motors tilt a tray, so that a ball draws an eight on it."""

from pathlib import Path

import pilotfish as pf

HERE = Path(__file__).parent / "tray"
task = pf.ModelTask(model=HERE / "tray.xml", cost=HERE / "cost.py", dt=0.05)
result = pf.train(pf.LQRGPS(dynamics=pf.FittedDynamics(prior="gmm")), task.world(), rollouts=10, iterations=15)
for i in (0, 4, 9, 14):
    cost, success = (result.metrics[name][0, i] for name in ("cost", "success"))
    print(f"after {10 * (i + 1):3d} rollouts: cost {cost:7.2f}, {success:4.0%} stay within 3 cm of the eight")
