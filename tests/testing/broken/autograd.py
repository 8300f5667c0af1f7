"""The identity with something wrong in its backward pass."""

import torch


class Negated(torch.autograd.Function):
    """Give a gradient of the wrong sign."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class NegatedInFloat32(Negated):
    """Give a gradient of the wrong sign in float32 alone."""

    @staticmethod
    def backward(ctx, gradient):
        return -gradient if gradient.dtype == torch.float32 else gradient.clone()


class BackwardOnTheCpu(Negated):
    """Give the right gradient, by a tensor that is made on the CPU."""

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.ones(gradient.shape[-1:], dtype=gradient.dtype)


class NegatedUnderVmap(Negated):
    """Give a gradient of the wrong sign for a batch alone."""

    generate_vmap_rule = False

    @staticmethod
    def backward(ctx, gradient):
        return gradient.clone()

    @staticmethod
    def vmap(info, in_dims, x):
        return Negated.apply(x), in_dims[0]


class DifferentiableOnce(Negated):
    """Give the right gradient, but no second one."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient.clone()


class Doubled(Negated):
    """Give twice the gradient."""

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient
