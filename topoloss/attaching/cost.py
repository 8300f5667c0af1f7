"""What a spanning tree on so many neurons costs, and the guard against more than is bearable."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor, log10

from torch import Tensor

from topoloss.errors import OptionError, TooLargeError

__all__ = ["MAX_NEURONS", "check_max_neurons", "guard", "seconds"]

# About two seconds a step for 256 samples on two cores, by `benchmarks/results/t1_step.csv`; that
# of GPUs is a guess that no committed run has tested yet.
MAX_NEURONS = {"cpu": 32_768, "cuda": 131_072}
# Of `benchmarks/results/t1_step.csv`: seconds for any step, and for a pair and sample.
_ANY, _EACH = 1e-3, 7e-12


def seconds(neurons: int, samples: int) -> float:
    """Estimated seconds of T1, forward and backward, on two cores of a CPU."""
    return _ANY + _EACH * neurons**2 * samples


def check_max_neurons(given: object) -> None:
    """Raise an `OptionError` unless `given` is a positive integer, None or "auto"."""
    if given is None or given == "auto":
        return
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise OptionError(
            f"max_neurons={given!r} was given; expected a positive integer, 'auto' for "
            f"{MAX_NEURONS['cpu']:,} on a CPU and {MAX_NEURONS['cuda']:,} on a GPU, or None for no "
            "limit."
        )


def guard(layers: Mapping[str, Tensor], joined: bool, max_neurons: int | str | None) -> None:
    """Raise before a tree on too many neurons is begun.

    Parameters
    ----------
    layers : mapping of str to Tensor, shape (samples, neurons)
        What takes part.
    joined : bool
        One tree over all layers; otherwise one for each.
    max_neurons : int, "auto" or None
    """
    if max_neurons is None or not layers:
        return
    first = next(iter(layers.values()))
    if max_neurons == "auto":
        max_neurons = MAX_NEURONS["cpu" if first.device.type == "cpu" else "cuda"]
    sizes = {name: x.shape[1] for name, x in layers.items()}
    neurons = sum(sizes.values()) if joined else max(sizes.values())
    if neurons <= int(max_neurons):
        return
    counted = ", ".join(f"{name!r} {n:,}" for name, n in sizes.items())
    raise TooLargeError(
        f"{neurons:,} neurons {'take part' if joined else 'are in the largest layer'}, and "
        f"max_neurons is {int(max_neurons):,}: a step would take about "
        f"{seconds(neurons, first.shape[0]):.1f} s on two CPU cores, or longer. By layer: "
        f"{counted}. Pass attach one of: {'; '.join(_remedies(sizes, neurons, int(max_neurons)))}."
    )


def _remedies(sizes: Mapping[str, int], neurons: int, most: int) -> list[str]:
    """Options that help, as they can be pasted."""
    last = list(sizes)[-1]
    remedies = ['units="channel", per="layer" (a neuron for each channel, a tree for each layer)']
    # The last layer is always taken whole.
    fraction = (most - sizes[last]) / max(1, neurons - sizes[last])
    if fraction > 0:
        # Rounded down, to one digit that is not 0.
        digits = 1 - floor(log10(fraction))
        shown = floor(fraction * 10**digits) / 10**digits
        remedies.append(f"fraction={min(shown, 1):g} (some neurons of each layer)")
    if last != "(model)":
        remedies.append(f"layers={[last.partition(':')[0]]} (fewer layers)")
    return [*remedies, f"max_neurons={neurons} (as many as that)"]
