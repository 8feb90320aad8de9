"""The sampler against distributions that can be written out."""

import numpy as np
import pytest
import torch
from conftest import EOS, enumerate_sequences, exact_log_probabilities, tiny_llama
from scipy.stats import chisquare

from llm.likelihood import log_likelihood
from llm.models import Language
from llm.sampling import Stream, draw, sample

MAX_LENGTH = 4
NUM_SAMPLES = 20_000
REJECT = 1e-4  # the seeds are fixed, so a right sampler passes always and a wrong one hardly ever


def draw_many(model, language, num=NUM_SAMPLES, temperature=1.0, batch=5000, name="test", max_length=MAX_LENGTH):
    batches = [range(a, min(a + batch, num)) for a in range(0, num, batch)]
    return [
        sample(model, language, indices, stream=Stream.of(name), temperature=temperature, max_length=max_length)
        for indices in batches
    ]


def sequences_of(parts) -> list[tuple[int, ...]]:
    return [tuple(part[i].tolist()) for part in parts for i in range(len(part))]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_sequence_probabilities_sum_to_one(temperature):
    log_p = exact_log_probabilities(tiny_llama(1), enumerate_sequences(MAX_LENGTH), temperature)
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_frequencies_are_the_exact_ones(language, temperature):
    model, everything = tiny_llama(1), enumerate_sequences(MAX_LENGTH)
    drawn = sequences_of(draw_many(model, language, temperature=temperature))
    counts = np.array([drawn.count(sequence) for sequence in everything])
    assert counts.sum() == NUM_SAMPLES  # nothing outside the support
    expected = NUM_SAMPLES * np.exp(exact_log_probabilities(model, everything, temperature))
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    observed, expected = observed[expected > 0], expected[expected > 0]
    assert chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > REJECT


def test_the_chi_square_test_can_fail(language):
    """The same test tells tau = 1 from tau = 1.1."""
    model, everything = tiny_llama(1), enumerate_sequences(MAX_LENGTH)
    drawn = sequences_of(draw_many(model, language, temperature=1.1))
    counts = np.array([drawn.count(sequence) for sequence in everything])
    expected = NUM_SAMPLES * np.exp(exact_log_probabilities(model, everything))
    common = expected >= 5
    assert chisquare(counts[common], expected[common] * counts[common].sum() / expected[common].sum()).pvalue < REJECT


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_the_recorded_log_probability_is_exact(language, temperature):
    model = tiny_llama(1)
    (part,) = draw_many(model, language, num=50, temperature=temperature)
    exact = exact_log_probabilities(model, sequences_of([part]), temperature)
    np.testing.assert_allclose(part.log_prob, exact, atol=1e-5)


def test_the_recorded_log_probability_is_the_score(language):
    model = tiny_llama(1)
    (part,) = draw_many(model, language, num=200)
    np.testing.assert_allclose(log_likelihood(model, part, 64), part.log_prob, atol=1e-5)


def test_a_sequence_does_not_depend_on_its_batch():
    model = tiny_llama(3, vocab_size=50)
    language = Language(50, (7, 8), (3,))
    whole = sequences_of(draw_many(model, language, num=64, batch=64, max_length=20))
    for batch in (1, 7):
        assert sequences_of(draw_many(model, language, num=64, batch=batch, max_length=20)) == whole
    assert len({len(sequence) for sequence in whole}) > 1  # some ended, some did not


def test_streams_are_separate():
    first = Stream.of(0, "teacher", "train").uniforms(range(5), 8)
    assert (first == Stream.of(0, "teacher", "train").uniforms(range(5), 8)).all()
    assert (first[2:] == Stream.of(0, "teacher", "train").uniforms(range(2, 5), 8)).all()
    for other in (Stream.of(1, "teacher", "train"), Stream.of(0, "teacher", "test"), Stream.of(0, "student", "train")):
        assert not np.isclose(first, other.uniforms(range(5), 8)).any()
    assert len(np.unique(first)) == first.size


def test_sequences_end_at_the_first_eos_and_nowhere_else(language):
    for sequence in sequences_of(draw_many(tiny_llama(1), language, num=500)):
        assert EOS not in sequence[1:-1]
        assert sequence[-1] == EOS or len(sequence) == MAX_LENGTH


def test_any_of_several_eos_ends_a_sequence():
    parts = draw_many(tiny_llama(3, vocab_size=50), Language(50, (7,), (3, 4, 5)), num=300, max_length=12)
    ends = {sequence[-1] for sequence in sequences_of(parts) if len(sequence) < 12}
    assert ends == {3, 4, 5}


def test_no_eos_means_every_sequence_is_full():
    parts = draw_many(tiny_llama(3, vocab_size=50), Language(50, (7,), ()), num=20, max_length=9)
    assert {len(sequence) for sequence in sequences_of(parts)} == {9}


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_draw_inverts_the_cumulative_distribution(temperature):
    """At the ends of an id's interval [sum before it, sum with it), by float64 arithmetic of numpy."""
    logits = torch.tensor([[0.3, -2.0, 1.1, 0.0, -30.0]])
    weights = np.exp(logits[0].double().numpy() / temperature)
    edges = np.concatenate([[0], np.cumsum(weights / weights.sum())])
    for token in range(4):
        for u in (edges[token] + 1e-6, edges[token + 1] - 1e-6):
            ids, log_p = draw(logits, temperature, torch.tensor([u], dtype=torch.float64))
            assert ids.item() == token
            assert log_p.item() == pytest.approx(np.log(weights[token] / weights.sum()), abs=1e-6)


def test_draw_at_the_ends_of_the_unit_interval():
    """u = 0 does not give an id without probability, nor the largest u an id out of range."""
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]])
    for u, token in ((0.0, 1), (1 - 2**-53, 2)):
        assert draw(logits, 1.0, torch.tensor([u], dtype=torch.float64))[0].item() == token
