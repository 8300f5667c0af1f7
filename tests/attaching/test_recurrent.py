"""Recurrent networks: a recurrent module, or a call of a cell, is one layer."""

import pytest
import torch
import torch.nn.functional as F
from attaching.helpers import assert_observes, batch
from torch import nn

import topoloss


class Recurrent(nn.Module):
    def __init__(self, axis):
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.lstm = nn.LSTM(4, 5, num_layers=2, batch_first=axis == 0)
        self.head = nn.Linear(5, 3)

    def forward(self, tokens):
        return self.head(torch.tanh(self.lstm(self.embedding(tokens))[0]))


@pytest.mark.parametrize("layers", ["auto", "trainable"])
@pytest.mark.parametrize("axis", [0, 1])
def test_of_a_tuple_the_first_tensor_counts(axis, layers):
    def by_hand(model, tokens):
        embedded = model.embedding(tokens)
        hidden = torch.tanh(model.lstm(embedded)[0])
        found = {"embedding": embedded, "lstm": hidden, "head": model.head(hidden)}
        if layers == "auto":
            del found["embedding"]
        return {name: h.movedim(axis, 0) for name, h in found.items()}

    tokens = torch.randint(0, 10, (6, 7))
    assert_observes(Recurrent(axis), by_hand, tokens, batch_dim=axis, layers=layers)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("make", [nn.RNN, nn.GRU, nn.LSTM])
def test_a_recurrent_module_is_one_layer(make, bidirectional):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = make(4, 5, batch_first=True, bidirectional=bidirectional)
            self.head = nn.Linear(10 if bidirectional else 5, 3)

        def forward(self, x):
            return self.head(self.rnn(x)[0][:, -1])

    def by_hand(model, x):
        hidden = model.rnn(x)[0]
        return {"rnn": hidden, "head": model.head(hidden[:, -1])}

    assert_observes(Last(), by_hand, batch(7, 4))


def test_a_recurrent_module_of_which_only_the_state_is_used_is_a_layer():
    class State(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(4, 5, batch_first=True)
            self.head = nn.Linear(5, 3)

        def forward(self, x):
            return self.head(self.gru(x)[1][0])

    def by_hand(model, x):
        hidden, state = model.gru(x)
        return {"gru": hidden, "head": model.head(state[0])}

    assert_observes(State(), by_hand, batch(7, 4))


class Steps(nn.Module):
    """A cell in a loop over positions, with a head on its last state."""

    def __init__(self, make):
        super().__init__()
        self.cell = make(4, 5)
        self.head = nn.Linear(5, 3)

    def states(self, x):
        state, outputs = None, []
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return outputs

    def forward(self, x):
        return self.head(self.states(x)[-1])


@pytest.mark.parametrize("layers", ["auto", "trainable"])
@pytest.mark.parametrize("make", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_each_call_of_a_cell_is_a_layer(make, layers):
    def by_hand(model, x):
        states = model.states(x)
        names = ["cell", "cell:2", "cell:3"]
        return dict(zip(names, states, strict=True)) | {"head": model.head(states[-1])}

    assert_observes(Steps(make), by_hand, batch(3, 4), layers=layers)


class OwnCell(nn.Module):
    """An Elman cell of two linear maps, whose sum is activated."""

    def __init__(self):
        super().__init__()
        self.input, self.state = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        h = x[:, 0]
        for t in range(1, x.shape[1]):
            h = torch.tanh(self.input(x[:, t]) + self.state(h))
        return h


def test_both_maps_of_a_cell_by_hand_are_layers_before_their_sum():
    def by_hand(model, x):
        found, h = {}, x[:, 0]
        for t, call in enumerate(("", ":2"), 1):
            taken = found["input" + call] = model.input(x[:, t])
            kept = found["state" + call] = model.state(h)
            h = torch.tanh(taken + kept)
        return found

    assert_observes(OwnCell(), by_hand, batch(3, 4))


def test_bilinear_is_one_layer():
    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(4, 5), nn.Linear(3, 6)
            self.pair = nn.Bilinear(5, 6, 7)
            self.head = nn.Linear(7, 2)

        def forward(self, x, y):
            left, right = F.relu(self.left(x)), torch.tanh(self.right(y))
            return self.head(F.elu(self.pair(left, right)))

    def by_hand(model, x, y):
        left, right = F.relu(model.left(x)), torch.tanh(model.right(y))
        pair = F.elu(model.pair(left, right))
        return {"left": left, "right": right, "pair": pair, "head": model.head(pair)}

    assert_observes(Pairs(), by_hand, batch(4), batch(3))


class Packed(nn.Module):
    """The usual way to give a recurrent layer sequences of unequal lengths."""

    def __init__(self, hidden, bidirectional, unpacks):
        super().__init__()
        self.rnn = nn.LSTM(4, hidden, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(hidden * (1 + bidirectional), 3)
        self.unpacks = unpacks

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=False
        )
        out, (last, _) = self.rnn(packed)
        if self.unpacks:
            out, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
            return self.head(out[:, 0])
        return self.head(torch.cat([*last], 1))


@pytest.mark.filterwarnings("ignore::topoloss.AttachmentWarning")
@pytest.mark.parametrize("unpacks", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("hidden", [3, 5, 6, 12])
def test_the_rows_of_a_packed_sequence_are_no_samples(hidden, bidirectional, unpacks):
    """The recurrent layer is left out, whatever lengths agree by chance; what follows is not."""
    model = Packed(hidden, bidirectional, unpacks)
    x, lengths = batch(5, 4), torch.tensor([5, 1, 4, 2, 4, 1])
    seen = topoloss.observe(model)
    for _ in range(2):
        out = model(x, lengths)
        found = seen.activations()
        assert list(found) == ["head"]
        torch.testing.assert_close(found["head"], out)
