"""Every task is an environment of Gymnasium, for algorithms that are not ours: here actions by chance."""

import gymnasium

import pilotfish

gymnasium.register_envs(pilotfish)
env = gymnasium.make("pilotfish/peg-2d-v0", time_in_observation=True)

observation, info = env.reset(seed=0)
env.action_space.seed(0)
total, ended = 0.0, False
while not ended:
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    total, ended = total + reward, terminated or truncated
print(f"return {total:.0f}, the peg is in: {info['success']}")
