"""Observe the neurons of a model while it runs, and attach regularisers to them.

In each forward pass a torch function mode (`watching`; `functions` says what each torch function
does) builds the graph of what the model makes of its inputs (`graph`), and hooks report which
module returned what (`recording`, `modules`). When the pass is over (`finishing`) the layers are
read off the graph (`reading`). They become matrices of neurons (`neurons`) when they are asked for
(`observation`, `attachment`).
"""

from topoloss.attaching.attachment import Attachment, attach
from topoloss.attaching.observation import Description, Observation, observe

__all__ = ["Attachment", "Description", "Observation", "attach", "observe"]
