"""The report in a real Chromium: no complaint, no request, the figures of the JSON, by mouse, keyboard and on paper."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, complaints, open_page, requests
from histories import History, good
from reports import THRESHOLDS, leave
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from provision import saved
from provision.load.results import Sample

pytestmark = pytest.mark.browser
CHARTS = ("distribution", "over-time", "throughput", "vus", "rounds", "broken")


def broken() -> History:
    """Twenty rounds that held and three that broke, an error among the scans, a reply that looks like markup."""
    history = good()
    for ticket in range(70, 73):
        history.race(ticket, ["admitted", "busy", "admitted", "already_used"])
        history.store(ticket)
    history.ask("error", 73, status=500, ms=40)
    history.samples.append(Sample("error", 500, "</script><img src=x onerror=alert(1)>", 1))
    return history


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a good run, of a broken one and of one that measured nothing, each with its report."""
    root = tmp_path_factory.mktemp("runs")
    folders = {}
    for name, history in (("good", good()), ("broken", broken()), ("empty", History())):
        folder = leave(history, root / name)
        saved.save(saved.load(folder), folder, files={})
        folders[name] = folder.path
    return folders


def _summary(folder: Path) -> Any:
    return json.loads((folder / "summary.json").read_text())


def _drawn(browser: WebDriver) -> dict[str, int]:
    """How many shapes each visible chart has."""
    script = """return Object.fromEntries([...document.querySelectorAll("figure:not([hidden])")].map(figure =>
        [figure.id, figure.querySelectorAll(".plot svg :is(path, rect, circle, line)").length]))"""
    found: dict[str, int] = browser.execute_script(script)
    return found


@pytest.mark.parametrize("width", [1100, 390])
@pytest.mark.parametrize("name", ["good", "broken", "empty"])
def test_it_renders_without_a_complaint_or_a_request(
    browser: WebDriver, pages: dict[str, Path], name: str, width: int
) -> None:
    page = pages[name] / "report.html"
    open_page(browser, page, width)
    assert complaints(browser) == []
    assert [url for url in requests(browser) if not url.startswith("data:,")] == [page.as_uri()]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    drawn = _drawn(browser)
    expected = {"good": CHARTS[:-1], "broken": CHARTS, "empty": ()}[name]
    assert set(drawn) == set(expected)
    assert all(shapes > 3 for shapes in drawn.values()), drawn


def test_a_complaint_and_a_request_would_have_been_seen(browser: WebDriver, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text('<img src="http://127.0.0.1:9/x.png"><script>console.error("planted"); nothing.there</script>')
    open_page(browser, page)
    said = " ".join(complaints(browser))
    assert "planted" in said
    assert "nothing is not defined" in said
    assert "http://127.0.0.1:9/x.png" in requests(browser)


def _look_up(value: Any, path: str) -> Any:
    """A value of the JSON by its keys; a metric's name may hold what looks like a separator."""
    for step in path.split("/"):
        value = value[step]
    return value


@pytest.mark.parametrize("name", ["good", "broken"])
def test_the_figures_are_those_of_the_json(browser: WebDriver, pages: dict[str, Path], name: str) -> None:
    open_page(browser, pages[name] / "report.html")
    summary = _summary(pages[name])
    figures = browser.execute_script("""return [...document.querySelectorAll("data[data-of]")].map(
        one => [one.dataset.of, one.value, one.textContent])""")
    assert len(figures) >= 20
    paths = {path for path, _, _ in figures}
    for metric, expressions in THRESHOLDS.items():
        assert {f"metrics/{metric}/thresholds/{one}/value" for one in expressions} <= paths
    for path, value, text in figures:
        expected = _look_up(summary, path)
        assert float(value) == pytest.approx(expected, rel=1e-9), path
        shown = float(text.replace(",", "")) / (
            100 if path in {"generator/cpu", "metrics/scan_errors/values/rate"} else 1
        )
        assert shown == pytest.approx(expected, rel=0.01, abs=0.005), path
    assert browser.find_element(By.TAG_NAME, "h1").text == summary["verdict"]["sentence"]
    assert summary["verdict"]["status"] in browser.find_element(By.CSS_SELECTOR, ".verdict .badge").text
    embedded = browser.execute_script("return JSON.parse(document.getElementById('summary').textContent)")
    assert embedded == summary


def test_the_charts_draw_the_counts_of_the_json(browser: WebDriver, pages: dict[str, Path]) -> None:
    open_page(browser, pages["broken"] / "report.html")
    outcomes = _summary(pages["broken"])["outcomes"]
    series = browser.execute_script("return JSON.parse(document.getElementById('series').textContent)")
    binned = {
        (row["scenario"], row["outcome"]): sum(count for *_, count in row["bins"]) for row in series["distribution"]
    }
    assert binned == {(name, outcome): count for name, counts in outcomes.items() for outcome, count in counts.items()}
    rects = browser.execute_script("return document.querySelectorAll('#distribution .plot rect').length")
    assert rects == sum(len(row["bins"]) for row in series["distribution"])
    assert browser.execute_script("return document.querySelectorAll('#rounds .plot circle').length") == 23


def test_each_chart_has_its_numbers_in_a_table(browser: WebDriver, pages: dict[str, Path]) -> None:
    open_page(browser, pages["broken"] / "report.html")
    for name in CHARTS:
        figure = browser.find_element(By.ID, name)
        title = figure.find_element(By.TAG_NAME, "h3")
        assert figure.get_attribute("aria-labelledby") == title.get_attribute("id")
        assert figure.find_element(By.CSS_SELECTOR, "svg").get_attribute("aria-label")
        figure.find_element(By.CSS_SELECTOR, ".numbers summary").send_keys(Keys.ENTER)
        WebDriverWait(browser, 5).until(lambda _, one=figure: one.find_elements(By.CSS_SELECTOR, ".numbers td"))
    rounds = browser.find_elements(By.CSS_SELECTOR, "#rounds .numbers tbody tr")
    assert len(rounds) == 23
    assert "1, 3" in rounds[-1].text


def test_outcomes_and_scenarios_are_hidden_and_shown_by_keyboard(browser: WebDriver, pages: dict[str, Path]) -> None:
    open_page(browser, pages["good"] / "report.html")
    before = _drawn(browser)
    for group, chart in (("outcomes", "distribution"), ("scenarios", "over-time")):
        button = browser.find_element(By.CSS_SELECTOR, f"#{group} button")
        button.send_keys(Keys.SPACE)
        assert button.get_attribute("aria-pressed") == "false"
        assert _drawn(browser)[chart] < before[chart]
        button.send_keys(Keys.SPACE)
    assert _drawn(browser) == before
    assert complaints(browser) == []


def test_a_broken_round_is_chosen_and_drawn(browser: WebDriver, pages: dict[str, Path]) -> None:
    open_page(browser, pages["broken"] / "report.html")
    assert "ticket-70" in browser.find_element(By.CSS_SELECTOR, "#broken .plot").text
    Select(browser.find_element(By.ID, "round")).select_by_index(2)
    plot = browser.find_element(By.CSS_SELECTOR, "#broken .plot")
    assert "ticket-72" in plot.text
    assert [f"gate-{gate}" in plot.text for gate in (1, 2, 3, 4)] == [True] * 4


def _colours(browser: WebDriver) -> list[list[int]]:
    script = """const style = getComputedStyle(document.body);
        return [style.backgroundColor, style.color].map(colour => colour.match(/[0-9]+/g).slice(0, 3).map(Number))"""
    found: list[list[int]] = browser.execute_script(script)
    return found


def _luminance(rgb: list[int]) -> float:
    """Relative luminance (WCAG 2.2)."""
    red, green, blue = (c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _scheme(browser: WebDriver, scheme: str, media: str = "") -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def test_it_follows_the_system_into_the_dark_and_a_button_overrules_it(
    browser: WebDriver, pages: dict[str, Path]
) -> None:
    open_page(browser, pages["good"] / "report.html")
    light = _luminance(_colours(browser)[0])
    _scheme(browser, "dark")
    dark = _luminance(_colours(browser)[0])
    assert (light > 0.9, dark < 0.05) == (True, True)
    button = browser.find_element(By.ID, "theme")
    button.send_keys(Keys.ENTER)
    assert (button.text, _luminance(_colours(browser)[0]) > 0.9) == ("Theme: light", True)
    button.send_keys(Keys.ENTER)
    _scheme(browser, "light")
    assert (button.text, _luminance(_colours(browser)[0]) < 0.05) == ("Theme: dark", True)
    _scheme(browser, "light", "print")
    assert _luminance(_colours(browser)[0]) > 0.9
    _scheme(browser, "light")


def test_every_word_stands_out_from_its_ground_in_both_schemes(browser: WebDriver, pages: dict[str, Path]) -> None:
    """WCAG 2.2, 1.4.3: a contrast of 4.5 to 1."""
    script = """
      const rgb = colour => colour.match(/[0-9.]+/g).map(Number);
      const ground = one => { for (; one; one = one.parentElement) {
        const found = rgb(getComputedStyle(one).backgroundColor);
        if (found.length < 4 || found[3] > 0) return found.slice(0, 3); } };
      const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
      const found = [];
      while (words.nextNode()) { const one = words.currentNode.parentElement;
        if (!words.currentNode.textContent.trim() || one.closest("script, svg, .skip") || !one.offsetParent) continue;
        const text = words.currentNode.textContent.trim().slice(0, 40);
        found.push([text, rgb(getComputedStyle(one).color).slice(0, 3), ground(one)]); }
      return found;"""
    for scheme in ("light", "dark"):
        open_page(browser, pages["broken"] / "report.html")
        _scheme(browser, scheme)
        words = browser.execute_script(script)
        assert len(words) > 100
        for text, colour, ground in words:
            bright, dim = sorted((_luminance(colour), _luminance(ground)), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (scheme, text, colour, ground)
    _scheme(browser, "light")


def test_the_keyboard_reaches_the_verdict_and_everything_that_can_be_used(
    browser: WebDriver, pages: dict[str, Path]
) -> None:
    open_page(browser, pages["broken"] / "report.html")
    wanted = set(
        browser.execute_script("""return [...document.querySelectorAll("a, button, select, summary")]
        .filter(one => one.offsetParent).map((one, number) => one.dataset.reached = String(number))""")
    )
    assert len(wanted) > 12
    reached = set()
    for step in range(200):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        name, text = browser.execute_script(
            "const one = document.activeElement; return [one.dataset.reached ?? '', one.textContent]"
        )
        if step == 0:
            assert text == "Skip to the verdict"
        reached.add(name)
    assert wanted <= reached


def test_it_prints(browser: WebDriver, pages: dict[str, Path]) -> None:
    open_page(browser, pages["broken"] / "report.html")
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})["data"])
    assert pdf.startswith(b"%PDF")
    assert 2 <= pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") <= 12


def test_without_scripts_the_tables_are_still_there(browser: WebDriver, pages: dict[str, Path]) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get((pages["broken"] / "report.html").as_uri())
        assert "ticket-70" in browser.find_element(By.TAG_NAME, "h1").text
        assert "p(95)<200" in browser.find_element(By.TAG_NAME, "main").text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
