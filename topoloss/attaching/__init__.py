"""Observe the neurons of a model while it runs, and attach regularisers to them.

In each forward pass a function mode draws the graph of what the model makes of its inputs
(`graph`, by what each torch function does: `functions`); hooks say which module put out what
(`recording`, `modules`). At the end the layers are read off the graph (`reading`), and become
matrices of neurons (`neurons`) when they are asked for (`observation`, `attachment`).
"""

from topoloss.attaching.attachment import Attachment, attach
from topoloss.attaching.observation import Description, Observation, observe

__all__ = ["Attachment", "Description", "Observation", "attach", "observe"]
