"""Weights are read whole or refused in one line: by tensor, by file, from directories and from GGUF."""

import json

import gguf
import pytest
import torch
from conftest import tiny_llama
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from llm.machine.processes import UsageError
from llm.models import checkpoints, sources

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.fixture
def saved(tmp_path):
    """A model's directory."""
    tiny_llama(0).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def read(directory):
    return checkpoints.read(directory, "ground_truth", torch.float32)


def rewrite(directory, change) -> None:
    tensors = change(load_file(directory / "model.safetensors"))
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def test_a_checkpoint_is_read_as_it_was_saved(saved):
    model, found = tiny_llama(0), read(saved)
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in model.state_dict().items())


def test_tied_weights_that_are_stored_once_are_no_fault(tmp_path):
    config = tiny_llama(0).config
    config.tie_word_embeddings = True
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "tied")
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    found = read(tmp_path / "tied")
    assert found.lm_head.weight is found.model.embed_tokens.weight


OTHER_TENSORS = {
    "prefix": (lambda t: {f"_orig_mod.{name}": value for name, value in t.items()}, "lacks the model's tensor"),
    "no head": (lambda t: {name: v for name, v in t.items() if name != "lm_head.weight"}, "tensor lm_head.weight"),
    "fuller": (lambda t: t | {"model.layers.0.extra.bias": torch.zeros(3)}, "no place for: model.layers.0.extra.bias"),
    "one layer more": (
        lambda t: t | {n.replace("layers.1", "layers.2"): v.clone() for n, v in t.items() if "layers.1" in n},
        r"no place for: model.layers.2.input_layernorm.weight and 8 more",
    ),
    "other shape": (lambda t: t | {"lm_head.weight": torch.zeros(5, 16)}, "lm_head.weight"),
}


@pytest.mark.parametrize("how", OTHER_TENSORS)
def test_other_tensors_than_the_models_are_refused_by_name(saved, how):
    change, told = OTHER_TENSORS[how]
    rewrite(saved, change)
    with pytest.raises(UsageError, match=told) as refused:
        read(saved)
    assert str(refused.value).startswith("ground_truth: ") and "\n" not in str(refused.value)


def sharded(directory) -> None:
    tiny_llama(0).save_pretrained(directory, max_shard_size="4KB")
    (directory / "model.safetensors").unlink()
    next(directory.glob("model-00002-of-*.safetensors")).unlink()


def with_config(**fields):
    def change(directory) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def pickled(directory) -> None:
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()


def cut(directory) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


DAMAGED = {
    "pointer": (lambda d: (d / "model.safetensors").write_text(POINTER), r"model\.safetensors is a Git LFS pointer"),
    "config pointer": (lambda d: (d / "config.json").write_text(POINTER), r"config\.json is a Git LFS pointer"),
    "cut": (cut, r"model\.safetensors is cut short or damaged"),
    "quantised": (with_config(quantization_config={"quant_method": "gptq", "bits": 4}), "are quantised"),
    "adapter": (lambda d: (d / "adapter_config.json").write_text("{}"), "holds an adapter"),
    "adapter alone": (
        lambda d: (d / "config.json").rename(d / "adapter_config.json"),
        "an adapter alone: merge it into its base model",
    ),
    "pickled": (pickled, r"only pickled weights \(pytorch_model\.bin\)"),
    "nothing": (lambda d: (d / "model.safetensors").unlink(), "holds no weights"),
    "lost shard": (sharded, r"model-00002-of-\d+\.safetensors is missing"),
    "no config": (lambda d: (d / "config.json").unlink(), "no config.json"),
    "config of another kind": (lambda d: (d / "config.json").write_text("[]"), "no mapping of keys"),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_directory_that_cannot_be_read_is_refused_before_anything_is_loaded(saved, how):
    damage, told = DAMAGED[how]
    damage(saved)
    with pytest.raises(UsageError, match=told):
        sources.check(saved, "ground_truth")


# ------------------------------------------------------------------------------------------------------- GGUF


def write_gguf(path, architecture: str = "llama", more: dict | None = None, without: str = "") -> None:
    """A Llama of one layer as llama.cpp would write it."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_vocab_size(8)
    writer.add_context_length(32)
    writer.add_embedding_length(16)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    shapes = {"token_embd": (8, 16), "output_norm": (16,), "output": (8, 16), "blk.0.attn_norm": (16,)}
    shapes |= {f"blk.0.attn_{name}": (16, 16) for name in ("q", "k", "v", "output")}
    shapes |= {
        "blk.0.ffn_norm": (16,),
        "blk.0.ffn_up": (32, 16),
        "blk.0.ffn_gate": (32, 16),
        "blk.0.ffn_down": (16, 32),
    }
    generator = torch.Generator().manual_seed(0)
    for name, shape in (shapes | (more or {})).items():
        if name != without:
            writer.add_tensor(f"{name}.weight", torch.randn(shape, generator=generator).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_is_read_whole(tmp_path):
    write_gguf(tmp_path / "a.gguf")
    model = read(tmp_path / "a.gguf")
    assert (model.num_parameters(), model.config.vocab_size) == (2 * 8 * 16 + 3 * 16 + 4 * 256 + 3 * 512, 8)


def truncate(path) -> None:
    path.write_bytes(path.read_bytes()[:-3000])


GGUFS = {
    "another tensor": (dict(more={"rope_freqs": (2,)}), None, r"weights, but .* no place for rope_freqs\.weight"),
    "a tensor less": (dict(without="blk.0.ffn_gate"), None, r"lacks the model's tensor .*gate_proj\.weight"),
    "unknown": (dict(architecture="grok9"), None, r"transformers cannot load .* grok9 is not supported"),
    "cut": ({}, truncate, "is cut short or damaged"),
    "pointer": ({}, lambda path: path.write_text(POINTER), "is a Git LFS pointer"),
    "something else": ({}, lambda path: path.write_bytes(b"PK" * 99), "no GGUF file"),
}


@pytest.mark.parametrize("how", GGUFS)
def test_a_gguf_that_is_not_the_model_is_refused(tmp_path, how):
    given, damage, told = GGUFS[how]
    write_gguf(tmp_path / "a.gguf", **given)
    if damage:
        damage(tmp_path / "a.gguf")
    with pytest.raises(UsageError, match=told):
        read(tmp_path / "a.gguf")
