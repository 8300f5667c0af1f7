"""Components written as text: what the grammar reads, and what the text stands for."""

import random
import string

import pytest
import torch
from torch import nn

import topoloss
from topoloss.expressions import is_writable, parse, parse_start

READ = {
    "t1": [("t1", {})],
    " t1 ": [("t1", {})],
    "t1[]": [("t1", {})],
    "t1[reduction=mean]": [("t1", {"reduction": "mean"})],
    "t2[alpha=0.5,beta=1]": [("t2", {"alpha": 0.5, "beta": 1})],
    " t2 [ beta = -1e-3 , alpha = .5 ] ": [("t2", {"alpha": 0.5, "beta": -0.001})],
    "cosine/mst/t2": [("cosine", {}), ("mst", {}), ("t2", {})],
    "correlation[constant=drop]/mst/t2[alpha=0.5]": [
        ("correlation", {"constant": "drop"}),
        ("mst", {}),
        ("t2", {"alpha": 0.5}),
    ],
    "decorrelation:t1": [("decorrelation:t1", {})],
    "my.package:Mine[scale=2]": [("my.package:Mine", {"scale": 2})],
    "x[a=true,b=false,c=none]": [("x", {"a": True, "b": False, "c": None})],
    "x[a=True,b=False,c=None]": [("x", {"a": True, "b": False, "c": None})],
    "x[a='true',b=\"none\",c='1']": [("x", {"a": "true", "b": "none", "c": "1"})],
    "x[a=inf,b=-inf]": [("x", {"a": float("inf"), "b": -float("inf")})],
    "x[a=+3,b=03,c=1.,d=2E5]": [("x", {"a": 3, "b": 3, "c": 1.0, "d": 2e5})],
    "x[a=1e]": [("x", {"a": "1e"})],
    "x[a='a,b]/=',b=\"it's\"]": [("x", {"a": "a,b]/=", "b": "it's"})],
    r"x[a='it\'s a \\ sign']": [("x", {"a": r"it's a \ sign"})],
    "x[a='']": [("x", {"a": ""})],
    "x[a=two words]": [("x", {"a": "two words"})],
    "x[a=some/file.txt]": [("x", {"a": "some/file.txt"})],
    "t1[filtration=correlation[constant=drop]]": [
        ("t1", {"filtration": "correlation[constant=drop]"})
    ],
    "x[a=y[b='c',d=e],f=1]": [("x", {"a": "y[b='c',d=e]", "f": 1})],
}


@pytest.mark.parametrize("text", READ)
def test_a_text_is_read(text):
    read = [(part.name, dict(part.options)) for part in parse(text).parts]
    assert read == READ[text]
    for (_, found), (_, expected) in zip(read, READ[text], strict=True):
        assert [type(found[o]) for o in expected] == [type(v) for v in expected.values()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a name"),
        ("[a=1]", "expected a name"),
        ("t1[", "after 't1\\[' the text ends; expected an option"),
        ("t1[a", "after 't1\\[' 'a' follows; expected an option"),
        ("t1[1=a]", "expected an option"),
        ("t1[a=]", "after 't1\\[a=' ']' follows; expected a value"),
        ("t1[a=1", "expected ',' or ']'"),
        ("t1[a=1,]", "expected an option"),
        ("t1[a=b=c]", "'=c]' follows; expected ',' or ']'"),
        ("t1[a='b]", "expected a value"),
        ("t1[a='b'c]", "'c]' follows; expected ',' or ']'"),
        ("t1[a=[]", "the text ends; expected ',' or ']'"),
        ("t1[a=1]]", "after 't1\\[a=1]' ']' follows; expected '\\[', '/' or the end"),
        ("t1[a=1]x", "'x' follows"),
        ("t1=1", "'=1' follows"),
        ("t1,t2", "',t2' follows"),
        ("'t1'", "expected a name"),
        ("t1[a=1,a=2]", "gives the option 'a' twice"),
        ("cosine/t1", "has 2 parts; a pipeline has three"),
        ("a/b/c/d", "has 4 parts"),
        ("cosine//t1", "after 'cosine/' '/t1' follows; expected a name"),
    ],
)
def test_a_text_that_makes_no_sense_is_shown_where_it_stops_doing_so(text, message):
    with pytest.raises(topoloss.OptionError, match=message):
        parse(text)


def test_what_follows_the_expression_is_left_to_others():
    expression, rest = parse_start("cosine[constant='=']/mst/t2=1e-3,paper")
    assert str(expression) == "cosine[constant='=']/mst/t2"
    assert rest == "=1e-3,paper"


def test_texts_that_mean_the_same_print_alike():
    same = ["t2[alpha=1,beta=0.5]", " t2[ beta=.5, alpha=1 ]", "t2[beta=5e-1,alpha=+1]"]
    assert {str(parse(text)) for text in same} == {"t2[alpha=1,beta=0.5]"}
    assert str(parse("x[a='plain', b='1', c='none', d=None]")) == "x[a=plain,b='1',c='none',d=none]"


def random_value(generator):
    signs = string.ascii_letters + string.digits + " \\'\"[],=/:.-+\n"
    return generator.choice(
        [
            generator.randint(-(10**20), 10**20),
            generator.uniform(-1, 1) * 10 ** generator.randint(-300, 300),
            generator.choice([True, False, None, "true", "none", "", "1e3", "inf", "a[b]", "]["]),
            "".join(generator.choices(signs, k=generator.randint(0, 9))),
        ]
    )


@pytest.mark.parametrize("seed", range(20))
def test_what_is_printed_is_read_as_the_same(seed):
    generator = random.Random(seed)
    for _ in range(50):
        options = {f"o{k}": random_value(generator) for k in range(generator.randint(0, 3))}
        quoted = ",".join(
            f"{o}=" + (f"'{v}'".replace("\\", "\\\\") if isinstance(v, str) else repr(v))
            for o, v in options.items()
            if not (isinstance(v, str) and "'" in v)
        )
        expression = parse(f"name[{quoted}]")
        read = dict(expression.parts[0].options)
        assert read == {o: v for o, v in options.items() if o in read}
        assert parse(str(expression)) == expression
        assert str(parse(str(expression))) == str(expression)


@pytest.mark.parametrize("name", ["t1", "total-persistence", "cosine.mine", "a_b", "café"])
def test_a_name_that_can_be_written_is_read_as_it_stands(name):
    assert is_writable(name)
    assert parse(name).parts[0].name == name


@pytest.mark.parametrize("sign", " \t\n[]/=,:'\"")
def test_a_name_with_a_sign_of_the_grammar_cannot_be_written(sign):
    assert not is_writable(f"a{sign}b")
    assert not is_writable("")


# What the text stands for


def same_value(one, other):
    x = torch.randn(12, 6)
    return torch.equal(one(x), other(x))


DROP = topoloss.filtration("correlation", constant="drop")
MEAN = topoloss.regulariser("t1", reduction="mean")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("t1[reduction=mean]", MEAN),
        ("decorrelation:t1[reduction=mean]", MEAN),
        ("correlation/mst/t1[reduction=mean]", MEAN),
        ("correlation:correlation/mst:mst/decorrelation:t1[reduction=mean]", MEAN),
        ("cosine/mst/t2", topoloss.pipeline("cosine", "mst", "t2")),
        (
            "correlation[constant=drop]/mst[backend=reference]/t2[alpha=0.25]",
            topoloss.pipeline(
                topoloss.filtration("correlation", constant="drop"),
                topoloss.persistence("mst", backend="reference"),
                topoloss.loss("t2", alpha=0.25),
            ),
        ),
        ("t1[filtration=correlation[constant=drop]]", topoloss.regulariser("t1", filtration=DROP)),
        ("topoloss_plugins.decorrelation:t1[reduction=mean]", MEAN),
    ],
)
def test_a_text_makes_what_python_makes(text, expected):
    made = topoloss.regulariser(text)
    assert repr(made) == repr(expected)
    assert same_value(made, expected)


def test_a_text_may_stand_wherever_a_name_may():
    assert topoloss.filtration("cosine[constant=drop]").constant == "drop"
    assert topoloss.persistence("mst[backend=torch,max_vertices=9]").max_vertices == 9
    assert topoloss.loss("t2[alpha=0.25]").alpha == 0.25
    assert topoloss.sampler("random[fraction=0.5,seed=3]").seed == 3
    joined = topoloss.pipeline("cosine[constant=drop]", "mst[backend=torch]", "t2[alpha=0.25]")
    assert (joined.filtration.constant, joined.loss.alpha) == ("drop", 0.25)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    with topoloss.attach(model, "t1[reduction=mean]", sampler="random[seed=3]", fraction=0.5) as p:
        model(torch.randn(6, 4))
        assert p.regulariser.loss.reduction == "mean"
        assert {name: len(chosen) for name, chosen in p.neurons.items()} == {"0": 4, "2": 3}
    with topoloss.observe(model, sampler="importance[fraction=0.25]") as seen:
        model(torch.randn(6, 4))
        assert {name: len(chosen) for name, chosen in seen.neurons.items()} == {"0": 2, "2": 3}


def test_options_may_stand_in_the_text_and_beside_it():
    made = topoloss.loss("t2[alpha=0.25]", beta=0.75)
    assert (made.alpha, made.beta) == (0.25, 0.75)
    assert topoloss.regulariser("cosine/mst/t1", on_nonfinite="skip").on_nonfinite == "skip"
    with pytest.raises(topoloss.OptionError, match=r"alpha=0.25 in its name and alpha=1 as an"):
        topoloss.loss("t2[alpha=0.25]", alpha=1)


@pytest.mark.parametrize(
    ("kind", "text", "name", "options"),
    [
        ("loss", "t2[gamma=1]", "t2", {"gamma": 1}),
        ("loss", "t2[alpha=x]", "t2", {"alpha": "x"}),
        ("regulariser", "t1[reduction=sun]", "t1", {"reduction": "sun"}),
        ("regulariser", "l1[reduction=mean]", "l1", {"reduction": "mean"}),
        ("filtration", "correlation[constnt=drop]", "correlation", {"constnt": "drop"}),
        ("sampler", "importance[fraction=2]", "importance", {"fraction": 2}),
        ("persistence", "mst[warm_start=yes]", "mst", {"warm_start": "yes"}),
        ("loss", "t9[alpha=1]", "t9", {}),
    ],
)
def test_a_text_raises_what_python_raises(kind, text, name, options):
    make = getattr(topoloss, kind)
    with pytest.raises(topoloss.TopolossError) as by_text:
        make(text)
    with pytest.raises(topoloss.TopolossError) as by_python:
        make(name, **options)
    assert type(by_text.value) is type(by_python.value)
    assert str(by_text.value) == str(by_python.value)


@pytest.mark.parametrize("kind", ["filtration", "persistence", "loss", "sampler"])
def test_a_pipeline_is_a_regulariser_and_nothing_else(kind):
    with pytest.raises(topoloss.OptionError, match=f"is a regulariser; expected a {kind}"):
        getattr(topoloss, kind)("cosine/mst/t1")


def test_an_unknown_stage_of_a_pipeline_is_named():
    with pytest.raises(topoloss.UnknownNameError, match="no loss is named 't9'"):
        topoloss.regulariser("cosine/mst/t9")


# The user's own objects

OWN = """
import topoloss

class Scaled(topoloss.Loss):
    def __init__(self, *, scale=1.0):
        super().__init__()
        self.scale = scale

    def forward(self, diagrams):
        return self.scale * diagrams[0].deaths.sum()

def halved(*, scale=1.0):
    return Scaled(scale=scale / 2)

three = Scaled(scale=3.0)
number = 3
cosine = topoloss.filtration("cosine")

def not_a_loss():
    return 3
"""


def test_an_object_of_ones_own_is_a_component(own_module):
    module = own_module(OWN)
    assert topoloss.loss(f"{module}:Scaled").scale == 1
    assert topoloss.loss(f"{module}:Scaled[scale=4]").scale == 4
    assert topoloss.loss(f"{module}:halved", scale=4).scale == 2
    by_name = topoloss.regulariser(f"euclidean/mst/{module}:Scaled[scale=-1]")
    assert same_value(by_name, topoloss.pipeline("euclidean"))


def test_an_instance_of_ones_own_is_made_anew_each_time(own_module):
    text = f"{own_module(OWN)}:three"
    first, second = topoloss.loss(text), topoloss.loss(text)
    assert (first.scale, second.scale) == (3, 3)
    assert first is not second
    with pytest.raises(topoloss.OptionError, match="its options are none"):
        topoloss.loss(f"{text}[scale=1]")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("number", topoloss.OptionError, "is 3; expected a topoloss.Loss, or a class or function"),
        ("cosine", topoloss.OptionError, r"is Cosine\(.*; expected a topoloss.Loss"),
        ("not_a_loss", topoloss.PluginError, "returned 3; expected a topoloss.Loss"),
        ("nothing", topoloss.UnknownNameError, "has no object 'nothing'"),
        ("Scaled[size=1]", topoloss.OptionError, "its options are scale"),
    ],
)
def test_an_object_that_makes_no_component_is_an_error(own_module, name, error, message):
    with pytest.raises(error, match=message):
        topoloss.loss(f"{own_module(OWN)}:{name}")


def test_neither_plugin_nor_module_of_a_name_is_told():
    with pytest.raises(topoloss.UnknownNameError) as error:
        topoloss.loss("nowhere:t1")
    assert "no loss is named 'nowhere:t1'; there are beta-connectivity, " in str(error.value)
    assert "there is no module 'nowhere'" in str(error.value)
