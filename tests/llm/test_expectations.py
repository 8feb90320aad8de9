"""Scores with their exact expectations: against a forward pass for every prefix, and against every sequence."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import enumerate_sequences, exact_log_probabilities, tiny_llama
from transformers import AutoConfig, AutoModelForCausalLM

from llm import expectations
from llm.distributions import Samples, Stream
from llm.engine import next_token
from llm.engine.next_token import NextTokenDistributions
from llm.expectations import Scorer, Scores
from llm.machine import processes
from llm.machine.processes import UsageError
from llm.metrics import Scored, cross_entropy
from llm.sampling import sample

VOCABULARY, ENDS = 7, (3, 5)
MAX_LENGTH = 4
EVERYTHING = enumerate_sequences(MAX_LENGTH)


class Bar:
    """Stands for the bar of progress: keeps what it is made with, and what it is told."""

    def __init__(self):
        self.totals: list[int] = []
        self.told: list[int] = []

    @contextmanager
    def __call__(self, total: int) -> Iterator[SimpleNamespace]:
        self.totals.append(total)
        yield SimpleNamespace(update=self.told.append)


def score(q: Scorer, by: list[Scorer], samples: Samples, batch_size: int = 3, ends=ENDS, bar=None) -> list[Scores]:
    return expectations.score(q, by, samples, ends, batch_size, bar or Bar())


def mixed_samples() -> Samples:
    """Ten sequences of 2 to 12 ids, after prompts of one to three."""
    generator = np.random.default_rng(0)
    prompts = [1, 2, 1, 3, 1, 1, 2, 1, 3, 1]
    sequences = [generator.integers(0, VOCABULARY, given + n) for given, n in zip(prompts, range(1, 11), strict=True)]
    order = generator.permutation(10)
    return Samples.of([sequences[i] for i in order], [prompts[i] for i in order], np.zeros(10))


def gemma(seed: int):
    """A random model that caps its logits, at 3."""
    torch.manual_seed(seed)
    fields = dict(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, intermediate_size=32, head_dim=8)
    fields |= dict(num_attention_heads=2, num_key_value_heads=2, final_logit_softcapping=3.0, initializer_range=0.6)
    fields |= dict(bos_token_id=None, eos_token_id=None, pad_token_id=None)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma2", **fields), dtype=torch.float32).eval()


def next_log_probs(model, sequence: np.ndarray, temperature: float) -> np.ndarray:
    """log p( . | x_<t) for every t from 1, [T - 1, V] float64, a forward pass for each."""
    rows = []
    with torch.no_grad():
        for t in range(1, len(sequence)):
            logits = model(input_ids=torch.from_numpy(sequence[:t].astype(np.int64))[None]).logits[0, -1].double()
            rows.append(torch.log_softmax(logits / temperature, -1).numpy())
    return np.stack(rows)


def by_loops(q: Scorer, p: Scorer, samples: Samples, ends=ENDS) -> Scores:
    """What `score` is to return."""
    log_prob, expected, ended, steps = [], [], [], []
    for i in range(len(samples)):
        start = samples.num_prompt[i] - 1
        log_q, log_p = (next_log_probs(each.model, samples[i], each.temperature)[start:] for each in (q, p))
        log_prob.append(log_p[np.arange(len(log_p)), samples[i][start + 1 :]].sum())
        means = (np.exp(log_q) * log_p).sum(1)
        steps.append(means)
        expected.append(means.sum())
        ended.append(np.exp(log_q)[:, list(ends)].sum())
    longest = max(map(len, steps))
    at = [np.array([means[t] for means in steps if len(means) > t]) for t in range(longest)]
    positions = np.array([[len(v) for v in at], [v.sum() for v in at], [(v**2).sum() for v in at]])
    return Scores(np.array(log_prob), np.array(expected), np.array(ended), positions)


def assert_alike(found: Scores, wanted: Scores, tolerance: float = 1e-4) -> None:
    for name in ("log_prob", "expected", "ended", "positions"):
        values = getattr(found, name)
        np.testing.assert_allclose(values, getattr(wanted, name), rtol=tolerance, atol=tolerance, err_msg=name)
    if wanted.embeddings is not None:
        np.testing.assert_allclose(found.embeddings, wanted.embeddings, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def two():
    return tiny_llama(1, vocab_size=VOCABULARY), tiny_llama(2, vocab_size=VOCABULARY)


def scorers(two) -> tuple[Scorer, list[Scorer]]:
    """q at 0.8; by itself, by its model at temperature 1, and by another model at two temperatures."""
    first, second = two
    return Scorer(first, 0.8), [Scorer(first, 0.8), Scorer(first), Scorer(second), Scorer(second, 0.5)]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_against_a_forward_pass_for_every_prefix(two, batch_size):
    q, by = scorers(two)
    bar, samples = Bar(), mixed_samples()
    found = score(q, by, samples, batch_size, bar=bar)
    assert len(found) == 4
    for each, scorer in zip(found, by, strict=True):
        assert_alike(each, by_loops(q, scorer, samples))
        assert each.log_prob.dtype == each.expected.dtype == np.float64 and each.embeddings is None
    assert bar.totals == [samples.num_scored.sum()] and sum(bar.told) == samples.num_scored.sum()


def test_by_itself_the_expectation_is_minus_the_entropy_of_each_next_id(two):
    """And at another temperature a smaller number, by the divergence between the two."""
    q, by = scorers(two)
    samples = mixed_samples()
    own, other, *_ = score(q, by, samples)
    rows = [next_log_probs(q.model, samples[i], q.temperature)[samples.num_prompt[i] - 1 :] for i in range(10)]
    entropies = [-(np.exp(each) * each).sum() for each in rows]
    np.testing.assert_allclose(own.expected, -np.array(entropies), rtol=1e-5)
    assert (other.expected < own.expected).all() and other.ended.tolist() == own.ended.tolist()


def test_blocks_of_rows_change_nothing(two, monkeypatch):
    q, by = scorers(two)
    whole = score(q, by, mixed_samples(), 64)
    monkeypatch.setattr(next_token, "ROWS", 5)
    for found, wanted in zip(score(q, by, mixed_samples(), 64), whole, strict=True):
        assert_alike(found, wanted, 1e-6)


def test_logits_that_are_not_linear_in_the_hidden_state(two):
    """Of a model that caps them, as what is drawn from and as what scores."""
    capped, samples = gemma(0), mixed_samples()
    assert not NextTokenDistributions(capped).has_plain_head and NextTokenDistributions(two[0]).has_plain_head
    sides = [(Scorer(capped, 0.7), Scorer(two[0])), (Scorer(two[0]), Scorer(capped)), (Scorer(capped), Scorer(capped))]
    for q, p in sides:
        [found] = score(q, [p], samples)
        assert_alike(found, by_loops(q, p, samples))


def test_without_an_end_of_sequence_none_is_expected(two):
    q, by = scorers(two)
    assert all(each.ended.tolist() == [0.0] * 10 for each in score(q, by, mixed_samples(), ends=()))


def test_a_model_is_computed_once_a_batch_at_however_many_temperatures(two, monkeypatch):
    q, by = scorers(two)
    states, computed = NextTokenDistributions.states, []
    monkeypatch.setattr(
        NextTokenDistributions, "states", lambda self, *given: computed.append(self.model) or states(self, *given)
    )
    score(q, by, mixed_samples(), 5)
    assert [computed.count(model) for model in two] == [2, 2] and len(computed) == 4


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_embeddings_are_means_over_the_generated_ids_of_the_last_hidden_state(two, batch_size):
    """Of the first sequences, by the scorers that embed, also where one is what was drawn from, or caps its logits."""
    q, samples, capped = Scorer(two[0]), mixed_samples(), gemma(0)
    by = [Scorer(two[0], 1.0, 4), Scorer(two[1]), Scorer(two[1], 0.5, 100), Scorer(capped, 1.0, 1)]
    found = score(q, by, samples, batch_size)
    assert [None if each.embeddings is None else each.embeddings.shape for each in found] == [
        (4, 16),
        None,
        (10, 16),
        (1, 16),
    ]
    for each, scorer in zip(found, by, strict=True):
        for row in range(min(scorer.num_embedded, len(samples))):
            ids = torch.from_numpy(samples[row].astype(np.int64))[None]
            with torch.no_grad():
                hidden = scorer.model.model(input_ids=ids).last_hidden_state[0, samples.num_prompt[row] :]
            np.testing.assert_allclose(each.embeddings[row], hidden.mean(0).numpy(), atol=1e-5)
            assert each.embeddings.dtype == np.float32
    assert not any(model.base_model._forward_hooks for model in (*two, capped))


def test_out_of_memory_halves_the_batch_and_changes_nothing(two, monkeypatch, capsys):
    """Also where it comes with the second model, after the first has been computed and embedded."""
    q, (first, _, second, _) = scorers(two)
    by, samples = [Scorer(*vars(first).values()), Scorer(second.model, 1.0, 6)], mixed_samples()
    plenty = score(q, by, samples, 8)
    states = NextTokenDistributions.states

    def full_above_3(self, ids, scored):
        if len(ids) > 3 and self.model is two[1]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return states(self, ids, scored)

    monkeypatch.setattr(NextTokenDistributions, "states", full_above_3)
    bar = Bar()
    for found, wanted in zip(score(q, by, samples, 64, bar=bar), plenty, strict=True):
        assert_alike(found, wanted, 1e-5)
    assert capsys.readouterr().out.splitlines()[-1] == "out of memory: scoring 2 sequences at a time"
    assert sum(bar.told) == samples.num_scored.sum() and len(bar.told) == 5


@pytest.mark.parametrize("which", [0, 1])
def test_a_score_that_is_not_finite_is_refused_by_model_sequence_and_id(which):
    models = tiny_llama(0), tiny_llama(1)
    samples = Samples.of([[0, 1, 2], [0, 1, 1, 1]], 1, np.zeros(2))
    with torch.no_grad():
        models[which].lm_head.weight[1] = torch.nan
    for model, name in zip(models, ("teacher", "ground_truth"), strict=True):
        model.name_or_path = name
    told = f"{('teacher', 'ground_truth')[which]}: the log-probability of generated id 1 of sequence 1 is nan"
    with pytest.raises(UsageError, match=told):
        score(Scorer(models[0]), [Scorer(model) for model in models], samples, ends=(2,))


# ---------------------------------------------------------------------------------------------- many processes


@pytest.mark.parametrize("num_processes", [2, 3, 7, 12])
def test_what_several_processes_score_is_joined_to_what_one_scores(two, num_processes, monkeypatch):
    """Each has every so-manieth sequence; of twelve, two have none."""
    q, samples = Scorer(two[0], 0.8), mixed_samples()
    by = [Scorer(two[0], 0.8), Scorer(two[1], 1.0, 5)]
    whole, parts = score(q, by, samples), []
    monkeypatch.setattr(expectations, "gathered", lambda rows, found: parts.append((rows, found)) or parts)
    for index in range(num_processes):
        mine = SimpleNamespace(process_index=index, num_processes=num_processes)
        monkeypatch.setattr(processes, "state", lambda mine=mine: mine)
        last = index == num_processes - 1
        with pytest.MonkeyPatch.context() as patch:
            if not last:  # only then is everything there to be joined
                patch.setattr(Scores, "joined", lambda parts: list(parts))
            found = score(q, by, samples)
    assert sorted(np.concatenate([rows for rows, _ in parts])) == list(range(10))
    assert [len(rows) for rows, _ in parts] == [len(range(k, 10, num_processes)) for k in range(num_processes)]
    for each, wanted in zip(found, whole, strict=True):
        assert_alike(each, wanted, 1e-5)
        assert (each.embeddings is None) == (wanted.embeddings is None)


def test_scores_of_interleaved_rows_are_joined_in_the_order_of_the_rows():
    """Sequences 0, 2, 4 and 1, 3; of the latter the longest has one id more. The first three were embedded."""
    rows = np.array([0, 2, 4]), np.array([1, 3])
    parts = [
        Scores(
            np.array([0.0, -2, -4]),
            np.array([0.5, -2.5, -4.5]),
            np.array([0.0, 0.2, 0.4]),
            np.array([[3.0, 1], [-6, -1], [20, 1]]),
            np.array([[0.0, 0], [2, 2]], np.float32),
        ),
        Scores(
            np.array([-1.0, -3]),
            np.array([-1.5, -3.5]),
            np.array([0.1, 0.3]),
            np.array([[2.0, 1, 1], [-4, -2, -1], [10, 4, 1]]),
            np.array([[1.0, 1]], np.float32),
        ),
    ]
    for order in ((0, 1), (1, 0)):
        found = Scores.joined((rows[k], parts[k]) for k in order)
        assert found.log_prob.tolist() == [0, -1, -2, -3, -4]
        assert found.expected.tolist() == [0.5, -1.5, -2.5, -3.5, -4.5]
        assert found.ended.tolist() == [0, 0.1, 0.2, 0.3, 0.4]
        assert found.positions.tolist() == [[5, 2, 1], [-10, -3, -1], [30, 5, 1]]
        assert found.embeddings.tolist() == [[0, 0], [1, 1], [2, 2]]
    bare = [Scores(part.log_prob, part.expected, part.ended, part.positions) for part in parts]
    assert Scores.joined(zip(rows, bare, strict=True)).embeddings is None
    half = Scores.joined(zip(rows, [parts[0], bare[1]], strict=True))
    assert half.embeddings.tolist() == [[0, 0], [2, 2]]


# -------------------------------------------------------------------------------------- against every sequence


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_expectations_have_the_mean_that_is_enumerated(temperature):
    """Over all sequences of q, by their probabilities: E_q[log p], and the probability of ending by itself."""
    q, p = Scorer(tiny_llama(2), temperature), Scorer(tiny_llama(1))
    samples = Samples.of(EVERYTHING, 1, np.zeros(len(EVERYTHING)))
    own, by_other = score(q, [q, p], samples, 5, ends=(2,))
    log_q = exact_log_probabilities(q.model, EVERYTHING, temperature)
    log_p = exact_log_probabilities(p.model, EVERYTHING)
    weights = np.exp(log_q)
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert weights @ own.expected == pytest.approx(weights @ log_q, abs=1e-5)
    assert weights @ by_other.expected == pytest.approx(weights @ log_p, abs=1e-5)
    assert weights @ own.ended == pytest.approx(weights @ samples.stopped((2,)), abs=1e-6)
    assert np.abs(by_other.expected - by_other.log_prob).max() > 0.1  # of a sequence they are not the same
    np.testing.assert_allclose(by_other.log_prob, log_p, atol=1e-5)


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
        own, other = score(Scorer(source), [Scorer(source), Scorer(scorer)], samples, 2000, language.eos_token_ids)
        scores = own.log_prob, own.expected, other.log_prob, other.expected
        scored = Scored(samples.num_scored, *scores, samples.stopped(language.eos_token_ids), own.ended)
        weight, log_other, entropy, kl = exact[name]
        truth = np.array([(weight * log_other).sum(), entropy, kl])
        assert truth[0] == pytest.approx(-entropy - kl)
        for per_token, count in ((False, 1.0), (True, (weight * tokens).sum())):
            terms = cross_entropy(scored, per_token)
            for found, value in zip((terms.log_likelihood, terms.entropy, terms.kl), truth / count, strict=True):
                estimate = found.estimate
                assert abs(estimate.value - value) < 2 * (estimate.high - estimate.low)
                assert estimate.low < estimate.value < estimate.high
                assert estimate.high - estimate.low < 0.1
                assert (found.plain, found.exact) == pytest.approx([value] * 2, abs=0.05)
            assert terms.log_likelihood.value == pytest.approx(-terms.entropy.value - terms.kl.value, abs=1e-9)
