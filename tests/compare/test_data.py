import urllib.error
from itertools import combinations

import numpy as np
import pytest
import sklearn.datasets
import torch

import topoloss
from topoloss.compare.data import Dataset, load, split


def numbered(**options):
    return Dataset(torch.arange(10.0)[:, None], torch.arange(10) % 2, **options)


def members(parts):
    return [sorted(int(v) for v in part.x[:, 0]) for part in parts]


def test_split_uses_every_sample_once():
    parts = split(numbered(train=5, validation=2), seed=4)
    assert [len(part.y) for part in parts] == [5, 2, 3]
    assert sorted(n for part in members(parts) for n in part) == list(range(10))


def test_split_keeps_inputs_with_their_labels():
    for part in split(numbered(train=5, validation=2), seed=4):
        assert torch.equal(part.x[:, 0].long() % 2, part.y)


def test_split_depends_on_the_seed_alone():
    data = numbered(train=5, validation=2)
    first = members(split(data, seed=4))
    torch.rand(3)
    assert members(split(data, seed=4)) == first
    assert members(split(data, seed=5)) != first


def test_fixed_test_part_is_the_last_samples():
    data = numbered(train=5, validation=2, fixed_test=True)
    assert members(split(data, seed=0))[2] == members(split(data, seed=1))[2] == [7, 8, 9]


def test_split_without_a_test_part_is_refused():
    with pytest.raises(topoloss.InputError, match="no test part of the 10 samples"):
        split(numbered(train=8, validation=2), seed=0)


def test_digits_are_scaled_and_sized_as_documented():
    digits = load("digits")
    assert digits.x.shape == (1797, 64)
    assert (digits.x.min(), digits.x.max()) == (0, 1)
    assert [len(part.y) for part in split(digits, seed=0)] == [600, 397, 800]


def test_own_pair_is_split_60_20_20(own_module):
    module = own_module(
        "import numpy as np\ndef load():\n    return np.zeros((50, 3)), np.arange(50) % 4\n"
    )
    data = load(f"{module}:load")
    assert (data.train, data.validation, data.outputs) == (30, 10, 4)
    assert data.x.dtype == torch.float32


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("3", "returned int; expected"),
        ("(np.zeros((5, 2)), np.zeros(4, int))", r"for 5 inputs .*int64 of shape \(4,\);"),
        ("(np.zeros((5, 2)), np.zeros((5, 2), int))", "expected as many class labels, int64"),
        ("(np.zeros((5, 2)), np.zeros((5, 2, 2)))", r"or targets .* of shape \(samples, targets"),
        ("(np.zeros((5, 2)), 4)", r"for 5 inputs .*int64 of shape \(1,\);"),
        ("(np.zeros((5, 2)) + 1j, np.zeros(5, int))", "they are complex numbers"),
        ("([[1.0], [1.0, 2.0]], [0, 1])", "cannot be converted to tensors"),
        ("Dataset(torch.zeros(5, 2), torch.zeros(5).int(), 3, 1)", "torch.int32 of shape"),
        ("Dataset(torch.zeros(5, 2), torch.zeros(5), 3, 1)", r"float32 of shape \(5,\)"),
        ("Dataset(torch.zeros(5, 2), torch.zeros(4).long(), 3, 1)", "for 5 inputs"),
        ("(np.zeros((5, 2)), np.array([0, 2, 2, 0, 0]))", r"\[0, 2\]; number the 2 classes"),
        ("(np.zeros((5, 2)), np.full(5, np.inf))", "5 of 5 targets hold NaN or infinity"),
        ("(np.zeros((5, 2)), np.array(['a'] * 5))", "cannot be converted to tensors"),
        ("(np.zeros(5), np.zeros(5, int))", r"the inputs are torch.float32 of shape \(5,\)"),
        ("(np.zeros((0, 2)), np.zeros(0, int))", r"the inputs are .* of shape \(0, 2\)"),
        ("(np.full((5, 2), np.nan), np.zeros(5, int))", "5 of 5 inputs hold NaN"),
        ("(np.zeros((5, 2)), np.full(5, -1))", r"the labels are \[-1\]; number"),
    ],
)
def test_own_data_of_the_wrong_form_is_refused(own_module, returned, message):
    imports = "import numpy as np, torch\nfrom topoloss.compare.data import Dataset\n"
    name = own_module(f"{imports}load = lambda: {returned}\n")
    with pytest.raises(topoloss.InputError, match=message):
        load(f"{name}:load")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_module:f", "no module 'no_such_module'"),
        ("math:nothing", "no function 'nothing'"),
        (".module:f", "not of the form package.module:function"),
        ("module:", "not of the form package.module:function"),
        ("shutil:which", "called without arguments: missing a required argument"),
    ],
)
def test_references_that_lead_nowhere_are_refused(reference, message):
    with pytest.raises(topoloss.InputError, match=message):
        load(reference)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(
        topoloss.UnknownNameError, match=r"digits, .*mnist and cifar10, .*Did you mean 'mnist'"
    ):
        load("mnis")


def test_openml_without_a_connection_says_so(monkeypatch):
    def fail(*args, **kwargs):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fail)
    with pytest.raises(topoloss.InputError, match=r"needs a connection.*'digits' needs none"):
        load("mnist")


@pytest.mark.parametrize(
    ("name", "n", "shape", "sizes"),
    [("mnist", 70, (1, 28, 28), [48, 12, 10]), ("cifar10", 60, (3, 32, 32), [40, 10, 10])],
)
def test_openml_data_in_its_format(openml, name, n, shape, sizes):
    """With a thousandth of the samples, split in the proportions of the whole."""
    openml(n)
    data = load(name)
    assert data.x.shape == (n, *shape)
    assert (data.x.min(), data.x.max()) == (0, 1)
    # Pixel by pixel, then row by row, then channel by channel.
    assert data.x[0].flatten()[:3].tolist() == pytest.approx([0, 1 / 255, 2 / 255])
    assert data.y[:11].tolist() == [*range(10), 0]
    parts = split(data, seed=0)
    assert [len(part.y) for part in parts] == sizes
    assert torch.equal(parts.test.y, data.y[-10:])


def test_breast_cancer_is_standardised_by_the_training_part():
    parts = split(load("breast-cancer"), seed=3)
    assert [len(part.y) for part in parts] == [341, 114, 114]
    torch.testing.assert_close(parts.train.x.mean(0), torch.zeros(30), rtol=0, atol=2e-6)
    torch.testing.assert_close(parts.train.x.std(0, correction=0), torch.ones(30))
    assert parts.test.x.mean(0).abs().max() > 0.01


def test_targets_of_a_regression_are_standardised_by_the_training_part():
    diabetes = load("diabetes")
    assert diabetes.outputs == 1
    parts = split(diabetes, seed=3)
    assert [part.y.shape for part in parts] == [(266, 1), (88, 1), (88, 1)]
    torch.testing.assert_close(parts.train.y.mean(0), torch.zeros(1), rtol=0, atol=2e-6)
    torch.testing.assert_close(parts.train.y.std(0, correction=0), torch.ones(1))
    every = torch.cat([part.y for part in parts]).sort(0).values
    expected = torch.tensor(sklearn.datasets.load_diabetes().target).sort().values
    correlation = torch.corrcoef(torch.stack((every[:, 0].double(), expected)))[0, 1]
    assert correlation == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("shape", "outputs"), [((10,), 1), ((10, 3), 3)])
def test_own_floating_point_targets_make_a_regression(own_module, shape, outputs):
    name = own_module(f"import numpy as np\nload = lambda: (np.zeros((10, 2)), np.ones({shape}))\n")
    data = load(f"{name}:load")
    assert data.y.shape == (10, outputs)
    assert (data.outputs, data.y.dtype) == (outputs, torch.float32)


def test_a_feature_that_does_not_vary_is_only_shifted():
    data = Dataset(torch.full((6, 2), 7.0), torch.arange(6) % 2, 3, 1, standardise=True)
    assert all(torch.equal(part.x, torch.zeros_like(part.x)) for part in split(data, seed=0))


def test_a_size_sets_the_training_part_alone():
    whole, small = load("digits"), load("digits[train=100]")
    assert torch.equal(whole.x, small.x)
    assert [len(part.y) for part in split(small, seed=0)] == [100, 397, 1300]
    with pytest.raises(topoloss.InputError, match="leave no test part"):
        split(load("digits[train=1400]"), seed=0)
    for wrong in ("digits[train=0]", "digits[train=1.5]", "digits[size=3]", "a/b/c"):
        with pytest.raises(topoloss.OptionError):
            load(wrong)


# Features, and samples for training and for validation.
GENERATED = {
    "teacher": (20, 300, 200),
    "spirals": (6, 600, 200),
    "friedman1": (10, 300, 200),
    "friedman2": (4, 300, 200),
    "friedman3": (4, 300, 200),
}


@pytest.mark.parametrize("name", GENERATED)
def test_generated_data_are_the_same_each_time_and_from_no_global_state(name):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = load(name), load(name)
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.y, second.y)
    features, train, validation = GENERATED[name]
    assert first.x.shape == (1500, features)
    assert (first.train, first.validation) == (train, validation)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_generated_data_share_no_samples():
    """Each is a block of its own where regularisers are ranked."""
    held = [load(name).x for name in GENERATED]
    for one, other in combinations(held, 2):
        shared = min(one.shape[1], other.shape[1])
        assert not torch.equal(one[:, :shared], other[:, :shared])


def test_friedman_s_targets_are_his_functions_and_noise():
    """Friedman, Multivariate adaptive regression splines, Ann. Statist. 19 (1991)."""
    # Four standard errors of a deviation.
    slack = 4 / (2 * 1500) ** 0.5
    x, y = load("friedman1").x.double().numpy(), load("friedman1").y[:, 0].numpy()
    truth = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2
    truth += 10 * x[:, 3] + 5 * x[:, 4]
    assert np.std(y - truth) == pytest.approx(0.5, rel=slack)
    x, y = load("friedman2").x.double().numpy(), load("friedman2").y[:, 0].numpy()
    reactance = x[:, 1] * x[:, 2] - 1 / (x[:, 1] * x[:, 3])
    assert np.std(y - np.hypot(x[:, 0], reactance)) == pytest.approx(40, rel=slack)
    x, y = load("friedman3").x.double().numpy(), load("friedman3").y[:, 0].numpy()
    reactance = x[:, 1] * x[:, 2] - 1 / (x[:, 1] * x[:, 3])
    assert np.std(y - np.arctan2(reactance, x[:, 0])) == pytest.approx(0.03, rel=slack)


def test_no_class_of_generated_data_is_rare():
    for name, classes in (("teacher", 4), ("spirals", 2)):
        counts = load(name).y.bincount()
        assert len(counts) == classes
        assert counts.min() > 1500 / 10


def test_spirals_lie_in_the_first_two_features_alone():
    """By the distance of each point to the curves of the two classes."""
    data = load("spirals")
    turn = torch.linspace(0, 1, 2000)
    curves = [
        turn[:, None] * torch.stack(((2 * np.pi * turn + a).cos(), (2 * np.pi * turn + a).sin()), 1)
        for a in (0, np.pi)
    ]
    distances = torch.stack([torch.cdist(data.x[:, :2], c).amin(1) for c in curves])
    # Beside its own curve a point has noise of deviation 0.03; to four standard errors.
    own = distances.gather(0, data.y[None])
    assert own.square().mean().sqrt().item() == pytest.approx(0.03, rel=4 / (2 * 1500) ** 0.5)
    # Few points lie where the two curves meet.
    assert (distances.argmin(0) == data.y).double().mean() > 0.99
    for k in range(2, 6):
        x = data.x[:, k]
        assert abs(x[data.y == 0].mean() - x[data.y == 1].mean()) < 4 * (2 / 750) ** 0.5


def test_a_sparse_dataset_is_refused(own_module):
    imports = "import torch\nfrom topoloss.compare.data import Dataset\n"
    name = own_module(
        f"{imports}load = lambda: Dataset(torch.eye(5).to_sparse(), torch.zeros(5).long(), 3, 1)\n"
    )
    with pytest.raises(topoloss.InputError, match=r"sparse; return .to_dense\(\)"):
        load(f"{name}:load")
