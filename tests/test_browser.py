"""A page in a real browser, Chromium: sorts, filters, hover, pictures, no error of a script, no request to any host.

A machine without one skips; in CI, where the variable CI is set, that is a failure.
"""

import os
import re
import shutil
from dataclasses import replace

import pytest
from pages import HOSTILE, images, living, math, report, results, save

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync""".split()
# Most seconds that anything may take to appear; nothing is measured by it.
PATIENCE_MS = 20_000


def lacking(reason):
    """Skip, or fail where a browser must be there."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        lacking("playwright is not installed: pip install 'pytest-peftbench[dev]'")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        lacking("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=QUIET)
        yield started
        started.close()


class Opened:
    """A page that is open, with what its scripts said and what it asked the network for."""

    def __init__(self, page, file):
        self.page, self.said, self.requests = page, [], []
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-ready]")

    def text(self, selector):
        return self.page.locator(selector).inner_text()

    def column(self, number):
        return self.page.locator(f"#methods tbody tr > :nth-child({number})").all_inner_texts()

    def choose(self, section, label, option):
        self.page.locator(section).get_by_label(label, exact=True).select_option(label=option)

    def close(self):
        own = [url for url in self.requests if not url.startswith(("data:", "file:"))]
        self.page.close()
        assert self.said == []
        assert own == []


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The page of a run of each kind of case; HTML stands in a name, a message and a prompt."""
    folder = results(tmp_path_factory.mktemp("page"))
    save(folder / "results", images("ia3", "white", prompt=HOSTILE))
    failed = math("boft", 0.5, 0.2, status="failed", error_msg=HOSTILE, metrics={}, seeds=[])
    save(folder / "results", failed)
    return report(folder, "--baselines", folder / "baselines")


@pytest.fixture
def opened(browser, file):
    opened = Opened(browser.new_page(viewport={"width": 1280, "height": 900}), file)
    yield opened
    opened.close()


def test_a_page_opens_without_an_error_and_without_a_request(opened):
    assert opened.page.title().endswith("baselines")
    assert "torch 2.13.0" in opened.text("header")
    assert [url for url in opened.requests if url.startswith("file:")] == [opened.page.url]


def test_red_cases_come_first_with_words_losses_witness_and_tensors(opened):
    loha = opened.page.locator("details.red", has_text="MetaMathQA-tiny-loha-rank8")

    assert opened.text("#verdicts .headline").endswith("2 cases need a look: 1 failed, 1 regressed")
    assert "train_step.flops regressed" in loha.locator("pre").inner_text()
    assert loha.locator("figure svg path").count() >= 2
    assert "1 of 2 quantities of the witness are beyond its bound" in loha.inner_text()
    assert "[8, 8] float32 @ LoHaLayer.forward" not in loha.inner_text()  # the peak is not what moved
    loha.get_by_text("What is alive at the peak").click()
    assert "[8, 8] float32 @ LoHaLayer.forward" in loha.inner_text()


def test_the_two_questions_are_answered_at_the_top(opened):
    summary = opened.text("#summary")

    assert "Which method has the least forgetting at LoRA's accuracy?" in summary
    assert re.search(r"oft/rank8\s+0\.050 ±\S+\s+-0\.150\s+(too close to call\s+)?52\.0 % ±", summary)
    assert "lora/rank8" in opened.page.locator("#summary tr.reference").first.inner_text()
    assert "What fits 16 GiB?" in summary
    assert "1 of 2 methods, from 11.00 GiB (lora/rank32)" in summary
    opened.choose("#summary", "card", "48 GiB")
    assert "2 of 2 methods" in opened.text("#summary")


def test_another_reference_gives_another_answer(opened):
    card = opened.page.locator("#summary article", has_text="least forgetting")
    assert "ia3" not in card.locator("tbody").inner_text()

    card.get_by_label("as good as").select_option(label="ia3/rank8")

    assert card.locator("tbody tr").first.inner_text().split()[0] == "ia3/rank8"


def test_two_methods_stand_side_by_side_with_how_far_apart_they_are(opened):
    opened.choose("#pair", "method", "loha/rank8")
    rows = [row.locator("th, td").all_inner_texts() for row in opened.page.locator("#pair tbody tr").all()]
    cells = {name.splitlines()[0]: found for name, *found in rows}

    assert opened.page.locator("#pair thead").inner_text().split() == [
        "figure",
        "loha/rank8",
        "lora/rank8",
        "difference",
    ]
    assert cells["verdict"][:2] == ["▼ regressed", "✓ identical"]
    assert cells["accuracy"][2].split("\n") == ["0", "the same"]
    assert cells["forgetting (nats)"][2].split("\n") == ["-0.050", "better"]
    assert cells["step FLOP"][2].split("\n") == ["+0.1 %", "worse"]
    opened.choose("#pair", "against", "ia3/rank8")
    assert "+20.0 points\nbetter" in opened.text("#pair tbody")
    opened.choose("#pair", "against", "oft/rank8")
    assert "-2.0 points\ntoo close to call" in opened.text("#pair tbody")
    assert "train_loss" not in opened.text("#pair")
    opened.page.locator("#pair").get_by_label("all figures").check()
    assert "train_loss" in opened.text("#pair")


def test_two_life_cycles_are_compared_by_the_laws_on_which_they_differ(opened):
    opened.choose("#pair", "cases of", "life-cycle · structures · llama (2)")

    table = opened.text("#pair tbody")
    assert re.search(r"merge\s+broken: 0.25\s+holds\s+not alike", table)
    assert "save.load" not in table
    assert "1 check or law says the same of both" in opened.text("#pair")


def test_a_row_is_compared_with_another_and_a_choice_keeps_the_focus(opened):
    opened.page.locator("#methods").get_by_role("button", name="oft/rank8", exact=True).click()
    opened.page.get_by_role("button", name="compare with another method").click()

    focus = "document.activeElement.getAttribute('aria-label')"
    assert opened.page.locator("#pair thead").inner_text().split()[1:3] == ["oft/rank8", "lora/rank8"]
    assert opened.page.evaluate(focus) == "against"
    opened.page.keyboard.press("ArrowUp")
    assert opened.page.evaluate(focus) == "against"


def test_columns_sort_both_ways_the_best_first(opened):
    methods = opened.page.locator("#methods")
    methods.get_by_role("button", name="forgetting").click()
    assert opened.column(1)[:3] == ["ia3/rank8", "oft/rank8", "loha/rank8"]
    assert opened.column(1)[-1] == "boft/rank8"  # it failed, and has no figure

    methods.get_by_role("button", name="forgetting").click()
    assert opened.column(1)[0] == "lora/rank8"
    assert methods.locator("th[aria-sort=descending]").inner_text().startswith("forgetting")

    methods.get_by_role("button", name="accuracy").click()
    assert opened.column(1)[0] == "oft/rank8"  # higher is better


def test_rows_are_filtered_by_task_method_verdict_and_text(opened):
    opened.choose("#methods", "verdict", "regressed")
    assert opened.column(1) == ["loha/rank8"]

    opened.choose("#methods", "verdict", "all")
    opened.choose("#methods", "method", "ia3")
    assert opened.column(1) == ["ia3/rank8"]

    opened.choose("#methods", "cases of", "everything (12)")
    opened.page.locator("#methods input[type=search]").fill("footprint lora")
    assert opened.column(1) == ["footprint-MetaMathQA-llama-3.2-3B-lora-rank32"]
    assert "1 of 12 shown" in opened.text("#methods")
    opened.page.locator("#methods input[type=search]").fill("lora/rank8")
    assert opened.column(1)[0] == "MetaMathQA-tiny-lora-rank8"


def test_a_count_shows_its_cases_and_moves_the_focus_to_their_table(opened):
    opened.page.locator("#verdicts .counts").get_by_role("button", name="1 regressed").press("Enter")

    assert opened.column(1) == ["MetaMathQA-tiny-loha-rank8"]
    assert opened.page.evaluate("document.activeElement.className") == "cases"


def test_the_reader_chooses_columns_and_opens_a_row(opened):
    opened.page.locator("#methods .picker summary").click()
    opened.page.locator("#methods .columns").get_by_label("train_loss").check()
    assert "train_loss" in opened.text("#methods thead")

    opened.page.locator("#methods").get_by_role("button", name="lora/rank8", exact=True).press("Enter")
    detail = opened.text("#methods tr.detail")
    assert "trainable" in detail
    assert "torch 2.13.0" in detail


def test_numbers_stand_right_with_their_units(opened):
    cell = opened.page.locator("#methods tr[data-case*=lora] td.number").first

    assert cell.evaluate("cell => getComputedStyle(cell).textAlign") == "right"
    assert cell.inner_text().count("%") == 2  # the figure and what can be detected
    assert "nats" in opened.text("#methods thead")


def test_a_point_names_its_case_on_hover_and_goes_to_its_row_on_click(opened):
    place = opened.page.locator("#pareto")
    point = place.locator("a[*|href*='tiny-oft-rank8']").first
    point.hover()

    tip = place.locator("[aria-label=tip]").text_content()
    assert "oft/rank8" in tip
    assert "52.0 %" in tip

    point.click()
    row = opened.page.locator("#methods tr.here")
    assert row.get_attribute("data-case") == "MetaMathQA-tiny-oft-rank8"
    assert "MetaMathQA-tiny-oft-rank8" in opened.text("#methods tr.detail")


def test_the_front_holds_what_no_other_beats_in_both(opened):
    front = opened.page.locator("#pareto .front li")

    assert [line.partition(":")[0] for line in front.all_inner_texts()] == ["ia3/rank8", "oft/rank8"]
    opened.choose("#pareto", "right", "trainable")
    assert [line.partition(":")[0] for line in front.all_inner_texts()] == ["oft/rank8"]
    assert "lower is better" in opened.text("#pareto .plot")


def test_footprints_are_held_against_cards(opened):
    text = opened.text("#footprints")

    assert "memory of cards, GiB" in text
    assert "16" in opened.page.locator("#footprints .plot text").all_text_contents()
    assert re.search(r"16 GiB\s+1 of 2\s+only lora/rank32", text)
    assert re.search(r"8 GiB\s+0 of 2\s+none", text)
    assert re.search(r"48 GiB\s+2 of 2\s+all", text)
    assert all(name in text for name in ("weights", "optimizer", "activations"))


def test_the_gallery_shows_each_prompt_and_a_picture_large_beside_the_base_model(opened):
    gallery = opened.page.locator("#gallery")
    assert gallery.locator(".prompt").first.locator("h4").inner_text().startswith("What it should look like")
    names = gallery.locator(".prompt", has_text="sks cat — seed 1").locator(".tile span").all_inner_texts()
    assert names == ["base model", "loha/rank8", "lora/rank8"]

    gallery.locator(".prompt", has_text="sks cat — seed 1").locator(".tile").nth(1).click()
    dialog = opened.page.locator("dialog[open]")
    assert dialog.locator("figcaption").all_inner_texts() == ["base model", "loha/rank8"]
    opened.page.keyboard.press("ArrowRight")
    assert dialog.locator("figcaption").all_inner_texts() == ["base model", "lora/rank8"]
    opened.page.keyboard.press("Escape")
    assert opened.page.locator("dialog[open]").count() == 0

    opened.choose("#gallery", "order", "similarity, the best first")
    names = gallery.locator(".prompt", has_text="sks cat — seed 1").locator(".tile span").all_inner_texts()
    assert names == ["base model", "loha/rank8", "lora/rank8"]
    opened.choose("#gallery", "prompts", "Unrelated prompts")
    assert gallery.locator("h4").all_inner_texts() == ["a house — seed 2"]


def test_the_matrix_of_life_cycles_opens_on_its_cells(opened):
    opened.page.get_by_role("button", name="ia3, merge: broken somewhere").click()

    assert "ia3, merge: 0 of 1 laws hold" in opened.text("#laws")
    assert "broken: 0.25" in opened.text("#laws")
    assert opened.page.get_by_role("button", name="lora, merge: works or refused").count() == 1


def test_the_matrix_is_of_one_structure_where_one_is_chosen(browser, tmp_path):
    save(tmp_path / "results", living("lora", merge="holds"))
    conv = living("lora", merge="refused: ValueError")
    save(tmp_path / "results", replace(conv, case=replace(conv.case, base_model="conv2d")))
    opened = Opened(browser.new_page(), report(tmp_path, expected=0))

    assert opened.page.get_by_role("button", name="lora, merge: works or refused").count() == 1
    opened.choose("#laws", "on", "conv2d")
    assert opened.page.get_by_role("button", name="lora, merge: refused in words").count() == 1
    opened.close()


def test_html_in_names_messages_and_prompts_is_shown_as_text(opened):
    assert opened.page.locator("img[src=x]").count() == 0
    assert "</script><script>" in opened.text("#verdicts")
    assert any('<b>"bold"</b>' in title for title in opened.page.locator("#gallery h4").all_inner_texts())
    assert opened.page.title() not in ("1", "2")


def test_everything_is_reached_by_the_keyboard(opened):
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.className") == "skip"

    opened.page.locator("#pareto a[*|href*='tiny-oft-rank8']").first.focus()
    opened.page.keyboard.press("Enter")
    opened.page.wait_for_selector("#methods tr.here")
    assert opened.page.evaluate("document.activeElement.textContent") == "oft/rank8"


def test_dark_follows_the_system_and_the_button(browser, file):
    opened = Opened(browser.new_page(color_scheme="dark"), file)
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = opened.page.evaluate(ground)
    opened.page.locator("#theme").click()
    light = opened.page.evaluate(ground)
    opened.close()

    assert (dark, light) == ("rgb(21, 24, 28)", "rgb(255, 255, 255)")


@pytest.mark.parametrize("width", [360, 768])
def test_a_narrow_screen_scrolls_tables_and_never_the_page(browser, file, width):
    opened = Opened(browser.new_page(viewport={"width": width, "height": 800}), file)
    wide = opened.page.evaluate("document.documentElement.scrollWidth")
    opened.close()

    assert wide <= width


def test_a_printed_page_has_no_controls(browser, file):
    opened = Opened(browser.new_page(), file)
    opened.page.emulate_media(media="print")
    shown = opened.page.locator(".controls:visible, nav:visible").count()
    opened.close()

    assert shown == 0


def test_a_page_of_little_says_what_is_missing(browser, tmp_path):
    save(tmp_path / "results", math("lora", 0.5, 0.1))
    opened = Opened(browser.new_page(), report(tmp_path, expected=0))
    text = opened.page.inner_text("main")
    opened.close()

    for words in ("No pictures", "No life cycles", "No history", "footprints do", "nothing to answer with"):
        assert words in text


def test_a_history_is_drawn(browser, folder_of_history):
    opened = Opened(browser.new_page(), folder_of_history)
    opened.page.locator("#history [aria-label=dot] path").last.hover()
    tip = opened.page.locator("#history [aria-label=tip]").text_content()
    opened.close()

    assert "PEFT 0.21.0" in tip


@pytest.fixture
def folder_of_history(tmp_path):
    from pytest_peftbench.report.html import rendered
    from pytest_peftbench.report.html.model import Page, page_data

    commits = [
        {"short": name * 8, "date": "2026-01-01", "subject": "s", "peft": f"0.{name}.0"} for name in ("20", "21")
    ]
    metric = {"name": "forgetting", "unit": "nats", "direction": "lower"}
    series = [{"case": "a", "metric": metric, "change": "+0.1", "size": 1.0, "points": [[0, 0.1, "a"], [1, 0.2, "a"]]}]
    past = {"notes": ["2 commits"], "commits": commits, "series": series}
    (tmp_path / "page.html").write_text(rendered(page_data(Page("x", [], {}, history=past))), encoding="utf-8")
    return tmp_path / "page.html"


def test_curves_of_two_methods_are_drawn_and_another_one_can_be_chosen(browser, tmp_path):
    from pytest_peftbench.report.html import curves_page

    names, scores = (HOSTILE, "lora/r4", "loha/r4"), [{"value": at / 4, "low": 0.0, "high": 1.0} for at in (1, 2)]
    order = [
        {"name": name, "score": scores[0], "place": 1, "best": 1, "worst": 3, "first": 0.5, "swaps": None}
        for name in names
    ]
    field = {
        "of": "MetaMathQA tiny",
        "metric": "valid_accuracy",
        "trials": 2,
        "budgets": [1, 2],
        "curves": [{"name": name, "score": scores} for name in names],
        "standings": {"1": order, "2": order},
    }
    (tmp_path / "page.html").write_text(curves_page({"fields": [field], "problems": []}), encoding="utf-8")

    opened = Opened(browser.new_page(), tmp_path / "page.html")

    assert opened.page.locator(".plot [aria-label=area] path").count() == 2
    opened.choose("section", "against", "loha/r4")
    assert "loha/r4" in opened.page.locator(".plot svg").text_content()
    assert HOSTILE in opened.text("tbody")
    assert (opened.said, [url for url in opened.requests if not url.startswith("file:")]) == ([], [])
