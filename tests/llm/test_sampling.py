"""The sampler against distributions that can be written out."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from conftest import EOS, enumerate_sequences, exact_log_probabilities, tiny_llama, within
from scipy.stats import binomtest, chisquare

from llm.distributions import Language, Stream
from llm.likelihood import log_likelihood
from llm.machine.processes import UsageError
from llm.sampling import draw, sample

MAX_LENGTH = 4
NUM_SAMPLES = 20_000
REJECT = 1e-4  # the seeds are fixed, so a right sampler passes always and a wrong one hardly ever


def draw_many(model, language, num=NUM_SAMPLES, temperature=1.0, batch=5000, name="test", max_length=MAX_LENGTH):
    arguments = dict(temperature=temperature, max_length=max_length, batch_size=batch)
    return sample(model, language, range(num), stream=Stream.of(name), **arguments)


def sequences_of(samples) -> list[tuple[int, ...]]:
    return [tuple(samples[i].tolist()) for i in range(len(samples))]


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
    samples = draw_many(model, language, num=50, temperature=temperature)
    exact = exact_log_probabilities(model, sequences_of(samples), temperature)
    np.testing.assert_allclose(samples.log_prob, exact, atol=1e-5)


def test_the_recorded_log_probability_is_the_score(language):
    model = tiny_llama(1)
    samples = draw_many(model, language, num=200)
    np.testing.assert_allclose(log_likelihood(model, samples, 64), samples.log_prob, atol=1e-5)


@pytest.mark.parametrize("batch", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_sequence_depends_on_neither_its_batch_nor_its_slot(batch):
    """256 sequences, 7 or 1 at a time: slots are taken over 249 and 255 times; at 256 they are dropped instead.

    One at a time is the slow twin of seven.
    """
    model = tiny_llama(3, vocab_size=50)
    language = Language(50, ((7, 8, 9),), (3,))
    whole = sequences_of(draw_many(model, language, num=256, batch=256, max_length=20))
    assert sequences_of(draw_many(model, language, num=256, batch=batch, max_length=20)) == whole
    assert len({len(sequence) for sequence in whole}) > 10  # ended at many places


PROMPTS = {
    "nothing in common": ((0,), (1, 0)),
    "a beginning in common": ((0, 1, 1), (0, 0)),
    "one begins the other": ((0,), (0, 1)),
    "one twice": ((0,), (0,), (1,)),
}


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
def test_several_prompts_take_turns_and_are_continued_exactly(prompts):
    """Frequencies of (prompt, continuation) against 1 / number of prompts x the exact conditional probability."""
    model, several = tiny_llama(1), Language(3, prompts, (EOS,))
    samples = draw_many(model, several, max_length=5)
    turns = [prompts[i % len(prompts)] for i in range(len(samples))]
    assert all(tuple(samples[i][: len(turn)].tolist()) == turn for i, turn in enumerate(turns))
    assert samples.num_prompt.tolist() == list(map(len, turns))
    found = Counter(zip(samples.num_prompt.tolist(), sequences_of(samples), strict=True))
    expected = {}
    for prompt in prompts:
        weight = 1 / len(prompts)
        for body in continuations(5 - len(prompt)):
            sequence = prompt + body
            log_p = exact_log_probabilities(model, [sequence])[0] - exact_log_probabilities(model, [prompt])[0]
            key = (len(prompt), sequence)
            expected[key] = expected.get(key, 0) + NUM_SAMPLES * weight * np.exp(log_p)
    assert sum(expected.values()) == pytest.approx(NUM_SAMPLES) and found.keys() <= expected.keys()
    common = [key for key, value in expected.items() if value >= 5]
    observed, wanted = (np.array([each[key] for key in common], float) for each in (found, expected))
    observed, wanted = np.append(observed, NUM_SAMPLES - observed.sum()), np.append(wanted, NUM_SAMPLES - wanted.sum())
    kept = wanted > 1
    assert chisquare(observed[kept], wanted[kept] * observed[kept].sum() / wanted[kept].sum()).pvalue > REJECT
    few = samples.take(np.arange(100))
    np.testing.assert_allclose(log_likelihood(model, few, 64), few.log_prob, atol=1e-5)


def continuations(length: int) -> list[tuple[int, ...]]:
    """Every way to go on that ends at its first EOS or after this many ids."""
    bodies = [body for n in range(1, length + 1) for body in product(range(3), repeat=n)]
    return [body for body in bodies if EOS not in body[:-1] and (body[-1] == EOS or len(body) == length)]


def test_several_prompts_do_not_depend_on_the_batch():
    model = tiny_llama(3, vocab_size=50)
    several = Language(50, ((7, 8, 9), (7, 4), (7, 8, 1, 1, 1)), (3,))
    whole = draw_many(model, several, num=256, batch=256, max_length=20)
    steps = []
    arguments = dict(stream=Stream.of("test"), temperature=1.0, max_length=20, batch_size=17)
    other = sample(model, several, range(256), **arguments, progress=steps.append)
    assert sequences_of(other) == sequences_of(whole)
    assert sum(steps) == other.num_scored.sum()  # what is given is no work done
    assert set(other.num_prompt.tolist()) == {2, 3, 5}


def test_no_step_is_spent_on_a_sequence_that_has_ended():
    """With as many sequences waiting as there are steps to fill, every slot draws a wanted token at every step."""
    model, steps = tiny_llama(3, vocab_size=50), []
    language = Language(50, ((7,),), (3, 4, 5, 6, 8, 9))
    arguments = dict(stream=Stream.of("test"), temperature=1.0, max_length=40, batch_size=8)
    samples = sample(model, language, range(400), **arguments, progress=steps.append)
    assert sum(steps) == samples.num_scored.sum()
    assert samples.lengths.mean() < 20
    assert steps[:-40] == [8] * (len(steps) - 40)


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
    samples = draw_many(tiny_llama(3, vocab_size=50), Language(50, ((7,),), (3, 4, 5)), num=300, max_length=12)
    ends = {sequence[-1] for sequence in sequences_of(samples) if len(sequence) < 12}
    assert ends == {3, 4, 5}


def test_no_eos_means_every_sequence_is_full():
    samples = draw_many(tiny_llama(3, vocab_size=50), Language(50, ((7,),), ()), num=20, max_length=9)
    assert {len(sequence) for sequence in sequences_of(samples)} == {9}


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


VOCABULARY = 49_152


def heavy_tail() -> torch.Tensor:
    """Logits of a Zipf law over 49,152 ids, in a shuffled order."""
    logits = -torch.log(torch.arange(1, VOCABULARY + 1, dtype=torch.float64))
    return logits[torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(0))].float()


def draw_from(logits: torch.Tensor, num: int) -> np.ndarray:
    uniforms = torch.from_numpy(np.random.default_rng(1).random(num))
    parts = [draw(logits.expand(len(u), -1), 1.0, u)[0] for u in uniforms.split(512)]
    return torch.cat(parts).numpy()


def test_frequencies_over_a_large_vocabulary_with_a_heavy_tail():
    """Chi-square over the common ids, and over the rare ones in bins of like probability."""
    logits, num = heavy_tail(), 20_000
    probability = torch.softmax(logits.double(), 0).numpy()
    order = np.argsort(-probability)
    bins = np.searchsorted(np.cumsum(probability[order]) * num / 20, np.arange(1, num // 20))  # 20 draws each, or more
    starts = np.unique(np.concatenate([[0], bins + 1]))
    starts = starts[starts < VOCABULARY]
    counts = np.bincount(draw_from(logits, num), minlength=VOCABULARY)[order]
    observed, expected = (np.add.reduceat(x, starts) for x in (counts, num * probability[order]))
    assert len(starts) > 300 and expected.min() > 5
    assert chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > REJECT


def test_tail_ids_come_out_at_their_rate():
    """Ten thousand ids of probability 1e-6 behind one that has the rest: 1 % of all draws, spread evenly over them."""
    num_tail, num = 10_000, 20_000
    logits = torch.full((VOCABULARY,), -torch.inf)
    tail = torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(2))[: num_tail + 1]
    logits[tail[1:]] = float(np.log(1e-6))
    logits[tail[0]] = float(np.log(1 - num_tail * 1e-6))
    drawn = draw_from(logits, num)
    in_tail = drawn[drawn != tail[0].item()]
    assert set(in_tail.tolist()) <= set(tail.tolist())
    assert binomtest(len(in_tail), num, num_tail * 1e-6).pvalue > REJECT
    assert chisquare(np.histogram(in_tail, bins=8, range=(0, VOCABULARY))[0]).pvalue > REJECT


# ----------------------------------------------------------------------------------------------- what is refused


TRIES = 2 + 3  # a decoder is tried by two forward passes and three steps


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_stop_the_draw_at_the_first(language, value):
    model, steps = tiny_llama(1), []
    plain = model.forward

    def forward(*args, **given):
        out = plain(*args, **given)
        steps.append(len(out.logits))
        if len(steps) == TRIES + 3:
            out.logits[2, :, 1] = value
        return out

    model.forward = forward
    endless = Language(3, language.prompts, ())
    with pytest.raises(UsageError, match="the logits after id 3 of sequence 2 are not finite"):
        draw_many(model, endless, num=20, max_length=10)
    assert len(steps) == TRIES + 3


def test_ids_that_a_model_excludes_are_no_fault(language):
    model = tiny_llama(1)
    plain = model.forward

    def forward(*args, **given):
        out = plain(*args, **given)
        out.logits[..., 1] = -torch.inf
        return out

    model.forward = forward
    samples = draw_many(model, language, num=50)
    assert 1 not in samples.ids and np.isfinite(samples.log_prob).all()


@pytest.mark.parametrize("gap", [1.8, float("nan")])
def test_a_set_whose_draws_are_not_its_scores_is_not_kept(smoke, tmp_path, monkeypatch, gap):
    monkeypatch.setattr(
        "llm.samplers.sample_sets.log_likelihood", lambda model, samples, *_, **__: samples.log_prob + gap * 24
    )
    flags = ("--profile", "smoke", "--out", str(tmp_path), "--num_train", "40", "--max_length", "8")
    with pytest.raises(UsageError, match=r"train: log p of sequence \d+ is .* as drawn in float32"):
        within("llm.generate_data", *flags)
    assert not list(tmp_path.rglob("*.arrow"))
