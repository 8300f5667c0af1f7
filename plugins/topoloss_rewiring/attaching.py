"""Sparse linear layers that are rewired between epochs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from topoloss_plugins.hooks import OwnHook, register_first
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.optim.optimizer import register_optimizer_step_post_hook

import topoloss
from topoloss_rewiring.choosing import moved

__all__ = ["Rewiring", "rewire"]

# Layers that are kept sparse now.
_SPARSE: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def rewire(
    model: nn.Module,
    density: float = 0.2,
    *,
    fraction: float = 0.3,
    layers: Sequence[str] | None = None,
    seed: int = 0,
    group: Any = None,
) -> Rewiring:
    """Make linear layers sparse, and let their connections move when `step()` is called.

    Parameters
    ----------
    model : Module
        Changed in place: all but some weights of each layer become 0, chosen at random.
    density : float
        The share of connections that each layer keeps, above 0 and at most 1. It stays the same.
    fraction : float
        The share of these that move at each step, from 0 to 1.
    layers : sequence of str, optional
        Names of linear layers; by default all but those inside of attention, which it does not
        call.
    seed : int
        Of the first connections.
    group : torch.distributed.ProcessGroup, optional
        The processes that train replicas of the model together, as under DDP. The first of them
        chooses the connections of all, by the samples of its own. Every process then calls
        ``step()``.

    Returns
    -------
    Rewiring
        Call its ``step()`` after each epoch of training.

    Raises
    ------
    OptionError
        For a name that is no linear layer's or stands there twice, a model without such a layer,
        or a layer whose weight is not its own to be kept sparse: frozen, shared with another
        module, computed (as by a weight norm), or sparse already. Also if torch.distributed runs
        several processes and no group was given.

    Notes
    -----
    At each step the connections of smallest absolute weight go. As many come between the neurons
    whose activations in the latest training pass have the largest absolute cosine. These
    begin with weight 0, so the network computes the same as without them.

    **Checkpoints.** Save `state_dict()` beside those of the model and the optimiser. To go on,
    rewire a new model first, as this cuts weights, and then load all of them.

    **Several processes.** Pass ``group=torch.distributed.group.WORLD`` under DDP: replicas with
    differing connections would drift apart.

    **Copies.** A copy of the model alone is no longer kept sparse; `copy.deepcopy` of a structure
    that holds model and rewiring copies both.

    References
    ----------
    Atashgahi, Pieterse, Liu, Mocanu, Veldhuis, Pechenizkiy, "A brain-inspired algorithm for
    training highly sparse neural networks", arXiv 1903.07138 (2019).

    Examples
    --------
    >>> import torch
    >>> from topoloss_rewiring import rewire
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    >>> sparse = rewire(model, density=0.5)
    >>> _ = model(torch.randn(10, 8))
    >>> sparse.step()
    >>> int((model[0].weight != 0).sum()) <= 24
    True
    """
    if not isinstance(model, nn.Module):
        raise topoloss.InputError(f"model is a {type(model).__name__}; expected a Module.")
    topoloss.check_number("density", density, above=0, most=1)
    topoloss.check_number("fraction", fraction, least=0, most=1)
    topoloss.check_number("seed", seed, whole=True, least=0)
    processes = None if group is None else topoloss.Processes(group)
    _check_alone(processes)
    chosen = _chosen(model, layers)
    for name, layer in chosen.items():
        _check_own_weight(model, name, layer)
    return Rewiring(model, chosen, density, fraction, seed, processes)


def _check_alone(processes: topoloss.Processes | None) -> None:
    """Raise an `OptionError` where there are several processes, and no group of them was given."""
    if processes is None and dist.is_available() and dist.is_initialized():
        size = dist.get_world_size()
        if size > 1:
            raise topoloss.OptionError(
                f"rewire got no group, and this is one of {size} processes. Each would choose "
                "connections of its own, so replicas of a model would drift apart; expected "
                "group=torch.distributed.group.WORLD after init_process_group(), or, for a model "
                "that this process trains alone, a group of this process only."
            )


def _chosen(model: nn.Module, layers: Sequence[str] | None) -> dict[str, nn.Linear]:
    """Return the linear layers of these names; without names all that are called."""
    linear = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    if layers is None:
        # Attention multiplies by the weight of such a layer itself.
        uncalled = NonDynamicallyQuantizableLinear
        called = {name: m for name, m in linear.items() if not isinstance(m, uncalled)}
        if not called:
            raise topoloss.OptionError(
                f"{type(model).__name__} has no linear layer that it calls; expected at least one."
            )
        return called
    listed = isinstance(layers, (list, tuple)) and all(name in linear for name in layers)
    if not listed or not layers or len(set(layers)) < len(layers):
        raise topoloss.OptionError(
            f"layers={layers!r} was given; expected a list of at least one name, each once, among "
            f"the model's linear layers, {list(linear)}."
        )
    return {name: linear[name] for name in layers}


def _check_own_weight(model: nn.Module, name: str, layer: nn.Linear) -> None:
    """Raise an `OptionError` unless this layer alone decides which of its weights are 0."""
    weight = dict(layer.named_parameters(recurse=False)).get("weight")
    parameters = model.named_parameters(remove_duplicate=False)
    holders = [] if weight is None else [n for n, p in parameters if p is weight]
    if weight is None:
        what = "computes its weight, as by a parametrisation or a weight norm"
    elif layer in _SPARSE:
        what = "is kept sparse already: call remove() of what rewire returned first"
    elif not weight.requires_grad:
        what = "is frozen: its weight has requires_grad=False"
    elif len(holders) > 1:
        what = f"shares its weight: it is {' and '.join(map(repr, holders))}"
    else:
        return
    raise topoloss.OptionError(
        f"layer {name!r} {what}. Expected layers that learn a weight of their own; choose them "
        "with layers=."
    )


class Rewiring:
    """Sparse connections of a model, made by :func:`rewire`.

    Attributes
    ----------
    connected : dict of str to Tensor of bool, shape (outputs, inputs)
        The connections of each layer, now.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: dict[str, nn.Linear],
        density: float,
        fraction: float,
        seed: int,
        processes: topoloss.Processes | None = None,
    ) -> None:
        self._model = model
        self._layers = layers
        self._fraction = fraction
        self._processes = processes
        self._removed = False
        # Neurons are what follows a layer, its activation included.
        self._seen = topoloss.observe(model, layers=list(layers), units="channel")
        self.connected = self._agreed(partial(_all_at_random, layers, density, seed))
        self._connect()
        self._cut()

    def _connect(self) -> None:
        # Of the latest training pass.
        self._trained = False
        self._inputs: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] | None = None
        # Before the observation's own, which forgets the pass before.
        begin = register_first(self._model, OwnHook(self._before_pass))
        # Torch keeps this hook for all optimisers, and would keep the model with it.
        step = register_optimizer_step_post_hook(_weakly(self._after_step))
        weakref.finalize(self, step.remove)
        self._handles: list[Any] = [step, begin]
        for name, layer in self._layers.items():
            note = OwnHook(partial(self._note, name))
            self._handles.append(layer.register_forward_pre_hook(note, with_kwargs=True))
            # What a layer put out holds its weight, out of sight of Python's garbage collector.
            mask = partial(_weakly(self._masked), name)
            self._handles.append(layer.weight.register_hook(mask))  # type: ignore[no-untyped-call]
            _SPARSE.add(layer)

    def __call__(self) -> Tensor:
        """Return 0: connections are no term of the loss."""
        return torch.zeros((), device=next(iter(self._layers.values())).weight.device)

    @torch.no_grad()
    def step(self) -> None:
        """Move connections, by what the neurons did in the latest training pass.

        Raises
        ------
        AttachmentError
            If there was none, or the rewiring was removed. In a group, the first process alone
            needs such a pass.
        OptionError
            If torch.distributed runs several processes, and `rewire` was given no group.
        NonFiniteError
            If weights or neurons hold NaN or infinity.
        """
        if self._removed:
            raise topoloss.AttachmentError(
                "this rewiring was removed; call topoloss_rewiring.rewire again."
            )
        # The other processes may have come after `rewire`.
        _check_alone(self._processes)
        self.connected = self._agreed(self._moved)
        self._inputs, self._outputs = {}, None
        self._cut()

    def _agreed(self, choose: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The connections that the first process of the group chooses, or else this process."""
        chosen = choose() if self._processes is None else self._processes.broadcast(choose)
        return {name: chosen[name].to(layer.weight.device) for name, layer in self._layers.items()}

    def _moved(self) -> dict[str, Tensor]:
        """The connections after a step, on the CPU."""
        if not self._inputs:
            raise topoloss.AttachmentError(
                "no training pass was seen since the last step; run the model in training mode "
                "before step()."
            )
        if self._outputs is None and not self._trained:
            raise topoloss.AttachmentError(
                "the latest pass of this compiled model was in evaluation mode; call step() after "
                "training and before it."
            )
        outputs = self._seen.activations() if self._outputs is None else self._outputs
        found = {}
        for name, layer in self._layers.items():
            x, y = self._inputs[name].flatten(0, -2), outputs[name]
            here = self.connected[name].to(layer.weight.device)
            found[name] = moved(here, layer.weight, x, y, self._fraction).cpu()
        return found

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold, beside the model's state, to go on with the connections."""
        return {"connected": {name: c.clone() for name, c in self.connected.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the connections that ``state_dict()`` returned, and cut all others.

        Raises
        ------
        OptionError
            If it is the state of something else.
        """
        expected = {name: tuple(c.shape) for name, c in self.connected.items()}
        connected = state.get("connected") if isinstance(state, Mapping) else None
        if not isinstance(connected, Mapping):
            connected = {}
        received = {n: tuple(c.shape) for n, c in connected.items() if isinstance(c, Tensor)}
        if received != expected:
            raise topoloss.OptionError(
                f"the state holds connections of the shapes {received}; expected {expected}, as "
                "state_dict() of a rewiring of this model returns them."
            )
        self.connected = {
            name: connected[name].to(layer.weight.device, torch.bool, copy=True)
            for name, layer in self._layers.items()
        }
        self._cut()

    def remove(self) -> None:
        """Let all connections learn again; those that are 0 begin there."""
        if self._removed:
            return
        for handle in self._handles:
            handle.remove()
        self._seen.remove()
        _SPARSE.difference_update(self._layers.values())
        self._removed = True

    def __enter__(self) -> Rewiring:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def __getstate__(self) -> dict[str, Any]:
        kept = self.__dict__.copy()
        for name in ("_handles", "_inputs", "_outputs", "_trained"):
            del kept[name]
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not self._removed:
            self._connect()

    @torch.no_grad()
    def _cut(self) -> None:
        for name, layer in self._layers.items():
            layer.weight.mul_(self.connected[name].to(layer.weight.device))

    def _after_step(self, *step: object) -> None:
        # Momentum moves a weight also where it has no gradient.
        self._cut()

    def _before_pass(self, model: nn.Module, args: object) -> None:
        if model.training:
            self._inputs, self._outputs = {}, None
        elif not torch.compiler.is_compiling() and self._trained and self._inputs:
            # This pass, an evaluation, is about to take the place of the training pass.
            self._outputs = {name: y.detach() for name, y in self._seen.activations().items()}
        self._trained = model.training

    def _note(
        self, name: str, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]
    ) -> None:
        # Of several calls in a pass the first, as the observation names it.
        if module.training and name not in self._inputs:
            self._inputs[name] = (args[0] if args else kwargs["input"]).detach()

    def _masked(self, name: str, gradient: Tensor) -> Tensor:
        return gradient * self.connected[name].to(gradient.device)


def _weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls a method for as long as its object lives."""
    reference = weakref.WeakMethod(method)

    def call(*args: Any) -> Any:
        alive = reference()
        return None if alive is None else alive(*args)

    return call


def _all_at_random(layers: dict[str, nn.Linear], density: float, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: _at_random(layer.weight, density, generator) for name, layer in layers.items()}


def _at_random(weight: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Choose round(density * size) connections, at least one."""
    count = max(1, round(density * weight.numel()))
    chosen = torch.randperm(weight.numel(), generator=generator)[:count]
    connected = torch.zeros(weight.numel(), dtype=torch.bool)
    connected[chosen] = True
    return connected.reshape(weight.shape)
