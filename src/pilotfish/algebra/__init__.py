"""Types in, types out: the mathematics, in pure JAX. Knows no task, world or run."""
