"""Rules for a component on devices other than the CPU."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from topoloss.testing.checks import NotApplicable, Subject, builds_on, on, require
from topoloss.testing.comparing import close, difference, values_and_gradients
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
    "device=x.device); register tensors of your own with register_buffer; run code that needs the "
    "CPU on x.cpu(), and move its results back with .to(x.device). The stand-in for a GPU has the "
    "device type 'cpu', but its tensors have no .numpy(): always call x.cpu().numpy()"
)


def device(subject: Subject) -> None:
    """New tensors are made on the device of the input, tested with a stand-in for a GPU.

    The gradient is tested too, because a backward pass may make tensors of its own.
    """
    component = subject.make()
    example = subject.kind.generic(component, subject.seed)
    with on(f"{example.name} on {SECOND_CPU}, a stand-in for a GPU", _MEND):
        expected = values_and_gradients(subject, subject.make(), example)
        if isinstance(component, nn.Module):
            move_module(component)
        away = replace(example, tensors=tuple(map(moved, example.tensors)))
        with second_cpu():
            received = values_and_gradients(subject, component, away)
        require(
            all(map(was_moved, received)),
            expected=f"values and gradients on {SECOND_CPU}",
            received=[x.device for x in received],
            mend=_MEND,
        )
        back = [moved_back(x) for x in received]
        require(
            close(back, expected),
            expected="the values and gradients of the CPU",
            received=difference(back, expected),
            mend=_MEND,
        )


@builds_on("device")
def cuda(subject: Subject) -> None:
    """On a CUDA device values and gradients are as on the CPU, and stay on the device."""
    if not torch.cuda.is_available():
        raise NotApplicable("there is no CUDA device here")
    component = subject.make()
    example = subject.kind.generic(component, subject.seed)
    with on(f"{example.name} on cuda", mend=_MEND):
        expected = values_and_gradients(subject, subject.make(), example)
        if isinstance(component, nn.Module):
            component.cuda()
        away = replace(example, tensors=tuple(x.cuda() for x in example.tensors))
        received = values_and_gradients(subject, component, away)
        require(
            all(x.is_cuda for x in received),
            expected="values and gradients on cuda",
            received=[x.device for x in received],
            mend=_MEND,
        )
        received = [x.cpu() for x in received]
        require(
            close(received, expected),
            expected="the values and gradients of the CPU",
            received=difference(received, expected),
            mend="use the same algorithm on both devices",
        )
