import pytest
import torch

import topoloss
from topoloss.compare import batch
from topoloss.compare.batch import Job, missing, work
from topoloss.compare.paper.protocols import setup
from topoloss.compare.records import Arm, Run
from topoloss.compare.runs import read

QUICK = setup("net2", "wine", max_epochs=1)
JOBS = [Job(QUICK, Arm("none", 0.0), seed) for seed in (100, 101)]


def test_jobs_are_missing_until_a_run_of_theirs_is_finished(outcome):
    finished = [Run(QUICK, Arm("none", 0.0), 100, outcome(0.9, 0.9))]
    assert missing([*JOBS, *JOBS], finished) == JOBS[1:]
    assert missing(JOBS, []) == JOBS


def test_a_batch_goes_on_where_it_ended(tmp_path):
    file = tmp_path / "new" / "runs.csv"
    done = []
    first = work(JOBS[:1], file, on_finish=done.append)
    # As if the machine had lost its power while a line was written.
    with file.open("a") as opened:
        opened.write(file.read_text().splitlines()[-1][:50])
    both = work(JOBS, file, on_finish=done.append)
    assert [run.seed for run in done] == [100, 101]
    assert both == read(file)
    assert both[:1] == first
    assert work(JOBS, file, on_finish=done.append) == both
    assert len(done) == 2


def test_processes_share_the_runs(tmp_path):
    threads = torch.get_num_threads()
    found = work(JOBS, tmp_path / "two.csv", processes=2)
    alone = work(JOBS, tmp_path / "one.csv")
    assert torch.get_num_threads() == threads
    assert len(found) == len(alone) == 2
    scores = [{run.seed: run.outcome.test_score for run in made} for made in (found, alone)]
    assert scores[0] == scores[1]
    assert {run.seed for run in read(tmp_path / "two.csv")} == {100, 101}


def test_a_run_that_fails_is_named_and_the_finished_ones_are_kept(tmp_path):
    file = tmp_path / "runs.csv"
    bad = Job(setup("net2", "diabetes", max_epochs=1), Arm("label-smoothing", 0.1), 7)
    with pytest.raises(topoloss.InputError, match="not labels") as caught:
        work([*JOBS[:1], bad], file)
    assert "label-smoothing=0.1 of net2 on diabetes, split 7" in "".join(caught.value.__notes__)
    assert [run.seed for run in read(file)] == [100]


def test_another_file_is_not_added_to(tmp_path):
    file = tmp_path / "runs.csv"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(topoloss.InputError, match="not a file of runs"):
        batch.work(JOBS, file)
    assert file.read_text() == "a,b\n1,2\n"
