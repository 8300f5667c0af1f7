"""Filtrations by the angle between neurons: ``correlation`` and ``cosine``."""

import topoloss
from topoloss_correlation.angular import Correlation, Cosine


@topoloss.hookimpl
def topoloss_filtrations():
    return {"correlation": Correlation, "cosine": Cosine}
