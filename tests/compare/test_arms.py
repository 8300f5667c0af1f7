import pytest

import topoloss
from topoloss.compare.arms import Recipe, parse, recipe
from topoloss.compare.records import Arm
from topoloss.compare.treatments import Treatment


@pytest.mark.parametrize(
    ("text", "name", "strengths"),
    [
        ("none", "none", (0.0,)),
        ("none=0", "none", (0.0,)),
        ("batch-norm", "batch-norm", (0.0,)),
        ("t1=1e-3,1e-2+batch-norm", "t1+batch-norm", (1e-3, 1e-2)),
        ("t1=1e+3+dropout=5e-1", "t1+dropout=0.5", (1000.0,)),
        ("dropout=0.3,0.5", "dropout", (0.3, 0.5)),
        ("t1=1+input-noise=0.1+decov=1e-05", "t1+decov=1e-05+input-noise=0.1", (1.0,)),
        ("t2[ beta = 0 ]=1+batch-norm", "t2[beta=0]+batch-norm", (1.0,)),
        ("batch-norm+dropout=0.5", "batch-norm+dropout=0.5", (0.0,)),
        ("cosine/mst/t1=1 + l2=2", "cosine/mst/t1+l2=2", (1.0,)),
    ],
)
def test_an_arm_has_a_name_and_strengths(text, name, strengths):
    assert parse(text) == (name, strengths)
    # The name and one strength, as tables print them, mean the same arm again.
    for strength in strengths:
        assert parse(str(Arm(name, strength))) == (name, (strength,))


def test_a_recipe_has_penalties_and_a_treatment():
    assert recipe(Arm("t1+decov=0.1+dropout=0.5", 0.01)) == Recipe(
        (("t1", 0.01), ("decov", 0.1)), Treatment(dropout=0.5)
    )
    assert recipe(Arm("weight-decay+batch-norm", 1e-4)) == Recipe(
        (), Treatment(weight_decay=1e-4, batch_norm=True)
    )
    assert recipe(Arm("none", 0.0)) == Recipe((("none", 0.0),), Treatment())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t1", "has no weight; write t1=WEIGHT"),
        ("dropout", "has no strength; write dropout=STRENGTH"),
        ("t1=1+dropout", "has no strength"),
        ("t1=1+decov", "has no weight"),
        ("t1=1+decov=1,2", "has 2 strengths of decov"),
        ("batch-norm=1", "gives batch-norm the strength 1, but batch-norm takes none"),
        ("none=1", "gives none the strength 1"),
        ("none+batch-norm", "adds something to none"),
        ("t1=1+t1=2", "has the term t1 twice"),
        ("dropout=1.5", "dropout=1.5"),
        ("label-smoothing=2", "label-smoothing=2"),
        ("weight-decay=-1", "the strength '-1' is not a number between 0"),
        ("input-noise=paper", "the strength 'paper'"),
        ("t1=1+nothing=1", "nothing"),
        ("t1=1+", "expected a name"),
        ("t1[reduction=mean]x", "expected"),
    ],
)
def test_what_is_no_arm_is_refused(text, message):
    with pytest.raises(topoloss.TopolossError, match=message):
        parse(text)
