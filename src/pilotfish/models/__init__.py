"""WHAT WE BELIEVE: rollouts in, a local model out."""
