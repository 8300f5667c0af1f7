"""Components by name, and pipelines of them."""

import pytest
import torch
from offers import KINDS, SHIPPED, Cosine, Median, Plugin

import topoloss
from topoloss.components import look_up

# Names


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_names_are_available_and_can_be_made(kind):
    assert topoloss.available(kind) == SHIPPED[kind]
    base = getattr(topoloss, kind.capitalize())
    for name in SHIPPED[kind]:
        assert isinstance(getattr(topoloss, kind)(name), base)


def test_what_is_not_a_kind_is_an_error():
    with pytest.raises(topoloss.OptionError, match=r"'filtration', .* Did you mean 'filtration'"):
        topoloss.available("filtrations")


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_name_lists_the_known_ones(kind):
    with pytest.raises(topoloss.UnknownNameError) as error:
        getattr(topoloss, kind)("zebra")
    assert "'zebra'" in str(error.value)
    *others, last = SHIPPED[kind]
    assert f"there are {', '.join(others)} and {last}." in str(error.value)
    assert "Did you mean" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "given", "nearest"),
    [
        ("filtration", "corelation", "correlation"),
        ("persistence", "msts", "mst"),
        ("loss", "total_persistence", "total-persistence"),
        ("regulariser", "naiv", "naive"),
        ("sampler", "importanc", "importance"),
    ],
)
def test_an_unknown_name_names_the_nearest(kind, given, nearest):
    with pytest.raises(topoloss.UnknownNameError, match=f"Did you mean '{nearest}'"):
        getattr(topoloss, kind)(given)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("regulariser", "ripser", "a persistence: .* for example 'correlation/ripser/t1'"),
        ("regulariser", "svr", "is a filtration: .* for example 'svr/mst/t1'"),
        ("regulariser", "wasserstein", "is a loss: .* for example 'correlation/mst/wasserstein'"),
        ("regulariser", "random", r"is a sampler: topoloss\.sampler\('random'\)"),
        ("loss", "naive", r"is a regulariser: topoloss\.regulariser\('naive'\)"),
        ("persistence", "t1", r"is a loss and a regulariser: topoloss\.loss\('t1'\)"),
    ],
)
def test_a_name_of_another_kind_says_so(kind, name, message):
    with pytest.raises(topoloss.UnknownNameError, match=message) as error:
        getattr(topoloss, kind)(name)
    assert "Did you mean" not in str(error.value)


@pytest.mark.parametrize("given", [None, 3, ["t1"]])
def test_a_name_that_is_no_string_is_an_error(given):
    with pytest.raises(topoloss.UnknownNameError, match="no loss is named"):
        topoloss.loss(given)


@pytest.mark.parametrize(
    ("kind", "name", "options", "message"),
    [
        ("filtration", "correlation", {"constnt": "drop"}, "Did you mean 'constant'"),
        ("filtration", "euclidean", {"p": 2}, "its options are none"),
        ("filtration", "correlation", {"constant": "zero"}, "'independent', 'drop'"),
        ("persistence", "mst", {"bakend": "torch"}, "Did you mean 'backend'"),
        ("loss", "t1", {"alpha": 1}, "its options are reduction"),
        ("loss", "t2", {"gamma": 1}, "its options are alpha and beta"),
        ("loss", "total-persistence", {"power": 0.5}, "power=0.5"),
        ("regulariser", "t2", {"alpa": 1}, "alpa"),
        ("regulariser", "t1", {"backend": "torch"}, r"backend.* persistence,"),
        ("regulariser", "t1", {"loss": "t2"}, "loss"),
        ("regulariser", "t1", {"on_nonfinite": "skp"}, "Did you mean 'skip'"),
        ("regulariser", "naive", {"alpha": 1}, "alpha"),
        ("regulariser", "naive", {"constant": "zero"}, "'independent', 'drop'"),
        ("regulariser", "l1", {"on_nonfinite": "skip"}, "its options are none"),
        ("sampler", "importance", {"fraction": 0.0}, "0 < fraction <= 1"),
        ("sampler", "all", {"fraction": 0.5}, "its options are none"),
    ],
)
def test_an_option_that_is_not_accepted_says_what_is(kind, name, options, message):
    with pytest.raises(topoloss.OptionError, match=message):
        getattr(topoloss, kind)(name, **options)


def test_a_pipeline_refuses_unknown_options():
    with pytest.raises(topoloss.OptionError, match="Did you mean 'check_finite'"):
        topoloss.pipeline("correlation", chek_finite=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chek_finite": True}, "Did you mean 'check_finite'"),
        ({"reduction": "mean"}, "pipeline: .*'reduction'"),
        ({"loss": "t2"}, "'correlation/mst/t1' was given loss='t2' as well; give it once"),
        ({"filtration": None}, "was given filtration=None as well"),
    ],
)
def test_options_of_a_written_pipeline_are_checked_when_it_is_looked_up(options, message):
    with pytest.raises(topoloss.OptionError, match=message):
        look_up("regulariser", "correlation/mst/t1", options)
    made = look_up("regulariser", "correlation/mst/t1", {"on_nonfinite": "skip"})()
    assert made.on_nonfinite == "skip"


@pytest.mark.parametrize("kind", SHIPPED)
@pytest.mark.parametrize("name", ["dict", "type"])
def test_an_object_whose_options_python_cannot_tell_is_refused(kind, name):
    message = f"{kind} 'builtins:{name}' is .*options Python cannot read"
    with pytest.raises(topoloss.OptionError, match=message):
        getattr(topoloss, kind)(f"builtins:{name}")


def test_a_name_in_other_letters_is_recognised():
    with pytest.raises(topoloss.UnknownNameError, match="Did you mean 't1'"):
        topoloss.regulariser("T1")


# Pipelines


def test_a_pipeline_joins_names_and_instances_in_any_mixture():
    x = torch.randn(6, 5)
    stages = [
        ("cosine", topoloss.filtration("cosine")),
        ("mst", topoloss.persistence("mst", backend="reference")),
        ("t2", topoloss.loss("t2")),
    ]
    expected = topoloss.pipeline("cosine", "mst", "t2")(x)
    for mixture in range(8):
        parts = [pair[mixture >> k & 1] for k, pair in enumerate(stages)]
        assert torch.equal(topoloss.pipeline(*parts)(x), expected)


def test_a_class_in_the_place_of_an_instance_is_an_error():
    with pytest.raises(topoloss.OptionError, match="class Median; pass an instance"):
        topoloss.pipeline("correlation", "mst", Median)


@pytest.mark.parametrize("given", [3, torch.nn.ReLU(), topoloss.loss("t1")], ids=str)
def test_something_else_in_the_place_of_a_stage_is_an_error(given):
    with pytest.raises(topoloss.OptionError, match=r"expected a name or a topoloss\.Filtration"):
        topoloss.pipeline(given)


def test_a_component_that_forgets_its_base_class_is_told_so():
    class Forgetful(topoloss.Loss):
        def __init__(self):
            self.alpha = 1.0

    with pytest.raises(topoloss.OptionError, match=r"super\(\).__init__\(\)"):
        topoloss.pipeline("correlation", "mst", Forgetful())


def test_a_filtration_of_ones_own_is_used_by_name(registered):
    registered(Plugin({}, {"cosine-mine": Cosine}))
    assert "cosine-mine" in topoloss.available("filtration")
    x = torch.randn(20, 9, dtype=torch.float64)
    mine = topoloss.pipeline("cosine-mine", "mst", "t1")
    shipped = topoloss.pipeline("cosine", "mst", "t1")
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    mine(a).backward()
    shipped(b).backward()
    torch.testing.assert_close(mine(x), shipped(x))
    torch.testing.assert_close(a.grad, b.grad)
    by_name = topoloss.regulariser("t1", filtration="cosine-mine")
    assert torch.equal(by_name(x), mine(x))


# Factories


def test_a_factory_is_anything_that_returns_a_component(registered):
    registered(Plugin({"half": lambda *, alpha=0.5: topoloss.loss("t2", alpha=alpha, beta=0.0)}))
    assert topoloss.loss("half", alpha=0.25).alpha == 0.25
    with pytest.raises(topoloss.OptionError, match="Did you mean 'alpha'"):
        topoloss.loss("half", alph=1)


@pytest.mark.parametrize("kind", ["loss", "filtration"])
def test_a_factory_that_returns_the_wrong_type_is_named(registered, kind):
    registered(Plugin({"wrong": lambda: torch.nn.ReLU()}, {"wrong": lambda: Median()}))
    with pytest.raises(topoloss.PluginError, match=f"{kind} 'wrong' returned"):
        getattr(topoloss, kind)("wrong")
