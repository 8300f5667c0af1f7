"""Models that run on several threads."""

import threading

import pytest
import torch
from attaching.helpers import Net, batch, by_hand, gradients, penalty_by_hand

import topoloss


def run_together(*functions):
    """Run each function on a thread of its own, all from the same moment on.

    An error of one of them is raised here.
    """
    ready, errors = threading.Barrier(len(functions)), []

    def run(function):
        try:
            ready.wait()
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(f,)) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_each_thread_values_its_own_pass():
    model = Net()
    penalty = topoloss.attach(model, "t2")
    batches = [[batch(4, samples=5 + k) for _ in range(40)] for k in range(3)]

    def work(own):
        for x in own:
            model(x)
            value, expected = penalty(), penalty_by_hand(model, x, "t2")
            torch.testing.assert_close(value, expected)
            torch.testing.assert_close(gradients(value, model), gradients(expected, model))
            assert penalty.activations()["first"].shape == (len(x), 8)

    run_together(*(lambda own=own: work(own) for own in batches))
    assert torch.overrides._get_current_function_mode_stack() == []


def test_a_thread_that_ran_no_pass_is_shown_the_newest():
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model)
    model(x)
    values = []
    run_together(lambda: values.append(penalty()))
    torch.testing.assert_close(values, [penalty_by_hand(model, x)])


def test_models_on_threads_of_their_own_are_apart():
    models = [Net() for _ in range(3)]
    seen = [topoloss.observe(model) for model in models]

    def work(model, observation):
        for _ in range(20):
            x = batch(4)
            model(x)
            torch.testing.assert_close(observation.activations(), by_hand(model, x))

    pairs = zip(models, seen, strict=True)
    run_together(*(lambda pair=pair: work(*pair) for pair in pairs))


def test_an_eval_pass_on_one_thread_is_unseen_by_another():
    """The model of the other thread is run in the midst of the pass that is repeated."""
    other = Net()
    x = batch(4, samples=16)
    values = []

    def run_other():
        penalty = topoloss.attach(other)
        other(x)
        values.append(penalty())

    class RunsOther(Net):
        def forward(self, given):
            if not self.training:
                thread = threading.Thread(target=run_other)
                thread.start()
                thread.join()
            return super().forward(given)

    model = RunsOther()
    penalty = topoloss.attach(model, eval_pass=True)
    model(batch(4, samples=16))
    penalty()
    torch.testing.assert_close(values, [penalty_by_hand(other, x)])


@pytest.mark.parametrize("eval_pass", [True, False])
def test_the_neurons_that_were_drawn_are_those_of_their_pass_whatever_other_threads_do(eval_pass):
    """At worst the other thread's pass is the newest, and the choice that of this one."""
    torch.manual_seed(0)
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model, sampler="random", fraction=0.5, eval_pass=eval_pass)
    model(x)
    value, neurons = penalty(), penalty.neurons
    others = []

    def elsewhere():
        model(x)
        others.extend((penalty(), penalty.neurons) for _ in range(2))

    run_together(elsewhere)
    (first, of_first), (second, of_second) = others
    torch.testing.assert_close(first, second)
    assert same(of_first, of_second)
    assert not same(neurons, of_first)
    if eval_pass:  # one pass for all threads
        torch.testing.assert_close(penalty(), first)
    else:
        torch.testing.assert_close(penalty(), value)
        assert same(penalty.neurons, neurons)


def same(neurons, others):
    return all(torch.equal(neurons[name], others[name]) for name in neurons)
