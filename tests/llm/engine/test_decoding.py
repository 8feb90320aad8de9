"""Decoding by slots against transformers' own forward pass over whole sequences."""

from functools import partial

import pytest
import torch
from conftest import run_of
from transformers import AutoConfig, AutoModelForCausalLM

from llm.distributions import Language, Samples
from llm.engine import decoding
from llm.engine.decoding import CachedDecoder, RecomputingDecoder, decoder, fitting_batch_size
from llm.pipeline import TRUTH
from llm.samplers.sample_sets import draw_here, draw_shards
from llm.settings import config

VOCABULARY = 30
SIZE = dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
GROUPED = SIZE | dict(num_key_value_heads=2, max_position_embeddings=200)
MODELS = {
    "llama": (GROUPED, CachedDecoder),
    "qwen2": (GROUPED, CachedDecoder),
    "gpt2": (dict(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=200), CachedDecoder),
    "mistral": (GROUPED | dict(sliding_window=200), CachedDecoder),
    # What the cache or its attention would get wrong is recognised, and recomputed instead.
    "mistral of a short window": (GROUPED | dict(model_type="mistral", sliding_window=5), RecomputingDecoder),
    "gemma2": (GROUPED | dict(head_dim=8, sliding_window=200), RecomputingDecoder),  # caps its scores
    "mamba": (dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4), RecomputingDecoder),
}


def tiny(name):
    fields, kind = MODELS[name]
    torch.manual_seed(0)
    fields = {"initializer_range": 0.4} | fields
    model_type = fields.pop("model_type", name)
    wanted = AutoConfig.for_model(model_type, **fields, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    return AutoModelForCausalLM.from_config(wanted, dtype=torch.float32).eval(), kind


@pytest.mark.parametrize("name", MODELS)
def test_slots_at_different_positions_see_their_own_sequence(name):
    """Four slots; two of them start again in the middle, one is dropped: every step against the whole sequence."""
    model, kind = tiny(name)
    generator = torch.Generator().manual_seed(1)
    max_length, sequences, wanted = 70, [[] for _ in range(4)], []
    with torch.inference_mode():
        with decoder(model, 4, max_length) as slots:
            assert type(slots) is kind
            for step in range(max_length + 3):
                for slot, length in ((1, 3), (2, 40)):
                    if len(sequences[slot]) == length:
                        sequences[slot] = []
                if step == 60:
                    slots.keep(torch.tensor([0, 2, 3]))
                    del sequences[1]
                if step >= max_length:
                    sequences[0] = [] if step == max_length else sequences[0]
                    sequences[2] = [] if step == max_length else sequences[2]
                for sequence in sequences:
                    sequence.append(int(torch.randint(VOCABULARY, (), generator=generator)))
                positions = torch.tensor([len(sequence) - 1 for sequence in sequences])
                logits = slots.step(torch.tensor([sequence[-1] for sequence in sequences]), positions)
                if step % 9 == 0 or step in (59, 60, 63, 64, 65) or step >= max_length:
                    wanted.append((logits, [list(sequence) for sequence in sequences]))
        for logits, seen in wanted:
            for found, sequence in zip(logits, seen, strict=True):
                exact = model(input_ids=torch.tensor([sequence]), use_cache=False).logits[0, -1]
                torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)


def test_the_models_attention_is_restored():
    model, _ = tiny("llama")
    before = model.config._attn_implementation
    with decoder(model, 2, 10):
        assert model.config._attn_implementation != before
    assert model.config._attn_implementation == before


def test_the_batch_is_halved_until_it_fits(monkeypatch):
    model, _ = tiny("llama")
    assert fitting_batch_size(model, 100, 256) == 256
    per_sequence = 2 * 2 * 2 * 8 * 100 * 4 + VOCABULARY * (4 + 8)  # keys and values; logits and their exponentials
    free = type("", (), {"available": 2 * 70 * per_sequence})
    monkeypatch.setattr(decoding.psutil, "virtual_memory", lambda: free)
    assert fitting_batch_size(model, 100, 256) == 64
    free.available = 0
    assert fitting_batch_size(model, 100, 256) == 1


def drawn(model, root, num: int = 5, **values) -> Samples:
    """Sequences of a model, drawn into the store and read from it."""
    experiment = config.load("smoke", num_test=num, max_length=12, prompt=[1], **values)
    run = run_of(experiment, root, Language(VOCABULARY, ((1,),), (3,)))
    shards = list(range(len(run.sample_files(run.test_set(TRUTH)).ranges)))
    draw_shards(run, run.test_set(TRUTH), shards, partial(draw_here, run, model))
    return run.samples(run.test_set(TRUTH))


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_can_be_drawn_as_a_set(name, tmp_path):
    assert len(drawn(tiny(name)[0], tmp_path)) == 5


def disturb(monkeypatch, error: RuntimeError, most_slots: int) -> None:
    """Let a step of more slots than this raise an error."""
    whole_step = CachedDecoder.step

    def step(self, ids, positions):
        if len(ids) > most_slots:
            raise error
        return whole_step(self, ids, positions)

    monkeypatch.setattr(CachedDecoder, "step", step)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_halves_the_batch_and_changes_nothing(tmp_path, monkeypatch, capsys, error):
    model, sizes = tiny("llama")[0], dict(num=90, shard_size=60, sampling_batch_size=64)
    plenty = drawn(model, tmp_path / "plenty", **sizes)
    disturb(monkeypatch, error, 20)
    scarce = drawn(model, tmp_path / "scarce", **sizes)
    assert "drawing 16 sequences at a time" in capsys.readouterr().out
    assert (plenty.ids == scarce.ids).all() and (plenty.offsets == scarce.offsets).all()


def test_another_error_is_not_taken_for_a_full_memory(tmp_path, monkeypatch):
    disturb(monkeypatch, RuntimeError("something else"), 4)  # more than the decoder is tried with
    with pytest.raises(RuntimeError, match="something else"):
        drawn(tiny("llama")[0], tmp_path)


@pytest.mark.parametrize("how", ["wrong", "fails"])
def test_a_cache_that_a_model_does_not_fill_as_expected_is_not_used(how):
    model = tiny("llama")[0]
    plain = model.forward

    def forward(*args, **given):
        if given["use_cache"] and how == "fails":
            raise KeyError("a cache of another kind")
        out = plain(*args, **given)
        out.logits = out.logits * (1.1 if given["use_cache"] else 1)
        return out

    model.forward = forward
    before = model.config._attn_implementation
    with decoder(model, 3, 8) as steps:
        assert isinstance(steps, RecomputingDecoder) and model.config._attn_implementation == before
