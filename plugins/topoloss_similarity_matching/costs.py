"""How well similarities of outputs match those of inputs, and the best possible match."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

import topoloss

__all__ = ["check_matrix", "least_similarity_cost", "similarity_cost"]


def check_matrix(name: str, x: object, neurons: int | None = None) -> None:
    """Raise an `InputError` unless this is a matrix (samples, neurons)."""
    shape = f"(samples, {'neurons' if neurons is None else neurons})"
    expected = f"expected floating-point numbers of shape {shape}, at least one sample"
    if not isinstance(x, Tensor):
        raise topoloss.InputError(
            f"{name}: something of type {type(x).__name__} was given; {expected}."
        )
    fits = x.ndim == 2 and len(x) > 0 and neurons in (None, x.shape[1])
    if not fits or not x.is_floating_point():
        raise topoloss.InputError(
            f"{name} of shape {tuple(x.shape)} and {x.dtype} were given; {expected}."
        )


def similarity_cost(
    inputs: Float[Tensor, "samples n"], outputs: Float[Tensor, "samples k"]
) -> Float[Tensor, ""]:
    r"""Return :math:`\frac{1}{2T^2} \sum_{tt'} (x_t \cdot x_{t'} - r_t \cdot r_{t'})^2`.

    Parameters
    ----------
    inputs, outputs : Tensor, shape (samples, neurons)
        Both have the same number of samples.

    Returns
    -------
    Tensor, shape ()
        In at least float32.

    Examples
    --------
    >>> import torch
    >>> from topoloss_similarity_matching import similarity_cost
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> similarity_cost(x, x[:, 1:])  # of the similarities 1, 0, 0, 4 the 1 is lost
    tensor(0.1250)
    """
    check_matrix("inputs", inputs)
    check_matrix("outputs", outputs)
    if len(inputs) != len(outputs):
        raise topoloss.InputError(
            f"inputs of {len(inputs)} samples and outputs of {len(outputs)} were given; expected "
            "the same number."
        )
    dtype = torch.promote_types(torch.promote_types(inputs.dtype, outputs.dtype), torch.float32)
    with torch.autocast(inputs.device.type, enabled=False):
        x, r = inputs.to(dtype), outputs.to(dtype)
        # Products of features, not of samples: there are usually more samples than features.
        products = (x.mT @ x, x.mT @ r, r.mT @ r)
    squares = [(product / len(x)).square().sum() for product in products]
    return (squares[0] - 2 * squares[1] + squares[2]) / 2


def least_similarity_cost(inputs: Float[Tensor, "samples n"], outputs: int) -> Float[Tensor, ""]:
    r"""Return the least cost that `outputs` linear outputs can have.

    The projections on the first principal directions attain it. The cost is then
    :math:`\frac{1}{2T^2} \sum_{k > outputs} \sigma_k^4`, with the singular values of the inputs.

    Examples
    --------
    >>> import torch
    >>> from topoloss_similarity_matching import least_similarity_cost
    >>> least_similarity_cost(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), 1)
    tensor(0.1250)
    """
    topoloss.check_number("outputs", outputs, whole=True, least=1)
    check_matrix("inputs", inputs)
    if not torch.isfinite(inputs).all():
        raise topoloss.NonFiniteError(
            "the inputs hold NaN or infinity, so they have no principal directions; leave such "
            "samples out."
        )
    x = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    left: Tensor = torch.linalg.svdvals(x)[outputs:]
    return (left.square() / len(inputs)).square().sum() / 2
