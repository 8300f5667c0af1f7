"""torchvision, imported with stand-ins where its compiled operators do not load.

The operators load only with the torch that they were built for. Classifiers use none of them, but
importing torchvision registers functions for the output shapes of two.
"""

import torch

try:
    import torchvision
except RuntimeError:
    # Operators exist only as long as their `Library` object.
    OPERATORS = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
