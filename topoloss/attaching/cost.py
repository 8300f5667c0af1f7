"""Estimate what a spanning tree costs, and refuse one on too many neurons."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from math import floor, log10

from torch import Tensor

from topoloss.errors import TooLargeError, check_number

__all__ = ["MAX_NEURONS", "check_max_neurons", "duration", "guard", "seconds"]

# On a CPU the limit comes to about 1.4 seconds a step for 256 samples, by `seconds`. The limit of a
# GPU is a guess that no committed run has tested yet.
MAX_NEURONS = {"cpu": 32_768, "cuda": 131_072}
# By `benchmarks/results/bfloat16/t1_step.csv`: seconds for a step, for a pair of neurons, and for a
# pair and a sample. Each pair counts twice. By `avx2/t1_step.csv` a step takes up to about 7 times
# as long where the processor does not multiply bfloat16.
_ANY, _PAIR, _SAMPLE = 1e-3, 1.3e-10, 4.6e-12
# An error names this many layers, the largest first.
_NAMED = 5


def seconds(neurons: int, samples: int) -> float:
    """Estimated seconds of T1, forward and backward, on two cores that multiply bfloat16."""
    return _ANY + neurons**2 * (_PAIR + _SAMPLE * samples)


def duration(seconds: float) -> str:
    """Say how long a step takes, and on which processor."""
    return (
        f"about {seconds:.2g} s on two CPU cores that multiply bfloat16, and up to about 7 times "
        "as long on others"
    )


def check_max_neurons(given: object) -> None:
    """Raise an `OptionError` unless `given` is a positive integer, None or "auto"."""
    if given is None or (isinstance(given, str) and given == "auto"):
        return
    automatic = f"'auto' for {MAX_NEURONS['cpu']:,} on a CPU and {MAX_NEURONS['cuda']:,} on a GPU"
    check_number(
        "max_neurons", given, whole=True, least=1, instead=f"{automatic}, or None for no limit"
    )


def guard(
    layers: Mapping[str, Tensor],
    channels: Mapping[str, int],
    joined: bool,
    fraction: float | None,
    named: Container[str],
    max_neurons: int | str | None,
) -> None:
    """Raise if there are too many neurons for a tree.

    Parameters
    ----------
    layers : mapping of str to Tensor, shape (samples, neurons)
        The neurons that take part.
    channels : mapping of str to int
        How many channels each layer has, where that is known.
    joined : bool
        Whether there is one tree over all layers; otherwise there is one for each.
    fraction : float or None
        The sampler's fraction; None if another could not be given to `attach`.
    named : container of str
        Names of modules. A layer of a bare parameter is not among them, and cannot be chosen by
        its name.
    max_neurons : int, "auto" or None
    """
    if max_neurons is None or not layers:
        return
    first = next(iter(layers.values()))
    if max_neurons == "auto":
        max_neurons = MAX_NEURONS["cpu" if first.device.type == "cpu" else "cuda"]
    most = int(max_neurons)
    sizes = {name: x.shape[1] for name, x in layers.items()}
    neurons = sum(sizes.values()) if joined else max(sizes.values())
    if neurons <= most:
        return
    remedies = [
        *_by_layer(sizes, channels, joined, most),
        *_by_fraction(sizes, joined, fraction, most),
        *_by_name(sizes, joined, most, named),
        f"max_neurons={neurons} (as many as that)",
    ]
    raise TooLargeError(
        f"{neurons:,} neurons {'take part' if joined else 'are in the largest layer'}, and "
        f"max_neurons is {most:,}: a step would take {duration(seconds(neurons, first.shape[0]))}. "
        f"Pass attach one of: {'; '.join(remedies)}. By layer: {_counted(sizes)}."
    )


# Options that would help, written so that they can be pasted.


def _by_layer(
    sizes: Mapping[str, int], channels: Mapping[str, int], joined: bool, most: int
) -> Iterator[str]:
    if joined and max(sizes.values()) <= most:
        yield 'per="layer" (a tree for each layer)'
    elif channels.keys() >= sizes.keys() and max(channels[name] for name in sizes) <= most:
        yield 'units="channel", per="layer" (a neuron for each channel, a tree for each layer)'


def _by_fraction(
    sizes: Mapping[str, int], joined: bool, fraction: float | None, most: int
) -> Iterator[str]:
    if fraction is None:
        return
    # The last layer is always taken whole.
    *others, last = sizes.values()
    sampled = (sum(others) if joined else max(others, default=0)) / fraction
    room = most - last if joined else most
    if last <= most and sampled and room > 0:
        # Rounded down, to one digit that is not 0.
        digits = 1 - floor(log10(room / sampled))
        yield f"fraction={floor(room / sampled * 10**digits) / 10**digits:g} (some of each layer)"


def _by_name(
    sizes: Mapping[str, int], joined: bool, most: int, named: Container[str]
) -> Iterator[str]:
    """Propose the last layers, as many as the limit allows."""
    calls: dict[str, int] = {}
    for name, size in sizes.items():
        module = name.partition(":")[0]
        calls[module] = calls.get(module, 0) + size if joined else max(calls.get(module, 0), size)
    chosen: list[str] = []
    room = most
    for module, size in reversed(calls.items()):
        if size > room or module not in named:
            break
        chosen.insert(0, module)
        room -= size if joined else 0
    if chosen:
        yield f"layers={chosen} (fewer layers)"


def _counted(sizes: Mapping[str, int]) -> str:
    largest = sorted(sizes, key=lambda name: -sizes[name])
    counted = [f"{name!r} {sizes[name]:,}" for name in largest[:_NAMED]]
    rest = [sizes[name] for name in largest[_NAMED:]]
    if rest:
        counted.append(f"{len(rest)} smaller ones with {sum(rest):,} together")
    return ", ".join(counted)
