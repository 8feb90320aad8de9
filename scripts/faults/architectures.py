"""Try the admission test on every causal architecture of transformers that can be built tiny.

    python -m scripts.faults.architectures                      # all, into scripts/faults/architectures.csv
    python -m scripts.faults.architectures --only bert gemma2   # these, printed alone

Each is built with random weights, a few thousand parameters if its config allows, and admitted as a teacher is. A row
of the table is an architecture: how many parameters it had, and "admitted", "refused" or "not built" with the line that
says why. Some minutes on 2 cores.
"""

import csv
import dataclasses
import io
import warnings
from pathlib import Path

from llm.machine import processes
from llm.machine.processes import UsageError, say
from llm.machine.progress import bar
from llm.models import loading
from llm.settings import config
from llm.store.files import write_bytes

TABLE = Path(__file__).with_suffix(".csv")
VOCAB, LENGTH = 64, 32
MOST_PARAMETERS = 30_000_000
SIZES = {  # whatever of these a config has
    **dict.fromkeys(
        ("hidden_size", "n_embd", "d_model", "dim", "emb_dim", "embedding_size", "word_embed_proj_dim"), 32
    ),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_blocks"), 2),
    **dict.fromkeys(("encoder_layers", "num_encoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "num_encoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "n_inner", "dff", "d_ff", "decoder_ffn_dim", "encoder_ffn_dim"), 64
    ),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 32),
    **dict.fromkeys(("ffn_hidden_size", "mlp_hidden_size", "dense_intermediate_size", "intermediate_size_mlp"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "num_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("head_dim", "kv_channels", "kv_lora_rank", "q_lora_rank", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "v_head_dim", "rotary_dim", "index_head_dim", "linear_key_head_dim"), 8),
    **dict.fromkeys(("linear_value_head_dim", "state_size", "mamba_d_state", "ssm_state_size", "mamba_d_head"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "index_n_heads"), 4),
    "mamba_n_heads": 8,
    "n_groups": 1,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "decoder_max_position_embeddings"), 64),
    "vocab_size": VOCAB,
    "layer_types": None,
}


# Tried in turn until one can be computed: what some configs want otherwise.
VARIANTS = [
    {},
    {"num_key_value_heads": 4},
    {"layer_types": ...},  # left out
    {"layer_types": ..., "num_key_value_heads": 4},
    {"num_hidden_layers": 3, "layer_types": ...},
    {"num_hidden_layers": 4, "layer_types": ["conv", "conv", "full_attention", "conv"]},
    {"num_hidden_layers": 4, "layer_types": ["mamba", "mamba", "attention", "mamba"]},
    {"head_dim": 16},
    {"attention_types": [[["global", "local"], 1]]},
    {"num_experts_per_tok": 1},
    {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2},
    {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "layer_types": ...},
]


def sizes_of(config_class: type, variant: dict) -> dict:
    """Return the small sizes of a config class, and of its text's where that is a config of its own."""
    known = {field.name for field in dataclasses.fields(config_class)} | set(config_class.attribute_map)
    no_ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    wanted = {**SIZES, **no_ids, **variant}
    found = {name: value for name, value in wanted.items() if name in known and value is not ...}
    for name, sub in (config_class.sub_configs or {}).items():
        if name in ("text_config", "decoder_config") and dataclasses.is_dataclass(sub):
            found[name] = sizes_of(sub, variant)
    return found


def build(model_type: str, variant: dict):
    """Return a tiny model of an architecture in float32; an exception of any kind where its sizes do not fit."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    made = CONFIG_MAPPING[model_type](**sizes_of(CONFIG_MAPPING[model_type], variant))
    with torch.device("meta"):
        num = AutoModelForCausalLM.from_config(made).num_parameters()
    if num > MOST_PARAMETERS:
        raise ValueError(f"{num:,} parameters, with every size known here small")
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(made, dtype=torch.float32)


def attempt(model_type: str, variant: dict) -> dict:
    """Return the row of an architecture with sizes of one variant."""
    from llm.models import admission

    row = {"architecture": model_type, "parameters": "", "result": "not built", "why": ""}
    try:
        model = build(model_type, variant)
    except Exception as error:  # whatever a config makes of sizes that it was not written for
        return row | {"why": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"}
    try:
        admission.admit_trainable(model, model_type, VOCAB, LENGTH)
        row |= {"result": "admitted"}
    except UsageError as error:
        row |= {"result": "refused", "why": str(error).removeprefix(f"{model_type}, ")}
    return row | {"parameters": model.num_parameters()}


def best(model_type: str) -> dict:
    """Return the row of the first variant that can be computed; else of the first that is built, if any is."""
    rows = []
    for variant in VARIANTS:
        rows.append(attempt(model_type, variant))
        if rows[-1]["result"] != "not built" and "cannot be computed" not in rows[-1]["why"]:
            return rows[-1]
    return min(rows, key=lambda row: row["result"] == "not built")


def main() -> None:
    parser = config.parser(__doc__)
    parser.add_argument("--only", nargs="+", help="these architectures alone, by model_type")
    args = parser.parse_args()
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    loading.quiet()
    warnings.simplefilter("ignore")
    names = args.only or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    rows = []
    with bar("architectures", len(names), unit="model") as shown:
        for name in names:
            rows.append(best(name))
            shown.update()
    if args.only:
        return say("\n".join(f"{row['architecture']}: {row['result']} {row['why']}" for row in rows))
    table = io.StringIO()
    writer = csv.DictWriter(table, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(TABLE, table.getvalue().encode())
    counts = {result: sum(row["result"] == result for row in rows) for result in ("admitted", "refused", "not built")}
    say(f"{', '.join(f'{number} {result}' for result, number in counts.items())} of {len(rows)} -> {TABLE}")


if __name__ == "__main__":
    processes.run_entry(main)
