"""How a component behaves on another device than the CPU."""

from __future__ import annotations

import torch
from torch import nn

from topoloss.testing.checks import NotApplicable, Subject, on, require
from topoloss.testing.comparing import close, difference

__all__ = ["cuda"]


def cuda(subject: Subject) -> None:
    """On a CUDA device the values are those of the CPU, and stay on the device."""
    if not torch.cuda.is_available():
        raise NotApplicable("there is no CUDA device here")
    component = subject.make()
    example = subject.kind.generic(component, subject.seed)
    with on(f"{example.name} on cuda", mend="make new tensors on the device of the input"):
        expected = subject.kind.apply(subject.make(), *example.tensors)
        if isinstance(component, nn.Module):
            component.cuda()
        received = subject.kind.apply(component, *(x.cuda() for x in example.tensors))
        require(
            all(x.is_cuda for x in received),
            expected="values on cuda",
            received=[x.device for x in received],
            mend="make new tensors on the device of the input",
        )
        received = [x.cpu() for x in received]
        require(
            close(received, expected),
            expected="the values of the CPU",
            received=difference(received, expected),
            mend="use the same algorithm on both devices",
        )
