"""The order of a random path in compiled graphs, which hold the numbers and do not draw.

Importing this module loads the compiler.
"""

import torch

from topoloss_plugins.covariance_tree import random_order

__all__ = ["order_of"]

order_of = torch.compiler.assume_constant_result(random_order)  # type: ignore[no-untyped-call]
