"""The comparison of all systems without labels has all of them."""

from statistics import fmean

import topoloss
from benchmarks import label_free
from topoloss.expressions import parse

KINDS = ("filtration", "persistence", "loss", "regulariser")


def test_every_shipped_component_is_an_arm_or_absent_for_a_reason():
    arms = label_free.arms()
    named = {part.name for arm in arms for part in parse(arm).parts}
    for kind in KINDS:
        for name in topoloss.available(kind):
            assert name in named or name in label_free.ABSENT or name == "none", (kind, name)
    assert all(label_free.ABSENT.values())


def test_the_committed_rows_are_those_of_the_protocol():
    finished = label_free.finished()
    asked = {(job.setup, job.arm, job.seed) for job in label_free.jobs()}
    done = [(run.setup, run.arm, run.seed) for run in finished]
    assert set(done) == asked
    assert len(done) == len(asked)


def test_the_table_has_a_line_for_each_system_the_best_first():
    finished = label_free.finished()
    lines = label_free.table(finished).splitlines()
    header, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    assert header == ["regulariser", "weight", "splits", "test accuracy (%)", "gain over none"]
    names, _, _, told, _ = zip(*rows, strict=True)
    assert sorted(names) == sorted(["none", *label_free.arms()])
    scores = [float(each.split(" ± ")[0]) for each in told]
    assert scores == sorted(scores, reverse=True)
    plain = [run.outcome.test_score for run in finished if run.arm.regulariser == "none"]
    assert scores[names.index("none")] == round(100 * fmean(plain), 2)
