"""Whether two programs computed the same: to the bit where XLA compiles as it does for users.

Most tests let XLA take short cuts (`conftest.QUICK`), with which one sum in two programs may be rounded differently.
"""

import os
from typing import Any

import jax
import numpy as np

AS_SHIPPED = "--xla_cpu_use_fusion_emitters=false" not in os.environ.get("XLA_FLAGS", "")


def assert_same(found: Any, wanted: Any) -> None:
    """All arrays of two pytrees are equal, nan to nan."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        if AS_SHIPPED:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)
