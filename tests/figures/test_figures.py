"""The figures of the language models, from made-up results: what is drawn is what the files hold, to the byte."""

import importlib
import json
import sys

import made_up
import numpy as np
import pandas as pd
import pytest
from conftest import run
from made_up import DISTILLED, MODELS, STUDENTS, TAUS

from llm.config import REPOSITORY
from llm.distributions import GROUND_TRUTH, TEACHER
from scripts.analysis.advantage import advantage, differences
from scripts.analysis.results import Results
from scripts.analysis.style import plt, save
from scripts.figures.draw import FIGURES, draw
from scripts.figures.positions import band

QUICK = [name for name in FIGURES if name != "embeddings"]  # its layout takes seconds: drawn in a test of its own


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[int, Results]:
    """Return made-up results of one seed and of three."""
    return {num_seeds: made_up.write(tmp_path_factory.mktemp("made"), num_seeds) for num_seeds in (1, 3)}


def pixels(figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def marks(axes) -> np.ndarray:
    """[n, 2] where the axes' error bars stand, in the order in which they were drawn."""
    return np.array(
        [container.lines[0].get_xydata()[0] for container in axes.containers if hasattr(container, "lines")]
    )


@pytest.mark.parametrize("num_seeds", [1, 3])
@pytest.mark.parametrize("name", QUICK)
def test_it_is_drawn_within_its_edges_and_again_to_the_byte(name, num_seeds, made, tmp_path):
    image = pixels(draw(made[num_seeds], name))
    assert image.std() > 10, "blank"
    edge = np.concatenate([image[:2].ravel(), image[-2:].ravel(), image[:, :2].ravel(), image[:, -2:].ravel()])
    assert (edge == 255).all(), "something reaches over the edge"
    for directory in (tmp_path / "first", tmp_path / "second"):
        save(draw(made[num_seeds], name), directory, name)
    for suffix in ("png", "pdf"):
        assert (tmp_path / f"first/{name}.{suffix}").read_bytes() == (tmp_path / f"second/{name}.{suffix}").read_bytes()


@pytest.mark.filterwarnings("ignore::ImportWarning")
def test_embeddings_show_every_point_and_again_to_the_byte(made):
    first = draw(made[1], "embeddings")
    shown = [axes for axes in first.axes if axes.collections]
    assert len(shown) == 5
    truth = shown[0].collections[0].get_offsets()
    assert len(np.unique(truth, axis=0)) == 60
    for axes, model in zip(shown, STUDENTS, strict=True):
        behind, students = axes.collections
        assert (behind.get_offsets() == truth).all() and len(students.get_offsets()) == 60
        precision, coverage = (made[1].mean(f"knn_{metric}", model).value for metric in ("precision", "coverage"))
        assert f"precision {precision:.2f}, coverage {coverage:.2f}" in axes.texts[0].get_text()
    image = pixels(first)
    assert image.std() > 10
    assert (pixels(draw(made[1], "embeddings")) == image).all()


@pytest.mark.filterwarnings("ignore::ImportWarning")
def test_points_that_are_the_same_share_a_place():
    layout = importlib.import_module("scripts.figures.embeddings").layout
    points = np.random.default_rng(0).normal(size=(40, 4))
    places = layout({"ground_truth": points, "student_direct": np.concatenate([points[:3], points[:1]])})
    assert (places["student_direct"] == places["ground_truth"][[0, 1, 2, 0]]).all()
    assert len(np.unique(places["ground_truth"], axis=0)) == 40


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_precision_recall_and_its_entropy_are_the_tables(num_seeds, made):
    results = made[num_seeds]
    plane = draw(results, "precision_recall").axes[0]
    expected = [[results.mean(quantity, model).value for quantity in ("recall", "precision")] for model in MODELS]
    np.testing.assert_allclose(marks(plane), expected)
    for axes, quantity in zip(draw(results, "teacher_entropy").axes, ("precision", "recall"), strict=True):
        entropy = [results.mean("training_set_entropy", TEACHER, tau).value for tau in TAUS]
        values = [results.mean(quantity, model).value for model in DISTILLED]
        np.testing.assert_allclose(marks(axes), np.column_stack([entropy, values]))


def test_precision_recall_names_every_tau(made):
    plane = draw(made[1], "precision_recall").axes[0]
    assert {text.get_text() for text in plane.texts} == {rf"$\tau={t:g}$" for t in TAUS}


def test_several_seeds_have_their_interval_and_faint_points(made):
    axes = draw(made[3], "precision_recall").axes[0]
    (bar,) = axes.containers[0].lines[2][1].get_segments()  # of the teacher's precision
    expected = made[3].mean("precision", TEACHER)
    np.testing.assert_allclose(bar[:, 1], [expected.low, expected.high])
    faint = [line for line in axes.lines if line.get_alpha() == 0.4]
    assert [len(line.get_xdata()) for line in faint] == [3] * len(MODELS)


def test_decomposition_bars_end_at_precision_and_recall(made):
    for axes, quantity in zip(draw(made[3], "decomposition").axes, ("precision", "recall"), strict=True):
        ends = [patch.get_y() + patch.get_height() for patch in axes.patches]
        below = [made[3].mean(quantity, model).value for model in MODELS]
        np.testing.assert_allclose(ends[1::2], below)  # -H - KL, as drawn
        middle = [-made[3].mean("entropy", model).value if quantity == "precision" else -2.7 for model in MODELS]
        np.testing.assert_allclose(ends[::2], middle)
        assert any(np.allclose(line.get_ydata(), -2.7) for line in axes.lines)


def test_positions_leave_out_those_of_few_sequences():
    curves = [
        pd.DataFrame(dict(num_sequences=[100, 50, 20, 19], value=[1, 2, 3, 9], low=[0, 1, 2, 0], high=[2, 3, 4, 99])),
        pd.DataFrame(dict(num_sequences=[100, 30, 10, 1], value=[3, 4, 5, 9], low=[0, 1, 2, 0], high=[4, 5, 6, 99])),
    ]
    np.testing.assert_array_equal(band(curves[:1]), [[1, 2, 3], [1, 2, 3], [0, 1, 2], [2, 3, 4]])
    position, value, _, high = band(curves)
    assert position.tolist() == [1, 2] and value.tolist() == [2, 3]
    np.testing.assert_allclose(high - value, 12.7062, rtol=1e-5)  # t of one degree of freedom, standard error 1
    assert band([curves[0].assign(num_sequences=5)]).shape == (4, 0)


def test_positions_are_the_tables(made):
    for axes, quantity in zip(draw(made[1], "positions").axes, ("precision", "recall"), strict=True):
        assert len(axes.collections) == len(axes.lines) == len(MODELS)
        for line, model in zip(axes.lines, MODELS, strict=True):
            curve = made[1].by_position(quantity, model)[0]
            kept = curve[curve["num_sequences"] >= 20]
            assert line.get_ydata().tolist() == kept["value"].tolist() and len(kept) < len(curve)


def test_lengths_and_stop_rates_are_the_tables(made):
    left, right = draw(made[1], "lengths").axes
    for line, model in zip(left.lines, [*MODELS, GROUND_TRUTH], strict=True):
        (lengths,) = made[1].by_position("length", model).values()
        np.testing.assert_allclose(line.get_ydata(), 100 * np.cumsum(lengths["value"])[:-1] / 200)
    rates = [100 * made[1].mean("stop_rate", model).value for model in [*MODELS, GROUND_TRUTH]]
    np.testing.assert_allclose(marks(right)[:, 1], rates[:-1])
    assert any(np.allclose(line.get_ydata(), rates[-1]) for line in right.lines)


def test_repetition_is_the_tables(made):
    orders = {"repetition": (2, 3, 4), "distinct": (1, 2, 3)}
    for axes, (quantity, ns) in zip(draw(made[3], "repetition").axes, orders.items(), strict=True):
        expected = [made[3].mean(f"{quantity}_{n}", model).value for n in ns for model in MODELS]
        np.testing.assert_allclose(marks(axes)[:, 1], expected)


def test_the_control_figure_shows_three_curves_and_the_advantage(made):
    plane, gain = draw(made[3], "control").axes
    assert len(marks(plane)) == 3 * len(TAUS)
    middle = [made[3].mean(quantity, TEACHER, TAUS[0]).value for quantity in ("recall", "precision")]
    np.testing.assert_allclose(marks(plane)[2 * len(TAUS)], middle)
    texts = [text.get_text() for text in gain.get_legend().get_texts()]
    for name, mean in advantage(differences(made[3])).items():
        assert f"{name}: {mean.value:+.2f} [{mean.low:+.2f}, {mean.high:+.2f}]" in texts


# --------------------------------------------------------------------------------------------- command line


@pytest.fixture
def settings(tmp_path) -> dict[str, str]:
    """The environment of a user whose matplotlib draws everything otherwise."""
    path = tmp_path / "matplotlibrc"
    path.write_text("font.size: 25\naxes.facecolor: red\nlines.linewidth: 9\nsavefig.dpi: 30\n")
    return {"MATPLOTLIBRC": str(path), "MPLBACKEND": "svg"}


def test_drawing_needs_no_torch_and_takes_no_settings(made, tmp_path, settings):
    """Nor what reads samples. Of the run's own folder the figure is the same."""
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name in ('torch', 'transformers', 'pyarrow', 'IPython', 'nbformat'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from scripts.figures import draw, embeddings, mog, precision_recall\n"
        f"sys.argv = ['draw', *{QUICK!r}, '--results', '{made[1].directory}', '--figures', '{tmp_path}']\n"
        "draw.main()\n"
        f"sys.argv = ['draw', '--profile', 'smoke', '--out', '{tmp_path}/run']\n"
        "precision_recall.main()\n"
    )
    (tmp_path / "run" / "results").mkdir(parents=True)
    (tmp_path / "run" / "results" / "table.csv").write_bytes((made[1].directory / "table.csv").read_bytes())
    done = run(sys.executable, "-c", code, **settings)
    assert done.returncode == 0, done.stderr
    save(draw(made[1], "control"), tmp_path / "plain", "control")  # in this process, which has no such settings
    assert (tmp_path / "plain/control.png").read_bytes() == (tmp_path / "control.png").read_bytes()
    for suffix in ("png", "pdf"):
        assert {path.stem for path in tmp_path.glob(f"*.{suffix}")} == set(QUICK)
        ours, of_run = (tmp_path / place / f"precision_recall.{suffix}" for place in (".", "run/figures"))
        assert ours.read_bytes() == of_run.read_bytes()
    assert done.stdout.count("figure: ") == len(QUICK) + 1


def test_every_figure_has_its_module():
    named = {path.stem for path in (REPOSITORY / "scripts" / "figures").glob("*.py")}
    assert named == {*FIGURES, "overview", "mog", "draw", "execute_notebook"}


@pytest.mark.parametrize(
    ("module", "arguments", "fault"),
    [
        ("draw", ["--results", "nowhere"], "no nowhere/table.csv: run python -m scripts.analysis.gather, or git"),
        ("draw", ["--results", "llm", "control"], "no llm/table.csv"),
        ("draw", ["pie"], "no figure 'pie': they are precision_recall"),
        ("precision_recall", ["--out", "nowhere"], "results/table.csv: run bash run_eval_precision_and_recall.sh"),
        ("mog", ["nowhere/none.ipynb"], "nowhere/none.ipynb: git checkout MoG"),
    ],
)
def test_faults_are_one_line(module, arguments, fault):
    done = run(sys.executable, "-m", f"scripts.figures.{module}", *arguments)
    assert done.returncode == 2 and fault in done.stderr and done.stderr.count("\n") == 1


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
    done = run(sys.executable, "-m", "scripts.figures.mog", str(path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "done").exists() and (tmp_path / "line.png").exists() and "printed" not in done.stdout


def test_a_cell_of_the_notebook_draws_the_committed_figure(tmp_path, settings):
    """The first figure, in plain Python, is the one that the kernel drew, on whatever processor, whatever the settings.

    The PDF is too on the same one; on another its coordinates may differ in the tenth decimal.
    """
    notebook = json.loads((REPOSITORY / "MoG" / "KD_MoG.ipynb").read_text())
    ids = [cell["id"] for cell in notebook["cells"]]
    (tmp_path / "MoG").mkdir()
    (tmp_path / "figs").mkdir()
    path = tmp_path / "MoG" / "start.ipynb"
    path.write_text(json.dumps(notebook | {"cells": notebook["cells"][: ids.index("panels") + 1]}))
    done = run(sys.executable, "-m", "scripts.figures.mog", str(path), **settings)
    assert done.returncode == 0, done.stderr
    drawn, committed = (plt.imread(root / "figs" / "mog_panels.png") for root in (tmp_path, REPOSITORY))
    np.testing.assert_array_equal(drawn, committed)
    assert (tmp_path / "figs" / "mog_panels.pdf").stat().st_size > 10_000
