"""The figures of the language models, from made-up results: what is drawn is what the files hold, to the byte."""

import importlib
import json
import sys

import made_up
import numpy as np
import pandas as pd
import pytest
from conftest import run
from made_up import DISTILLED, MODELS, OF_TRUTH, STUDENTS, TAUS

from llm.distributions import DIRECT, GROUND_TRUTH, TEACHER
from llm.metrics import over_seeds
from llm.settings.config import REPOSITORY
from scripts.analysis.advantage import control_curve, distilled, over_control
from scripts.analysis.predictions import AS_THEY_ARE, EQUAL_ENTROPY, found, question
from scripts.analysis.results import Results
from scripts.analysis.style import COLOURS, plt, save
from scripts.figures.draw import FIGURES, OF_EXPERIMENT, draw
from scripts.figures.positions import band

QUICK = [name for name in FIGURES if name != "embeddings"]  # its layout takes seconds: drawn in a test of its own


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[int, Results]:
    """Return made-up results of one seed and of three."""
    found = {num_seeds: made_up.write(tmp_path_factory.mktemp("made"), num_seeds) for num_seeds in (1, 3)}
    for num_seeds, results in found.items():
        for name in set(OF_EXPERIMENT.values()):
            made_up.write_experiment(results.directory, name, num_seeds)
    return found


@pytest.fixture(scope="module")
def with_truth(tmp_path_factory) -> Results:
    """Return made-up results of three seeds that have students of p*'s own samples."""
    return made_up.write(tmp_path_factory.mktemp("made"), 3, students_of_truth=True)


@pytest.fixture(scope="module")
def apart(tmp_path_factory) -> Results:
    """Return made-up results whose distilled students share no self-entropy with the direct one."""
    return made_up.write(tmp_path_factory.mktemp("made"), 3, -1.0)


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
def test_it_is_drawn_within_its_edges(name, num_seeds, made):
    image = pixels(draw(made[num_seeds], name))
    assert image.std() > 10, "blank"
    edge = np.concatenate([image[:2].ravel(), image[-2:].ravel(), image[:, :2].ravel(), image[:, -2:].ravel()])
    assert (edge == 255).all(), "something reaches over the edge"


@pytest.mark.parametrize("num_seeds", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", QUICK)
def test_it_is_drawn_again_to_the_byte(name, num_seeds, made, tmp_path):
    """Three seeds are the slow twin of one."""
    for directory in (tmp_path / "first", tmp_path / "second"):
        save(draw(made[num_seeds], name), directory, name)
    for suffix in ("png", "pdf"):
        first, second = (tmp_path / f"{which}/{name}.{suffix}" for which in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.filterwarnings("ignore::ImportWarning")
def test_embeddings_show_every_point(made):
    first = draw(made[1], "embeddings")
    shown = [axes for axes in first.axes if axes.collections]
    assert len(shown) == 5
    truth = shown[0].collections[0].get_offsets()
    assert len(np.unique(truth, axis=0)) == 60
    for axes, model in zip(shown, STUDENTS, strict=True):
        behind, students = axes.collections
        assert (behind.get_offsets() == truth).all() and len(students.get_offsets()) == 60
        assert axes.get_title() == made[1].labels[model]
    assert pixels(first).std() > 10


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ImportWarning")
def test_embeddings_are_drawn_again_to_the_byte(made):
    """Of two layouts; the fast twin is that points which are the same share a place, in one."""
    first, second = (pixels(draw(made[1], "embeddings")) for _ in range(2))
    assert (first == second).all()


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


def test_the_control_is_a_dotted_line_to_the_direct_student(made):
    figure = draw(made[3], "precision_recall")
    plane = figure.axes[0]
    (dotted,) = (line for line in plane.lines if line.get_linestyle() == ":")
    expected = [[made[3].mean(name, DIRECT, tau).value for name in ("recall", "precision")] for tau in TAUS]
    np.testing.assert_allclose(dotted.get_xydata(), expected)
    assert dotted.get_label() == r"control: the direct student, sampled at $\tau$" and dotted.get_zorder() < 2
    named = {text.get_text() for text in figure.legends[0].get_texts()}
    assert named == {
        "teacher $p'$",
        "student $p''$, direct on $D$",
        r"student $p''$, distilled at $\tau$",
        dotted.get_label(),
    }


def test_the_narrow_plane_is_the_wide_one_and_names_the_control_at_its_coldest_end(made):
    wide, narrow = (draw(made[3], name).axes[0] for name in ("precision_recall", "plane"))
    np.testing.assert_array_equal(marks(narrow), marks(wide))
    for axes in (wide, narrow):
        (dotted,) = (line for line in axes.lines if line.get_linestyle() == ":")
        assert dotted.get_xdata()[0] == made[3].mean("recall", DIRECT, TAUS[0]).value
    (control,) = (text for text in narrow.texts if text.get_text() == "control")
    assert control.xy == tuple(made[3].mean(name, DIRECT, TAUS[0]).value for name in ("recall", "precision"))
    named = [text.get_text() for text in narrow.figure.legends[0].get_texts()]
    assert named == [r"distilled at $\tau$", r"direct, sampled at $\tau$", "teacher", "direct student"]
    sizes = {text.get_fontsize() for text in narrow.figure.findobj(plt.Text) if text.get_text()}
    assert sizes == {10}


def test_several_seeds_have_their_interval_and_faint_points(made):
    axes = draw(made[3], "precision_recall").axes[0]
    (bar,) = axes.containers[0].lines[2][1].get_segments()  # of the teacher's precision
    expected = made[3].sequences.by_seed("precision", TEACHER).values()
    expected = over_seeds("precision", list(expected))
    np.testing.assert_allclose(bar[:, 1], [expected.low, expected.high])
    faint = [line for line in axes.lines if line.get_alpha() == 0.4]
    assert [len(line.get_xdata()) for line in faint] == [3] * len(MODELS)


def test_decomposition_bars_end_at_precision_and_recall(made):
    """-H - KL, as drawn. In recall to a thousandth of a nat: -H(p*) is estimated without the model, and KL with it."""
    results = made[3]
    truth = results.mean("precision", GROUND_TRUTH).value
    assert truth == pytest.approx(-made_up.ENTROPY, abs=0.02)
    assert truth == pytest.approx(-results.mean("entropy", GROUND_TRUTH).value, abs=1e-12)
    kl = {"precision": "kl_to_ground_truth", "recall": "kl_from_ground_truth"}
    for axes, quantity in zip(draw(results, "decomposition").axes, kl, strict=True):
        ends = [patch.get_y() + patch.get_height() for patch in axes.patches]
        middle = [-results.mean("entropy", model).value if quantity == "precision" else truth for model in MODELS]
        np.testing.assert_allclose(ends[::2], middle)
        below = [top - results.mean(kl[quantity], model).value for top, model in zip(middle, MODELS, strict=True)]
        np.testing.assert_allclose(ends[1::2], below)
        sums = [results.mean(quantity, model).value for model in MODELS]
        np.testing.assert_allclose(below, sums, rtol=0, atol=1e-12 if quantity == "precision" else 1e-3)
        assert any(np.allclose(line.get_ydata(), truth) for line in axes.lines)


def test_positions_leave_out_those_of_few_sequences():
    columns = (
        dict(num_sequences=[100, 50, 20, 19], value=[1, 2, 3, 9], low=[0, 1, 2, 0], high=[2, 3, 4, 99]),
        dict(num_sequences=[100, 30, 10, 1], value=[3, 4, 5, 9], low=[0, 1, 2, 0], high=[4, 5, 6, 99]),
    )
    curves = [pd.DataFrame(each | dict(position=[1, 2, 3, 4])) for each in columns]
    np.testing.assert_array_equal(band(curves[:1]), [[1, 2, 3], [1, 2, 3], [0, 1, 2], [2, 3, 4]])
    position, value, low, high = band(curves)
    assert position.tolist() == [1, 2] and value.tolist() == [2, 3]
    assert low.tolist() == [0, 1] and high.tolist() == [3, 4]  # means too: what the interval of one training is like
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
        np.testing.assert_allclose(line.get_ydata(), 100 * np.cumsum(lengths["value"])[:-1] / made_up.NUM)
    rates = [100 * made[1].mean("stop_rate", model).value for model in [*MODELS, GROUND_TRUTH]]
    np.testing.assert_allclose(marks(right)[:, 1], rates[:-1])
    assert any(np.allclose(line.get_ydata(), rates[-1]) for line in right.lines)


def test_repetition_is_the_tables(made):
    orders = {"repetition": (2, 3, 4), "distinct": (1, 2, 3)}
    for axes, (quantity, ns) in zip(draw(made[3], "repetition").axes, orders.items(), strict=True):
        expected = [made[3].mean(f"{quantity}_{n}", model).value for n in ns for model in MODELS]
        np.testing.assert_allclose(marks(axes)[:, 1], expected)


def test_the_control_figure_shows_three_curves_and_each_student_s_offset(made):
    plane, beside = draw(made[3], "control").axes
    assert len(marks(plane)) == 2 * len(TAUS)
    middle = [made[3].mean(quantity, TEACHER, TAUS[0]).value for quantity in ("recall", "precision")]
    np.testing.assert_allclose(marks(plane)[len(TAUS)], middle)
    (direct,) = [line for line in plane.lines if line.get_label() == r"direct, sampled at $\tau$"]
    np.testing.assert_allclose(direct.get_xydata(), control_curve(made[3]))
    texts = [text.get_text() for text in beside.get_legend().get_texts()]
    expected = []
    for name, of in over_control(made[3], distilled(made[3])).items():
        assert f"{name}: {of.pooled.value:+.2f} [{of.pooled.low:+.2f}, {of.pooled.high:+.2f}]" in texts
        expected += [(made[3].mean("entropy", *each).value, offset.value) for each, offset in of.members.items()]
    np.testing.assert_allclose(marks(beside), expected)
    assert [text.get_text() for text in plane.get_legend().get_texts()] == [
        r"direct, sampled at $\tau$",
        r"distilled at $\tau$",
        r"teacher, sampled at $\tau$",
    ]


def test_the_control_figure_shows_students_of_truth_where_there_are_any(with_truth):
    """Open circles, joined in the order of tau."""
    plane, _ = draw(with_truth, "control").axes
    assert plane.get_legend().get_texts()[-1].get_text() == r"of $p^*$ at $\tau$"
    expected = [[with_truth.mean(name, model).value for name in ("recall", "precision")] for model in OF_TRUTH]
    np.testing.assert_allclose(marks(plane)[2 * len(TAUS) :], expected)
    drawn = [container.lines[0] for container in plane.containers]
    assert [line.get_marker() for line in drawn[-len(TAUS) :]] == ["o"] * len(TAUS)
    faces = {tuple(plt.matplotlib.colors.to_rgba(line.get_markerfacecolor())) for line in drawn[-len(TAUS) :]}
    assert faces == {(1, 1, 1, 1)} and drawn[0].get_markerfacecolor() == COLOURS["student"]
    assert any(np.allclose(line.get_xydata(), expected) for line in plane.lines if len(line.get_xdata()) == len(TAUS))


def test_the_control_figure_says_where_the_control_reaches_no_student(apart):
    plane, beside = draw(apart, "control").axes
    (told,) = [text.get_text() for text in beside.texts]
    assert " ".join(told.split()) == "the direct student never has their self-entropy, in one seed or more"
    assert beside.get_legend() is None and not beside.lines and len(marks(plane)) == 2 * len(TAUS)


@pytest.mark.parametrize("kind", ["with_truth", "apart"])
@pytest.mark.parametrize("name", [name for name in QUICK if name not in OF_EXPERIMENT])
def test_other_results_are_drawn_within_the_edges_too(name, kind, request):
    image = pixels(draw(request.getfixturevalue(kind), name))
    edge = np.concatenate([image[:2].ravel(), image[-2:].ravel(), image[:, :2].ravel(), image[:, -2:].ravel()])
    assert image.std() > 10 and (edge == 255).all()


def test_every_cell_of_capacity_is_a_mark_with_its_interval(made):
    figure = draw(made[3], "capacity")
    cells = [each for each in found(question("capacity"), made[3]) if not each.cell.than_run]
    panels = [(at, quantity) for at in (EQUAL_ENTROPY, AS_THEY_ARE) for quantity in ("precision", "recall")]
    for axes, panel in zip(figure.axes, panels, strict=True):
        there = {each.cell.run: each.estimate for each in cells if (each.cell.at, each.cell.quantity) == panel}
        expected = [there[f"{size}-{data}"].value for data in ("less", "more") for size in ("small", "medium", "large")]
        drawn = np.concatenate([container.lines[0].get_ydata() for container in axes.containers])
        assert drawn == pytest.approx(expected)
    assert [text.get_text() for text in figure.axes[3].get_legend().texts] == ["6,000 sequences", "24,000 sequences"]


# --------------------------------------------------------------------------------------------- command line


@pytest.fixture
def settings(tmp_path) -> dict[str, str]:
    """The environment of a user whose matplotlib draws everything otherwise."""
    path = tmp_path / "matplotlibrc"
    path.write_text("font.size: 25\naxes.facecolor: red\nlines.linewidth: 9\nsavefig.dpi: 30\n")
    return {"MATPLOTLIBRC": str(path), "MPLBACKEND": "svg"}


def test_drawing_needs_no_torch_and_takes_no_settings(made, tmp_path, settings):
    """Nor what reads Parquet, but where entropies are compared. Of the run's own folder the figure is the same."""
    others = ["control", *OF_EXPERIMENT]
    of_table = [name for name in QUICK if name not in others]
    code = (
        "import sys\n"
        "class Missing:\n"
        "    names = ['torch', 'transformers', 'IPython', 'nbformat', 'pyarrow']\n"
        "    def find_spec(self, name, *_):\n"
        "        if name in self.names: raise ImportError(name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from scripts.figures import draw, embeddings, mog, precision_recall\n"
        f"sys.argv = ['draw', *{of_table!r}, '--results', '{made[1].directory}', '--figures', '{tmp_path}']\n"
        "draw.main()\n"
        f"sys.argv = ['draw', '--profile', 'smoke', '--out', '{tmp_path}/run']\n"
        "precision_recall.main()\n"
        "Missing.names.remove('pyarrow')\n"
        f"sys.argv = ['draw', *{others!r}, '--results', '{made[1].directory}', '--figures', '{tmp_path}']\n"
        "draw.main()\n"
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
    assert named == {*FIGURES, "overview", "mog", "place", "draw", "execute_notebook"}


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
