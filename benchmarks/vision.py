"""torchvision, imported with stand-ins where its compiled operators do not load.

They load beside the torch that they were built for alone. Its classifiers use none of them, but
importing the package registers the shapes of two.
"""

import torch

try:
    import torchvision
except RuntimeError:
    # A library's operators live as long as it does.
    OPERATORS = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
