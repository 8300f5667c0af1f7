"""How the loops are compiled: cached on disk, and free of the interpreter's lock."""

from __future__ import annotations

import numba

compiled = numba.njit(cache=True, nogil=True)
# Sums may be taken in any order, so that they are vectorised.
compiled_sum = numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
