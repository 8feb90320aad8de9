"""The report: whole, alike each time, readable by everyone, and made without torch."""

import re
import shutil
from itertools import pairwise
from pathlib import Path

import made_up
import pandas as pd
import pytest
from conftest import refusal, without_torch
from PIL import Image
from reading import Page

from llm.intervals import Estimate
from llm.machine.processes import UsageError
from llm.results.advantage import MOST_BETWEEN_KNOTS
from llm.settings.config import REPOSITORY
from scripts.analysis import predictions
from scripts.analysis.advantage import OverControl, between, distilled, of_truth, over_control
from scripts.analysis.claims import RULE, TESTS, claims
from scripts.analysis.objectives import beside_control, described
from scripts.analysis.predictions import question
from scripts.analysis.results import EXPERIMENTS, Results
from scripts.evidence.length import LONGER
from scripts.report import objectives, tables
from scripts.report.__main__ import write
from scripts.report.captions import FIGURES, relation
from scripts.report.pages import Figure, Section, Summary, Table, render

SHOWN = (
    *("plane", "overview", "mog_panels", "precision_recall", "embeddings", "decomposition", "positions", "lengths"),
    *("repetition", "control", "teacher_entropy", "mog_tradeoff", "mog_control", "objectives", "sparsity", "capacity"),
)


def test_a_sentence_states_only_a_direction_that_is_separated():
    assert relation(Estimate(0.5, 0.1, 0.9)) == "higher by 0.500 [0.100, 0.900]"
    assert relation(Estimate(-0.5, -0.9, -0.1)) == "lower by 0.500 [0.100, 0.900]"
    assert relation(Estimate(-0.5, -0.9, 0.1)) == "not separated (difference -0.500 [-0.900, 0.100])"


@pytest.mark.parametrize(
    ("seconds", "text"), [(42.4, "42 s"), (90, "2 min"), (4321, "1 h 12 min"), (7199, "2 h 0 min")]
)
def test_durations(seconds, text):
    assert tables.duration(seconds) == text


# ------------------------------------------------------------------------- the advantage at equal self-entropy

HEADER = ["", "precision", "recall", "could tell apart in precision", "could tell apart in recall"]
OVER = {
    1: "over 60 sequences, of this training",
    3: "precision over 3 seeds; recall over 3 seeds and the 60 test sequences that they share",
}


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_each_student_s_offset_has_a_row_and_each_family_s_mean(num_seeds, tmp_path):
    results = made_up.write(tmp_path, num_seeds, students_of_truth=True)
    text, table = tables.at_equal_entropy(results)
    assert list(table.header) == HEADER and OVER[num_seeds] in table.caption
    families = {"distilled": distilled(results), "of p* itself": of_truth(results)}
    expected = []
    for family, members in families.items():
        found = over_control(results, members)
        there = found["recall"].members
        each = [[of.members[member] for of in found.values()] for member in there]
        names = [f"{name}, minus the control" for name, _ in there]
        expected += zip(names, each, strict=True)
        expected.append((f"mean of those {family}, τ ≤ 1", [of.pooled for of in found.values()]))
    found = between(results, *families.values()).values()
    expected.append(("distilled minus of p* itself", [of.estimate for of in found]))
    for row, (what, estimates) in zip(table.rows, expected, strict=True):
        assert row[0].startswith(what) and row[1:3] == estimates
        assert row[3:] == [f"{each.detectable():.3f}" for each in estimates]
    assert "second samples of p* itself at τ" in text and "without a teacher's error" in text
    assert "the price of the second fit" in text and "probability 0.8" in text


def test_without_students_of_truth_there_is_no_word_of_them(tmp_path):
    text, table = tables.at_equal_entropy(made_up.write(tmp_path, 3))
    assert len(table.rows) == 1 + len(made_up.TAUS) and "second" not in text


def test_students_that_the_control_does_not_reach_have_a_row_of_words(tmp_path):
    """Distilled students and those of p* are less sharp than the direct one in every seed."""
    results = made_up.write(tmp_path, 2, -1.0, students_of_truth=True)
    table = tables.at_equal_entropy(results)[1]
    apart = "the direct student never has their self-entropy, in one seed or more"
    assert [row[1:] for row in table.rows] == 3 * [[apart, apart, "", ""]]


def test_who_is_left_out_and_knots_that_are_far_apart_are_told():
    found = OverControl({}, None, (("student_tau1.25", 1.0),), MOST_BETWEEN_KNOTS + 0.1)
    left_out, far = tables.caveats("distilled", found)
    assert left_out.endswith("does not reach their self-entropy: student_tau1.25.") and "0.50 nats apart" in far
    assert tables.caveats("distilled", OverControl({}, None, (), MOST_BETWEEN_KNOTS)) == []


# --------------------------------------------------------------------------------------------- the pages


@pytest.fixture(scope="module")
def experiments(tmp_path_factory) -> dict[int, Path]:
    """Return the folders of made-up experiments of one seed and of two."""
    roots = {num_seeds: tmp_path_factory.mktemp("experiments") for num_seeds in (1, 2)}
    for num_seeds, root in roots.items():
        for name in EXPERIMENTS:
            made_up.write_experiment(root, name, num_seeds)
    return roots


def with_figures(directory: Path) -> Path:
    for k, name in enumerate(SHOWN):
        Image.new("L", (40 + k, 30), "white").save(directory / f"{name}.png")
    return directory


@pytest.fixture
def made(tmp_path) -> Path:
    """Return a directory with results and all of the figures, but without the experiments on objectives."""
    made_up.write(tmp_path / "results")
    return with_figures(tmp_path)


@pytest.fixture
def with_experiments(made, experiments) -> Path:
    """Return a directory that has the experiments too."""
    return Path(shutil.copytree(experiments[2], made / "results", dirs_exist_ok=True)).parent


@pytest.fixture(scope="module")
def whole(experiments, tmp_path_factory) -> Path:
    """Return a directory with everything and its report, to be read alone."""
    directory = with_figures(tmp_path_factory.mktemp("whole"))
    made_up.write(directory / "results")
    shutil.copytree(experiments[2], directory / "results", dirs_exist_ok=True)
    written(directory)
    return directory


@pytest.fixture(scope="module")
def page(whole) -> Page:
    return Page((whole / "report" / "report.html").read_text())


def written(made: Path) -> Page:
    return Page(write(Results(made / "results"), made, made / "report").read_text())


def rows(page: Page) -> list[list[str]]:
    """The rows of all tables, their cells' text as it is read."""
    return [row for table in page.tables for row in table]


def test_the_page_holds_every_claim_and_every_figure(whole, page):
    found = claims(Results(whole / "results"))
    assert len(found) == 8 and RULE in page.text and TESTS in page.text
    for k, claim in enumerate(found, 1):
        assert f"{k}. {claim.title}" in page.text and f"Claim {k}, {claim.verdict}" in page.text
        assert all(each.what in page.text for each in claim.comparisons)
    images = page.all("img")
    assert set(FIGURES) == set(SHOWN)
    assert sorted(each["alt"] for each in images) == sorted(alt for alt, _ in FIGURES.values())
    assert sorted(int(each["width"]) for each in images) == [40 + k for k in range(len(FIGURES))]


def test_the_page_loads_nothing(page):
    addresses = [each[name] for _, each in page.elements for name in ("src", "href") if name in each]
    assert addresses and all(re.match("data:|#", address) for address in addresses)
    assert not page.all("iframe", "object", "base") and page.all("script") == [{}]
    assert "url(" not in page.text and "@import" not in page.text


def test_the_page_can_be_read_by_ear_and_by_keyboard(page):
    """Headings go down one level at a time, links and labels have their targets, what scrolls takes the focus."""
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    names = [each["id"] for _, each in page.elements if "id" in each]
    assert len(names) == len(set(names))
    targets = [each["href"][1:] for each in page.all("a")] + [
        each["aria-labelledby"] for each in page.all("section", "div", "table", "ol")
    ]
    assert set(targets) <= set(names) and targets[0] == "main"
    assert all(each["tabindex"] == "0" and each["role"] == "region" for each in page.all("div"))
    assert len(page.all("div")) == len(page.all("table")) == len(page.all("caption"))


def test_the_same_results_give_the_same_bytes_without_torch(whole, tmp_path):
    done = without_torch(
        "from scripts.report import __main__ as report\n"
        f"sys.argv = ['report', '--results', '{whole}/results', '--figures', '{whole}', '--out', '{tmp_path}']\n"
        "report.main()\n"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").read_bytes() == (whole / "report" / "report.html").read_bytes()


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_any_number_of_seeds_has_a_report(experiments, made, num_seeds):
    made_up.write(made / "results", num_seeds, effect=-1.0)
    if num_seeds == 1:
        shutil.copytree(experiments[1], made / "results", dirs_exist_ok=True)
    (made / "results" / "released.csv").unlink()
    text = written(made).text
    assert ("Over seeds" in text) == (num_seeds > 1)
    assert ("one seed, 95 % intervals over 60 sequences, of this training" in text) == (num_seeds == 1)
    assert ("over 2 seeds and the 60 test sequences that they share" in text) == (num_seeds == 2)
    assert "the direct student never has their self-entropy, in one seed or more" in text
    assert "Deviations" not in text


def test_students_of_truth_have_their_rows(made):
    results = made_up.write(made / "results", 2, students_of_truth=True)
    page = written(made)
    for name in made_up.OF_TRUTH:
        means = [str(results.mean(quantity, name)) for quantity in ("precision", "recall")]
        assert any(row[:3] == [name, *means] for row in rows(page))
        of_seed_1 = [name, "1", "2", str(results.series("precision", name).by_seed[1])]
        assert any(row[:4] == of_seed_1 for row in rows(page))
        assert f"{name}, seed 0" in page.text
    assert any(row[0].startswith("distilled minus of p* itself, mean over") for row in rows(page))


def test_the_numbers_of_the_table_are_on_the_page(whole, page):
    results = Results(whole / "results")
    recall = str(results.series("recall", "student_tau0.80").by_seed[1])
    direct = ["student_direct", "0.8", str(results.mean("precision", "student_direct", 0.8))]
    sides = ["D1", "the end is never learnt", "recall", "-4.100 [-4.120, -4.080]", "-4.200 [-4.220, -4.180]"]
    assert any(row[:3] == ["student_tau0.80", "1", "2"] and row[4] == recall for row in rows(page))
    assert any(row[:3] == direct for row in rows(page)) and any(row[:5] == sides for row in rows(page))
    assert "Of 1 such differences, those whose interval leaves out 0: recall with D1." in page.text


def page_of(*rows: list[str]) -> Page:
    plane = Figure(REPOSITORY / "figs" / "plane.png", "alt", "reading")
    summary = Summary("title", "paper", "claim", plane, "counts", [])
    return Page(render(summary, [Section("Sample texts", [Table("caption", ["", "text"], rows)])]))


def test_what_a_model_writes_is_text_and_not_markup():
    hostile = "<script>alert(1)</script> | *a* _b_ `c` [d](e) &amp; \\\n\n# f\x00\ud800"
    page = page_of(["1", hostile])
    assert len(page.all("script")) == 1  # the page's own
    assert "<script>alert(1)</script> | *a* _b_ `c` [d](e) &amp; \\\n\n# f\ufffd\ufffd" in page.text


def test_the_page_of_objectives_has_every_student_every_prediction_and_every_trainer(with_experiments):
    for name in ("sparsity", "capacity"):
        shutil.rmtree(with_experiments / "results" / name)
    results = Results(with_experiments / "results")
    of_students, claims_there, told, *cells, took, _, of_trainers = objectives.blocks(results)[1:]
    race = results.experiment("race")
    assert len(of_students.rows) == len(described(race))
    for row, each in zip(of_students.rows[1:], described(race)[1:], strict=True):
        assert row[3:6] == [race.mean(name, each.model) for name in ("precision", "recall", "entropy")]
        assert row[-2:] == list(beside_control(race, each).values())
    rivals, found = cells
    asked, judged = question("race"), predictions.found(question("race"), results)
    assert [row[0] for row in rivals.rows] == list(asked.rivals) and "Holm" in told
    assert [row[2] for row in found.rows] == [each.estimate for each in judged]
    assert found.rows[0][-1] == "sharpness: no difference; teacher's error: lower; information: higher"
    for rival, row in zip(asked.rivals, rivals.rows, strict=True):
        told_of = [predictions.tally(rival, some) for some in (judged, predictions.deciding(rival, judged))]
        assert row[2:] == [f"{all_of} ({of_some})" for all_of, of_some in zip(*map(dict.values, told_of), strict=True)]
        assert sum(told_of[0].values()) == sum(rival in each.cell.predicted for each in judged) > 0
    assert len(claims_there.rows) == 5 and took.startswith("Sampling, training and scoring of race: 1 h 12 min")
    assert len(of_trainers.rows) == 10 and all(all(row) for row in of_trainers.rows)


def test_beside_a_cell_stands_what_is_told_apart_among_those_that_were_measured(monkeypatch, tmp_path):
    """One of three shares no self-entropy. The other two are adjusted for two: 2.1 errors from 0 are not enough."""
    cells = [predictions.Cell("a minus b", "", "", ("a",), ("b",), "recall", {"sharpness": "0"}) for _ in range(3)]
    measured = [Estimate.of(2.1, 1.0, 1e9), None, Estimate.of(0.1, 1.0, 1e9)]
    places = [predictions.Found(cell, each, "", missing="apart") for cell, each in zip(cells, measured, strict=True)]
    by_cell = dict(zip(map(id, cells), places, strict=True))
    monkeypatch.setattr(predictions, "_measured", lambda cell, runs: by_cell[id(cell)])
    asked = predictions.Question("race", "?", {"sharpness": ""}, tuple(cells))
    monkeypatch.setattr(objectives, "question", lambda name: asked)
    (tmp_path / "race").mkdir()
    (tmp_path / "race" / "provenance.json").write_text('{"seconds": 1.0}')
    rows = objectives.experiment("race", Results(tmp_path))[1].rows
    assert [row[4] for row in rows] == [f"{measured[0].detectable(2):.3f}", "", f"{measured[2].detectable(2):.3f}"]
    assert [row[5] for row in rows] == ["could not decide, after Holm, over 2 cells", "", "could not decide"]


def test_the_page_of_objectives_has_the_experiments_that_are_there(whole, page, with_experiments):
    captions = [each.caption for each in objectives.blocks(Results(whole / "results")) if isinstance(each, Table)]
    assert [each for each in captions if each.startswith("Cells of")] == [
        f"Cells of {name}, nats per token" for name in EXPERIMENTS
    ]
    alts = {FIGURES[name][0] for name in ("sparsity", "capacity")}
    assert alts <= {each["alt"] for each in page.all("img")}
    for name in ("sparsity", "capacity"):
        shutil.rmtree(with_experiments / "results" / name)
    blocks = objectives.blocks(Results(with_experiments / "results"))
    captions = [each.caption for each in blocks if isinstance(each, Table)]
    assert [each for each in captions if each.startswith("Cells of")] == ["Cells of race, nats per token"]
    assert not alts & {each["alt"] for each in written(with_experiments).all("img")}


def test_the_page_of_objectives_tells_for_how_long_the_control_was_trained(with_experiments):
    race = with_experiments / "results" / "race"
    told = objectives.control(Results(race))
    assert told.endswith("All of the table were trained for 6 epochs, on as many sequences.")
    frame = pd.DataFrame({"seed": [0, 0, 0, 1, 1, 1], "epochs": 2 * [6, 9, 14], "nats": [4.1, 4, 3.99, 4.1, 4, 4.03]})
    frame.assign(taken=2 * [False, True, False]).to_csv(race / "control.csv", index=False)
    told = objectives.control(Results(race))
    # By hand: gains of 0.01 and -0.03, so a mean of -0.01 with a standard error of 0.02, and t(0.95, 1) = 6.314.
    assert "was trained for 9: 1.5 times as many gain -0.010 validation nats" in told and LONGER == 1.5
    assert told.endswith("at most 0.116 by a one-sided 95 % interval.")


def test_the_caption_of_capacity_tells_for_how_long_its_controls_were_trained(with_experiments):
    results = Results(with_experiments / "results")
    folders = dict.fromkeys(with_experiments / "results" / "capacity" / cell.run for cell in question("capacity").cells)
    for folder, epochs in zip(folders, (21, 9, 6, 14, 6, 6), strict=True):
        assert "The control was trained" not in objectives.capacity(results)  # as long as one is not known
        frame = pd.DataFrame({"seed": 0, "epochs": [epochs, 30], "nats": [4.0, 3.99], "taken": [True, False]})
        frame.to_csv(folder / "control.csv", index=False)
    told = objectives.capacity(results)
    assert told.endswith(
        " The control was trained for 6 or 9 or 14 or 21 epochs, all other students for 6: 1.5 times as many gain the "
        "control 0.010 validation nats at most, of one seed."
    )


def test_without_a_race_there_is_no_page_of_objectives(page, made):
    assert "Objectives of distillation" in page.text
    assert "Objectives of distillation" not in written(made).text


def test_what_is_missing_is_one_line(made):
    command = ["--results", str(made / "results"), "--figures", str(made), "--out", str(made / "report")]
    (made / "control.png").unlink()
    assert "control.png: run bash scripts/make_figures.sh first" in refusal("scripts.report.__main__", *command)
    assert not (made / "report").exists()


def test_what_is_not_whole_is_named(made):
    (made / "control.png").write_bytes(b"not a picture")
    with pytest.raises(UsageError, match=r"control.png is not a PNG: run bash scripts/make_figures.sh again"):
        written(made)
    (made / "results" / "texts.json").unlink()
    with pytest.raises(UsageError, match=r"no .*texts.json: run python -m scripts.analysis.gather"):
        written(made)
    results = Results(made / "results")
    table, model = results.table, "student_tau0.80"
    lacks = (table["quantity"] == "repetition_4") & (table["model"] == model)
    made_up.table(results.directory, table[~lacks].to_dict("records"))
    with pytest.raises(UsageError, match=r"has no repetition_4 of student_tau0\.80"):
        written(made)
    (made / "results" / "provenance.json").write_text("{}")
    with pytest.raises(UsageError, match="has no 'experiment'"):
        written(made)
    (made / "results" / "sequences.parquet").unlink()
    with pytest.raises(UsageError, match=r"no .*sequences.parquet: run python -m scripts.analysis.gather"):
        written(made)


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="has not 2 cells"):
        page_of(["1"])
