"""The regularisers of "Decorrelating neurons using persistence": ``t1``, ``t2``, ``naive``."""

from collections.abc import Callable

import topoloss
from topoloss_decorrelation.losses import T1, T2
from topoloss_decorrelation.regularisers import Naive, t1, t2


@topoloss.hookimpl
def topoloss_losses() -> dict[str, type[topoloss.Loss]]:
    return {"t1": T1, "t2": T2}


@topoloss.hookimpl
def topoloss_regularisers() -> dict[str, Callable[..., topoloss.Regulariser]]:
    return {"t1": t1, "t2": t2, "naive": Naive}
