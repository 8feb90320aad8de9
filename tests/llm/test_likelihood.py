"""log p(x), perplexity, precision, recall, entropy and KL against sums over every sequence."""

import numpy as np
import pytest
import torch
from conftest import enumerate_sequences, exact_log_probabilities, tiny_llama

from llm.distributions import Samples
from llm.engine.next_token import NextTokenLoss
from llm.likelihood import log_likelihood, refuse_gaps, score_tokens
from llm.metrics import cross_entropy, perplexity
from llm.processes import UsageError
from llm.randomness import Stream
from llm.sampling import sample

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


def test_precision_recall_entropy_and_kl_against_exact_sums(language):
    """Estimated from samples, computed from all sequences of both models; the intervals are four times as wide."""
    p_star, student = tiny_llama(1), tiny_llama(2)
    log_p, log_q = (exact_log_probabilities(model, EVERYTHING) for model in (p_star, student))
    p, q = np.exp(log_p), np.exp(log_q)
    tokens = np.array([len(sequence) - 1 for sequence in EVERYTHING])
    exact = {
        "precision": (q, log_p, -(q * log_q).sum(), (q * (log_q - log_p)).sum()),
        "recall": (p, log_q, -(p * log_p).sum(), (p * (log_p - log_q)).sum()),
    }
    for name, source, scorer in (("precision", student, p_star), ("recall", p_star, student)):
        arguments = dict(temperature=1.0, max_length=MAX_LENGTH, batch_size=20_000)
        samples = sample(source, language, range(20_000), stream=Stream.of(name), **arguments)
        log_scorer = log_likelihood(scorer, samples, 2000)
        found = cross_entropy(log_scorer, samples.log_prob, samples.num_scored, 1000, 0)
        weight, log_other, entropy, kl = exact[name]
        truth = np.array([(weight * log_other).sum(), entropy, kl])
        assert truth[0] == pytest.approx(-entropy - kl)
        for unit, count in (("sequence", 1.0), ("token", (weight * tokens).sum())):
            terms = found[unit]
            for estimate, value in zip((terms.log_likelihood, terms.entropy, terms.kl), truth / count, strict=True):
                assert abs(estimate.value - value) < 2 * (estimate.high - estimate.low)
                assert estimate.low < estimate.value < estimate.high
                assert estimate.high - estimate.low < 0.1
            assert terms.log_likelihood.value == pytest.approx(-terms.entropy.value - terms.kl.value, abs=1e-9)


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


def test_embeddings_are_means_over_the_generated_ids_of_the_last_hidden_state():
    model, sequences = tiny_llama(3), [(0, 1, 1), (0, 0, 1, 2), (0, 2), (0, 1, 1, 1, 1)]
    samples = Samples.of(sequences, [1, 2, 1, 1], np.zeros(4))
    for batch_size in (1, 3):
        _, found = score_tokens(model, samples, batch_size, num_embedded=3)
        assert found.shape == (3, 16) and found.dtype == np.float32
        for row, (sequence, given) in enumerate(zip(sequences[:3], (1, 2, 1), strict=True)):
            with torch.no_grad():
                hidden = model.model(input_ids=torch.tensor([sequence])).last_hidden_state[0, given:]
            np.testing.assert_allclose(found[row], hidden.mean(0).numpy(), atol=1e-5)
    assert score_tokens(model, samples, 2)[1] is None
    assert not model.base_model._forward_hooks


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
