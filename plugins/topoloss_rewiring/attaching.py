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

# Layers that some `Rewiring` currently keeps sparse.
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
    """Make linear layers sparse; each call of `step()` moves some of their connections.

    Parameters
    ----------
    model : Module
        Changed in place: in each layer randomly chosen weights stay, and all others become 0.
    density : float
        The share of its connections that each layer keeps, above 0 and at most 1.
    fraction : float
        The share of the kept connections that move at each step, from 0 to 1.
    layers : sequence of str, optional
        Names of linear layers. By default all except those inside ``nn.MultiheadAttention``, which
        never calls them.
    seed : int
        Seed of the initial connections.
    group : torch.distributed.ProcessGroup, optional
        The processes that train replicas of the model together, as under DDP. The first of
        them chooses the connections for all, from its own samples only. Every process must call
        ``step()``.

    Returns
    -------
    Rewiring
        Call its ``step()`` after each epoch of training.

    Raises
    ------
    OptionError
        If a name is repeated or names no linear layer; if the model has no linear layer; if the
        weight of a layer is frozen, shared with another module, computed (as by a weight norm) or
        already kept sparse; or if torch.distributed runs several processes and no group was given.

    Notes
    -----
    Each step removes the connections of smallest absolute weight. It adds as many between
    unconnected neurons, where the absolute cosine of their activations in the latest training pass
    is largest. New connections start at weight 0, so adding them does not change the output.

    **Checkpoints.** Save `state_dict()` along with those of the model and the optimiser. To resume,
    first call `rewire` on a new model, because it zeroes weights; then load all three states.

    **Several processes.** Pass ``group=torch.distributed.group.WORLD`` under DDP. Otherwise
    each replica would choose other connections, and the replicas would drift apart.

    **Copies.** A copy of the model alone is not kept sparse. To copy the model with its rewiring,
    apply `copy.deepcopy` to an object that holds both, such as a tuple.

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
    """Raise an `OptionError` if there are several processes and no group was given."""
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
    """Return the linear layers with these names; without names, all that the model calls."""
    linear = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    if layers is None:
        # nn.MultiheadAttention uses the weight of this layer without calling the layer.
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
        The current connections of each layer.
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
        # The outputs of a layer are observed after the activation that follows it.
        self._seen = topoloss.observe(model, layers=list(layers), units="channel")
        self.connected = self._agreed(partial(_all_at_random, layers, density, seed))
        self._connect()
        self._cut()

    def _connect(self) -> None:
        # Whether the latest pass was in training mode, and the activations of the latest that was.
        self._trained = False
        self._inputs: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] | None = None
        # Runs before the observation's own hook, which discards the previous pass.
        begin = register_first(self._model, OwnHook(self._before_pass))
        # Torch keeps this hook globally, for all optimisers; a strong reference in it would keep
        # the model alive.
        step = register_optimizer_step_post_hook(_weakly(self._after_step))
        weakref.finalize(self, step.remove)
        self._handles: list[Any] = [step, begin]
        for name, layer in self._layers.items():
            note = OwnHook(partial(self._note, name))
            self._handles.append(layer.register_forward_pre_hook(note, with_kwargs=True))
            # A recorded output keeps the weight and its hooks alive through the autograd graph,
            # which Python's garbage collector cannot see. So the hook must not hold this object.
            mask = partial(_weakly(self._masked), name)
            self._handles.append(layer.weight.register_hook(mask))  # type: ignore[no-untyped-call]
            _SPARSE.add(layer)

    def __call__(self) -> Tensor:
        """Return 0: rewiring adds nothing to the loss."""
        return torch.zeros((), device=next(iter(self._layers.values())).weight.device)

    @torch.no_grad()
    def step(self) -> None:
        """Move connections according to the activations in the latest training pass.

        Raises
        ------
        AttachmentError
            If there was no training pass since the last step, or the rewiring was removed. In a
            group, only the first process needs a training pass.
        OptionError
            If torch.distributed runs several processes, and `rewire` was given no group.
        NonFiniteError
            If weights or neurons hold NaN or infinity.
        """
        if self._removed:
            raise topoloss.AttachmentError(
                "this rewiring was removed; call topoloss_rewiring.rewire again."
            )
        # torch.distributed may have been initialised after the call of `rewire`.
        _check_alone(self._processes)
        self.connected = self._agreed(self._moved)
        self._inputs, self._outputs = {}, None
        self._cut()

    def _agreed(self, choose: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the choice of the group's first process or, without a group, of this one."""
        chosen = choose() if self._processes is None else self._processes.broadcast(choose)
        return {name: chosen[name].to(layer.weight.device) for name, layer in self._layers.items()}

    def _moved(self) -> dict[str, Tensor]:
        """Return the connections after a step, on the CPU."""
        if not self._inputs:
            raise topoloss.AttachmentError(
                "no training pass was seen since the last step; run the model in training mode "
                "before step()."
            )
        if self._outputs is None and not self._trained:
            raise topoloss.AttachmentError(
                "the latest pass of this compiled model was in evaluation mode; call step() after "
                "training and before evaluation."
            )
        outputs = self._seen.activations() if self._outputs is None else self._outputs
        found = {}
        for name, layer in self._layers.items():
            x, y = self._inputs[name].flatten(0, -2), outputs[name]
            here = self.connected[name].to(layer.weight.device)
            found[name] = moved(here, layer.weight, x, y, self._fraction).cpu()
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs, besides the model's state, to keep the connections."""
        return {"connected": {name: c.clone() for name, c in self.connected.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the connections that ``state_dict()`` returned, and zero all other weights.

        Raises
        ------
        OptionError
            If the layers or shapes in the state are not those of this rewiring.
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
        """Let all weights learn again; those of cut connections start from 0."""
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
        # Momentum can move a weight whose gradient is 0.
        self._cut()

    def _before_pass(self, model: nn.Module, args: object) -> None:
        if model.training:
            self._inputs, self._outputs = {}, None
        elif not torch.compiler.is_compiling() and self._trained and self._inputs:
            # This evaluation pass is about to overwrite the activations of the training pass.
            self._outputs = {name: y.detach() for name, y in self._seen.activations().items()}
        self._trained = model.training

    def _note(
        self, name: str, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]
    ) -> None:
        # If a pass calls the layer several times, keep the first call: the observation, too, has
        # that one under the layer's plain name.
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
