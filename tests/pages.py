"""What the tests of a page share: small results with all that a page shows, and what a page holds."""

import io
import json
import re

from support import make_result, write_json

from pytest_peftbench.commands import main
from pytest_peftbench.compare.noise import with_noise
from pytest_peftbench.results.baseline import baseline_path, from_result, write
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.results.result import CaseId, Picture, Witness

# Text that a page must show as it is.
HOSTILE = '<img src=x onerror="document.title=1"><b>"bold"</b></script><script>document.title=2</script> & \u2028'
GIB = 2**30
PARTS = ("weights", "gradients", "optimizer", "activations", "temporary")


def page_of(file):
    """The data in a page's file."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', file.read_text(encoding="utf-8"))
    return json.loads(text)


def case_of(data, name):
    """The one case of a page's data whose id begins with a name."""
    (found,) = (case for case in data["cases"] if case["id"].startswith(name))
    return found


def png(left, right=None):
    """A strip of two small pictures of one colour each, or one picture."""
    from PIL import Image

    strip = Image.new("RGB", (8 if right is None else 16, 8), left)
    if right is not None:
        strip.paste(right, (8, 0, 16, 8))
    file = io.BytesIO()
    strip.save(file, "PNG")
    return file.getvalue()


def save(folder, result):
    """Write a result as `--peft-json` does, its pictures beside it."""
    file = result.case.file(folder)
    write_json(file, result.to_json())
    for picture in result.pictures:
        (file.parent / picture.name).parent.mkdir(exist_ok=True)
        (file.parent / picture.name).write_bytes(picture.png)
    return file


def math(method, accuracy, forgetting, **fields):
    """A trained case of math reasoning; seeds differ by a little."""
    result = make_result(CaseId("MetaMathQA", "tiny", method, "rank8"))
    for run in result.seeds:
        shift = 0.002 * (run.seed - 1)
        run.metrics.update({"test_accuracy": accuracy + shift, "forgetting": forgetting + shift})
    result.metrics["params.trainable"] = 1000 + len(method)
    for name, value in fields.items():
        object.__setattr__(result, name, value)
    return result


def footprint(method, gib):
    """A footprint whose parts add up to so many GiB."""
    result = make_result(CaseId("MetaMathQA", "llama-3.2-3B", method, "rank32", "footprint"))
    result.seeds.clear()
    sizes = dict.fromkeys(PARTS, int(gib * GIB) // 8)
    sizes["weights"] = int(gib * GIB) - sum(size for part, size in sizes.items() if part != "weights")
    result.metrics.clear()
    result.metrics["train_step.peak_bytes"] = int(gib * GIB)
    result.metrics.update({f"train_step.peak_{part}_bytes": size for part, size in sizes.items()})
    result.operators.clear()
    return result


def images(method, colour, prompt="sks cat", similarity=0.75):
    """A trained case of image generation with a picture of each kind."""
    result = make_result(CaseId("image-gen", "tiny", method, "rank8"))
    for run in result.seeds:
        del run.metrics["test_accuracy"], run.metrics["forgetting"]
        run.metrics.update({"test_dino_similarity": similarity + 0.001 * run.seed, "drift": 0.1 + 0.001 * run.seed})
    folder = result.case.stem
    result.pictures.extend(
        [
            Picture(f"{folder}/reference-01.png", prompt, 0, png("yellow")),
            Picture(f"{folder}/concept-01.png", prompt, 1, png("blue", colour)),
            Picture(f"{folder}/unrelated-01.png", "a house", 2, png("green", colour)),
        ]
    )
    return result


def living(method, **laws):
    """A life cycle with these laws."""
    result = make_result(CaseId("structures", "llama", method, "default", "life-cycle"))
    result.seeds.clear()
    result.operators.clear()
    result.metrics.clear()
    result.metrics.update({f"law.{name.replace('__', '.')}": word for name, word in laws.items()})
    return result


# Two quantities of a witness, and the same after something changed.
QUANTITIES = {"start": [1.0], "losses": [2.0, 3.0]}
MOVED = {"start": [1.0], "losses": [2.0, 3.1]}


def results(folder):
    """A run of each kind of case, and its baselines; one case is red: LoHa counts more, and its losses moved."""
    measured = [
        math("lora", 0.5, 0.2, witness=Witness(QUANTITIES)),
        math("ia3", 0.3, 0.01),
        math("oft", 0.52, 0.05),
        footprint("lora", 11.0),
        footprint("full-finetuning", 30.0),
        images("lora", "red"),
        images("loha", "black"),
        living("lora", merge="holds", merge__safe="refused: ValueError", save__load="holds"),
        living("ia3", merge="broken: 0.25", save__load="holds"),
    ]
    for result in [*measured, math("loha", 0.5, 0.15, witness=Witness(QUANTITIES, bound=1e-9))]:
        if result.witness is not None:
            object.__setattr__(result, "witness", Witness(QUANTITIES, bound=1e-9))
        write(with_noise(from_result(result), (), METRICS), baseline_path(folder / "baselines", result.case))
        save(folder / "results", result)
    red = math("loha", 0.5, 0.15, witness=Witness(MOVED))
    red.metrics["train_step.flops"] += 1_000_000
    red.operators["train_step"]["aten.mm @ LoHaLayer.forward"] = [48, 2_000_000]
    red.seeds[0].metrics["first_losses"] = [2.5, 2.26, 2.1]
    red.peak_tensors["train_step"] = {"[8, 8] float32 @ LoHaLayer.forward": [2, 512]}
    save(folder / "results", red)
    return folder


def report(folder, *arguments, expected=1):
    """Run `peftbench report` on the folder's results and give the page's file."""
    page = folder / "page.html"
    assert main(["report", str(folder / "results"), "--html", str(page), *map(str, arguments)]) == expected
    return page
