"""Settings that must stand before numpy and jax are imported."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
