"""What a torch function does to its operands: found once from its operators, then remembered."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from enum import Enum, auto
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Kind", "Role", "call", "known", "tells", "tensors_in", "tensors_within", "version_of",
    "works_entry_by_entry",
]  # fmt: skip

_aten = torch.ops.aten
# The operators that linear layers, convolutions, einsum and the like run.
_PRODUCTS = {
    _aten.mm, _aten.addmm, _aten.bmm, _aten.baddbmm, _aten.mv, _aten.addmv, _aten.dot,
    _aten._trilinear, _aten.convolution, _aten._scaled_mm, _aten._grouped_mm,
}  # fmt: skip
# These change no value: autograd uses them, or they make tensors of numbers.
_BOOKKEEPING = {_aten.detach, _aten.alias, _aten.lift_fresh, _aten.scalar_tensor}
# These work entry by entry, though torch does not tag them as pointwise.
_UNTAGGED = {_aten._to_copy, _aten.hardswish, _aten.leaky_relu, _aten.log_sigmoid_forward}
_NORMS = frozenset({"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"})
# These count as pointwise, though they have one parameter for a channel, or draw slopes.
_ACTIVATIONS = frozenset({"prelu", "rrelu", "rrelu_"})
_REMEMBERED = 4096
# How often entries are split at random into two halves, to see whether one depends on another.
_HALVES = 8
# The types that a function returns if it only tells something about a tensor.
_TOLD = (bool, int, float, str, torch.Size, torch.dtype, torch.device, torch.layout)
# These work entry by entry and are not activations: scales, biases, casts.
_AFFINE = {
    _aten.mul, _aten.mul_, _aten.add, _aten.add_, _aten.sub, _aten.sub_, _aten.rsub, _aten.div,
    _aten.div_, _aten.neg, _aten.clone, _aten._to_copy,
}  # fmt: skip
# These put the same entries elsewhere, as views do.
_COPIES = {_aten._unsafe_view, _aten.cat}
# These make new tensors, such as the one that a dropout mask is drawn into.
_NEW = {
    _aten.empty, _aten.empty_like, _aten.new_empty, _aten.full, _aten.full_like, _aten.ones_like,
    _aten.rand, _aten.rand_like, _aten.randn, _aten.randn_like, _aten.zeros_like,
}  # fmt: skip


class Kind(Enum):
    """What a function does, as far as layers are concerned."""

    POINTWISE = auto()  # entry by entry
    NORM = auto()
    RANDOM = auto()  # dropout, and what draws random numbers
    PRODUCT = auto()  # sums over products of two operands
    LAYOUT = auto()  # views and copies: the same entries elsewhere
    NEW = auto()  # a new tensor that holds no value of the operands
    OTHER = auto()


class Role(NamedTuple):
    """What a function does when it is called with certain arguments.

    Attributes
    ----------
    kind : Kind
    mutates : bool
        It changes an operand in place.
    attends : bool
        It is ``scaled_dot_product_attention``.
    convolves : bool
    normalises : bool
        It is a softmax.
    affine : bool
        It scales, shifts or casts.
    """

    kind: Kind
    mutates: bool = False
    attends: bool = False
    convolves: bool = False
    normalises: bool = False
    affine: bool = False


_roles: dict[Hashable, Role] = {}
# Functions that only tell something about a tensor, such as its shape.
tells: set[Any] = set()


def known(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Role | None:
    """The role of a function with these arguments; None if it is not known yet."""
    try:
        return _roles.get(_key(function, args, kwargs))
    except TypeError:
        return None  # an argument cannot be hashed


def call(
    function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], role: Role | None
) -> tuple[Any, Role]:
    """Call a function and return its result and its role, which is found out if it is None."""
    if role is not None:
        return function(*args, **kwargs), role
    # Imported here, as torch takes a moment to load what this module needs.
    from topoloss.attaching.operators import Operators

    operands = list(tensors_in((*args, *kwargs.values())))
    versions = [version_of(t) for t in operands]
    with Operators(operands) as seen:
        result = function(*args, **kwargs)
    changed = [version_of(t) for t in operands] != versions
    name = name_of(function)
    role = Role(
        _kind(name, seen.operators),
        changed or seen.mutates,
        name == "scaled_dot_product_attention",
        any(op._overloadpacket is _aten.convolution for op in seen.operators),
        any(op._overloadpacket is _aten._softmax for op in seen.operators),
        {op._overloadpacket for op in seen.operators} <= _AFFINE | _BOOKKEEPING,
    )
    if not role.mutates and isinstance(result, _TOLD):
        tells.add(function)
        return result, role
    if not seen.operators or torch._C._are_functorch_transforms_active():
        # Not remembered: whether a function such as flatten or float has anything to do depends on
        # the operand, and a change in place of a wrapped tensor does not show.
        return result, role
    if len(_roles) >= _REMEMBERED:
        _roles.clear()
    with contextlib.suppress(TypeError):  # what cannot be hashed is found out again each time
        _roles[_key(function, args, kwargs)] = role
    return result, role


def name_of(function: Any) -> str:
    return str(getattr(function, "__name__", function))


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among the values, and in lists, tuples and mappings among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif value is None or isinstance(value, (bool, int, float, str)):
            continue
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)
        elif isinstance(value, Mapping):
            yield from tensors_in(value.values())


def tensors_within(value: Any, depth: int = 4) -> Iterator[Tensor]:
    """The tensors in a model's arguments or in an output, also in attributes of objects."""
    if isinstance(value, Tensor):
        yield value
    elif depth and not isinstance(value, (str, bytes, torch.nn.Module)):
        if isinstance(value, (list, tuple, set)):
            inside: Iterable[Any] = value
        elif isinstance(value, Mapping):
            inside = value.values()
        else:
            inside = getattr(value, "__dict__", {}).values()
        for each in inside:
            yield from tensors_within(each, depth - 1)


def version_of(tensor: Tensor) -> int | None:
    """How often a tensor was changed in place; None where torch does not count it."""
    if torch.compiler.is_compiling():
        return None
    try:
        return tensor._version
    except RuntimeError:
        return None  # of an inference tensor


@torch.no_grad()
def works_entry_by_entry(function: Callable[[Tensor], Any], x: Tensor) -> bool:
    """Whether each entry of ``function(x)`` depends on that entry of `x` alone.

    The function is called several times, on copies; the random state is restored.
    """
    x = x.detach()
    generator = torch.Generator(x.device).manual_seed(0)
    marks = torch.randint(1 << _HALVES, x.shape, generator=generator, device=x.device)
    devices = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        before = function(x.clone())
        if not isinstance(before, Tensor) or before.shape != x.shape:
            return False
        # One half of the entries is changed while the other stays. A dependence of one entry on
        # another goes unseen if both are in the same half every time.
        for bit in range(_HALVES):
            half = (marks >> bit) & 1 == 1
            for stays, changed in ((half, 3 * x - 1), (~half, 3 * x + 1)):
                after = function(torch.where(stays, x, changed))
                same = (after == before) | (after.isnan() & before.isnan())
                if not bool((same | ~stays).all()):
                    return False
    return True


def _kind(name: str, operators: list[Any]) -> Kind:
    packets = {op._overloadpacket for op in operators} - _BOOKKEEPING
    if name in _ACTIVATIONS:
        return Kind.POINTWISE
    if name in _NORMS:
        return Kind.NORM
    if name.startswith("new_") or name.endswith("_like"):
        return Kind.RANDOM if name.startswith("rand") else Kind.NEW
    if name == "scaled_dot_product_attention" or packets & _PRODUCTS:
        return Kind.PRODUCT
    seeded = torch.Tag.nondeterministic_seeded
    drawing = {op._overloadpacket for op in operators if seeded in op.tags}
    views = {op._overloadpacket for op in operators if _is_view(op)} & packets
    plain = all(map(_is_pointwise, packets - views - drawing - _NEW))
    if "dropout" in name or (drawing and plain):
        return Kind.RANDOM
    if drawing or not all(map(_is_pointwise, packets - views)):
        return Kind.OTHER
    if not views:
        return Kind.POINTWISE
    return Kind.LAYOUT


def _is_pointwise(packet: Any) -> bool:
    # Some overloads and in-place variants of pointwise operators lack the tag.
    plain = getattr(_aten, packet.__name__.removesuffix("_"), packet)
    tags = (getattr(each, o).tags for each in (packet, plain) for o in each.overloads())
    return plain in _UNTAGGED or any(torch.Tag.pointwise in each for each in tags)


def _is_view(operator: Any) -> bool:
    returns = operator._schema.returns
    aliased = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
    return aliased or operator._overloadpacket in _COPIES


def _key(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Hashable:
    return (
        function,
        tuple(_constant(a) for a in args),
        tuple((k, _constant(v)) for k, v in kwargs.items()) if kwargs else (),
    )


def _constant(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return Tensor
    if isinstance(value, (list, tuple)):
        return tuple(map(_constant, value))
    constant: Hashable = value
    return constant
