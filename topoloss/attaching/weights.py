"""A model's weights and parameters as regularisers take them; no forward pass is needed."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from topoloss.attaching.modules import own_modules
from topoloss.errors import AttachmentError

__all__ = ["no_weights", "own_matrix", "parameters", "weights"]

# The weight of a norm may have several axes: it multiplies entry by entry.
_NO_LINEAR_MAPS = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)
# Modules of several linear maps, whose parameters are named weight_... and ..._weight.
_OF_SEVERAL = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


def parameters(model: nn.Module) -> dict[str, Tensor]:
    """All trainable parameters by name, biases included, each tied one once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def own_matrix(module: nn.Module) -> Tensor | None:
    """The parameter named weight, if it may be the matrix of a linear map."""
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    if weight is None or isinstance(module, _NO_LINEAR_MAPS):
        return None
    return weight if sum(length > 1 for length in weight.shape) >= 2 else None


def weights(model: nn.Module, chosen: list[str] | None) -> dict[str, Tensor]:
    """Weights of linear maps by layer, each of shape (fan-out, fan-in, ...).

    A module of several linear maps, such as a recurrent layer, gives each by the name of its
    parameter.

    Parameters
    ----------
    model : Module
    chosen : list of str, optional
        Names of modules; by default all that have a linear map's weight.

    Raises
    ------
    AttachmentError
        For a chosen module without a weight matrix, a grouped convolution or a bilinear layer,
        whose weights are not matrices either, or a model without linear maps.
    """
    found: dict[str, Tensor] = {}
    # The weights are kept, as another one could get the id of a weight that was freed.
    taken: dict[int, Tensor] = {}
    for name, module in own_modules(model):
        if chosen is not None and name not in chosen:
            continue
        matrices = dict(_matrices(module))
        if matrices:
            _check_matrix(name, module)
        elif chosen is not None:
            raise AttachmentError(
                f"module {name!r} of type {type(module).__name__} has no weight matrix; choose "
                "linear layers or convolutions with layers=."
            )
        for parameter, weight in matrices.items():
            if id(weight) not in taken:
                taken[id(weight)] = weight
                whole = ".".join(filter(None, (name, parameter))) or "(model)"
                found[whole] = _outputs_first(module, weight)
    if not found:
        raise AttachmentError(
            f"{type(model).__name__} has no linear layer or convolution, so there are no weights."
        )
    return found


def no_weights(model: nn.Module, chosen: list[str] | None) -> dict[str, str]:
    """Parameters of two or more axes that :func:`weights` leaves out, and why, by name.

    Those of embeddings and norms are not listed: they are never linear maps.
    """
    found = {}
    for name, module in own_modules(model):
        if isinstance(module, _NO_LINEAR_MAPS) or (chosen is not None and name not in chosen):
            continue
        for own, parameter in module.named_parameters(recurse=False):
            # The old weight_norm keeps a weight in parts, weight_g and weight_v.
            if "weight" not in own and sum(length > 1 for length in parameter.shape) >= 2:
                found[".".join(filter(None, (name, own)))] = (
                    f"is a parameter of shape {tuple(parameter.shape)} that may not belong to a "
                    "linear map (if it does, let a module hold it as its `weight`)"
                )
    return found


def _check_matrix(name: str, module: nn.Module) -> None:
    """Raise if a module's weight is not a matrix from all its inputs to its outputs."""
    if getattr(module, "groups", 1) > 1:
        what = (
            f"is a convolution of {module.groups} groups, each of whose outputs sees a part of the "
            "inputs"
        )
    elif isinstance(module, nn.Bilinear):
        what = "of type Bilinear multiplies two inputs"
    else:
        return
    raise AttachmentError(
        f"module {name!r} {what}, so it has no weight matrix; choose other layers with layers=."
    )


def _matrices(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights of a module's linear maps, by name; "" is the name of a single one."""
    if isinstance(module, _OF_SEVERAL):
        for name, parameter in module.named_parameters(recurse=False):
            if "weight" in name:
                yield name, parameter
        return
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.ndim >= 2 and not isinstance(module, _NO_LINEAR_MAPS):
        yield "", weight


def _outputs_first(module: nn.Module, weight: Tensor) -> Tensor:
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return weight.transpose(0, 1)
    # GPT-2's layer of this name stores its weight transposed.
    return weight.T if type(module).__name__ == "Conv1D" and weight.ndim == 2 else weight
