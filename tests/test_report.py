"""Verdicts against made-up results of each kind, worked by hand; pages whole, alike each time, and without torch."""

import json
import re
import struct
import sys
import zlib
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import made_up
import pytest
from conftest import entry, run

from llm.config import UsageError
from llm.likelihood import Estimate
from scripts import report
from scripts.captions import FIGURES, relation
from scripts.claims import (
    Claim,
    Comparison,
    Sign,
    Verdict,
    claims,
    difference,
    ordering,
    series,
    sign_comparison,
    worst,
)
from scripts.document import Section, Table, to_html, to_markdown

VALUE, DIRECTION, NOT_SEPARATED, CONTRADICTED = Verdict


def comparison(paper: float | Sign, low: float, high: float) -> Comparison:
    return Comparison("made up", paper, Estimate((low + high) / 2, low, high), "nothing")


# ------------------------------------------------------------------------------------------------ the rule


@pytest.mark.parametrize(
    ("paper", "low", "high", "verdict"),
    [
        (-20.26, -29.1, -5.2, VALUE),
        (-5.2, -29.1, -5.2, VALUE),  # on the edge is inside
        (-20.26, -8.0, -7.0, CONTRADICTED),
        (-0.7, -7.0, -2.3, CONTRADICTED),
        (0.0, -1.0, 1.0, VALUE),  # a number, not a sign
        (Sign.HIGHER, 0.1, 0.5, DIRECTION),
        (Sign.HIGHER, -0.1, 0.5, NOT_SEPARATED),
        (Sign.HIGHER, 0.0, 0.5, NOT_SEPARATED),  # 0 on the edge is included
        (Sign.HIGHER, -0.5, -0.1, CONTRADICTED),
        (Sign.LOWER, -0.5, -0.1, DIRECTION),
        (Sign.LOWER, -0.5, 0.1, NOT_SEPARATED),
        (Sign.LOWER, 0.1, 0.5, CONTRADICTED),
    ],
)
def test_a_verdict_of_each_kind(paper, low, high, verdict):
    assert comparison(paper, low, high).verdict is verdict


def test_a_claim_has_the_worst_of_its_verdicts():
    value, direction = comparison(1.0, 0.0, 2.0), comparison(Sign.HIGHER, 0.1, 0.2)
    open_, against = comparison(Sign.HIGHER, -0.1, 0.2), comparison(Sign.HIGHER, -0.2, -0.1)
    assert Claim("", "", (value,)).verdict is VALUE
    assert Claim("", "", (direction, value)).verdict is DIRECTION
    assert Claim("", "", (value, open_, direction)).verdict is NOT_SEPARATED
    assert Claim("", "", (against, value, open_, direction)).verdict is CONTRADICTED
    assert worst([NOT_SEPARATED, DIRECTION]) is NOT_SEPARATED


def test_an_interval_that_is_not_finite_has_no_verdict():
    with pytest.raises(UsageError, match="made up: the interval"):
        comparison(Sign.HIGHER, float("nan"), 1.0)


# --------------------------------------------------------------------------------------------- differences


def exactly(*values: float) -> dict[int, Estimate]:
    """A series whose own intervals are wide enough to matter if they were used."""
    return {seed: Estimate(value, value - 100, value + 100) for seed, value in enumerate(values)}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # differences 1, 3: mean 2, standard error 1, t(0.975, 1) = 12.706
        ((1, 3), (0, 0), (2, -10.706, 14.706)),
        # differences 3, 4, 5: mean 4, standard error 1 / sqrt(3), t(0.975, 2) = 4.3027; the seeds' own shifts cancel
        ((13, 54, -65), (10, 50, -70), (4, 1.516, 6.484)),
    ],
)
def test_over_seeds_the_differences_are_paired(first, second, expected):
    found, basis = difference(exactly(*first), exactly(*second))
    assert (found.value, found.low, found.high) == pytest.approx(expected, abs=1e-3)
    assert basis == f"paired t interval over {len(first)} seeds"


def test_seeds_are_paired_by_number_and_those_of_one_side_are_left_out():
    first = {2: Estimate(5, 0, 9), 0: Estimate(3, 0, 9), 7: Estimate(90, 0, 99)}
    second = {0: Estimate(0, 0, 9), 1: Estimate(-90, -99, 9), 2: Estimate(0, 0, 9)}
    found, basis = difference(first, second)  # 3 and 5: mean 4, standard error 1
    assert (found.value, found.high) == pytest.approx((4, 16.706), abs=1e-3) and basis.endswith("2 seeds")
    with pytest.raises(UsageError, match="no seed in which both sides"):
        difference({0: Estimate(1, 0, 2)}, {1: Estimate(1, 0, 2)})


def test_within_one_seed_the_difference_is_taken_at_its_widest():
    found, basis = difference({0: Estimate(-5.0, -5.1, -4.8)}, {0: Estimate(-5.5, -5.7, -5.4)})
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.3, 0.9))
    assert basis == "one seed: difference of two intervals within it"


def test_an_ordering_is_its_adjacent_pairs():
    """5 > 3 > 4 where the paper has 5 > 3 and 3 > 4: the second pair is the other way round."""
    tight = {name: {0: Estimate(v, v - 0.1, v + 0.1)} for name, v in (("a", 5), ("b", 3), ("c", 4))}
    found = ordering("recall", Sign.HIGHER, tight)
    assert [each.what for each in found] == ["recall, a minus b", "recall, b minus c"]
    assert [each.verdict for each in found] == [DIRECTION, CONTRADICTED]


@pytest.mark.parametrize(
    ("sign", "share", "num", "expected", "verdict"),
    [
        # all of n: the exact interval of the share begins at 0.025^(1/n), which is 0.6915 for 10 and 0.2924 for 3
        (Sign.HIGHER, 1.0, 10, (1.0, 0.3830, 1.0), DIRECTION),
        (Sign.HIGHER, 1.0, 3, (1.0, -0.4152, 1.0), NOT_SEPARATED),
        (Sign.LOWER, 1.0, 10, (-1.0, -1.0, -0.3830), DIRECTION),
        (Sign.HIGHER, 0.0, 10, (-1.0, -1.0, -0.3830), CONTRADICTED),
    ],
)
def test_the_sign_of_the_mixtures_seeds(sign, share, num, expected, verdict):
    found = sign_comparison("precision", sign, share, num)
    assert (found.ours.value, found.ours.low, found.ours.high) == pytest.approx(expected, abs=1e-4)
    assert found.verdict is verdict


def test_a_row_that_is_not_there_is_named():
    with pytest.raises(UsageError, match=r"no precision for .*student_tau0\.50"):
        series(made_up.gallery()["manifold"], "precision", model="student_tau0.50")


# -------------------------------------------------------------------------------------------- the claims


def language_verdicts(**settings) -> list[Verdict]:
    return [claim.verdict for claim in claims(made_up.gallery(**settings)) if claim.title.startswith("Language")]


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_made_up_results_with_and_against_the_paper(num_seeds):
    """The effect is many times the noise: each pair has it, whether over seeds or within one."""
    assert language_verdicts(num_seeds=num_seeds, effect=1.0) == [DIRECTION] * 5
    assert language_verdicts(num_seeds=num_seeds, effect=-1.0) == [CONTRADICTED] * 5


def test_made_up_results_without_an_effect():
    """Within one seed the intervals are wider than the noise."""
    assert language_verdicts(num_seeds=1, effect=0.0) == [NOT_SEPARATED] * 5


def test_the_mixtures_claims():
    """Medians and ranges as in README.md: all four published numbers are inside theirs as published, one as defined."""
    direction, published, defined = claims(made_up.gallery())[:3]
    assert direction.verdict is DIRECTION
    assert direction.comparisons[0].ours.value == pytest.approx(0.984 - 0.016)
    assert [each.paper for each in published.comparisons] == [-20.26, -0.70, -2.64, -42.45]
    assert [each.verdict for each in published.comparisons] == [VALUE] * 4
    assert [each.verdict for each in defined.comparisons] == [CONTRADICTED] * 3 + [VALUE]
    assert (published.verdict, defined.verdict) == (VALUE, CONTRADICTED)


def test_one_temperature_has_no_order_of_entropies():
    gallery = made_up.gallery()
    gallery["result"]["experiment"]["temperatures"] = [0.8]
    found = claims(gallery)
    assert len(found) == 7 and all(claim.comparisons for claim in found)


def test_a_sentence_states_only_a_direction_that_is_separated():
    assert relation(Estimate(0.5, 0.1, 0.9)) == "higher by 0.500 [0.100, 0.900]"
    assert relation(Estimate(-0.5, -0.9, -0.1)) == "lower by 0.500 [0.100, 0.900]"
    assert relation(Estimate(-0.5, -0.9, 0.1)) == "not separated (difference -0.500 [-0.900, 0.100])"


def test_rank_correlation_over_students():
    """Metric 1, 2, 3, 4 against 1, 3, 2, 4: rho = 1 - 6 * 2 / (4 * 15) = 0.8."""
    metric = [{"model": m, "seed": 0, "density": made_up.around(v)} for m, v in zip("abcd", (1, 2, 3, 4), strict=True)]
    models = [
        {"model": m, "seed": 0, "per_token": {"precision": made_up.around(v)}}
        for m, v in zip("abcd", (1, 3, 2, 4), strict=True)
    ]
    assert report.rank_correlation(metric, models, "density") == (pytest.approx(0.8), 4)


@pytest.mark.parametrize(
    ("seconds", "told"), [(42.4, "42 s"), (90, "2 min"), (4321, "1 h 12 min"), (7199, "2 h 0 min")]
)
def test_durations(seconds, told):
    assert report.duration(seconds) == told


# --------------------------------------------------------------------------------------------- the pages


def png(width: int, height: int) -> bytes:
    """A white picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress((b"\0" + b"\xff" * width) * height)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture
def made(tmp_path) -> Path:
    """A directory with a gallery and all of its figures."""
    (tmp_path / "gallery.json").write_text(json.dumps(made_up.gallery()))
    for k, name in enumerate(made_up.FIGURES):
        (tmp_path / f"{name}.png").write_bytes(png(40 + k, 30))
    return tmp_path


def write(made: Path, name: str = "report") -> Path:
    report.write(made / "gallery.json", made, made / name)
    return made / name


class Page(HTMLParser):
    """The page's elements, what is read aloud of it, and whether what was opened is closed."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, *tags: str) -> list[dict]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def test_the_pages_hold_every_claim_and_every_figure(made):
    out = write(made)
    page, markdown = Page((out / "report.html").read_text()), (out / "report.md").read_text()
    found = claims(made_up.gallery())
    assert len(found) == 8
    for k, claim in enumerate(found, 1):
        assert f"{k}. {claim.title}" in page.text and f"Claim {k}, {claim.verdict}" in page.text
        assert f"### {k}. Language" in markdown or f"### {k}. Mixture" in markdown
        assert all(each.what in page.text for each in claim.comparisons)
    images = page.all("img")
    assert set(FIGURES) == set(made_up.FIGURES)
    assert sorted(each["alt"] for each in images) == sorted(alt for alt, _ in FIGURES.values())
    assert sorted(int(each["width"]) for each in images) == [40 + k for k in range(len(FIGURES))]
    assert all(f"(<../{name}.png>)" in markdown for name in FIGURES)


def test_the_page_loads_nothing(made):
    page = Page((write(made) / "report.html").read_text())
    addresses = [each[name] for _, each in page.elements for name in ("src", "href") if name in each]
    assert addresses and all(re.match("data:|#", address) for address in addresses)
    assert not page.all("script", "iframe", "object", "base")
    assert "url(" not in page.text and "@import" not in page.text


def test_the_page_can_be_read_by_ear_and_by_keyboard(made):
    """Headings go down one level at a time, links and labels have their targets, what scrolls takes the focus."""
    page = Page((write(made) / "report.html").read_text())
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    names = [each["id"] for _, each in page.elements if "id" in each]
    assert len(names) == len(set(names))
    targets = [each["href"][1:] for each in page.all("a")] + [
        each["aria-labelledby"] for each in page.all("section", "div")
    ]
    assert set(targets) <= set(names) and targets[0] == "main"
    assert all(each["tabindex"] == "0" and each["role"] == "region" for each in page.all("div"))
    assert len(page.all("div")) == len(page.all("table")) == len(page.all("caption"))


def test_the_same_gallery_gives_the_same_bytes(made):
    first, second = write(made, "first"), write(made, "second")
    for name in ("report.html", "report.md"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_any_number_of_seeds_has_a_report(made, num_seeds):
    gallery = made_up.gallery(num_seeds=num_seeds, effect=-1.0) | {"ledger": None}
    (made / "gallery.json").write_text(json.dumps(gallery))
    text = Page((write(made) / "report.html").read_text()).text
    assert ("Over seeds" in text) == (num_seeds > 1)
    assert ("one seed, 95 % intervals within its run" in text) == (num_seeds == 1)
    assert "Deviations" not in text


def test_what_a_model_writes_is_text_and_not_markup():
    hostile = "<script>alert(1)</script> | *a* _b_ `c` [d](e) &amp; \\\n\n# f\x00\ud800"
    section = [Section("Sample texts", [Table("caption", ["", "text"], [["1", hostile]])])]
    page = Page(to_html("title", section))
    assert not page.all("script")
    assert "<script>alert(1)</script> | *a* _b_ `c` [d](e) &amp; \\\n\n# f\ufffd\ufffd" in page.text
    row = to_markdown("title", section, Path()).splitlines()[-1]
    assert row == r"| 1 | \<script>alert(1)\</script> \| \*a\* \_b\_ \`c\` \[d\](e) \&amp; \\ ⏎ \# f" + "\ufffd\ufffd |"


def test_what_is_missing_is_one_line(made):
    command = ["--gallery", str(made / "gallery.json"), "--figures", str(made), "--out", str(made / "report")]
    (made / "control.png").unlink()
    done = entry("scripts.report", *command)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "control.png: run bash scripts/make_figures.sh first" in done.stderr
    assert not (made / "report").exists()


def test_what_is_not_whole_is_named(made):
    (made / "control.png").write_bytes(b"not a picture")
    with pytest.raises(UsageError, match=r"control.png is not a PNG: run bash scripts/make_figures.sh again"):
        write(made)
    gallery = made_up.gallery()
    del gallery["manifold"]
    (made / "gallery.json").write_text(json.dumps(gallery))
    with pytest.raises(UsageError, match="has no 'manifold'"):
        write(made)
    (made / "gallery.json").write_text("{")
    with pytest.raises(UsageError, match=r"run python -m scripts.gallery first"):
        write(made)


def test_it_needs_no_torch(made):
    """Not only is it not imported: it cannot be, and neither can transformers."""
    code = (
        "import sys; from importlib.abc import MetaPathFinder\n"
        "class Without(MetaPathFinder):\n"
        "    def find_spec(self, name, *_):\n"
        "        if name in ('torch', 'transformers'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Without())\n"
        "from pathlib import Path; from scripts import report\n"
        f"made = Path({str(made)!r}); report.write(made / 'gallery.json', made, made / 'report')"
    )
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert (made / "report" / "report.html").is_file()
