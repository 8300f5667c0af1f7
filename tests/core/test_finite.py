"""What input is accepted, and what NaN and infinity in it do."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from inputs import of_correlations, on_activations, on_one_layer, on_parameters, with_bad, x_of
from torch._subclasses.fake_tensor import FakeTensorMode

import topoloss

# Bad input


BAD = {
    "number": (3.0, "3.0 of type float.*expected a floating-point tensor"),
    "array": (np.ones((4, 3)), r"of type ndarray and shape \(4, 3\)"),
    "sparse": (torch.eye(4).to_sparse(), "sparse_coo tensor was given.*to_dense"),
    "None": (None, "of type NoneType"),
    "vector": (torch.ones(4), r"shape \(4,\).*\(samples, neurons\)"),
    "scalar": (torch.ones(()), r"shape \(\)"),
    "images": (torch.ones(4, 3, 2, 2), r"shape \(4, 3, 2, 2\).*x.flatten\(1\)"),
    "integers": (torch.ones(4, 3, dtype=torch.int64), r"dtype torch.int64.*x.float\(\)"),
    "booleans": (torch.ones(4, 3, dtype=torch.bool), "dtype torch.bool"),
    "float8": (torch.ones(4, 3).to(torch.float8_e4m3fn), r"float8_e4m3fn.*x.float\(\)"),
    "nested": (
        torch.nested.nested_tensor([torch.ones(4, 3)] * 2, layout=torch.jagged),
        r"nested tensor.*x.unbind\(\)",
    ),
    "meta": (torch.ones(4, 3, device="meta"), r"shape \(4, 3\).*holds no values"),
    "fake": (FakeTensorMode().from_tensor(torch.ones(4, 3)), "holds no values"),
    "complex": (torch.ones(4, 3, dtype=torch.complex64), r"dtype torch.complex64.*x.abs\(\)"),
    "no neurons": (torch.ones(4, 0), r"shape \(4, 0\).*with no neurons"),
    "no samples": (torch.ones(0, 4), "with no samples"),
    "no batch": (torch.ones(0, 4, 3), "with no batch"),
    "no neurons in a batch": (torch.ones(2, 4, 0), "with no neurons"),
    "one sample": (torch.ones(1, 4), r"at least 2.*one sample.*drop_last=True"),
    "one sample in a batch": (torch.ones(2, 1, 4), "one sample"),
    "empty list": ([], "empty sequence"),
    "list of numbers": ([1.0, 2.0], "1.0 of type float"),
    "list with a vector": ([torch.ones(4, 3), torch.ones(4)], r"shape \(4,\)"),
    "list with a batch": ([x_of(4, 3), x_of(2, 4, 3)], r"\(2, 4, 3\)"),
    "model": (torch.nn.Linear(2, 2), "a module of type Linear"),
    "layers": ({"a": torch.ones(4, 3)}, "of type dict.*For layers by name use of_layers"),
}


ONE_SAMPLE = ("one sample", "one sample in a batch")
# There is no tree of what is not a number, and no engine starts on it.
WITH_A_TREE = ("t1", "t2", "beta-connectivity", "covariance-tree")


@on_activations
@pytest.mark.parametrize("case", [case for case in BAD if case not in ONE_SAMPLE])
def test_bad_activations_say_what_was_given_and_what_was_expected(name, case):
    given, message = BAD[case]
    with pytest.raises(topoloss.InputError, match=f"(?s){message}"):
        topoloss.regulariser(name)(given)


@of_correlations
@pytest.mark.parametrize("case", ONE_SAMPLE)
def test_one_sample_has_no_correlations(name, case):
    given, message = BAD[case]
    with pytest.raises(topoloss.InputError, match=f"(?s){message}"):
        topoloss.regulariser(name)(given)


@pytest.mark.parametrize("case", [c for c in BAD if c not in ("empty list", "list with a batch")])
def test_diagrams_refuse_what_forward_refuses(case):
    given, message = BAD[case]
    with pytest.raises(topoloss.InputError, match=f"(?s){message}"):
        topoloss.regulariser("t1").diagrams(given)


@on_parameters
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (x_of(6, 5), r"takes parameters and was given a tensor of shape \(6, 5\); pass a mapping"),
        (
            torch.nn.Linear(2, 2),
            r"of type Linear; pass .*dict\(model.named_parameters\(\)\)",
        ),
        ({"w": 3.0}, "3.0 of type float for 'w'"),
    ],
    ids=["activations", "model", "numbers"],
)
def test_a_regulariser_of_parameters_refuses_what_is_no_mapping_of_tensors(name, given, message):
    with pytest.raises(topoloss.InputError, match=message):
        topoloss.regulariser(name)(given)


# Non-finite input


@on_activations
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (with_bad(torch.nan, (0, 1), (3, 1), (2, 4)), r"2 of 5 neurons .*\(2 hold NaN\)"),
        (with_bad(torch.inf, (0, 0)), r"1 of 5 neurons .*\(0 hold NaN\)"),
        (with_bad(-torch.inf, (0, 0), (1, 2)), "2 of 5 neurons"),
        (torch.full((6, 5), torch.nan), "5 of 5 neurons"),
        (with_bad(torch.nan, (1, 0, 3), shape=(2, 6, 5)), "1 of 10 neurons"),
        (with_bad(torch.inf, (0, 0)).half(), "1 of 5 neurons"),
    ],
    ids=["nan", "inf", "-inf", "all", "batch", "half"],
)
def test_what_is_not_finite_is_counted(name, x, message):
    for on_request in (None, True):
        with pytest.raises(topoloss.NonFiniteError, match=message):
            topoloss.regulariser(name, check_finite=on_request)(x)


def test_opposite_infinities_do_not_cancel():
    x = with_bad(torch.inf, (0, 0))
    x[1, 0] = -torch.inf
    with pytest.raises(topoloss.NonFiniteError, match="1 of 5"):
        topoloss.regulariser("t1")(x)


@of_correlations
def test_a_sum_that_overflows_is_finite_all_the_same(name):
    x = x_of(6, 5)
    huge = x / x.abs().max() * 3e38
    torch.testing.assert_close(topoloss.regulariser(name)(huge), topoloss.regulariser(name)(x))


@on_one_layer
def test_a_deferred_check_raises_at_the_next_call_and_once(name):
    reg, good = topoloss.regulariser(name, check_finite=False), x_of(6, 5)
    expected = topoloss.regulariser(name)(good)
    assert torch.equal(reg(good), expected)
    bad = with_bad(torch.nan, (0, 1), (0, 2))
    if name in WITH_A_TREE:
        with pytest.raises(topoloss.TopolossError, match="NaN or infinity"):
            reg(bad)
    else:
        assert torch.isnan(reg(bad))
    with pytest.raises(topoloss.NonFiniteError, match=r"2 neurons .* the call before"):
        reg(good)
    assert torch.equal(reg(good), expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda reg: pickle.loads(pickle.dumps(reg))])
def test_a_deferred_check_outlives_a_copy(copied):
    reg = topoloss.regulariser("naive", check_finite=False)
    reg(with_bad(torch.nan, (0, 1)))
    with pytest.raises(topoloss.NonFiniteError, match="1 neurons"):
        copied(reg)(x_of(6, 5))


@on_activations
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_skipping_gives_zero_with_zero_gradient_and_counts(name, bad):
    reg = topoloss.regulariser(name, on_nonfinite="skip")
    x = with_bad(bad, (0, 1)).requires_grad_()
    value = reg(x)
    assert value.item() == 0
    value.backward()
    assert (x.grad == 0).all()
    assert reg.skipped.item() == 1
    reg(x)
    assert reg.skipped.item() == 2


@on_activations
def test_skipping_leaves_the_other_problems_of_a_batch_alone(name):
    reg, plain = topoloss.regulariser(name, on_nonfinite="skip"), topoloss.regulariser(name)
    batch = with_bad(torch.nan, (1, 0, 3), shape=(3, 6, 5)).requires_grad_()
    values = reg(batch)
    values.sum().backward()
    assert values[1].item() == 0
    assert (batch.grad[1] == 0).all()
    assert reg.skipped.item() == 1
    for k in (0, 2):
        good = batch[k].detach().requires_grad_()
        plain(good).backward()
        torch.testing.assert_close(values[k], plain(good))
        torch.testing.assert_close(batch.grad[k], good.grad)


@on_one_layer
def test_skipping_in_a_list_counts_each_problem(name):
    reg = topoloss.regulariser(name, on_nonfinite="skip")
    values = reg([with_bad(torch.nan, (0, 0)), x_of(4, 3), with_bad(torch.inf, (0, 0))])
    assert (values == 0).tolist() == [True, False, True]
    assert reg.skipped.item() == 2


@on_activations
def test_skipping_changes_nothing_where_all_is_finite(name):
    reg, x = topoloss.regulariser(name, on_nonfinite="skip"), x_of(6, 5)
    assert torch.equal(reg(x), topoloss.regulariser(name)(x))
    assert reg.skipped.item() == 0


def test_skips_of_several_threads_are_all_counted():
    reg = topoloss.regulariser("t1", on_nonfinite="skip")
    bad = with_bad(torch.nan, (0, 1))

    def value(_):
        return [reg(bad).item() for _ in range(100)]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(value, range(8)))
    assert reg.skipped.item() == 800
