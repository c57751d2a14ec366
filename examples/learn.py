import jax

import pilotfish as pf
from pilotfish.tasks.cartpole import CartPole

problem = CartPole().problem()
result = pf.train(pf.MOTO(kl_step=0.1, entropy_drop=0.1), pf.JaxWorld(problem), rollouts=100, iterations=30)
for i in (0, 9, 19, 29):
    cost, success = (result.metrics[name][0, i] for name in ("cost", "success"))
    print(f"after {100 * (i + 1):4d} rollouts: cost {cost:9.0f}, {success:4.0%} swing up and hold")

policy = result.policy  # noise-free, time-varying linear feedback u = K[t] x + k[t]
rollouts = pf.JaxWorld(problem).rollout(policy, episodes=50, key=jax.random.key(1))
print(f"learned controller: cost {rollouts.cost.sum(-1).mean():.0f}")
