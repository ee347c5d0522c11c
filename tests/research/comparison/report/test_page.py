"""The files of a report: what they show, and that they fetch nothing."""

import csv
import dataclasses
import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from research.comparison import findings, jobs, outcomes, results
from research.comparison.report import build as report
from research.comparison.report.figures import style
from tests.research.comparison import fixtures

VOID = {"meta", "link", "br", "img", "hr", "input"}  # tags that do not close
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class Page(html.parser.HTMLParser):
    """Collects what a browser would fetch, and checks that tags close."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.fetched, self.ids, self.tags = [], [], [], []
        self.words = ""
        self.feed(text)

    def handle_data(self, data):
        self.words += data

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self.stack.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        for name in ("src", "href", "xlink:href", "data", "action"):
            value = attributes.get(name) or ""
            if not value.startswith(("#", "data:")) and value:
                self.fetched.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A finished comparison with everything: points, tuning, three arms and seeds."""
    workdir = tmp_path_factory.mktemp("full")
    config = fixtures.comparison(
        **{
            "points": (0.5, 1.0),
            "tuning.learning_rates": (1e-4, 1e-3),
            "tuning.seeds": (9,),
        }
    )
    config.evaluations.second = (
        config.evaluations.acceptability.copy_and_resolve_references()
    )
    parsed = fixtures.config_lib.parse(config)
    fixtures.fill(workdir, parsed)
    report.build(workdir)
    return workdir


def test_the_page_is_whole_and_fetches_nothing(full):
    page = Page((full / "report.html").read_text())
    assert page.stack == []
    assert page.fetched == []
    assert "script" not in page.tags and "img" not in page.tags
    assert len(page.ids) == len(set(page.ids))


def test_every_figure_is_there_in_both_formats(full):
    page = (full / "report.html").read_text()
    shown = set(re.findall(r'id="([a-z_0-9]+)-0"', page))
    names = {path.stem for path in (full / "figures").glob("*.svg")}
    assert names == shown == {path.stem for path in (full / "figures").glob("*.png")}
    assert names == {
        "loss_curves",
        "scores_acceptability",
        "scores_second",
        "budget_acceptability",
        "budget_second",
    }
    assert page.count("<figcaption>") == len(names)


def test_a_section_that_fails_does_not_cost_the_others(full, tmp_path, monkeypatch):
    shutil.copytree(full, tmp_path / "w")

    def broken(*_):
        raise RuntimeError("<i>no ink</i>")

    sections = [broken if s is report.costs.costs else s for s in report.SECTIONS]
    monkeypatch.setattr(report, "SECTIONS", sections)
    monkeypatch.setattr(report.scores.curves, "losses", broken)
    report.build(tmp_path / "w")
    page = Page((tmp_path / "w" / "report.html").read_text())
    assert page.words.count("RuntimeError: <i>no ink</i>") == 2
    assert "The figure loss_curves could not be made" in page.words
    assert "Verdict" in page.words and "Appendix" in page.words


def test_the_report_names_arms_differences_and_commits(full):
    text = (full / "report.md").read_text()
    for label, _ in fixtures.ARMS.values():
        assert label in text
    assert "`objective.masked_lm.noise_density`" in text
    assert "random initialisation of Masked LM" in text
    assert "0123abc" in text
    assert "Incomplete" not in text


def test_the_csv_has_every_number(full):
    with (full / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    scores = [r for r in rows if r["kind"] == "score" and r["arm"] == "masked_lm"]
    accuracies = [r for r in scores if r["metric"] == "acceptability/accuracy"]
    assert len(accuracies) == 3 * 2  # seeds, points
    assert {r["seed"] for r in rows if r["kind"] == "trial"} == {"9"}
    assert any(r["metric"] == "acceptability/first_paradigm" for r in rows)
    losses = [r for r in rows if r["kind"] == "run" and r["metric"] == "heldout_loss"]
    assert len(losses) == 9


def test_findings_are_plain(full):
    """JSON holds all of them."""
    found = findings.find(results.load(full))
    plain = json.loads(json.dumps(dataclasses.asdict(found)))
    assert plain["verdicts"][0]["compared"]["mean"] == found.verdicts[0].compared.mean
    assert len(plain["scores"]) == 2 * 3 * 3  # metrics, arms, points and floor
    assert plain["arms"]["masked_lm"]["curves"][0]["heldout"]


def test_rebuilding_gives_the_same_files(full):
    names = ("report.html", "report.md", "results.csv")
    before = [(full / name).read_bytes() for name in names]
    report.build(full)
    assert before == [(full / name).read_bytes() for name in names]


def test_losses_that_are_not_finite_do_not_hide_the_others(tmp_path):
    config = fixtures.parsed()
    fixtures.save_config(tmp_path, config)
    folder = tmp_path / jobs.run_folder("causal_lm", 0)
    folder.mkdir(parents=True)
    lines = (
        '{"step": 1, "split": "eval", "loss": 6.5}\n'
        '{"step": 2, "split": "eval", "loss": null}\n'
    )
    (folder / results.METRICS).write_text(lines)
    (curve,) = report.build(tmp_path).arms["causal_lm"].curves
    np.testing.assert_array_equal(curve.heldout, [6.5, np.nan])


def test_running_runs_show_their_curves(tmp_path):
    config = fixtures.parsed()
    fixtures.save_config(tmp_path, config)
    folder = tmp_path / jobs.run_folder("causal_lm", 0)
    folder.mkdir(parents=True)
    lines = '{"step": 1, "split": "eval", "loss": 6.5}\n{"step": 2, "split": "ev'
    (folder / results.METRICS).write_text(lines)
    found = report.build(tmp_path)
    (run,) = [
        run for run in found.runs if run.job.folder.startswith("runs/causal_lm/seed-0")
    ]
    assert run.state == "unfinished" and run.heldout.losses == (6.5,)
    assert (tmp_path / "figures" / "loss_curves.svg").exists()


def test_what_configs_and_errors_say_is_shown_as_it_is(tmp_path):
    label = "A*B* _c_ | `d` <i>e</i> &lt; [f](http://f.invalid) $\\frac{$ [/g] \\"
    error = "![g](http://g.invalid) <img src=http://h.invalid> **h**\n# i"
    config = fixtures.comparison()
    config.arms.masked_lm.label = config.title = label
    config = fixtures.config_lib.parse(config)
    fixtures.fill(tmp_path, config)
    for path in tmp_path.glob("evaluations/**/done.json"):
        values = outcomes.read(path)
        values["result"]["metrics"]["accuracy"] |= {
            "label": error,
            "floor_label": error,
        }
        outcomes.write(path, values)
    broken = tmp_path / jobs.run_folder("masked_lm", 1)
    (broken / outcomes.DONE).unlink()
    for _ in range(outcomes.MAX_ATTEMPTS):
        outcomes.write_failure(broken, RuntimeError(error))
    report.build(tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert page.stack == [] and page.fetched == [] and "img" not in page.tags
    assert page.words.count(label) >= 10
    assert "RuntimeError: " + error.replace("\n", " ") in page.words
    assert "could not be made" not in page.words
    assert not re.search(r"<(i|img)\b", (tmp_path / "report.md").read_text())


def test_no_cell_of_the_csv_is_a_formula(full):
    found = findings.find(results.load(full))
    record = dataclasses.replace(found.records[0], arm="=cmd|' /C calc'!A0")
    found = dataclasses.replace(found, records=(record,), runs=())
    row = report.record.as_csv(found)[1]
    assert row[1] == "'=cmd|' /C calc'!A0"


def test_looks_differ_in_colour_and_shape_for_eight_arms():
    styles = style.arm_styles({str(i): str(i) for i in range(8)}).values()
    assert len({look.colour for look in styles}) == 8
    assert len({look.marker for look in styles}) == 8


def browse(page, log):
    """Opens a page in a browser: (what it did, network addresses the page asked for)."""
    found = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            "--v=0",
            f"--log-net-log={log}",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert found.returncode == 0
    # What the browser asks for itself, such as its updates, is of no origin.
    asked = re.findall(r'"initiator":"([^"]+)".*?"url":"([^"]+)"', log.read_text())
    return found, {
        url
        for initiator, url in asked
        if initiator != "not an origin" and not url.startswith(("file:", "data:"))
    }


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page in")
def test_a_browser_opens_it_without_errors_or_requests(full, tmp_path):
    found, requested = browse(full / "report.html", tmp_path / "net.json")
    assert "Loss curves" in found.stdout
    assert "CONSOLE" not in found.stderr
    assert requested == set()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page in")
def test_a_request_for_a_font_or_a_style_is_seen(tmp_path):
    """Or the test above would show nothing."""
    page = tmp_path / "page.html"
    page.write_text(
        '<link rel="stylesheet" href="https://cdn.invalid/style.css"><style>@font-face'
        "{font-family: F; src: url(http://fonts.invalid/f.woff)} p {font-family: F}"
        '</style><p>Text</p><script>new WebSocket("ws://live.invalid/")</script>'
    )
    _, requested = browse(page, tmp_path / "net.json")
    assert requested == {
        "https://cdn.invalid/style.css",
        "http://fonts.invalid/f.woff",
        "ws://live.invalid/",
    }
