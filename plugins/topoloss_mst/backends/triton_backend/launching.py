"""What a device can launch: how many programs, with how much memory, for how large a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Newer versions of Triton warn unless fusion of products and sums is set. It is off, so that a
# kernel computes the same key of a pair for both of its ends, and in every round.
OPTIONS = {"enable_fp_fusion": False}
# The least number of programs resident on a multiprocessor that keeps it busy.
_EACH = 4
# Elements of a batch that one launch can take: they are the second axis of its grid.
_MOST_ELEMENTS = (1 << 16) - 1


def programs(device: torch.device, elements: int) -> int:
    """How many programs for each of `elements` elements keep the whole device busy."""
    if device.type == "cpu":
        return 2
    properties = torch.cuda.get_device_properties(device)
    return max(1, _EACH * properties.multi_processor_count // elements)


def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a program can have; those of an H100 where it is interpreted."""
    if device.type == "cpu":
        return 227 * 1024
    properties = torch.cuda.get_device_properties(device)
    # Not every build of torch has this property.
    return getattr(properties, "shared_memory_per_block_optin", 0)


def in_parts(search: Callable[[Tensor], Tensor], batch: Tensor, fitting: int) -> Tensor:
    """Search a batch in parts of at most `fitting` elements, and no more than a launch can take."""
    trees = [search(part) for part in torch.split(batch, min(fitting, _MOST_ELEMENTS))]
    return trees[0] if len(trees) == 1 else torch.cat(trees)
