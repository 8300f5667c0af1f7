"""What ``import topoloss`` offers, gathered from the modules that define it."""

from topoloss import plot as plot
from topoloss.attaching import Attachment, Observation, attach, observe
from topoloss.components import filtration, loss, persistence, pipeline, regulariser, sampler
from topoloss.diagrams import Diagram
from topoloss.engines import CriticalEdges, Persistence
from topoloss.errors import (
    AttachmentError,
    AttachmentWarning,
    InputError,
    MissingExtraError,
    NonFiniteError,
    OptionError,
    PluginError,
    PluginWarning,
    TooLargeError,
    TopolossError,
    UnknownNameError,
    check_choice,
    check_flag,
    check_number,
)
from topoloss.extras import needs_extra
from topoloss.filtrations import Filtration, Order
from topoloss.hookspecs import hookimpl
from topoloss.losses import Loss
from topoloss.pipelines import Pipeline
from topoloss.plugins import (
    PluginInfo,
    available,
    installed_plugins,
    register,
    registered,
    unregister,
)
from topoloss.processes import Processes
from topoloss.pruning import Redundancy, prune, redundancy
from topoloss.regularisers import Regulariser
from topoloss.samplers import Sampler
from topoloss.transforms import outside

__all__ = [
    "Attachment",
    "AttachmentError",
    "AttachmentWarning",
    "CriticalEdges",
    "Diagram",
    "Filtration",
    "InputError",
    "Loss",
    "MissingExtraError",
    "NonFiniteError",
    "Observation",
    "OptionError",
    "Order",
    "Persistence",
    "Pipeline",
    "PluginError",
    "PluginInfo",
    "PluginWarning",
    "Processes",
    "Redundancy",
    "Regulariser",
    "Sampler",
    "TooLargeError",
    "TopolossError",
    "UnknownNameError",
    "attach",
    "available",
    "check_choice",
    "check_flag",
    "check_number",
    "filtration",
    "hookimpl",
    "installed_plugins",
    "loss",
    "needs_extra",
    "observe",
    "outside",
    "persistence",
    "pipeline",
    "prune",
    "redundancy",
    "register",
    "registered",
    "regulariser",
    "sampler",
    "unregister",
]
