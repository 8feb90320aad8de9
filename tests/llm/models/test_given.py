"""A teacher that exists, and students that start from a checkpoint: used as they are, whatever else the run does."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import chain_within, refusal, shard_table
from transformers import AutoModelForCausalLM

from llm.machine.processes import UsageError
from llm.results.sequences import FROM_TRUTH
from llm.results.table import estimates, read_table
from llm.settings import config
from llm.store.files import sha256

FIELDS = (
    "--num_train",
    "40",
    "--num_validation",
    "10",
    "--num_test",
    "20",
    "--num_seeds",
    "2",
    "--temperatures",
    "0.5",
)
FIELDS += ("--profile", "smoke", "--teacher_epochs", "1", "--student_epochs", "1", "--max_length", "10")
# So small that float32 weights stay as they are.
STILL = ("--learning_rate", "1e-30", "--weight_decay", "0")


def saved(directory: Path, **sizes: int) -> Path:
    """A random model with peaked distributions, in bfloat16."""
    from transformers import AutoConfig

    torch.manual_seed(3)
    fields = dict(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    llama = AutoConfig.for_model("llama", **fields | sizes, max_position_embeddings=64, initializer_range=0.8)
    AutoModelForCausalLM.from_config(llama, dtype=torch.bfloat16).save_pretrained(directory)
    return directory


def log_prob(directory: Path, ids: list[int], tau: float) -> float:
    """log p(ids ; tau) after the first id, in plain transformers."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].double() / tau
    return float(torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None]).sum())


@pytest.fixture(scope="module")
def of_teacher(tmp_path_factory) -> tuple[Path, Path, dict[str, str]]:
    """A teacher, the run that has it, and what the scripts of this print."""
    teacher = saved(tmp_path_factory.mktemp("teacher") / "mine")
    root = tmp_path_factory.mktemp("run")
    return teacher, root, chain_within(*FIELDS, "--teacher", f"{{checkpoint: {teacher}}}", "--out", str(root))


def test_a_teacher_that_exists_is_not_trained(of_teacher):
    teacher, root, printed = of_teacher
    assert not (root / "checkpoints" / "teacher").exists() and (root / "checkpoints" / "student_direct").is_dir()
    assert f"kept: teacher, of {teacher}" in printed["run_generate_data.sh"]
    assert "training teacher" not in printed["run_train.sh"]
    table = read_table(root / "results" / "table.csv")
    assert set(table.loc[table["model"] == "teacher", "quantity"]) >= {"precision", "recall", "training_set_entropy"}
    assert table.loc[(table["model"] == "teacher") & table["seed"].notna(), "epoch"].isna().all()


def test_it_gives_the_training_sets_of_its_students(of_teacher):
    teacher, root, _ = of_teacher
    root = root / "samples" / "teacher" / "tau0.50"
    shards = [root / f"seed{seed}" / "train" / "shard-00000.arrow" for seed in (0, 1)]
    drawn = [shard_table(shard).to_pandas() for shard in shards]
    for row in drawn[0].head(5).itertuples():
        assert row.log_prob == pytest.approx(log_prob(teacher, list(map(int, row.ids)), 0.5), abs=1e-3)
    assert not all(np.array_equal(*pair) for pair in zip(drawn[0]["ids"], drawn[1]["ids"], strict=True))


def test_its_recall_is_plain_transformers(of_teacher):
    teacher, root, _ = of_teacher
    test = shard_table(root / "samples" / "ground_truth" / "tau1.00" / "test" / "shard-00000.arrow")
    scores = [log_prob(teacher, ids, 1.0) for ids in test["ids"].to_pylist()]
    sequences = pd.read_parquet(root / "results" / "sequences.parquet")
    ours = sequences[(sequences["model"] == "teacher") & (sequences["seed"] == 0) & (sequences["temperature"] == 1)]
    np.testing.assert_allclose(ours.loc[ours["drawn_from"] == FROM_TRUTH, "log_model"], scores, atol=1e-4)


def test_a_second_time_does_nothing(of_teacher):
    teacher, root, _ = of_teacher
    before = {path: sha256(path) for path in root.rglob("*.safetensors")}
    printed = chain_within(*FIELDS, "--teacher", f"{{checkpoint: {teacher}}}", "--out", str(root))
    assert not any("made:" in each or "kept:" in each for each in printed.values())
    assert before == {path: sha256(path) for path in root.rglob("*.safetensors")}


def test_another_teacher_is_another_run(of_teacher, tmp_path):
    _, root, _ = of_teacher
    other = saved(tmp_path / "other", hidden_size=32)
    line = refusal("llm.generate_data", *FIELDS, "--teacher", f"{{checkpoint: {other}}}", "--out", str(root))
    assert "was made with other settings" in line and "teacher" in line


def test_students_start_from_a_checkpoint(tmp_path):
    start = saved(tmp_path / "start", hidden_size=8)
    student = f"{{checkpoint: {start}}}"
    chain_within(*FIELDS, *STILL, "--student", student, "--num_seeds", "1", "--out", str(tmp_path / "run"))
    given = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32).state_dict()
    for name in ("student_direct", "student_tau0.50"):
        epoch = tmp_path / "run" / "checkpoints" / name / "seed0" / "epoch-1"
        trained = AutoModelForCausalLM.from_pretrained(epoch).state_dict()
        for key, tensor in trained.items():
            assert torch.equal(tensor, given[key]), key
    recalls = estimates(read_table(tmp_path / "run" / "results" / "table.csv"), "recall")
    assert recalls["student_direct", 1.0][0].value == recalls["student_tau0.50", 1.0][0].value


@pytest.mark.parametrize(
    "teacher, told",
    [
        ("{checkpoint: mine, hidden_size: 16}", "beside checkpoint"),
        ("{checkpoint: 3}", "beside checkpoint"),
        ("{checkpoint: no/such/place}", "'no/such/place' is neither a directory"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, teacher, told):
    line = refusal("llm.generate_data", *FIELDS, "--teacher", teacher, "--out", str(tmp_path / "run"))
    assert told in line
    assert not (tmp_path / "run").exists()


def test_more_ids_need_a_tokenizer_to_compare(tmp_path):
    large = saved(tmp_path / "large", vocab_size=70)
    line = refusal("llm.place", str(large), *FIELDS, "--out", str(tmp_path / "run"))
    assert "large has 70 ids and ground_truth 64: without a tokenizer of both it cannot be told" in line


def test_fewer_ids_than_p_star_are_refused(tmp_path):
    small = saved(tmp_path / "small", vocab_size=60)
    line = refusal(
        "llm.generate_data", *FIELDS, "--teacher", f"{{checkpoint: {small}}}", "--out", str(tmp_path / "run")
    )
    assert "teacher has a vocabulary of 60 ids, but ground_truth has 64" in line


def test_models_are_placed_where_nothing_is_trained():
    with pytest.raises(UsageError, match=r"placed and a teacher: .* by python -m llm\.place"):
        config.load("smoke", placed=[{"name": "mine", "model": "some/where"}])
