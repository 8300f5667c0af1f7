"""What becomes of a tensor: the torch functions called on it, and the activation among them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

__all__ = ["Activation", "Fate", "UnclearActivationError", "Watch", "version_of"]

# Names are those of torch functions, without underscores around them and "special_" before.
_ACTIVATIONS = frozenset(
    """acosh arccosh arcsinh arctan arctanh asinh atan atanh celu clamp clamp_max clamp_min clip cos
    elu erf erfc expit gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu log_sigmoid
    logit logsigmoid mish prelu relu relu6 rrelu selu sigmoid silu sin sinc softplus softshrink
    softsign tan tanh tanhshrink threshold""".split()
)
# These are activations only where nothing else uses the tensor: norms and statistics use them too.
_POWERS = frozenset(
    "abs absolute exp exp2 expm1 log log1p pow reciprocal rsqrt sign sqrt square".split()
)
# Choosing between a tensor and something else makes an activation whose form is not known.
_SELECTIONS = frozenset("copysign fmax fmin masked_fill maximum minimum setitem where".split())
_RANDOM = frozenset({"rrelu"})
# What they return is no longer the same neurons one by one.
_STRUCTURAL = frozenset(
    """adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d addmm alpha_dropout amax amin aminmax argmax argmin
    avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bilinear bmm cat channel_shuffle chunk
    concat concatenate conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    cross_entropy cumsum dot dropout dropout1d dropout2d dropout3d einsum embedding
    embedding_bag expand expand_as feature_alpha_dropout feature_dropout flatten flip fold gather
    getitem glu group_norm gru hstack index_select instance_norm interpolate layer_norm linear
    linalg_norm linalg_vector_norm local_response_norm log_softmax logsumexp lstm matmul
    max_pool1d max_pool2d max_pool3d mean median movedim moveaxis mm multi_head_attention_forward
    mv narrow norm normalize pad permute pixel_shuffle pixel_unshuffle prod quantile repeat
    reshape rmatmul rms_norm roll scaled_dot_product_attention select softmax softmin split
    split_with_sizes squeeze stack std sum swapaxes tensor_split transpose unbind unflatten
    unfold unsqueeze upsample var var_mean view view_as vstack""".split()
)
# They tell of a tensor, or make one of its shape, without using its values under autograd.
_METADATA = frozenset(
    """as_subclass data detach empty_like full_like get isfinite isinf isnan new_empty new_full
    new_ones new_tensor new_zeros numpy ones_like rand_like randint_like randn_like register_hook
    requires_grad retain_grad zeros_like""".split()
)


class UnclearActivationError(Exception):
    """Which tensor holds the neurons cannot be told; holds the functions that met them."""


class Activation(NamedTuple):
    """An elementwise function and its other arguments; can be applied again."""

    function: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    in_place: bool

    def has_tensors(self) -> bool:
        return any(True for _ in _tensors_in((*self.args, *self.kwargs.values())))

    def __call__(self, x: Tensor) -> Tensor:
        result = self.function(x.clone() if self.in_place else x, *self.args, **self.kwargs)
        assert isinstance(result, Tensor)
        return result


@dataclass(eq=False)
class Fate:
    """What is known of a watched tensor.

    Attributes
    ----------
    tensor : Tensor
    version : int or None
        See :func:`version_of`, when it was first watched.
    with_grad : bool
        Whether gradients were on then.
    changed : bool
        Whether a function changed it in place.
    uses : list of str
        Functions of the tensor itself, in the order of the calls.
    unclear : list of str
        Functions that join it with something made of it, or that act on such a thing.
    result : Tensor or None
        Of the activation.
    """

    tensor: Tensor
    version: int | None
    with_grad: bool
    changed: bool = False
    uses: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    activation: Activation | None = None
    result: Tensor | None = None

    def used_unseen(self, output: Any) -> bool:
        """Whether `output` was made of the tensor, by something that no function mode sees."""
        return not self.uses and not self.unclear and self.tensor.grad_fn in _graph_below(output)

    def has_changed(self) -> bool:
        return self.changed or version_of(self.tensor) != self.version

    def find_activation(self) -> Activation | None:
        """Return the elementwise activation that directly follows, if there is one.

        Raises
        ------
        UnclearActivationError
            Where there is something of the kind, but not one function alone.
        """
        if self.unclear:
            raise UnclearActivationError([*self.uses, *self.unclear])
        if self.activation is None:
            return None
        if len(self.uses) == 1:
            return self.activation
        if self.uses[0] in _POWERS and not _ACTIVATIONS.intersection(self.uses):
            return None
        raise UnclearActivationError(self.uses)


class Watch(TorchFunctionMode):
    """While it is entered, notes the torch functions called on the tensors it watches.

    Functions that do not pass through ``__torch_function__`` are not seen, as inside scripted
    functions; :meth:`Fate.used_unseen` tells of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._fates: dict[int, Fate] = {}
        # Identities are of tensors that are alive.
        self._kept: list[Tensor] = []
        self._used: set[int] = set()

    def watch(self, tensor: Tensor) -> Fate:
        """Watch a tensor; one that is watched already keeps its fate.

        A tensor made of another has one of its own from now on.
        """
        fate = self._fates.get(id(tensor))
        if fate is None or fate.tensor is not tensor:
            fate = Fate(tensor, version_of(tensor), torch.is_grad_enabled())
            self._follow(tensor, fate)
        return fate

    def used(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Whether one of the parameters was an argument of a function."""
        return any(id(p) in self._used for p in parameters)

    def leave(self) -> None:
        """Take the mode off the stack, wherever in it it stands, or do nothing."""
        stack: Any = torch.overrides
        above = []
        if any(mode is self for mode in stack._get_current_function_mode_stack()):
            while (top := stack._pop_mode()) is not self:
                above.append(top)
            for mode in reversed(above):
                stack._push_mode(mode)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        operands = list(_tensors_in((*args, *kwargs.values())))
        self._used.update(id(t) for t in operands if isinstance(t, nn.Parameter))
        # What comes after a change in place is no longer made of the tensor as it was.
        made_of = {id(t): fate for t in operands if (fate := self._fates.get(id(t)))}
        made_of = {key: fate for key, fate in made_of.items() if not fate.has_changed()}
        result = func(*args, **kwargs)
        for fate in {id(fate): fate for fate in made_of.values()}.values():
            mine = [t for t in operands if made_of.get(id(t)) is fate]
            self._note(fate, mine, len(operands) > len(mine), func, args, kwargs, result)
        return result

    def _note(
        self,
        fate: Fate,
        mine: list[Tensor],
        others: bool,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,
    ) -> None:
        """Note a call on `mine`, which are the fate's tensor or made of it elementwise."""
        name = _name(func)
        in_place = _is_in_place(fate, func, kwargs, result)
        handed_on = result is fate.tensor and not in_place
        if name == "get" and isinstance(result, Tensor) and result.grad_fn is not None:
            fate.uses.append(name)  # of h.T
        if name in _METADATA or handed_on or not (in_place or list(_tensors_in((result,)))):
            return
        fate.changed |= in_place
        direct = len(mine) == 1 and mine[0] is fate.tensor
        selection = name in _SELECTIONS or (name in ("max", "min") and len(mine) + others > 1)
        if name in _STRUCTURAL and not selection:
            fate.uses += [name] * any(t is fate.tensor for t in mine)
        elif selection or len(mine) > 1:
            fate.unclear.append(name)
        elif name in _ACTIVATIONS | _POWERS:
            activation = _activation(fate, name, func, args, kwargs, in_place) if direct else None
            if activation is None:
                fate.unclear.append(name)
                return
            fate.uses.append(name)
            if fate.activation is None:
                fate.activation, fate.result = activation, result
            if name in _POWERS:
                self._follow(result, fate)
        else:
            # A comparison has no gradient: it is no use beside an activation.
            if direct and isinstance(result, Tensor) and result.is_floating_point():
                fate.uses.append(name)
            if not others and isinstance(result, Tensor):
                self._follow(result, fate)

    def _follow(self, tensor: Tensor, fate: Fate) -> None:
        self._kept.append(tensor)
        self._fates[id(tensor)] = fate


def version_of(tensor: Tensor) -> int | None:
    """How often a tensor was changed in place; None where that is not counted."""
    if torch.compiler.is_compiling() or tensor.is_inference():
        return None
    return int(tensor._version)


def _activation(
    fate: Fate,
    name: str,
    func: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    in_place: bool,
) -> Activation | None:
    """The call as an activation, if another pass could repeat it."""
    first = args[0] if args else kwargs.get("input")
    rest = {k: v for k, v in kwargs.items() if args or k != "input"}
    # Parameters are found again in a later pass; another tensor would be that of this one.
    # A call that turns gradients off is a part of a custom function, or beside the point.
    variable = any(
        not isinstance(t, nn.Parameter) for t in _tensors_in((*args[1:], *rest.values()))
    )
    apart = fate.with_grad and not torch.is_grad_enabled()
    if first is not fate.tensor or variable or apart or name in _RANDOM:
        return None
    return Activation(func, args[1:], rest, in_place)


def _name(func: Any) -> str:
    return str(getattr(func, "__name__", func)).strip("_").removeprefix("special_")


def _is_in_place(fate: Fate, func: Any, kwargs: Mapping[str, Any], result: Any) -> bool:
    if fate.version is not None:
        return version_of(fate.tensor) != fate.version
    raw = str(getattr(func, "__name__", ""))
    augmented = raw.startswith("__i") and raw.endswith("__")
    trailing = raw.endswith("_") and not raw.endswith("__")
    named = augmented or trailing or raw == "__setitem__" or bool(kwargs.get("inplace"))
    return named and (result is fate.tensor or raw == "__setitem__")


def _graph_below(output: Any) -> set[Any]:
    """The nodes of the autograd graph that those of the tensors in `output` are made of."""
    tensors = [t for t in tree_leaves(output) if isinstance(t, Tensor)]
    nodes = [t.grad_fn for t in tensors if t.grad_fn is not None]
    below: set[Any] = set()
    while nodes:
        for node, _ in nodes.pop().next_functions:
            if node is not None and node not in below:
                below.add(node)
                nodes.append(node)
    return below


def _tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among the values, and one level down in lists and tuples."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (v for v in value if isinstance(v, Tensor))
