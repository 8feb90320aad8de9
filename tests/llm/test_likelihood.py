"""log p(x) and perplexity: against transformers' own loss, and against every sequence."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import enumerate_sequences, exact_log_probabilities, tiny_llama

from llm import likelihood
from llm.distributions import Samples
from llm.engine.next_token import NextTokenLoss
from llm.likelihood import log_likelihood, refuse_gaps, shared_log_likelihood
from llm.machine import processes
from llm.machine.processes import UsageError
from llm.metrics import perplexity

MAX_LENGTH = 4
EVERYTHING = enumerate_sequences(MAX_LENGTH)


def mixed_samples(num_prompt=2) -> Samples:
    generator = np.random.default_rng(0)
    sequences = [generator.integers(0, 50, n) for n in [3, 30, 7, 4, 30, 12, 3, 21]]
    return Samples.of(sequences, num_prompt, np.zeros(len(sequences)))


@pytest.mark.parametrize("num_prompt", [1, 2])
def test_against_transformers_own_loss(num_prompt):
    """The model's loss, averaged over the tokens that are not masked, of one sequence at a time without padding."""
    model, samples = tiny_llama(3, vocab_size=50), mixed_samples(num_prompt)
    result = log_likelihood(model, samples, 4)
    for i in range(len(samples)):
        ids = torch.from_numpy(samples[i].astype(np.int64))[None]
        labels = ids.clone()
        labels[0, :num_prompt] = -100
        with torch.no_grad():
            loss = model(input_ids=ids, labels=labels).loss.item()
        assert result[i] == pytest.approx(-loss * samples.num_scored[i], rel=1e-5)


def test_batches_and_padding_change_nothing():
    model, samples = tiny_llama(3, vocab_size=50), mixed_samples()
    one = log_likelihood(model, samples, 1)
    np.testing.assert_allclose(log_likelihood(model, samples, 64), one, rtol=1e-6)
    np.testing.assert_allclose(log_likelihood(model, samples, 3), one, rtol=1e-6)


def test_out_of_memory_halves_the_batch_and_changes_nothing(monkeypatch, capsys):
    model, samples = tiny_llama(3, vocab_size=50), mixed_samples()
    plenty = log_likelihood(model, samples, 8)
    forward = NextTokenLoss.forward

    def full_above_3(self, ids, targets):
        if len(ids) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, ids, targets)

    monkeypatch.setattr(NextTokenLoss, "forward", full_above_3)
    np.testing.assert_allclose(log_likelihood(model, samples, 64), plenty, rtol=1e-6)
    assert capsys.readouterr().out.splitlines()[-1] == "out of memory: scoring 2 sequences at a time"


def test_against_enumeration():
    model = tiny_llama(1)
    samples = Samples.of(EVERYTHING, 1, np.zeros(len(EVERYTHING)))
    exact = exact_log_probabilities(model, EVERYTHING)
    np.testing.assert_allclose(log_likelihood(model, samples, 5), exact, atol=1e-5)


def test_the_end_of_sequence_is_scored():
    """'prompt letter EOS' is less probable than 'prompt letter', by exactly the probability to stop there."""
    model = tiny_llama(1)
    short, long = log_likelihood(model, Samples.of([[0, 1], [0, 1, 2]], 1, [0, 0]), 2)
    with torch.no_grad():
        stop = torch.log_softmax(model(input_ids=torch.tensor([[0, 1]])).logits[0, -1].double(), -1)[2].item()
    assert long - short == pytest.approx(stop, abs=1e-6)


def test_a_uniform_model_has_the_vocabulary_as_perplexity():
    model = tiny_llama(1, vocab_size=50)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    samples = mixed_samples()
    assert perplexity(log_likelihood(model, samples, 4), samples.num_scored) == pytest.approx(50, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 0.8, 1.7])
def test_scores_at_a_temperature_are_those_of_the_distribution(temperature):
    """And sum to 1 over all sequences there are."""
    model, sequences = tiny_llama(3), enumerate_sequences(5)
    samples = Samples.of(sequences, 1, np.zeros(len(sequences)))
    found = log_likelihood(model, samples, 16, temperature=temperature)
    np.testing.assert_allclose(found, exact_log_probabilities(model, sequences, temperature), atol=1e-5)
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("num_processes", [1, 3, 12])
def test_what_several_processes_score_is_in_the_order_of_the_sequences(num_processes, monkeypatch):
    """Each has every so-manieth sequence, and a bar of its own tokens; of twelve, four have none."""
    model, samples = tiny_llama(3, vocab_size=50), mixed_samples()
    parts, totals, told = [], [], []

    @contextmanager
    def bar_of(total):
        totals.append(total)
        yield SimpleNamespace(update=told.append)

    monkeypatch.setattr(likelihood, "gathered", lambda rows, found: parts.append((rows, found)) or parts)
    for index in range(num_processes):
        mine = SimpleNamespace(process_index=index, num_processes=num_processes)
        monkeypatch.setattr(processes, "state", lambda mine=mine: mine)
        found = shared_log_likelihood(model, samples, 3, bar_of)
    np.testing.assert_allclose(found, log_likelihood(model, samples, 3), rtol=1e-6)
    assert sorted(np.concatenate([rows for rows, _ in parts])) == list(range(8))
    assert sum(totals) == sum(told) == samples.num_scored.sum() and len(totals) == num_processes


def test_a_score_that_is_not_finite_is_refused_by_model_sequence_and_id():
    model = tiny_llama(0)
    samples = Samples.of([[0, 1, 2], [0, 1, 1, 1]], 1, np.zeros(2))
    with torch.no_grad():
        model.lm_head.weight[1] = torch.nan
    model.name_or_path = "checkpoints/teacher"
    told = "checkpoints/teacher: the log-probability of generated id 1 of sequence 1 is nan"
    with pytest.raises(UsageError, match=told):
        log_likelihood(model, samples, 2)


@pytest.mark.parametrize(
    ("dtype", "temperature", "gap", "fine"),
    [
        ("float32", 1.0, 0.009, True),
        ("float32", 1.0, 0.011, False),
        ("float32", 0.5, 0.011, True),
        ("bfloat16", 1.0, 0.9, True),
        ("bfloat16", 1.0, 1.8, False),
        ("bfloat16", 1.0, np.nan, False),
    ],
)
def test_how_far_a_draw_may_be_from_its_score(dtype, temperature, gap, fine):
    samples = Samples.of([[0, 1, 2], [0, 1, 1, 1]], 1, np.array([-1.0, -2.0]))
    scores = samples.log_prob + np.array([0, -3 * gap])
    if fine:
        return refuse_gaps("teacher", samples, scores, dtype, temperature)
    with pytest.raises(UsageError, match=f"teacher: log p of sequence 1 is -2 nats as drawn in {dtype}"):
        refuse_gaps("teacher", samples, scores, dtype, temperature)
