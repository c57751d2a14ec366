"""Whether two programs computed the same: to the bit where XLA compiles as it does for users.

Most tests let XLA take short cuts (`conftest.QUICK`), with which one sum in two programs may be rounded differently.
"""

import os
from typing import Any

import jax
import numpy as np

FLAGS = os.environ.get("XLA_FLAGS", "")
AS_SHIPPED = "--xla_cpu_use_fusion_emitters=false" not in FLAGS
IN_ORDER = AS_SHIPPED and "--xla_backend_optimization_level=0" in FLAGS
"""Whether a sum is added up in the order in which it is written down. Else that may differ between two programs, as it
does on processors with AVX-512 between the host loop and the compiled scan."""


def assert_same(found: Any, wanted: Any) -> None:
    """All arrays of two pytrees are equal, nan to nan."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        if AS_SHIPPED:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)
