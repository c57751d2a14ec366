"""Act by an exported policy, with NumPy alone: python act_without_jax.py policy.safetensors"""

import sys

import numpy as np
from safetensors.numpy import load_file

policy = load_file(sys.argv[1])  # by `pilotfish export RUN -o policy.safetensors`
K, k = policy["K"][0], policy["k"][0]  # of the first condition: (T, du, dx), (T, du)


def act(t, x):
    """The action of time step t in the state x."""
    return np.clip(K[t] @ x + k[t], policy.get("action_low"), policy.get("action_high"))


print(act(0, np.zeros(K.shape[2])))
