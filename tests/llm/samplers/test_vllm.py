"""Sets that vLLM's process draws, with a stand-in for vLLM: the process, what it is told, and how it may end."""

import json
import os
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import enumerate_sequences, exact_log_probabilities, refusal, run_of, tiny_llama, within
from scipy.stats import chisquare

from llm.distributions import Distribution, Language, Samples, SampleSet, Stream, derive_seed
from llm.machine.processes import UsageError
from llm.pipeline import SECOND, TRUTH
from llm.run import Run
from llm.samplers import sample_sets
from llm.sampling import sample
from llm.settings import config
from llm.settings.parts import Part
from llm.store import files
from scripts.vllm import check

LANGUAGE = Language(vocab_size=6, prompts=((0,), (3, 1)), eos_token_ids=(2, 5))
TAU = 0.8
REJECT = 1e-4  # the seeds are fixed
NUM_TRAIN = 25
SETS = [SampleSet(TRUTH, "train", NUM_TRAIN), SampleSet(TRUTH.at(TAU), SECOND, NUM_TRAIN)]


def made(root: Path, **fields) -> Run:
    """A run whose p* is a Llama without layers."""
    values = dict(num_train=NUM_TRAIN, shard_size=10, max_length=7, temperatures=[TAU], students_of_truth=True)
    run = run_of(config.load("smoke", **values | {"sampler": "vllm"} | fields), root, LANGUAGE)
    tiny_llama(1, vocab_size=6, num_layers=0).save_pretrained(run.paths.ground_truth)
    (run.paths.ground_truth / files.SEAL).unlink()
    files.seal(run.paths.ground_truth)
    return run


def shards(run: Run) -> dict[str, bytes]:
    return {str(path.relative_to(run.paths.root)): path.read_bytes() for path in run.paths.root.rglob("*.arrow")}


def asked(record: Path, kind: str) -> list[dict]:
    return [line for line in map(json.loads, record.read_text(encoding="utf-8").splitlines()) if kind in line]


def no_process_is_left() -> bool:
    return not [each for each in psutil.Process().children() if "llm.samplers.vllm_shards" in each.cmdline()]


def test_sets_are_drawn_and_their_log_probabilities_are_exact(record, tmp_path, capsys):
    run = made(tmp_path / "run")
    sample_sets.complete(run, SETS, Part())
    model = tiny_llama(1, vocab_size=6, num_layers=0)
    for each, tau in zip(SETS, (1.0, TAU), strict=True):
        samples = run.samples(each)
        assert len(samples) == NUM_TRAIN and run.sample_files(each).manifest()["made_with"]["sampler"] == "vllm"
        for i in range(NUM_TRAIN):
            prompt, ids = LANGUAGE.prompts[i % 2], samples[i].tolist()
            assert tuple(ids[: len(prompt)]) == prompt and samples.num_prompt[i] == len(prompt)
            drawn = ids[len(prompt) :]
            assert not {2, 5} & set(drawn[:-1]) and (drawn[-1] in (2, 5) or len(ids) == 7)
            whole, given = exact_log_probabilities(model, [tuple(ids), prompt], tau)
            assert samples.log_prob[i] == pytest.approx(whole - given, abs=1e-5)
        assert 0 < samples.stopped((2, 5)).mean() < 1
    told = capsys.readouterr().out
    assert told.count("by vLLM stand-in") == 1 and told.count("made: ") == 2  # one process for both sets
    assert no_process_is_left()


def test_what_vllm_is_asked(record, tmp_path):
    run = made(tmp_path / "run", sampling_batch_size=17, seed=4)
    sample_sets.complete(run, SETS, Part())
    ((engine,),) = (tuple(each.values()) for each in asked(record, "engine"))
    assert engine["model"] == str(run.paths.ground_truth) and engine["dtype"] in ("float32", "bfloat16")
    assert (engine["max_model_len"], engine["max_num_seqs"], engine["skip_tokenizer_init"]) == (7, 17, True)
    assert (engine["generation_config"], engine["logprobs_mode"]) == ("vllm", "processed_logprobs")
    requests = asked(record, "request")
    for place, (each, tau) in enumerate([(each, each.distribution.temperature) for each in SETS]):
        of_set = requests[place * NUM_TRAIN : (place + 1) * NUM_TRAIN]
        for index, request in enumerate(of_set):
            given, prompt = request["parameters"], LANGUAGE.prompts[index % 2]
            path = each.distribution.path.as_posix()
            assert request["prompt"] == list(prompt) and given["max_tokens"] == 7 - len(prompt)
            assert given["seed"] == derive_seed("vllm", 4, path, each.split, index) and given["temperature"] == tau
            assert (given["top_p"], given["top_k"], given["min_p"], given["repetition_penalty"]) == (1, 0, 0, 1)
            assert given["presence_penalty"] == given["frequency_penalty"] == 0
            assert (given["ignore_eos"], given["stop_token_ids"], given["detokenize"]) == (True, [2, 5], False)
            assert (given["logprobs"], given["output_kind"]) == (0, "FINAL_ONLY")
    assert len({request["parameters"]["seed"] for request in requests}) == len(requests) == 2 * NUM_TRAIN


def test_the_seed_of_a_model_and_a_split_are_in_the_seed_of_a_request():
    names = [
        (d.path.as_posix(), s) for d in (TRUTH, Distribution("teacher", 0), Distribution("teacher", 1)) for s in "ab"
    ]
    assert len({derive_seed("vllm", 0, *name, 0) for name in names}) == 6


def test_a_killed_process_is_told_in_one_line_and_its_whole_shards_are_gone_on_with(record, tmp_path, monkeypatch):
    undisturbed, run = made(tmp_path / "undisturbed"), made(tmp_path / "run")
    sample_sets.complete(undisturbed, SETS[:1], Part())
    monkeypatch.setenv("KILLED_AT", "15")
    with pytest.raises(
        UsageError, match=r"killed by SIGKILL: the shards that are whole are kept; run the same"
    ) as told:
        sample_sets.complete(run, SETS[:1], Part())
    assert "\n" not in str(told.value) and no_process_is_left()
    kept = shards(run)
    assert [name[-17:] for name in kept] == ["shard-00000.arrow"]
    assert run.sample_files(SETS[0]).manifest() is None
    monkeypatch.delenv("KILLED_AT")
    record.unlink()
    sample_sets.complete(run, SETS[:1], Part())
    assert [request["request"] for request in asked(record, "request")] == list(map(str, range(10, NUM_TRAIN)))
    assert shards(run) == shards(undisturbed) and kept.items() <= shards(run).items()
    assert run.sample_files(SETS[0]).verified()


def test_a_larger_set_keeps_the_sequences_that_are_there(record, tmp_path):
    run = made(tmp_path / "run")
    sample_sets.complete(run, SETS[:1], Part())
    before = run.samples(SETS[0])
    larger = Run(run.experiment.with_values(num_train=34), run.paths)
    record.unlink()
    sample_sets.complete(larger, [SampleSet(TRUTH, "train", 34)], Part())
    assert [request["request"] for request in asked(record, "request")] == list(map(str, range(25, 34)))
    after = larger.samples(SampleSet(TRUTH, "train", 34))
    assert all((before[i] == after[i]).all() for i in range(25)) and len(after) == 34


def test_parts_side_by_side_make_the_same_set(record, tmp_path):
    whole, run = made(tmp_path / "whole"), made(tmp_path / "run")
    sample_sets.complete(whole, SETS[:1], Part())
    for part in (Part(2, 2), Part(1, 2)):
        assert run.sample_files(SETS[0]).manifest() is None
        sample_sets.complete(run, SETS[:1], part)
    assert shards(run) == shards(whole) and run.sample_files(SETS[0]).verified()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("load", r"vLLM: the model in .*ground_truth cannot be loaded \(ValueError: no such architecture\)"),
        ("nan", "vLLM: sequence 0 has a log-probability that is not finite"),
        ("abort", "vLLM: sequence 0 has ended with 'abort'"),
        ("log_prob", r"train: log p of sequence \d+ is .* as drawn in .* as scored in float32"),
    ],
)
def test_a_fault_is_one_line_and_leaves_no_shard(record, tmp_path, monkeypatch, fault, told):
    run = made(tmp_path / "run")
    monkeypatch.setenv("FAULT", fault)
    with pytest.raises(UsageError, match=told) as error:
        sample_sets.complete(run, SETS[:1], Part())
    assert "\n" not in str(error.value) and not shards(run) and no_process_is_left()


def test_shards_that_nobody_has_checked_are_checked_before_their_set_is_complete(record, tmp_path):
    """As of a run that was killed between the first shard and its check."""
    run = made(tmp_path / "run")
    stored = run.sample_files(SETS[0])
    for shard, indices in enumerate(stored.ranges):
        num = len(indices)
        stored.write(shard, Samples.of([[0, 1, 2]] * num, 1, np.full(num, -50.0)), LANGUAGE.vocab_size)
    with pytest.raises(UsageError, match="log p of sequence"):
        sample_sets.complete(run, SETS[:1], Part())
    assert stored.manifest() is None


def test_both_samplers_draw_one_distribution(record, tmp_path):
    """The share of each length and end, of 300 sequences at tau; the stand-in's draws by another way than ours."""
    run = made(tmp_path / "run", num_train=300, shard_size=300)
    sample_set = SampleSet(TRUTH.at(TAU), SECOND, 300)
    sample_sets.complete(run, [sample_set], Part())
    model = tiny_llama(1, vocab_size=6, num_layers=0)
    arguments = dict(stream=Stream.of("test"), temperature=TAU, max_length=7, batch_size=300)
    counts = [
        np.bincount(each.num_scored, minlength=7)[1:6]
        for each in (run.samples(sample_set), sample(model, LANGUAGE, range(3000), **arguments))
    ]
    expected = counts[1] / counts[1].sum() * counts[0].sum()
    assert chisquare(counts[0], expected).pvalue > REJECT


def test_sets_of_the_two_samplers_are_not_mixed(record, tmp_path):
    run = made(tmp_path / "run", sampler="own")
    run.keep_settings()
    sample_sets.complete(run, SETS[:1], Part())
    other = Run(run.experiment.with_values(sampler="vllm"), run.paths)
    with pytest.raises(UsageError, match=r"sampler: 'own' there, 'vllm' here, which sample ground_truth"):
        other.refuse_other_settings()
    # A directory from before there was the field was drawn by ours.
    saved = files.read_json(run.paths.config)
    files.write_json(run.paths.config, {key: value for key, value in saved.items() if key != "sampler"})
    run.refuse_other_settings()
    with pytest.raises(UsageError, match="sampler: 'own' there"):
        other.refuse_other_settings()


def test_a_missing_environment_is_one_line_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_VENV", str(tmp_path / "nowhere"))
    flags = ("--profile", "smoke", "--sampler", "vllm", "--out", str(tmp_path / "run"))
    line = refusal("llm.generate_data", *flags)
    assert str(tmp_path / "nowhere") in line and "run bash scripts/vllm/setup.sh" in line
    assert not (tmp_path / "run").exists()
    assert "sampler: vllm" in within("llm.generate_data", *flags, "--dry-run")  # which needs none


def test_temperatures_that_vllm_would_change_are_refused():
    for field in ("temperatures", "control_temperatures"):
        for tau in (0.005, 2.5):
            with pytest.raises(UsageError, match=f"sampler vllm draws at tau 0.01 to 2.0, and not at {tau}"):
                config.load("smoke", sampler="vllm", **{field: [tau]})
            config.load("smoke", **{field: [tau]})


def test_the_paper_is_drawn_by_vllm_and_all_else_by_ours():
    profiles = [*config.PROFILES.glob("*.yaml"), *config.REPOSITORY.glob("scripts/objectives/*.yaml")]
    samplers = {path.stem: config.load(str(path)).sampler for path in profiles}
    assert samplers.pop("paper") == "vllm" and set(samplers.values()) == {"own"}


def test_a_process_of_a_launcher_starts_one_of_its_own(monkeypatch):
    import torch

    from llm.samplers import vllm_process

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    found = vllm_process._environment(torch.device("cuda", 1))
    assert found["CUDA_VISIBLE_DEVICES"] == "6" and "RANK" not in found
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert vllm_process._environment(torch.device("cuda", 1))["CUDA_VISIBLE_DEVICES"] == "1"
    assert os.environ["RANK"] == "1"


# -------------------------------------------------------------------------------------------- scripts.vllm.check


def test_the_check_enumerates_what_there_is(language):
    every, model = check.every_sequence(language, 4), tiny_llama(1)
    assert sorted(every) == sorted(enumerate_sequences(4))
    np.testing.assert_allclose(
        check.exact_log_probs(model, every, 1, TAU), exact_log_probabilities(model, every, TAU), atol=1e-12
    )


def test_the_check_compares_the_two_samplers(record, tmp_path, monkeypatch):
    runs = {}
    for name in check.SAMPLERS:
        runs[name] = made(tmp_path / name, sampler=name, num_test=200, shard_size=100)
        for number in (1, 2):
            sample_sets.complete(runs[name], [runs[name].test_set(TRUTH)], Part(number, 2))
    table = check.same(runs).set_index("quantity")
    for name, run in runs.items():
        samples = run.samples(run.test_set(TRUTH))
        assert table.loc["log p", name] == pytest.approx(samples.log_prob.mean())
        assert table.loc["drawn tokens", name] == pytest.approx(samples.num_scored.mean())
    assert (table["low"] < 0).all() and (table["high"] > 0).all()
    with pytest.raises(UsageError, match="lacks the time of a round"):
        check.speed(runs)
    monkeypatch.setattr(check, "NUM_ROUNDS", 2)
    rates = check.speed(runs)
    assert len(rates) == 2 and (rates["ratio"] > 0).all()
