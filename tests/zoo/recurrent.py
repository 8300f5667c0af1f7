"""Recurrent classifiers, with the samples and with the positions in axis 0."""

import torch
from torch import nn
from zoo.written import SAMPLES, Layer, Written

FEATURES, HIDDEN, CLASSES = 4, 8, 3


class Last(nn.Module):
    """Classifies what a recurrent module puts out at the last position."""

    def __init__(self, recurrent, positions_first=False):
        super().__init__()
        self.recurrent = recurrent
        self.head = nn.Linear(HIDDEN, CLASSES)
        self.positions_first = positions_first

    def forward(self, x):
        out, _ = self.recurrent(x)
        return self.head(out[-1] if self.positions_first else out[:, -1])


class Turned(Last):
    """Turns samples first into positions first for its recurrent module."""

    def forward(self, x):
        out, _ = self.recurrent(x.transpose(0, 1))
        return self.head(out[-1])


class State(Last):
    """Classifies the last hidden state, and drops what is put out."""

    def forward(self, x):
        _, (hidden, _) = self.recurrent(x)
        return self.head(hidden[-1])


class Mean(nn.Module):
    """Classifies the mean over positions of both directions."""

    def __init__(self, recurrent):
        super().__init__()
        self.recurrent = recurrent
        self.head = nn.Linear(2 * HIDDEN, CLASSES)

    def forward(self, x):
        out, _ = self.recurrent(x)
        return self.head(out.mean(1))


class Cells(nn.Module):
    """Calls a cell once for each position."""

    def __init__(self, cell, positions_first=False):
        super().__init__()
        self.cell = cell
        self.head = nn.Linear(HIDDEN, CLASSES)
        self.positions_first = positions_first

    def forward(self, x):
        state = None
        for step in x if self.positions_first else x.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


def samples_first(positions):
    return lambda dtype: ((torch.randn(SAMPLES, positions, FEATURES, dtype=dtype),), {})


def positions_first(positions):
    return lambda dtype: ((torch.randn(positions, SAMPLES, FEATURES, dtype=dtype),), {})


def cells(positions):
    """The calls of a cell are layers of their own."""
    later = {f"cell:{k}": Layer((HIDDEN,), "cell", call=k) for k in range(2, positions + 1)}
    return {"cell": Layer((HIDDEN,))} | later


HEAD = {"head": Layer((CLASSES,))}

RECURRENT = [
    Written(
        "lstm, samples first",
        lambda: Last(nn.LSTM(FEATURES, HIDDEN, batch_first=True)),
        samples_first(5),
        {"recurrent": Layer((5, HIDDEN)), **HEAD},
    ),
    Written(
        "lstm, positions first",
        lambda: Last(nn.LSTM(FEATURES, HIDDEN), positions_first=True),
        positions_first(5),
        {"recurrent": Layer((5, HIDDEN), sample_axis=1), **HEAD},
        options={"batch_dim": 1},
    ),
    Written(
        "lstm, last state",
        lambda: State(nn.LSTM(FEATURES, HIDDEN, num_layers=2, dropout=0.2, batch_first=True)),
        samples_first(5),
        {"recurrent": Layer((5, HIDDEN)), **HEAD},
    ),
    Written(
        "gru, both directions",
        lambda: Mean(nn.GRU(FEATURES, HIDDEN, batch_first=True, bidirectional=True)),
        samples_first(5),
        {"recurrent": Layer((5, 2 * HIDDEN)), **HEAD},
    ),
    Written(
        "gru, positions first",
        lambda: Last(nn.GRU(FEATURES, HIDDEN), positions_first=True),
        positions_first(5),
        {"recurrent": Layer((5, HIDDEN), sample_axis=1), **HEAD},
        options={"batch_dim": 1},
    ),
    # As many positions as samples, so that their lengths don't tell the axes apart.
    Written(
        "rnn, turned round inside",
        lambda: Turned(nn.RNN(FEATURES, HIDDEN, nonlinearity="relu")),
        samples_first(SAMPLES),
        {"recurrent": Layer((SAMPLES, HIDDEN), sample_axis=1), **HEAD},
    ),
    Written(
        "lstm cell, samples first",
        lambda: Cells(nn.LSTMCell(FEATURES, HIDDEN)),
        samples_first(4),
        {**cells(4), **HEAD},
    ),
    Written(
        "gru cell, positions first",
        lambda: Cells(nn.GRUCell(FEATURES, HIDDEN), positions_first=True),
        positions_first(4),
        {**cells(4), **HEAD},
        options={"batch_dim": 1},
    ),
]
