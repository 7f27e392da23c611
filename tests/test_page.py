"""`peftbench report` and `--peft-html`: what a page is made of. How it behaves in a browser: test_browser.py."""

import json
import shutil
import subprocess

import pytest
from pages import HOSTILE, case_of, math, page_of, report, results, save
from support import LOHA_CASE, REPOSITORY, assert_usage_error, write_json

from pytest_peftbench.commands import main
from pytest_peftbench.report.html import rendered
from pytest_peftbench.report.html.model import Page, page_data
from pytest_peftbench.results.baseline import baseline_path, from_result, write
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.results.result import CaseId

REFERENCE = REPOSITORY.parent / "shared" / "peft-reference"
LOHA = "MetaMathQA-tiny-loha-rank8"
MORE_FLOPS = {"train_step.flops": 1_806_000_000}


@pytest.fixture
def folder(tmp_path):
    return results(tmp_path)


def place_of(data, metric):
    return str([item["name"] for item in data["metrics"]].index(metric))


# The command ----------------------------------------------------------------------------------------------------------


def test_a_page_tells_what_is_red_and_why_in_the_words_of_the_terminal(folder, capsys):
    data = page_of(report(folder, "--baselines", folder / "baselines"))
    loha = case_of(data, LOHA)

    assert data["red"] == 1
    assert "10 cases, 1 red" in capsys.readouterr().out
    assert loha["red"]
    assert "train_step.flops regressed: 1.204e9 -> 1.205e9 (+0.1 %, must be equal)" in loha["text"]
    assert "aten.mm  48 calls (+1 MFLOP) in LoHaLayer.forward" in loha["text"] or "LoHaLayer.forward" in loha["text"]
    assert loha["losses"] == {"obtained": [2.5, 2.26, 2.1], "expected": [2.5, 2.25, 2.0]}
    assert loha["tensors"] == [["[8, 8] float32 @ LoHaLayer.forward", 2, 512]]
    moved = {name: size for name, size in loha["witness"]["deviations"] if size > loha["witness"]["bound"]}
    assert list(moved) == ["losses"]
    assert [item["verdict"] for item in data["counts"]] == ["regressed", "identical"]


def test_without_baselines_nothing_is_compared_and_nothing_is_red(folder):
    data = page_of(report(folder, expected=0))

    assert {case["verdict"] for case in data["cases"]} == {"not compared"}
    assert data["red"] == 0


def test_without_a_page_the_table_is_printed(folder, capsys):
    assert main(["report", str(folder / "results"), "--baselines", str(folder / "baselines")]) == 1

    text = capsys.readouterr().out
    assert "loha-rank8" in text
    assert "10 cases: 9 identical, 1 regressed" in text


def test_directions_units_and_margins_are_those_of_the_catalogue(folder):
    data = page_of(report(folder, expected=0))

    for item in data["metrics"]:
        metric = METRICS[item["name"]]
        assert (item["unit"], item["direction"], item["what"]) == (metric.unit, metric.direction, metric.description)
    (group,) = (group for group in data["groups"] if group["label"] == "MetaMathQA · tiny")
    assert data["metrics"][group["gain"]]["name"] == "test_accuracy"
    assert data["metrics"][group["loss"]]["name"] == "forgetting"


def test_figures_have_the_range_of_their_seeds_and_what_can_be_detected(folder):
    data = page_of(report(folder, "--baselines", folder / "baselines"))
    accuracy = place_of(data, "test_accuracy")
    lora = case_of(data, "MetaMathQA-tiny-lora")

    assert lora["spread"][accuracy] == pytest.approx([0.498, 0.502, 3])
    assert lora["plus_minus"][accuracy] > 0


def test_margins_of_the_suite_hold(folder):
    suite = folder / "benchmarks" / "MetaMathQA" / "tiny"
    defaults = json.loads((REPOSITORY / "benchmarks/MetaMathQA/tiny/default_training_params.json").read_text())
    write_json(suite / "default_training_params.json", defaults)
    write_json(suite / "margins.json", {"test_accuracy": 0.4})
    write_json(suite / "experiments" / "oft" / "rank8" / "adapter_config.json", {"peft_type": "OFT"})
    worse = math("oft", 0.2, 0.05)
    save(folder / "results", worse)

    strict = page_of(report(folder, "--baselines", folder / "baselines"))
    lenient = page_of(report(folder, "--baselines", folder / "baselines", "--suites", folder / "benchmarks"))

    assert case_of(strict, "MetaMathQA-tiny-oft")["verdict"] == "regressed"
    assert case_of(lenient, "MetaMathQA-tiny-oft")["verdict"] == "within noise"


def test_each_picture_stands_in_a_page_once_and_the_halves_apart(folder):
    data = page_of(report(folder, expected=0))
    pictures = {case["method"]: case["pictures"] for case in data["cases"] if case["pictures"]}

    # the concept's, two of the base model, one of each method: each method draws one colour
    assert len(data["images"]) == 5
    assert {source.partition(";")[0] for source in data["images"]} == {"data:image/png"}
    assert [picture["group"] for picture in pictures["lora"]] == ["reference", "concept", "unrelated"]
    assert pictures["lora"][1]["images"][0] == pictures["loha"][1]["images"][0]
    assert pictures["lora"][1]["images"][1] != pictures["loha"][1]["images"][1]


def test_a_large_picture_is_made_smaller(tmp_path):
    from PIL import Image

    noise = Image.effect_noise((2048, 1024), 90)
    result = math("lora", 0.5, 0.1)
    noise.save(tmp_path / "strip.png")
    strip = (tmp_path / "strip.png").read_bytes()
    from pytest_peftbench.results.result import Picture

    result.pictures.append(Picture("lora--rank8/concept-01.png", "sks cat", 1, strip))
    save(tmp_path / "results", result)

    data = page_of(report(tmp_path, expected=0))

    assert len(strip) > 1_000_000
    assert sum(map(len, data["images"])) < 120_000
    assert all(source.startswith("data:image/webp;base64,") for source in data["images"])


def test_pictures_that_are_gone_or_broken_are_told_and_the_rest_is_shown(folder):
    pictures = folder / "results" / "image-gen" / "tiny" / "lora--rank8"
    (pictures / "concept-01.png").unlink()
    (pictures / "unrelated-01.png").write_bytes(b"no picture")

    data = page_of(report(folder))

    assert len(case_of(data, "image-gen-tiny-lora")["pictures"]) == 1
    assert "concept-01.png: picture of image-gen-tiny-lora-rank8 cannot be read: No such file" in data["problems"][0]
    assert "image-gen-tiny-lora-rank8: lora--rank8/unrelated-01.png: no picture" in data["problems"][1]


def test_a_picture_outside_of_the_results_folder_is_refused(folder):
    file = folder / "results" / "image-gen" / "tiny" / "lora--rank8.json"
    data = json.loads(file.read_text())
    data["peftbench"]["pictures"][0]["file"] = "../../../baselines/secret.png"
    write_json(file, data)

    assert "'..' cannot be part of a file name" in page_of(report(folder))["problems"][0]


def test_cases_that_could_not_be_judged_for_one_reason_are_one_row_and_need_no_look(folder):
    for method in ("oft", "ia3"):
        (folder / "baselines" / "MetaMathQA" / "tiny" / f"{method}--rank8.json").unlink()

    page = report(folder, "--baselines", folder / "baselines")
    data, text = page_of(page), page.read_text(encoding="utf-8")

    assert (data["red"], data["look"], data["unjudged"]["words"]) == (
        3,
        {"count": 1, "words": "1 regressed"},
        "2 no baseline",
    )
    assert [(row["verdict"], len(row["cases"])) for row in data["alike"]] == [("regressed", 1), ("no baseline", 2)]
    assert "2 of 10 could not be judged: 2 no baseline" in text
    assert "they count as red for the exit code" in text


def test_life_cycles_say_what_broke_and_why(folder):
    data = page_of(report(folder, expected=0))
    words = {
        data["laws"][law]["name"]: data["law_words"][word]["standing"]
        for law, word, _ in case_of(data, "life-cycle-structures-llama-lora")["laws"]
    }

    assert words == {"merge": "holds", "merge.safe": "refused", "save.load": "holds"}
    assert {law["group"] for law in data["laws"]} == {"merge", "save"}


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("cut.json", '{"peftbench": {"schema": 3, "cas', "cut.json: no valid JSON"),
        ("old.json", json.dumps({"peftbench": {"schema": 1}}), "peftbench.schema is 1, this version reads 3"),
        ("nan.json", '{"run_info": {"a": NaN}, "train_info": {}, "meta_info": {}}', "run_info.a is NaN or infinite"),
        ("zz.json", None, "is case MetaMathQA-tiny-lora-rank8 too; the first one counts"),
    ],
)
def test_what_cannot_be_read_is_worded_counted_and_the_rest_is_shown(folder, capsys, name, content, words):
    again = (folder / "results" / "MetaMathQA" / "tiny" / "lora--rank8.json").read_text()
    (folder / "results" / name).write_text(content or again)

    data = page_of(report(folder))

    assert len(data["cases"]) == 10
    assert words in data["problems"][0]
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [({"name": "x"}, "holds no result; 1 JSON file found"), ({"peftbench": {"schema": 1}}, "nothing could be read")],
)
def test_nothing_that_can_be_read_is_a_usage_error(tmp_path, capsys, content, words):
    write_json(tmp_path / "results" / "package.json", content)

    with pytest.raises(SystemExit) as stopped:
        main(["report", str(tmp_path / "results"), "--html", str(tmp_path / "page.html")])

    assert stopped.value.code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--baselines", "nowhere"], "nowhere: no such folder"),
        (["--html", "results"], "is a folder, expected a file"),
        (["--history"], "give --baselines and --html"),
        (["--baselines", "baselines", "--html", "page.html", "--history"], "--history: baselines: "),
        (["--commits", "0"], "expected an integer of at least 1"),
    ],
)
def test_options_that_cannot_be_used_are_usage_errors(folder, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(folder)

    with pytest.raises(SystemExit) as stopped:
        main(["report", "results", *arguments])

    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_a_case_that_failed_is_red_with_its_message(folder):
    save(folder / "results", math("lora", 0.5, 0.2, status="failed", error_msg="RuntimeError: shapes\nline 2"))

    data = page_of(report(folder))

    assert case_of(data, "MetaMathQA-tiny-lora")["text"] == "case failed: RuntimeError: shapes\n  line 2"


# The page itself ------------------------------------------------------------------------------------------------------


def test_text_of_files_is_shown_as_text(folder):
    failed = math("lora", 0.5, 0.2, status="failed", error_msg=HOSTILE, notes=[HOSTILE])
    save(folder / "results", failed)
    page = report(folder)
    text = page.read_text(encoding="utf-8")

    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=" in text  # the verdicts
    assert "\\u003cimg src=x" in text  # the data
    assert HOSTILE.strip() in case_of(page_of(page), "MetaMathQA-tiny-lora")["text"]


def test_a_page_allows_no_request_and_runs_nothing_but_its_own_scripts(folder):
    text = report(folder, expected=0).read_text(encoding="utf-8")
    (policy,) = [line for line in text.splitlines() if "Content-Security-Policy" in line]

    assert "default-src &#39;none&#39;" in policy or "default-src 'none'" in policy
    assert "img-src data:" in policy
    assert "unsafe-inline'" not in policy.partition("style-src")[0]
    assert text.count("<script>") == policy.count("sha256-")
    assert "@import" not in text
    assert 'src="' not in text
    assert "<link" not in text


def test_the_same_results_give_the_same_page(folder):
    first = report(folder, expected=0).read_bytes()

    assert report(folder, expected=0).read_bytes() == first


def test_the_licences_of_what_is_vendored_lie_beside_it():
    vendor = REPOSITORY / "pytest_peftbench" / "report" / "html" / "vendor"
    libraries = sorted(file.name.partition("-")[0] for file in vendor.glob("*.js"))

    assert libraries == ["d3", "plot"]
    for name in libraries:
        assert "Permission to use, copy, modify" in (vendor / f"{name}-LICENSE").read_text()


def test_a_page_without_any_case_says_so():
    data = page_data(Page("nothing", [], {}))

    assert data["cases"] == []
    assert "no case was measured" in rendered(data)


# History --------------------------------------------------------------------------------------------------------------


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_a_slow_creep_shows_over_the_commits_of_the_baselines(folder):
    git(folder, "init", "-q")
    case = CaseId("MetaMathQA", "tiny", "lora", "rank8")
    for other in (folder / "results").iterdir():
        if other.name != "MetaMathQA":
            shutil.rmtree(other)
    for name in ("ia3", "loha"):
        (folder / "results" / "MetaMathQA" / "tiny" / f"{name}--rank8.json").unlink()
    for step, peft in enumerate(("0.19.0", "0.20.0", "0.21.0")):
        result = math("lora", 0.5, 0.2 + 0.01 * step)
        result.environment["peft"] = peft
        result.metrics["params.total"] += step // 2
        write(from_result(result), baseline_path(folder / "baselines", case))
        git(folder, "add", "-A")
        git(folder, "commit", "-qm", f"PEFT {peft} <b>")
    write_json(folder / "baselines" / "MetaMathQA" / "tiny" / "oft--rank8.json", {"schema": 3})
    git(folder, "commit", "-qam", "damaged")

    past = page_of(report(folder, "--baselines", folder / "baselines", "--history"))["history"]

    (moved,) = (series for series in past["series"] if series["metric"]["name"] == "forgetting")
    assert [commit["peft"] for commit in past["commits"]] == ["0.19.0, 0.21", "0.20.0, 0.21", "0.21, 0.21.0", "0.21.0"]
    assert past["commits"][0]["subject"] == "PEFT 0.19.0 <b>"
    assert moved["case"] == str(case)
    assert [round(value, 3) for _, value, _ in moved["points"]] == [0.2, 0.21, 0.22, 0.22]
    assert {series["metric"]["name"] for series in past["series"]} == {"forgetting", "params.total"}
    assert any("1 state of baselines could not be read" in note for note in past["notes"])


# PEFT's published results ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REFERENCE.exists(), reason="PEFT's method_comparison is not beside the repository")
def test_pefts_published_results_are_shown_with_what_only_peft_publishes(tmp_path):
    page = tmp_path / "page.html"

    assert main(["report", str(REFERENCE), "--html", str(page)]) == 0

    data = page_of(page)
    assert len(data["cases"]) == 7
    assert {group["label"] for group in data["groups"]} == {
        "MetaMathQA · Llama-3.2-3B (published by PEFT)",
        "image-gen · FLUX.2-klein-base-4B (published by PEFT)",
    }
    lora = case_of(data, "MetaMathQA-Llama-3.2-3B-lora")
    assert lora["values"][place_of(data, "published.memory_max_bytes")] == 22_292_725_760
    assert lora["values"][place_of(data, "test_accuracy")] == pytest.approx(0.478393)
    (group,) = (group for group in data["groups"] if group["task"] == "MetaMathQA")
    assert data["metrics"][group["loss"]]["name"] == "published.forgetting"
    assert len(lora["course"]) == 21


# A session ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [(), ("-n", "2")])
def test_a_session_writes_its_page_with_xdist_too(bench, arguments):
    if arguments:
        pytest.importorskip("xdist")
    bench.record()
    bench.measures("loha", MORE_FLOPS)

    result = bench.run("--peft-html=out/page.html", *arguments)

    data = page_of(bench.path / "out" / "page.html")
    loha = case_of(data, LOHA_CASE)
    assert result.ret == 1
    assert "to look at: out/page.html" in result.stdout.str()
    assert data["red"] == 1
    assert "train_step.flops regressed" in loha["text"]
    assert loha["losses"] == {"obtained": [2.5, 2.25, 2.0], "expected": [2.5, 2.25, 2.0]}
    assert loha["nodeid"].endswith(f"[{LOHA_CASE}]")
    assert loha["wall_s"] >= 0
    (advice,) = data["advice"]
    assert advice["command"].endswith("--peft-update-baselines")
    assert f"{advice['words']}\n  {advice['command']}\n" in result.stdout.str()
    assert {case["verdict"] for case in data["cases"]} == {"identical", "regressed"}


def test_a_session_that_is_interrupted_writes_what_it_has(bench):
    bench.record()
    bench.write("test_then.py", "    import pytest\n\n    def test_then():\n        pytest.exit('enough')\n")

    bench.spawn("--peft-html=page.html", "test_mini.py", "test_then.py")  # in this process it would end these tests
    whole = page_of(bench.path / "page.html")
    bench.spawn("--peft-html=page.html", "test_then.py", "test_mini.py")
    nothing = page_of(bench.path / "page.html")

    assert len(whole["cases"]) == 3
    assert whole["problems"] == ["the run was interrupted"]
    assert nothing["cases"] == []
    assert any("3 selected cases never ran" in problem for problem in nothing["problems"])


def test_nan_and_what_was_skipped_are_told_on_the_page(bench):
    bench.record()
    bench.measures("loha", {"forgetting": float("nan"), "first_losses": [2.5, float("inf"), 2.0]})
    bench.write(
        "conftest.py",
        """
        import pytest

        def pytest_collection_modifyitems(items):
            items[0].add_marker(pytest.mark.skip("<i>no</i>"))
        """,
    )

    bench.run("--peft-html=page.html")

    data = page_of(bench.path / "page.html")
    assert "forgetting failed: is NaN" in case_of(data, LOHA_CASE)["text"]
    assert case_of(data, LOHA_CASE)["losses"]["obtained"] == [2.5, None, 2.0]
    assert any("1 case skipped" in note for note in data["notes"])


def test_a_page_that_cannot_be_written_is_refused_before_anything_runs(bench):
    (bench.path / "page.html").mkdir()

    assert_usage_error(bench.run("--peft-html=page.html"), "--peft-html", "is a folder, expected a file")
    assert not (bench.path / "baselines").exists()


def test_a_page_that_cannot_be_written_after_all_fails_the_run_in_words(bench):
    bench.record()
    bench.write(
        "conftest.py",
        """
        import pytest
        from pathlib import Path

        @pytest.fixture(scope="session", autouse=True)
        def late():
            yield
            Path("page.html").mkdir()
        """,
    )

    result = bench.run("--peft-html=page.html")

    assert result.ret == 1
    assert "the run fails: --peft-html" in result.stdout.str()


def test_a_run_that_only_collects_writes_no_page(bench):
    bench.run("--collect-only", "--peft-html=page.html")

    assert not (bench.path / "page.html").exists()
