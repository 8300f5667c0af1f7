"""What a device can launch: how many programs, of how much memory, for how large a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Asked for neither way, fusion makes newer Tritons warn. It is off, so that both ends of a pair,
# and every round, get one key from the kernel that computes it.
OPTIONS = {"enable_fp_fusion": False}
# Of programs that are resident at once on each multiprocessor, the least that keeps it busy.
_EACH = 4
# Elements of a batch that one launch can take: they are the second axis of its grid.
_MOST_ELEMENTS = (1 << 16) - 1


def programs(device: torch.device, elements: int) -> int:
    """Programs for each of so many elements that keep the whole device busy."""
    if device.type == "cpu":
        return 2
    properties = torch.cuda.get_device_properties(device)
    return max(1, _EACH * properties.multi_processor_count // elements)


def shared_memory(device: torch.device) -> int:
    """Bytes of fast memory that a program can have; interpreted, as many as on an H100."""
    if device.type == "cpu":
        return 227 * 1024
    properties = torch.cuda.get_device_properties(device)
    # Not every build of torch tells.
    return getattr(properties, "shared_memory_per_block_optin", 0)


def in_parts(search: Callable[[Tensor], Tensor], batch: Tensor, fitting: int) -> Tensor:
    """Search as many elements of a batch side by side as fit, and as one launch can take."""
    trees = [search(part) for part in torch.split(batch, min(fitting, _MOST_ELEMENTS))]
    return trees[0] if len(trees) == 1 else torch.cat(trees)
