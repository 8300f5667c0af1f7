"""Padded positions, and batches that are too small to be valued."""

import pytest
import torch
import torch.nn.functional as F
from attaching.helpers import Net, batch, gradients, penalty_by_hand
from torch import nn

import topoloss


class Tagger(nn.Module):
    """A network on sequences, some of which are padded."""

    def __init__(self):
        super().__init__()
        self.tokens, self.fc, self.head = nn.Embedding(10, 4), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, input_ids, attention_mask=None, scale=1.0):
        return self.head(F.relu(self.fc(scale * self.tokens(input_ids))))


def padded(samples=6, positions=5):
    """Tokens, and the mask that has a one where a position is real."""
    lengths = 1 + torch.arange(samples) % positions
    mask = (torch.arange(positions)[None] < lengths[:, None]).long()
    return torch.randint(0, 10, (samples, positions)), mask


def rows_by_hand(model, tokens, mask):
    """The rows of real positions, picked one by one."""
    hidden = F.relu(model.fc(model.tokens(tokens)))
    out = model.head(hidden)
    real = [(i, j) for i, row in enumerate(mask.tolist()) for j, one in enumerate(row) if one]
    return {
        name: torch.stack([h[i, j] for i, j in real]) for name, h in (("fc", hidden), ("head", out))
    }


PASSES = {
    "by position": lambda model, tokens, mask: model(tokens, mask),
    "by keyword": lambda model, tokens, mask: model(tokens, attention_mask=mask),
    "all by keyword": lambda model, tokens, mask: model(attention_mask=mask, input_ids=tokens),
    "bool": lambda model, tokens, mask: model(tokens, mask.bool()),
    "float": lambda model, tokens, mask: model(tokens, attention_mask=mask.float()),
}


@pytest.mark.parametrize("call", PASSES.values(), ids=PASSES)
def test_a_mask_is_found_by_its_name_however_the_model_is_called(call):
    model = Tagger()
    penalty = topoloss.attach(model, "t2", mask="attention_mask", units="channel")
    for samples in (6, 3, 6):
        tokens, mask = padded(samples)
        call(model, tokens, mask)
        rows = rows_by_hand(model, tokens, mask)
        torch.testing.assert_close(penalty.activations(), rows)
        expected = topoloss.regulariser("t2")(torch.cat(list(rows.values()), 1))
        torch.testing.assert_close(penalty(), expected)
        torch.testing.assert_close(gradients(penalty(), model), gradients(expected, model))


def test_a_mask_may_be_worked_out_from_what_the_model_was_given():
    model, (tokens, mask) = Tagger(), padded()
    given = []

    def of_inputs(args, kwargs):
        given.append((len(args), sorted(kwargs)))
        return args[0] > 2

    seen = topoloss.observe(model, mask=of_inputs, units="channel")
    model(tokens, attention_mask=mask, scale=1.0)
    torch.testing.assert_close(seen.activations(), rows_by_hand(model, tokens, tokens > 2))
    assert given[0] == (1, ["attention_mask", "scale"])


@pytest.mark.parametrize("mask", ["attention_mask", lambda args, kwargs: None])
def test_without_a_mask_in_a_pass_every_position_is_real(mask):
    model, (tokens, _) = Tagger(), padded()
    seen = topoloss.observe(model, mask=mask, units="channel")
    model(tokens)
    rows = rows_by_hand(model, tokens, torch.ones_like(tokens))
    torch.testing.assert_close(seen.activations(), rows)


def test_the_sampler_sees_real_positions_only():
    class Asked(topoloss.Sampler):
        def __init__(self):
            self.rows = []

        def select(self, x):
            self.rows.append(len(x))
            return torch.arange(2)

    model, (tokens, mask), sampler = Tagger(), padded(), Asked()
    penalty = topoloss.attach(model, mask="attention_mask", units="channel", sampler=sampler)
    model(tokens, mask)
    penalty()
    assert sampler.rows == [int(mask.sum())]


@pytest.mark.parametrize("make", [topoloss.observe, topoloss.attach])
@pytest.mark.parametrize("mask", ["attention_mask", lambda args, kwargs: None])
def test_a_mask_goes_with_channels_only(make, mask):
    with pytest.raises(topoloss.OptionError, match=r"units='channel'"):
        make(Tagger(), mask=mask, units="unit")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("attention_mast", r"is not an argument of Tagger.*Did you mean 'attention_mask'\?"),
        (3, "mask=3 was given; expected the name of an argument"),
    ],
)
def test_a_mask_that_is_no_argument_of_the_model_is_an_error(mask, message):
    with pytest.raises(topoloss.OptionError, match=message):
        topoloss.observe(Tagger(), mask=mask, units="channel")


@pytest.mark.filterwarnings("ignore::topoloss.AttachmentWarning")
def test_a_misspelt_mask_is_an_error_where_the_model_takes_any_argument():
    class TakesAny(Tagger):
        def forward(self, input_ids, attention_mask=None, **more):
            return super().forward(input_ids, attention_mask)

    model, (tokens, mask) = TakesAny(), padded()
    penalty = topoloss.attach(model, units="channel", mask="attn_mask")
    model(tokens, attention_mask=mask)
    with pytest.raises(topoloss.AttachmentError, match=r"'attn_mask'.*'attention_mask'"):
        penalty()


@pytest.mark.parametrize("turned", [lambda mask: (mask - 1) * 1e9, lambda mask: mask - 2])
def test_a_mask_of_other_numbers_than_zero_and_one_is_an_error(turned):
    """Such as one that is added to the scores of attention."""
    model, (tokens, mask) = Tagger(), padded()
    penalty = topoloss.attach(model, units="channel", mask=lambda args, kwargs: turned(mask))
    model(tokens)
    with pytest.raises(topoloss.AttachmentError, match="mask= gave values from -"):
        penalty()


@pytest.mark.parametrize("shape", [(6,), (6, 4), (5, 5), (6, 5, 4)])
def test_a_mask_of_another_shape_is_an_error_that_names_both(shape):
    model, (tokens, _) = Tagger(), padded()
    penalty = topoloss.attach(model, mask="attention_mask", units="channel")
    model(tokens, torch.ones(shape))
    with pytest.raises(topoloss.AttachmentError) as error:
        penalty()
    assert f"shape {shape}" in str(error.value)
    # That of the samples is known at once, that of the positions only by the layers.
    expected = "with 5 positions" if shape == (6, 4) else "(6, positions)"
    assert expected in str(error.value)


@pytest.mark.parametrize("by", ["attention_mask", lambda args, kwargs: [[1] * 5] * 6])
def test_a_mask_that_is_no_tensor_is_an_error(by):
    class TakesLists(Tagger):
        def forward(self, input_ids, attention_mask=None):
            return super().forward(input_ids, torch.tensor(attention_mask))

    model, (tokens, mask) = TakesLists(), padded()
    penalty = topoloss.attach(model, units="channel", mask=by)
    model(tokens, mask.tolist())
    with pytest.raises(topoloss.AttachmentError, match=r"mask= gave \[\[.*expected a tensor"):
        penalty()


# Small batches.


def small_batches():
    """Models, their attachments' options, and inputs with less than two rows."""
    tokens, mask = padded()
    one_position = torch.zeros_like(mask)
    one_position[2, 0] = 1
    masked = {"mask": "attention_mask", "units": "channel"}
    return {
        "one sample": (Net(), {}, (batch(4, samples=1),)),
        "no sample": (Net(), {}, (batch(4, samples=0),)),
        "one row": (Tagger(), masked, (tokens, one_position)),
        "no row": (Tagger(), masked, (tokens, torch.zeros_like(mask))),
    }


@pytest.mark.parametrize("options", [{}, {"on_small_batch": "raise"}])
@pytest.mark.parametrize("case", small_batches())
def test_a_small_batch_is_an_error_with_the_remedy(case, options):
    model, chosen, inputs = small_batches()[case]
    penalty = topoloss.attach(model, **chosen, **options)
    model(*inputs)
    with pytest.raises(topoloss.TopolossError, match=r"on_small_batch='skip'"):
        penalty()


@pytest.mark.parametrize("per", [None, "network", "layer"])
@pytest.mark.parametrize("case", small_batches())
def test_a_small_batch_may_be_skipped(case, per):
    model, chosen, inputs = small_batches()[case]
    penalty = topoloss.attach(model, on_small_batch="skip", per=per, **chosen)
    assert penalty.skipped == 0
    for k in range(1, 3):
        model(*inputs)
        value = penalty()
        assert value.item() == 0
        assert value.shape == ()
        value.backward()
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())
        assert penalty.skipped == k


def test_a_batch_is_small_if_one_layer_has_less_than_two_rows():
    """Each position is a row of the convolution, and the last layer has no positions."""
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    penalty = topoloss.attach(model, units="channel", per="layer", on_small_batch="skip")
    model(batch(2, 6, samples=1))
    assert [len(h) for h in penalty.activations().values()] == [4, 1]
    assert (penalty().item(), penalty.skipped) == (0, 1)


def test_where_more_samples_would_not_help_nobody_is_told_to_skip():
    masks = topoloss.regulariser("similarity-matching", lateral={"nowhere": torch.ones(2, 2)})
    model = Net()
    for regulariser, skips in ((masks, False), ("t1", True)):
        with topoloss.attach(model, regulariser) as penalty:
            model(batch(4, samples=1))
            with pytest.raises(topoloss.InputError) as error:
                penalty()
        assert ("on_small_batch='skip'" in str(error.value)) is skips


def test_a_skipped_penalty_may_be_added_to_a_loss():
    model, x = Net(), batch(4, samples=1)
    penalty = topoloss.attach(model, on_small_batch="skip")
    loss = model(x).square().sum()
    expected = gradients(loss, model)
    torch.testing.assert_close(gradients(loss + penalty(), model), expected)


@pytest.mark.parametrize("way", ["eager", "compiled", "eval_pass"])
def test_a_small_batch_counts_once_however_often_it_is_valued(way):
    model = Net()
    penalty = topoloss.attach(model, on_small_batch="skip", eval_pass=way == "eval_pass")
    model(batch(4))
    run = torch.compile(model, backend="eager") if way == "compiled" else model
    for passes in (1, 2):
        run(batch(4, samples=1))
        for _ in range(3):
            penalty()
        assert penalty.skipped == passes


def test_other_batches_are_valued_where_small_ones_are_skipped():
    model, x = Net(), batch(4)
    penalty = topoloss.attach(model, on_small_batch="skip")
    for given in (x, x[:1], x[:2], x):
        model(given)
        expected = torch.zeros(()) if len(given) == 1 else penalty_by_hand(model, given)
        torch.testing.assert_close(penalty(), expected)
    assert penalty.skipped == 1


def test_an_unknown_on_small_batch_is_an_error():
    with pytest.raises(topoloss.OptionError, match="'raise', 'skip'"):
        topoloss.attach(Net(), on_small_batch="ignore")
