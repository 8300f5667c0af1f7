"""How many programs share the work of a launch."""

from __future__ import annotations

import torch

# Asked for neither way, fusion makes newer Tritons warn. It is off, so that both ends of a pair,
# and every round, get one key from the kernel that computes it.
OPTIONS = {"enable_fp_fusion": False}
# Of programs that are resident at once on each multiprocessor, the least that keeps it busy.
_EACH = 4


def programs(device: torch.device, elements: int) -> int:
    """Programs for each of so many elements that keep the whole device busy."""
    if device.type == "cpu":
        return 2
    properties = torch.cuda.get_device_properties(device)
    return max(1, _EACH * properties.multi_processor_count // elements)
