"""Filtrations by the angle between neurons: ``correlation`` and ``cosine``."""

import topoloss
from topoloss_correlation.angular import Correlation, Cosine


@topoloss.hookimpl
def topoloss_filtrations() -> dict[str, type[topoloss.Filtration]]:
    return {"correlation": Correlation, "cosine": Cosine}
