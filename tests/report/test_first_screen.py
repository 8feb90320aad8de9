"""What a reader of the report meets first, on a desktop and on a phone, and that every table can be copied as CSV."""

import base64
import csv
import hashlib
import html
import io
import json
import re
import shutil
from pathlib import Path

import made_up
import pytest
from conftest import run
from reading import Page

from llm.intervals import Estimate
from llm.settings.config import REPOSITORY
from scripts.analysis.advantage import distilled, pooled_over_control
from scripts.analysis.claims import Verdict, claims
from scripts.analysis.results import COMMITTED, Results
from scripts.report.__main__ import CLAIM, PAPER, TITLE, write
from scripts.report.captions import FIGURES
from scripts.report.pages import Figure, Section, Summary, Table, render

PLANE = REPOSITORY / "figs" / "plane.png"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def committed(tmp_path_factory) -> Path:
    """Return the directory of the report of the committed results."""
    out = tmp_path_factory.mktemp("report")
    write(Results(COMMITTED), REPOSITORY / "figs", out)
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Return the directory of a report of made-up results against the paper, with a race, beside those results."""
    root = tmp_path_factory.mktemp("made")
    made_up.write(root / "results", 1, effect=-1.0)
    made_up.write_experiment(root / "results", "race", 1)
    for name in FIGURES:
        shutil.copy(PLANE, root / f"{name}.png")
    write(Results(root / "results"), root, root)
    return root


def first_section(directory: Path) -> str:
    text = (directory / "report.html").read_text()
    assert text.index("<section") < text.index("<nav")
    return re.search(r"<section.*?</section>", text, re.DOTALL)[0]


def spaced(text: str) -> str:
    return " ".join(text.split())


# ------------------------------------------------------------------------------------------------ what is there


def test_the_claim_and_the_title_are_the_readmes():
    readme = (REPOSITORY / "README.md").read_text().replace("*", "")
    assert readme.startswith(f"# {TITLE}\n") and CLAIM in spaced(readme)
    assert CLAIM.count(".") == 1 and "arXiv 2505.13111" in readme and "arXiv 2505.13111" in PAPER


def test_the_first_section_has_the_title_the_claim_and_the_plane(committed):
    first = Page(first_section(committed))
    assert [tag for tag, _ in first.elements if re.fullmatch("h[1-6]", tag)] == ["h1"]
    assert spaced(first.text).startswith(f"{TITLE} {PAPER} {CLAIM} ")
    (image,) = first.all("img")
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == PLANE.read_bytes()
    results = Results(COMMITTED)
    for quantity, change in pooled_over_control(results, distilled(results)).items():
        assert change.high < 0 and re.search(
            rf"{quantity} (of the distilled students of τ ≤ 1 is on average )?lower by {re.escape(str(-change))}",
            first.text,
        )
        assert results.over(quantity) in first.text


@pytest.mark.parametrize("which", ["committed", "made"])
def test_the_first_section_has_every_verdict_of_the_results_in_order(which, request):
    directory = request.getfixturevalue(which)
    found = claims(Results(COMMITTED if which == "committed" else directory / "results"))
    first = first_section(directory)
    items = [spaced(Page(item).text) for item in re.findall(r"<li>.*?</li>", first, re.DOTALL)]
    assert items == [f"{claim.title} {claim.verdict}" for claim in found]
    assert [each["href"] for each in Page(first).all("a")] == [f"#claim-{k}" for k in range(1, len(found) + 1)]
    whole = (directory / "report.html").read_text()
    for k, claim in enumerate(found, 1):
        assert html.unescape(re.search(rf'<h3 id="claim-{k}">(.*?)</h3>', whole)[1]) == f"{k}. {claim.title}"
    counts = [sum(claim.verdict is verdict for claim in found) for verdict in Verdict]
    assert all(f"{num} {each}" in first for num, each in zip(counts, Verdict, strict=True) if num)


def test_families_that_share_no_self_entropy_are_said_to_be_apart(made):
    text = Page(first_section(made)).text
    assert "not compared with it at equal self-entropy: the direct student never has their self-entropy" in text


# ------------------------------------------------------------------------------------------------------- CSV


def copied(page: Page) -> list[list[list[str]]]:
    """Return what each button copies, as Python reads it: of each its rows, of each its cells."""
    buttons = [each["data-csv"] for each in page.all("button")]
    return [list(csv.reader(io.StringIO(each, newline=""), strict=True)) for each in buttons]


@pytest.mark.parametrize("which", ["committed", "made"])
def test_each_table_has_a_button_that_copies_what_the_table_shows(which, request):
    page = Page((request.getfixturevalue(which) / "report.html").read_text())
    assert len(page.all("button")) == len(page.all("table")) > 20
    assert copied(page) == page.tables
    names = [each["aria-labelledby"] for each in page.all("table")]
    assert [each["aria-describedby"] for each in page.all("button")] == names
    assert all(each["type"] == "button" for each in page.all("button"))


def test_without_javascript_no_button_is_shown(committed):
    page = Page((committed / "report.html").read_text())
    places = [each for each in page.all("span") if each.get("class") == "copy"]
    assert len(places) == len(page.all("button")) and all("hidden" in each for each in places)


def test_commas_quotes_and_line_breaks_are_quoted():
    cells = ["a, b", 'she said "no"', "two\nlines", "", " spaces ", "τ = 0.8 & <b>", Estimate(-1, -1.5, 0.25)]
    table = Table("caption", [f"column {k}" for k in cells], [cells, ["plain"] * len(cells)])
    summary = Summary("title", "paper", "claim.", Figure(PLANE, "alt", "reading"), "counts", [])
    page = Page(render(summary, [Section("section", [table])]))
    shown = [*cells[:-1], "-1.000 [-1.500, 0.250]"]
    assert copied(page) == [[list(table.header), shown, ["plain"] * len(cells)]]
    assert '\n"a, b","she said ""no""","two\nlines",, spaces ,' in page.all("button")[0]["data-csv"]


def test_the_page_runs_its_own_script_alone(committed):
    text = (committed / "report.html").read_text()
    (script,) = re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL)
    (policy,) = (each["content"] for each in Page(text).all("meta") if "http-equiv" in each)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and policy.startswith("default-src 'none';")


# ------------------------------------------------------------------------------------------------ in a browser

# What a page in a frame measures, and what its buttons copy: with a clipboard, without one, and with neither way.
HARNESS = """<!doctype html><body>
<iframe src="report.html" style="width:1280px;height:900px"></iframe>
<iframe src="report.html" style="width:390px;height:800px"></iframe>
<pre></pre>
<script>
const wait = () => new Promise((done) => setTimeout(done, 50));
async function press(frame, clipboard, old) {
  const { document, navigator } = frame.contentWindow, copied = [], told = [];
  Object.defineProperty(navigator, "clipboard", { configurable: true, value: clipboard(copied) });
  document.execCommand = () => { copied.push(document.activeElement.value); return old; };
  for (const button of document.querySelectorAll("button")) {
    button.click();
    await wait();
    told.push(button.nextElementSibling.textContent);
  }
  return { copied, told };
}
onload = async () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const { document, getComputedStyle } = frame.contentWindow, page = document.documentElement;
    const sizes = [...document.querySelectorAll(".first *")].map((each) => parseFloat(getComputedStyle(each).fontSize));
    found[frame.style.width] = {
      smallest: Math.min(...sizes), beyond: page.scrollWidth - page.clientWidth,
      ends: document.querySelector(".first").getBoundingClientRect().bottom,
      lines: [...document.querySelectorAll(".first li")].map((each) => each.getBoundingClientRect().height),
      shown: [...document.querySelectorAll("button")].filter((each) => each.offsetParent).length,
    };
  }
  const [frame] = document.querySelectorAll("iframe");
  found.clipboard = await press(frame, (copied) => ({ writeText: async (text) => copied.push(text) }), false);
  found.refused = await press(frame, () => ({ writeText: () => Promise.reject() }), true);
  found.none = await press(frame, () => undefined, true);
  found.neither = await press(frame, () => undefined, false);
  document.querySelector("pre").textContent = JSON.stringify(found);
};
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="needs a browser: chromium or google-chrome")
def test_in_a_browser_it_fits_and_the_buttons_copy(committed, tmp_path):
    shutil.copy(committed / "report.html", tmp_path)
    (tmp_path / "harness.html").write_text(HARNESS)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    flags += [f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=600000", "--dump-dom"]
    done = run(BROWSER, *flags, (tmp_path / "harness.html").as_uri())
    found = json.loads(html.unescape(re.search(r"<pre>(.+?)</pre>", done.stdout, re.DOTALL)[1]))
    page = Page((tmp_path / "report.html").read_text())
    texts = [each["data-csv"] for each in page.all("button")]
    wide, narrow = found["1280px"], found["390px"]
    assert wide["ends"] <= 900 and len(set(wide["lines"][1:])) == 1 and max(wide["lines"]) < 40
    for each in (wide, narrow):
        assert each["smallest"] >= 15 and each["beyond"] == 0 and each["shown"] == len(texts)
    for way in ("clipboard", "refused", "none"):
        assert found[way] == {"copied": texts, "told": ["copied"] * len(texts)}
    assert found["neither"]["told"] == ["not copied: the browser refuses"] * len(texts)
