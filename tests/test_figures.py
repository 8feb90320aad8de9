"""The figures of the language models, from a made-up gallery: what is drawn is what the file holds, to the byte."""

import json
import sys

import numpy as np
import pytest
from conftest import run
from made_up import around as estimate
from made_up import gallery as made_up_gallery

from llm.config import REPOSITORY, UsageError
from llm.paths import student_name
from scripts import draw
from scripts.advantage import advantage, differences
from scripts.draw import FIGURES
from scripts.plot_positions import band
from scripts.rows import over_seeds, rows_of
from scripts.style import plt, save

TAUS = (0.8, 0.875, 0.95, 1.0)
STUDENTS = [student_name(tau) for tau in TAUS]
MODELS = ["teacher", "student_direct", *STUDENTS]
LONGEST = 30
QUANTITIES = ("precision", "recall", "entropy", "kl_to_ground_truth", "kl_from_ground_truth")


GALLERIES = {num_seeds: made_up_gallery(num_seeds) for num_seeds in (1, 3)}
QUICK = [
    name for name in FIGURES if name != "embeddings"
]  # its layout takes seconds, and is drawn in a test of its own


def pixels(figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def value_at(result: dict, model: str, quantity: str) -> float:
    return over_seeds([row["per_token"][quantity] for row in rows_of(result, model)]).value


def marks(axes) -> np.ndarray:
    """[n, 2] where the axes' error bars stand, in the order in which they were drawn."""
    return np.array(
        [container.lines[0].get_xydata()[0] for container in axes.containers if hasattr(container, "lines")]
    )


@pytest.mark.parametrize("num_seeds", GALLERIES)
@pytest.mark.parametrize("name", QUICK)
def test_it_is_drawn_within_its_edges_and_again_to_the_byte(name, num_seeds, tmp_path):
    first = draw.draw(GALLERIES[num_seeds], name)
    image = pixels(first)
    assert image.std() > 10, "blank"
    edge = np.concatenate([image[:2].ravel(), image[-2:].ravel(), image[:, :2].ravel(), image[:, -2:].ravel()])
    assert (edge == 255).all(), "something reaches over the edge"
    for directory in (tmp_path / "first", tmp_path / "second"):
        save(draw.draw(GALLERIES[num_seeds], name), directory, name)
    for suffix in ("png", "pdf"):
        assert (tmp_path / f"first/{name}.{suffix}").read_bytes() == (tmp_path / f"second/{name}.{suffix}").read_bytes()


@pytest.mark.filterwarnings("ignore::ImportWarning")
def test_embeddings_show_every_point_and_again_to_the_byte():
    gallery = GALLERIES[1]
    first = draw.draw(gallery, "embeddings")
    shown = [axes for axes in first.axes if axes.collections]
    assert len(shown) == 5
    truth = shown[0].collections[0].get_offsets()
    assert len(np.unique(truth, axis=0)) == 60
    for axes, model in zip(shown, ["student_direct", *STUDENTS], strict=True):
        behind, students = axes.collections
        assert (behind.get_offsets() == truth).all() and len(students.get_offsets()) == len(
            gallery["embeddings"][model]
        )
        metrics = next(row for row in gallery["manifold"] if row["model"] == model)
        told = f"precision {metrics['precision']['value']:.2f}, coverage {metrics['coverage']['value']:.2f}"
        assert told in axes.texts[0].get_text()
    image = pixels(first)
    assert image.std() > 10
    assert (pixels(draw.draw(gallery, "embeddings")) == image).all()


@pytest.mark.filterwarnings("ignore::ImportWarning")
def test_points_that_are_the_same_share_a_place():
    from scripts.plot_embeddings import layout

    points = np.random.default_rng(0).normal(size=(40, 4))
    places = layout({"ground_truth": points, "student_direct": np.concatenate([points[:3], points[:1]])})
    assert (places["student_direct"] == places["ground_truth"][[0, 1, 2, 0]]).all()
    assert len(np.unique(places["ground_truth"], axis=0)) == 40


@pytest.mark.parametrize("num_seeds", GALLERIES)
def test_precision_recall_and_its_entropy_are_the_files(num_seeds):
    result = GALLERIES[num_seeds]["result"]
    plane = draw.draw(GALLERIES[num_seeds], "precision_recall").axes[0]
    expected = [[value_at(result, model, quantity) for quantity in ("recall", "precision")] for model in MODELS]
    np.testing.assert_allclose(marks(plane), expected)
    for axes, quantity in zip(
        draw.draw(GALLERIES[num_seeds], "teacher_entropy").axes, ("precision", "recall"), strict=True
    ):
        measured = [r for r in result["teacher_entropy"]]
        entropy = [np.mean([r["per_token"]["value"] for r in measured if r["temperature"] == tau]) for tau in TAUS]
        values = [value_at(result, model, quantity) for model in STUDENTS]
        np.testing.assert_allclose(marks(axes), np.column_stack([entropy, values]))


def test_several_seeds_have_their_interval_and_faint_points():
    result = GALLERIES[3]["result"]
    axes = draw.draw(GALLERIES[3], "precision_recall").axes[0]
    (bar,) = axes.containers[0].lines[2][1].get_segments()  # of the teacher's precision
    expected = result["over_seeds"]["teacher"]["precision"]
    np.testing.assert_allclose(bar[:, 1], [expected["low"], expected["high"]])
    faint = [line for line in axes.lines if line.get_alpha() == 0.4]
    assert [len(line.get_xdata()) for line in faint] == [3] * len(MODELS)


def test_decomposition_bars_end_at_precision_and_recall():
    result = GALLERIES[3]["result"]
    for axes, quantity in zip(draw.draw(GALLERIES[3], "decomposition").axes, ("precision", "recall"), strict=True):
        ends = [patch.get_y() + patch.get_height() for patch in axes.patches]
        below = [value_at(result, model, quantity) for model in MODELS]
        np.testing.assert_allclose(ends[1::2], below)  # -H - KL, as drawn
        middle = -np.array([value_at(result, model, "entropy") for model in MODELS])
        np.testing.assert_allclose(ends[::2], middle if quantity == "precision" else np.full(len(MODELS), -2.7))
        assert any(np.allclose(line.get_ydata(), -2.7) for line in axes.lines)


def test_positions_leave_out_those_of_few_sequences():
    curves = [
        {"num": [100, 50, 20, 19], "value": [1, 2, 3, 9], "low": [0, 1, 2, 0], "high": [2, 3, 4, 99]},
        {"num": [100, 30, 10, 1], "value": [3, 4, 5, 9], "low": [0, 1, 2, 0], "high": [4, 5, 6, 99]},
    ]
    np.testing.assert_array_equal(band(curves[:1]), [[1, 2, 3], [1, 2, 3], [0, 1, 2], [2, 3, 4]])
    position, value, _, high = band(curves)
    assert position.tolist() == [1, 2] and value.tolist() == [2, 3]
    np.testing.assert_allclose(high - value, 12.7062, rtol=1e-5)  # t of one degree of freedom, standard error 1
    assert band([curves[0] | {"num": [5, 5, 5, 5]}]).shape == (4, 0)


def test_positions_are_the_files():
    result = GALLERIES[1]["result"]
    for axes, quantity in zip(draw.draw(GALLERIES[1], "positions").axes, ("precision", "recall"), strict=True):
        assert len(axes.collections) == len(axes.lines) == len(MODELS)
        for line, model in zip(axes.lines, MODELS, strict=True):
            curve = rows_of(result, model)[0]["by_position"][quantity]
            kept = sum(num >= 20 for num in curve["num"])
            assert line.get_ydata().tolist() == curve["value"][:kept] and kept < LONGEST


def test_lengths_and_stop_rates_are_the_files():
    result = GALLERIES[1]["result"]
    left, right = draw.draw(GALLERIES[1], "lengths").axes
    sets = [*(rows_of(result, model)[0]["samples"] for model in MODELS), result["ground_truth"]["samples"]]
    for line, samples in zip(left.lines, sets, strict=True):
        np.testing.assert_allclose(line.get_ydata(), 100 * np.cumsum(samples["lengths"])[:-1] / 200)
    np.testing.assert_allclose(marks(right)[:, 1], [100 * samples["stop_rate"] for samples in sets[:-1]])
    assert any(np.allclose(line.get_ydata(), 100 * sets[-1]["stop_rate"]) for line in right.lines)


def test_repetition_is_the_files():
    result = GALLERIES[3]["result"]
    for axes, quantity in zip(draw.draw(GALLERIES[3], "repetition").axes, ("repetition", "distinct"), strict=True):
        orders = sorted(result["ground_truth"]["samples"][quantity])
        expected = [
            np.mean([row["samples"][quantity][n] for row in rows_of(result, model)]) for n in orders for model in MODELS
        ]
        np.testing.assert_allclose(marks(axes)[:, 1], expected)


# ------------------------------------------------------------------------------------------------- advantage


def on_curves(distilled: list[list], control: list[list], seed: int = 0) -> dict:
    """A result of (entropy, precision, recall): of the distilled students, and of the direct one at each tau."""

    def terms(triple):
        return {name: estimate(v) for name, v in zip(("entropy", "precision", "recall"), triple, strict=True)}

    taus = [0.5 + 0.1 * k for k in range(len(distilled))]
    return {
        "experiment": {"temperatures": taus},
        "models": [
            {"model": student_name(tau), "seed": seed, "per_token": terms(each)}
            for tau, each in zip(taus, distilled, strict=True)
        ],
        "control": [{"model": "student_direct", "seed": seed, "per_token": terms(each)} for each in control],
    }


def test_the_advantage_is_the_area_between_the_curves_over_its_width():
    """On paper: over H in [2, 3] the difference in precision goes from 1 to 2, in recall it is 0.5 all along."""
    result = on_curves([[2, -3, -4], [3, -3, -5]], [[1, -3, -3.5], [4, -6, -6.5]])
    (found,) = differences(result).values()
    assert found["entropy"].tolist() == [2, 3]
    np.testing.assert_allclose(found["precision"], [1, 2])
    np.testing.assert_allclose(found["recall"], [0.5, 0.5])
    means = advantage(result)
    assert means["precision"].value == pytest.approx(1.5) and means["recall"].value == pytest.approx(0.5)
    assert np.isnan(means["precision"].low)


def test_a_bend_within_the_overlap_counts():
    """The control drops by 2 in the middle of [0, 2]: a triangle of area 2 over a width of 2."""
    result = on_curves([[2, 0, 0], [0, 0, 0]], [[0, 0, 0], [1, -2, 0], [2, 0, 0]])
    assert advantage(result)["precision"].value == pytest.approx(1)
    assert advantage(result)["recall"].value == 0


def test_several_seeds_give_a_t_interval():
    seeds = [on_curves([[0, up, 0], [1, up, 0]], [[0, 0, 0], [1, 0, 0]], seed) for seed, up in enumerate((1.0, 3.0))]
    result = seeds[0] | {key: seeds[0][key] + seeds[1][key] for key in ("models", "control")}
    found = advantage(result)["precision"]
    assert found.value == pytest.approx(2) and found.high - found.value == pytest.approx(12.7062)


def test_curves_that_do_not_overlap_are_refused():
    with pytest.raises(UsageError, match=r"seed 0.*share no self-entropy.*--temperatures"):
        advantage(on_curves([[0, 0, 0], [1, 0, 0]], [[2, 0, 0], [3, 0, 0]]))


def test_the_control_figure_shows_three_curves_and_the_advantage():
    result = GALLERIES[3]["result"]
    plane, gain = draw.draw(GALLERIES[3], "control").axes
    assert len(marks(plane)) == 3 * len(TAUS)
    sampled = [r["per_token"] for r in result["control"] if r["model"] == "teacher" and r["temperature"] == TAUS[0]]
    middle = [np.mean([each[q]["value"] for each in sampled]) for q in ("recall", "precision")]
    np.testing.assert_allclose(marks(plane)[2 * len(TAUS)], middle)
    texts = [text.get_text() for text in gain.get_legend().get_texts()]
    for name, mean in advantage(result).items():
        assert f"{name}: {mean.value:+.2f} [{mean.low:+.2f}, {mean.high:+.2f}]" in texts


# --------------------------------------------------------------------------------------------- command line


def test_drawing_needs_no_torch(tmp_path):
    (tmp_path / "gallery.json").write_text(json.dumps(GALLERIES[1]))
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name in ('torch', 'transformers', 'pyarrow', 'IPython', 'nbformat'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from scripts import draw, manifold, plot_embeddings, plot_mog\n"
        f"sys.argv = ['draw', *{QUICK!r}, '--gallery', '{tmp_path}/gallery.json', '--figures', '{tmp_path}']\n"
        "draw.main()\n"
    )
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert (
        {path.stem for path in tmp_path.glob("*.png")} == {path.stem for path in tmp_path.glob("*.pdf")} == set(QUICK)
    )
    assert done.stdout.count("figure: ") == len(QUICK)


def test_every_figure_has_its_module():
    named = {path.stem.removeprefix("plot_") for path in (REPOSITORY / "scripts").glob("plot_*.py")}
    assert named == {*FIGURES, "overview", "mog"}


@pytest.mark.parametrize(
    "content, arguments, told",
    [
        (None, [], "git checkout figs/gallery.json"),
        ("{", [], "git checkout figs/gallery.json"),
        ("{}", ["control"], "has no 'result', which the figure control shows"),
        ("{}", ["pie"], "no figure 'pie': they are precision_recall"),
    ],
)
def test_faults_are_one_line(content, arguments, told, tmp_path):
    path = tmp_path / "gallery.json"
    if content:
        path.write_text(content)
    done = run(sys.executable, "-m", "scripts.draw", "--gallery", str(path), *arguments)
    assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1


# --------------------------------------------------------------------------------------- the mixture's figures


def test_a_notebook_runs_without_jupyter(tmp_path):
    """In its own directory, what it shows is not shown, and what it prints is not printed."""
    cells = [
        "from pathlib import Path\nfrom IPython.display import Image, Markdown, display",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.savefig('line.png')\nplt.show()",
        "assert not plt.get_fignums()",
        "display(Markdown('text'), Image(b'', width=3))\nprint('printed')\nPath('done').touch()",
    ]
    path = tmp_path / "small.ipynb"
    code = [{"cell_type": "code", "id": str(k), "source": cell.splitlines(True)} for k, cell in enumerate(cells)]
    path.write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": ["1 / 0"]}, *code]}))
    done = run(sys.executable, "-m", "scripts.plot_mog", str(path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "done").exists() and (tmp_path / "line.png").exists() and "printed" not in done.stdout
    assert run(sys.executable, "-m", "scripts.plot_mog", str(tmp_path / "none.ipynb")).returncode == 2


def test_a_cell_of_the_notebook_draws_the_committed_figure(tmp_path):
    """The first figure, in plain Python, is the one that the kernel drew, on whatever processor.

    The PDF is too on the same one; on another its coordinates may differ in the tenth decimal.
    """
    notebook = json.loads((REPOSITORY / "MoG" / "KD_MoG.ipynb").read_text())
    ids = [cell["id"] for cell in notebook["cells"]]
    (tmp_path / "MoG").mkdir()
    (tmp_path / "figs").mkdir()
    path = tmp_path / "MoG" / "start.ipynb"
    path.write_text(json.dumps(notebook | {"cells": notebook["cells"][: ids.index("panels") + 1]}))
    done = run(sys.executable, "-m", "scripts.plot_mog", str(path))
    assert done.returncode == 0, done.stderr
    drawn, committed = (plt.imread(root / "figs" / "mog_panels.png") for root in (tmp_path, REPOSITORY))
    np.testing.assert_array_equal(drawn, committed)
    assert (tmp_path / "figs" / "mog_panels.pdf").stat().st_size > 10_000
