"""The READMEs are what their templates make of the committed results, and what they link is there."""

import json
import re
import sys
from itertools import zip_longest
from pathlib import Path

import pytest
from conftest import without_torch

from llm.intervals import Estimate
from llm.machine.processes import UsageError
from llm.settings.config import REPOSITORY
from scripts.analysis.results import COMMITTED
from scripts.report.readme import __main__ as readme

RENDER = "import json; from scripts.report.readme.__main__ import pages; print(json.dumps(pages()))"
MOST_WORDS = 900
NAMES = [str(path.relative_to(readme.TEMPLATES).with_suffix("")) for path in readme.TEMPLATES.rglob("*.j2")]
PAGES = sorted({str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("scripts/**/README.md")} | {*NAMES})


def test_rendering_changes_nothing_and_needs_no_torch():
    done = without_torch(RENDER)
    assert done.returncode == 0, done.stderr
    pages = json.loads(done.stdout)
    assert pages.keys() == set(NAMES) >= {"README.md", "scripts/objectives/README.md"}
    for name, text in pages.items():
        lines = zip_longest((REPOSITORY / name).read_text().split("\n"), text.split("\n"))
        changes = (f"{name}:{k}\n  is         {a}\n  would be   {b}" for k, (a, b) in enumerate(lines, 1) if a != b)
        mend = f"edit scripts/report/readme/{name}.j2, not {name}; then python -m scripts.report.readme"
        for first in changes:
            pytest.fail(f"{first}\n{mend}")


def headings(page: Path) -> set[str]:
    """The names by which the headings of a page are linked, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_links_is_there(name):
    page = REPOSITORY / name
    for link, heading in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text()):
        target = page.parent / link if link else page
        assert target.exists(), link
        assert not heading or heading in headings(target), f"{link}#{heading}"


def test_every_room_is_on_the_page_of_commands_which_is_short():
    text = (REPOSITORY / "scripts/README.md").read_text()
    rooms = {path.parent.name for path in REPOSITORY.glob("scripts/*/*.py")}
    assert set(re.findall(r"^\| \[?`?(\w+)`?(?:\]\(\1/README.md\))? \|", text, re.MULTILINE)) >= rooms
    assert len(text.split()) <= MOST_WORDS


def test_race_and_sparsity_have_one_control():
    for file in ("control.csv", "control.parquet"):
        assert (COMMITTED / "race" / file).read_bytes() == (COMMITTED / "sparsity" / file).read_bytes()


BELOW, ABOVE, ACROSS = Estimate(-0.081, -0.119, -0.042), Estimate(0.081, 0.042, 0.119), Estimate(0.1, -0.05, 0.25)


def page(directory: Path, template: str, **names: object) -> str:
    (directory / "page.md.j2").write_text(template)
    return readme.rendered(directory, names)["page.md"]


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("below | less", "0.08 [0.04, 0.12]"),
        ("above | more", "0.08 [0.04, 0.12]"),
        ("below | less(3)", "0.081 [0.042, 0.119]"),
        ("across | decimals(1)", "0.1 [-0.1, 0.2]"),
        ("across", "0.100 [-0.050, 0.250]"),
        ("12345.678 | decimals(0)", "12,346"),
        ("[3, 1, 2] | span(1)", "1.0 to 3.0"),
    ],
)
def test_a_number_is_told_with_so_many_decimals(tmp_path, expression, told):
    assert (
        page(tmp_path, f"it is {{{{ {expression} }}}}.\n", below=BELOW, above=ABOVE, across=ACROSS)
        == f"it is {told}.\n"
    )


def test_a_check_that_holds_leaves_no_trace(tmp_path):
    assert page(tmp_path, "a\n\n{% do check(below.high < 0) %}\nb\n", below=BELOW) == "a\n\nb\n"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ above | less }}", "0.081 [0.042, 0.119] does not lie below 0"),
        ("{{ across | less }}", "0.100 [-0.050, 0.250] does not lie below 0"),
        ("{{ across | more }}", "0.100 [-0.050, 0.250] does not lie above 0"),
        ("{% do check(across.high < 0) %}", "this does not hold"),
        ("{{ nothing }}", "'nothing' is undefined"),
        ("{{ across.nothing }}", "has no attribute 'nothing'"),
        ("{{ across | nothing }}", "No filter named 'nothing'"),
        ("{{ across", "expected token 'end of print statement'"),
    ],
)
def test_what_does_not_hold_or_is_not_there_is_one_line_that_names_its_place(tmp_path, template, why):
    with pytest.raises(UsageError, match=re.escape(why)) as refused:
        page(tmp_path, f"a\nb {template} c", above=ABOVE, across=ACROSS)
    assert str(refused.value).startswith(f"{tmp_path}/page.md.j2:2: ") and "\n" not in str(refused.value)
    assert f"b {template} c" in str(refused.value)


def test_the_command_writes_the_pages_and_says_which_changed(tmp_path, monkeypatch, capsys):
    for name in ("a.md", "b.md"):
        (tmp_path / f"{name}.j2").write_text("{{ number }}\n")
        (tmp_path / name).write_text("1\n")
    monkeypatch.setattr(readme, "TEMPLATES", tmp_path)
    monkeypatch.setattr(readme, "REPOSITORY", tmp_path)
    monkeypatch.setattr(sys, "argv", ["readme"])
    monkeypatch.setattr(readme, "values", lambda: {"number": 2})
    (tmp_path / "b.md.j2").write_text("{{ numbers }}\n")
    with pytest.raises(UsageError, match=r"b.md.j2:1: 'numbers' is undefined"):
        readme.main()
    assert (tmp_path / "a.md").read_text() == "1\n"
    (tmp_path / "b.md.j2").write_text("1\n")
    readme.main()
    assert (tmp_path / "a.md").read_text() == "2\n" and (tmp_path / "b.md").read_text() == "1\n"
    assert capsys.readouterr().out == f"written: {tmp_path}/a.md\nunchanged: {tmp_path}/b.md\n"
