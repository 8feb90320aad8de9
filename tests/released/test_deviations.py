"""What the released code does otherwise, against loops and models small enough to follow by hand."""

from functools import cache

import numpy as np
import pytest
import torch
from conftest import tiny_llama
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from llm.distributions import Language, Samples
from llm.likelihood import log_likelihood
from llm.metrics import perplexity
from llm.models import loading
from scripts.released import deviations

TEXT = "the cat that sat there then hated the other cats at that other theatre " * 3


@cache
def small_bpe() -> Tokenizer:
    """Return two special tokens, the letters of the text, then merges: more than 20, so that 25 ids cut some."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(vocab_size=64, special_tokens=["<s>", "</s>"], min_frequency=1, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def test_a_cut_tokenizer_stays_within_its_ids_and_reads_back_what_it_wrote():
    bpe = small_bpe()
    cut = deviations.cut_tokenizer(bpe, 25)
    assert cut.get_vocab_size() == 25 and max(bpe.encode(TEXT).ids) >= 25
    ids = cut.encode(TEXT).ids
    assert max(ids) < 25 and cut.decode(ids) == TEXT
    assert len(ids) < len(TEXT)  # some merges are left
    assert cut.encode(cut.decode(ids)).ids == ids
    generator = np.random.default_rng(0)
    for _ in range(200):  # of any of its ids, special ones too
        again = cut.encode(cut.decode(generator.integers(0, 25, 12).tolist())).ids
        assert all(i < 25 for i in again)
    whole = deviations.cut_tokenizer(bpe, 1000)
    assert whole.encode(TEXT).ids == bpe.encode(TEXT).ids


def test_letters_that_make_a_token_come_back_as_that_token():
    """t + h is one id in text; special tokens are gone, the prompt with them; what is too long is cut."""
    bpe = small_bpe()
    t, h, th, cat = (bpe.token_to_id(token) for token in ("t", "h", "th", "cat"))
    sequences = [[0, t, h], [t, h, th], [0], [cat, 1, cat, cat]]
    samples = Samples.of([np.array(each, np.uint8) for each in sequences], 1, np.zeros(4))
    again = deviations.tokenised_again(samples, bpe, 2)
    assert [again[i].tolist() for i in range(4)] == [[th], [th, th], [], bpe.encode("catcatcat").ids[:2]]
    assert again.num_prompt.tolist() == [1, 1, 0, 1] and again.ids.dtype == np.uint8


def test_padding_scored_against_a_double_loop():
    """Sequences of 2 to 5 ids, filled up to 5 with EOS = 2, in batches of two: the odd one weighs as much as a pair."""
    model, batch_size, max_length = tiny_llama(1), 2, 5
    sequences = [[0, 1, 1, 2], [0, 2], [0, 1, 0, 1, 1], [0, 1, 2], [0, 0, 2]]
    samples = Samples.of([np.array(each, np.uint8) for each in sequences], 1, np.zeros(5))
    filled = deviations.padded(samples, 2, max_length)
    log_prob = log_likelihood(model, filled, 4)
    means = []
    for start in range(0, len(sequences), batch_size):
        nats, count = 0.0, 0
        for sequence in sequences[start : start + batch_size]:
            ids = sequence + [2] * (max_length - len(sequence))
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids])).logits[0].double().numpy()
            for t in range(1, max_length):
                weights = np.exp(logits[t - 1])
                nats -= np.log(weights[ids[t]] / weights.sum())
                count += 1
        means.append(nats / count)
    found = deviations.perplexity_of_batch_means(log_prob, filled.num_scored, batch_size)
    assert found == pytest.approx(np.exp(np.mean(means)), rel=1e-6)
    assert abs(found - perplexity(log_prob, filled.num_scored)) > 1e-3  # the pairs and the odd one
    assert abs(found - perplexity(log_likelihood(model, samples, 4), samples.num_scored)) > 1e-2  # the padding


def test_a_reset_changes_all_weights_but_the_gains(smoke):
    language = Language(64, ((0,),), (1,))
    model, before = (loading.build(smoke.teacher, "teacher", language, 3) for _ in range(2))
    deviations.reset_parameters(model, 5)
    unchanged = [
        name for (name, new), old in zip(model.named_parameters(), before.parameters(), strict=True) if new.equal(old)
    ]
    assert len(unchanged) == 2 * 2 + 1 and all("norm" in name for name in unchanged)
    assert all(module.weight.ne(other.weight).all() for module, other in matrices(model, before))
    shared = model.get_input_embeddings().weight
    assert shared is model.get_output_embeddings().weight
    assert 0.9 / 8 < shared.abs().max() <= 1 / 8  # uniform within 1 / sqrt(64), of which 64 x 64 values fill the range
    again = loading.build(smoke.teacher, "teacher", language, 4)
    deviations.reset_parameters(again, 5)
    assert all(new.equal(old) for new, old in zip(model.parameters(), again.parameters(), strict=True))


def matrices(*built) -> list[tuple]:
    """Return the Linear and Embedding modules of some models of one architecture, side by side."""
    kinds = (torch.nn.Linear, torch.nn.Embedding)
    return list(zip(*([m for m in model.modules() if isinstance(m, kinds)] for model in built), strict=True))
