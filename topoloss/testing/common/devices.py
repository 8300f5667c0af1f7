"""How a component behaves on another device than the CPU."""

from __future__ import annotations

import torch
from torch import nn

from topoloss.testing.checks import NotApplicable, Subject, builds_on, on, require
from topoloss.testing.comparing import close, difference
from topoloss.testing.second_cpu import (
    SECOND_CPU,
    move_module,
    moved,
    moved_back,
    second_cpu,
    was_moved,
)

__all__ = ["cuda", "device"]

_MEND = (
    "make new tensors on the device of the input: x.new_zeros(n), torch.arange(n, "
    "device=x.device); register tensors of your own with register_buffer; let code that needs the "
    "CPU work on x.cpu(), and return what it makes with .to(x.device)"
)


def device(subject: Subject) -> None:
    """New tensors are made on the device of the input, tried on a device that needs no GPU."""
    component = subject.make()
    example = subject.kind.generic(component, subject.seed)
    with on(f"{example.name} on {SECOND_CPU}, a stand-in for a GPU", _MEND):
        expected = subject.kind.apply_all(subject.make(), *example.tensors)
        if isinstance(component, nn.Module):
            move_module(component)
        with second_cpu():
            received = subject.kind.apply_all(component, *map(moved, example.tensors))
        require(
            all(map(was_moved, received)),
            expected=f"values on {SECOND_CPU}",
            received=[x.device for x in received],
            mend=_MEND,
        )
        back = [moved_back(x) for x in received]
        require(
            close(back, expected),
            expected="the values of the CPU",
            received=difference(back, expected),
            mend=_MEND,
        )


@builds_on("device")
def cuda(subject: Subject) -> None:
    """On a CUDA device the values are those of the CPU, and stay on the device."""
    if not torch.cuda.is_available():
        raise NotApplicable("there is no CUDA device here")
    component = subject.make()
    example = subject.kind.generic(component, subject.seed)
    with on(f"{example.name} on cuda", mend=_MEND):
        expected = subject.kind.apply_all(subject.make(), *example.tensors)
        if isinstance(component, nn.Module):
            component.cuda()
        received = subject.kind.apply_all(component, *(x.cuda() for x in example.tensors))
        require(
            all(x.is_cuda for x in received),
            expected="values on cuda",
            received=[x.device for x in received],
            mend=_MEND,
        )
        received = [x.cpu() for x in received]
        require(
            close(received, expected),
            expected="the values of the CPU",
            received=difference(received, expected),
            mend="use the same algorithm on both devices",
        )
