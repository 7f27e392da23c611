"""The life cycle: each law can fail, its words are compared, and what PEFT breaks is listed from the baselines."""

import shutil
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
from reproduce import broken_laws, reproduces, shown_by
from support import REPOSITORY, output, skip_under_an_older_peft, write_json

from pytest_peftbench import commands as cli
from pytest_peftbench.cases.life_cycle.asking import story
from pytest_peftbench.commands.laws.scripts import script
from pytest_peftbench.commands.laws.templates import LAWS as TEMPLATES
from pytest_peftbench.commands.selftest.faults import LIFE_CYCLE
from pytest_peftbench.commands.selftest.patching import Edit, patched
from pytest_peftbench.compare import GREEN_BY_DEFAULT, compare
from pytest_peftbench.compare.laws import law
from pytest_peftbench.measure import environment
from pytest_peftbench.results.baseline import baseline_path, read
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.kept import kept_path
from pytest_peftbench.results.laws import broken, is_count, standing
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.suites import peft_types, read_suite
from pytest_peftbench.tasks.structures.causes import CAUSES
from pytest_peftbench.tasks.structures.experiments import METHODS
from pytest_peftbench.tasks.structures.laws import LAWS
from pytest_peftbench.tasks.structures.operations import OPERATIONS, counts
from pytest_peftbench.tasks.structures.shapes import STRUCTURES

skip_under_an_older_peft()

BASELINES = REPOSITORY / "baselines"
LORA = "peft.tuners.lora.layer:Linear"
LAYER = "peft.tuners.tuners_utils:BaseTunerLayer"


@pytest.fixture(autouse=True)
def read_once(monkeypatch):
    """The baselines of the repository, which the command reads anew each time."""
    monkeypatch.setattr(cli.laws, "cells", READ_ONCE)


READ_ONCE = cache(cli.laws.cells)


@cache
def suite(structure):
    found = read_suite(REPOSITORY / "benchmarks" / "structures" / structure)
    return {experiment.case.experiment: experiment for experiment in found}


def case(place):
    """The experiment of `llama/lora/default`, and its baseline."""
    structure, name = place.split("/", 1)
    experiment = suite(structure)[name]
    life = replace(experiment.case, kind="life-cycle")
    experiment = replace(experiment, case=life, kept=kept_path(BASELINES, life))
    return experiment, read(baseline_path(BASELINES, experiment.case))


def findings(place, *edits):
    """What a case is told that differs from its baseline, by metric, while PEFT is edited."""
    from pytest_peftbench.cases.life_cycle.run import live_through

    experiment, baseline = case(place)
    with patched(edits):
        verdict = compare(live_through(experiment), baseline, METRICS, tests=1)
    return {finding.subject: finding for finding in verdict.findings if finding.verdict != "identical"}


# The matrix -----------------------------------------------------------------------------------------------------------


def test_every_method_of_peft_has_a_place():
    assert {*METHODS, "XLORA"} == peft_types()


def test_every_structure_has_its_suite_and_each_of_its_cases_a_baseline():
    suites = {path.parent.name for path in REPOSITORY.glob("benchmarks/structures/*/default_training_params.json")}
    lacking = [
        str(experiment.case)
        for structure in STRUCTURES
        for experiment in suite(structure).values()
        if not baseline_path(BASELINES, replace(experiment.case, kind="life-cycle")).exists()
    ]

    assert suites == STRUCTURES.keys()
    assert lacking == []


def test_the_baselines_stay_small():
    files = [path for path in (BASELINES / "life-cycle").rglob("*") if path.is_file()]

    assert sum(file.stat().st_size for file in files) < 3_000_000


def test_every_law_is_asked_and_holds_somewhere():
    from pytest_peftbench.cases.life_cycle.stories import ON_QUANTISED, RUNNING, STORIES

    held = {cell.law for cell in cli.laws.cells(BASELINES) if cell.word == "holds"}

    assert {law for story in (*STORIES, *RUNNING, *ON_QUANTISED) for law in story.laws} == LAWS.keys()
    assert held == LAWS.keys()


@pytest.mark.parametrize(
    "place", ["llama1/lora/rslora", "conv2d/ia3/default", "opt/road/default", "llama/ptuning/default"]
)
def test_a_case_is_as_it_was_recorded(place):
    assert findings(place) == {}


def test_a_suite_of_a_structure_that_there_is_not_is_refused(tmp_path):
    suite = tmp_path / "structures" / "mamba"
    suite.mkdir(parents=True)
    (suite / "default_training_params.json").write_text('{"model_id": "mamba"}')

    with pytest.raises(
        InputError, match=r"default_training_params.json: model_id: 'mamba' is no structure; there are "
    ):
        read_suite(suite)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"dtype": "int8"}, "dtype: 'int8' is not what structure 'llama' is of, float32, float16, bfloat16"),
        ({"model_id": "llama-bnb8"}, "dtype: 'float32' is not what structure 'llama-bnb8' is of, int8"),
        ({"model_id": "llama-bnb8", "dtype": "int4"}, "dtype: 'int4' is not what structure 'llama-bnb8' is of, int8"),
        ({"optimizer_type": "lora+"}, "optimizer_type: 'lora+' is PEFT's; a life cycle takes a class of torch.optim"),
        ({"use_gc": True}, "use_gc: is not read, since a life cycle trains a few plain steps; leave it out"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps: is not read"),
        ({"max_steps": 0, "eval_steps": 0}, "max_steps: must be at least 1, is 0"),
    ],
)
def test_a_value_that_no_life_cycle_can_use_names_file_and_key(tmp_path, params, words):
    file = tmp_path / "structures" / "mine" / "default_training_params.json"
    write_json(file, {"model_id": "llama", **params})

    with pytest.raises(InputError) as refused:
        read_suite(file.parent)
    assert str(refused.value).startswith(f"{file}: {words}")


def test_a_case_that_counts_its_operations_may_be_compiled(caplog):
    from pytest_peftbench.cases.life_cycle.run import live_through

    experiment, _ = case("linear/lora/default")
    result = live_through(replace(experiment, train=replace(experiment.train, compile=True)))

    assert result.metrics["law.train.compile"] == "holds"
    assert not [record for record in caplog.records if record.name == "torch.__trace"]  # thousands, and empty
    assert "inject.kept_bytes" in result.metrics
    assert "merge.calls" not in result.metrics  # of a law that is not asked then


def test_an_adapter_that_cannot_be_saved_is_a_broken_law_and_no_failed_case():
    edit = Edit(
        "peft.peft_model:PeftModel.save_pretrained", "if os.path.isfile(save_directory):", "raise KeyError\nif 0:"
    )

    found = findings("linear/loha/default", edit)

    assert found["law.save.load"].obtained == "broken: KeyError"
    assert found["checkpoint.bytes"].verdict == "missing metric"
    assert found["save.calls"].verdict == "missing metric"


def test_a_folder_in_a_suite_adds_an_experiment_and_replaces_one_that_comes_with_the_task(tmp_path):
    suite = tmp_path / "structures" / "linear"
    for name in ("lora/mine", "lora/default"):
        (suite / "experiments" / name).mkdir(parents=True)
        (suite / "experiments" / name / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 3}')
    (suite / "default_training_params.json").write_text('{"model_id": "linear"}')

    found = {experiment.case.experiment: experiment.adapter for experiment in read_suite(suite)}

    assert found["lora/mine"] == found["lora/default"] == {"peft_type": "LORA", "r": 3}
    assert found["loha/default"]["peft_type"] == "LOHA"


# Faults ---------------------------------------------------------------------------------------------------------------

# One of each kind of operation; `peftbench selftest` tries them all.
FAULTS = [
    "unmerging adds",
    "the inverse of a scaling is another",
    "merging subtracts",
    "merging adds twice",
    "a deleted adapter leaves a tensor",
    "an adapter for inference is trainable",
    "an adapter that is set is frozen",
    "a prompt is not taken away",
    "rows get the active adapter",
    "a scaling for a while is for good",
    "unmerging from two adds",
    "a safe merge changes what it refuses",
    "a combination forgets the scale",
    "places hang on the state of the generators",
    "an adapter that is added is set",
]
# Of settings that it does not try, and of what does nothing, which only looks as if it held.
FURTHER_FAULTS = {
    "a merge that merges nothing": (
        "linear/lora/default",
        "law.merge",
        Edit(f"{LORA}.merge", "if not adapter_names:", "if True:"),
    ),
    "a scaling that scales nothing": (
        "linear/lora/default",
        "law.scale",
        Edit("peft.tuners.lora.layer:LoraLayer.scale_layer", "if scale == 1:", "if True:"),
    ),
    "a scaling for a while that scales nothing": (
        "linear/lora/default",
        "law.scale.context",
        Edit("peft.helpers:rescale_adapter_scale", "v * multiplier", "v"),
    ),
    "two that are to be active and one is": (
        "linear/lora/default",
        "law.both",
        Edit(
            f"{LORA}.forward",
            "for active_adapter in self.active_adapters:",
            "for active_adapter in self.active_adapters[-1:]:",
        ),
    ),
    "an adapter that loses a last digit of half precision on its way": (
        "llama1/lora/bfloat16",
        "law.save.load",
        Edit(
            "peft.peft_model:PeftModel.load_adapter",
            "# load the weights into the model",
            "adapters_weights = {name: tensor * (1 + 2**-6) for name, tensor in adapters_weights.items()}",
        ),
    ),
    "an output under autocast is of single precision": (
        "even/lora/default",
        "law.train.autocast.types",
        Edit(f"{LORA}.forward", "result.to(torch_result_dtype)", "result.float()"),
    ),
    "an adapter that is to keep its type is cast": (
        "even/loha/default",
        "law.inject.dtype.kept",
        Edit("peft.tuners.tuners_utils:cast_adapter_dtype", "if not autocast_adapter_dtype:", "if False:"),
    ),
    "a mixed model merges one of two": (
        "even/lokr/default",
        "law.mixed.methods.unload",
        Edit(
            "peft.tuners.mixed.model:MixedModel._unload_and_optionally_merge",
            "for layer_before, layer_after in pairwise(path):",
            "for layer_before, layer_after in []:",
        ),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_law_that_is_broken_is_red(name):
    (fault,) = (fault for fault in LIFE_CYCLE if fault.name == name)
    (metric,) = fault.metrics

    found = findings(f"{fault.structure}/{fault.experiment}", *fault.edits)

    assert found[metric].verdict == "regressed"
    assert found[metric].expected == "holds"
    assert found[metric].obtained.startswith("broken: ")


@pytest.mark.parametrize("name", FURTHER_FAULTS)
def test_a_law_that_is_broken_elsewhere_or_held_by_nothing_is_red(name):
    place, metric, edit = FURTHER_FAULTS[name]

    found = findings(place, edit)

    assert found[metric].verdict == "regressed"
    assert found[metric].expected == "holds"


def test_a_wrong_scale_which_keeps_every_law_moves_the_witness():
    layer = "peft.tuners.fourierft.layer:FourierFTLayer"
    edit = Edit(f"{layer}.get_delta_weight", "* self.fourierft_scaling", "* 2 * self.fourierft_scaling")

    found = findings("llama/fourierft/default", edit)

    red = {subject: finding.verdict for subject, finding in found.items() if finding.verdict not in GREEN_BY_DEFAULT}
    assert red.pop("witness") == "numerics changed"
    assert red.keys() <= {"law.mixed"}  # broken before, and by another size now


def test_a_broken_law_that_is_mended_is_improved():
    edit = Edit("peft.tuners.ia3.layer:Linear.unmerge", "self.fan_in_fan_out) + 1e-8", "self.fan_in_fan_out)")

    found = findings("llama/ia3/default", edit)

    assert found["law.unmerge.weights"].verdict == "improved"


def test_what_comes_after_an_error_is_not_reached_and_never_green():
    edit = Edit(f"{LORA}.merge", "if not adapter_names:", "raise KeyError(adapter_names)\nif not adapter_names:")

    found = findings("llama/lora/default", edit)

    assert found["law.merge"].obtained == "broken: KeyError"
    assert found["law.unmerge.weights"].obtained == "not reached"
    assert found["law.unmerge.weights"].verdict == "cannot tell"


# What operations cost -------------------------------------------------------------------------------------------------


COSTS = {
    "one operator more in a merge": (
        "linear/lora/default",
        "merge.calls",
        Edit(f"{LORA}.merge", "weight.data += delta_weight", "weight.data += delta_weight.clone()"),
    ),
    "a product that is done twice in a merge": (
        "linear/lora/default",
        "merge.flops",
        Edit(f"{LORA}.get_delta_weight", "output_tensor = transpose", "weight_B @ weight_A\noutput_tensor = transpose"),
    ),
    "a second adapter that stays in memory": (
        "linear/hra/default",
        "delete.kept_bytes",
        Edit(f"{LAYER}.delete_adapter", "del getattr(self, attr)[adapter_name]", "pass"),
    ),
    "a copy of the base weights that is held while loading": (
        "linear/vera/default",
        "load.peak_bytes",
        Edit(
            "peft.peft_model:PeftModel.load_adapter",
            "self.eval()",
            "[weight.clone() for weight in self.parameters()]\nself.eval()",
        ),
    ),
    "a module that is looked at twice when an adapter is set": (
        "linear/oft/default",
        "set.host_calls",
        Edit(f"{LAYER}.set_adapter", "# Deactivate", "self.train(self.training)\n# Deactivate"),
    ),
}


@pytest.mark.parametrize("fault", COSTS)
def test_an_operation_that_costs_more_is_red(fault):
    place, metric, edit = COSTS[fault]

    found = findings(place, edit)

    assert found[metric].verdict == "regressed"
    assert "law.merge" not in found


def test_each_method_counts_what_operations_cost():
    found = {}
    for structure in STRUCTURES:
        for name, experiment in suite(structure).items():
            if counts(structure, name):
                metrics = case(f"{structure}/{name}")[1].metrics
                counted = {metric.partition(".")[0] for metric in metrics if metric.endswith(".kept_bytes")}
                found.setdefault(experiment.case.method, set()).update(counted)

    assert found.keys() == {experiment.case.method for experiment in suite("llama").values()}
    assert all({"inject", "forward", "save", "load"} <= counted for counted in found.values())
    assert set.union(*found.values()) == OPERATIONS.keys()


def test_a_graph_that_breaks_is_counted():
    before = "self._check_forward_args(x, *args, **kwargs)"
    edit = Edit(f"{LORA}.forward", before, f"torch._dynamo.graph_break()\n{before}")

    found = findings("even/lora/default", edit)

    assert {found[f"compile.{name}"].verdict for name in ("graphs", "graph_breaks")} == {"regressed"}
    assert found["compile.graph_breaks"].expected == "0"


# Quantised base weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "place", "edit"),
    [
        (
            "bitsandbytes",
            "llama-bnb4/lora/default",
            Edit("peft.tuners.lora.bnb:Linear4bit.merge", "output + lora_data", "output - lora_data"),
        ),
        (
            "bitsandbytes",
            "llama-bnb8/oft/default",
            Edit(
                "peft.utils.quantization_utils:Bnb8bitBackend.set_base_weight",
                "weight_data.to",
                "(1.1 * weight_data).to",
            ),
        ),
        (
            "torchao",
            "llama-torchao/lora/default",
            Edit(
                "peft.tuners.lora.torchao:TorchaoLoraLinear.merge",
                "weight += self.get_delta_weight(active_adapter)",
                "weight += 1.1 * self.get_delta_weight(active_adapter)",
            ),
        ),
    ],
)
def test_a_merge_into_quantised_weights_that_is_wrong_by_more_than_a_rounding_is_red(package, place, edit):
    pytest.importorskip(package)
    assert findings(place) == {}

    assert findings(place, edit)["law.base.quantised.merge"].verdict == "regressed"


def test_a_case_whose_package_is_not_installed_is_skipped_and_says_why(bench, monkeypatch):
    real = environment.installed
    monkeypatch.setattr(
        environment, "installed", lambda package: {"torchao": "not installed"}.get(package, real(package))
    )
    for structure, params in (("llama-torchao", {"dtype": "int8"}), ("linear", {})):
        suite = bench.path / "structures" / structure
        write_json(suite / "default_training_params.json", {"model_id": structure, **params})
    shutil.copy(REPOSITORY / "benchmarks" / "test_life_cycle.py", bench.path / "test_lives.py")

    result = bench.run("test_lives.py", "-k", "lora-default", "-rs", "--peft-no-compare")

    assert result.ret == 0
    assert "needs torchao: pip install 'pytest-peftbench[quantised]'" in output(result)
    assert "1 case skipped: life-cycle-structures-llama-torchao-lora-default" in output(result)


def test_a_case_whose_package_is_not_installed_is_not_measured_elsewhere_either(monkeypatch):
    from pytest_peftbench.cases.life_cycle.run import live_through

    real = environment.installed
    monkeypatch.setattr(
        environment, "installed", lambda package: {"torchao": "not installed"}.get(package, real(package))
    )

    with pytest.raises(InputError, match=r"llama-bnb4-vera-default: needs bitsandbytes: pip install"):
        live_through(case("llama-bnb4/vera/default")[0])


# Words ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "obtained", "verdict"),
    [
        ("broken: 0.5", "holds", "improved"),
        ("broken: KeyError", "holds", "improved"),
        ("refused: ValueError", "holds", "improved"),
        ("broken: 0.5", "refused: ValueError", "improved"),
        ("holds", "broken: 0.5", "regressed"),
        ("holds", "broken: KeyError", "regressed"),
        ("holds", "refused: ValueError", "regressed"),
        ("refused: ValueError", "broken: KeyError", "regressed"),
        ("broken: KeyError", "broken: TypeError", "numerics changed"),
        ("broken: 0.5", "broken: KeyError", "numerics changed"),
        ("broken: 0.1", "broken: 0.21", "numerics changed"),
        ("broken: 0.1", "broken: inf", "numerics changed"),
        ("refused: ValueError", "refused: TypeError", "numerics changed"),
        ("broken: 0.1", "broken: 0.11", "same to rounding"),
        ("broken: 1e-08", "broken: 3.1e-07", "same to rounding"),
        ("broken: inf", "broken: inf", "identical"),
        ("broken: 8", "broken: 8", "identical"),
        ("broken: 8", "broken: 9", "numerics changed"),
        ("broken: 115", "broken: 118", "numerics changed"),
        ("broken: 8", "broken: 8.0", "numerics changed"),
        ("holds", "holds", "identical"),
        ("holds", "not reached", "cannot tell"),
        ("broken: 0.5", "not reached", "cannot tell"),
        ("refused: ValueError", "not reached", "cannot tell"),
        ("not reached", "broken: 0.5", "numerics changed"),
        ("not reached", "holds", "improved"),
    ],
)
def test_what_another_word_means(expected, obtained, verdict):
    assert law(METRICS["law.merge"], obtained, expected).verdict == verdict


@pytest.mark.parametrize("word", ["hold", "broken", "refused", "holds: 1", "not reached: ValueError", ""])
def test_what_is_no_word_of_a_law(word):
    assert standing(word) is None


@pytest.mark.parametrize(("by", "word"), [(8, "8"), (8.0, "8.0"), (115, "115"), (114.0, "1.1e+02"), (1e-8, "1.0e-08")])
def test_a_number_of_things_is_told_from_a_size(by, word):
    assert broken(by) == f"broken: {word}"
    assert is_count(broken(by)) is isinstance(by, int)


def test_a_story_that_tells_more_than_its_laws_is_an_error():
    def tell(cell):
        yield 0.0
        yield 0.0

    with pytest.raises(AssertionError, match="tells more than its laws, merge"):
        story("merge")(tell).words(SimpleNamespace(bound_of=lambda law: 0.0))


def test_what_ends_in_an_error_before_the_first_law_is_no_fault_of_pefts(monkeypatch):
    from pytest_peftbench.cases.life_cycle.run import live_through

    def fails(self):
        raise KeyError("of the base model")

    monkeypatch.setattr("pytest_peftbench.cases.life_cycle.cell.Cell.base", fails)
    with pytest.raises(KeyError, match="of the base model"):
        live_through(case("linear/lora/default")[0])


def test_a_baseline_with_another_word_is_refused(tmp_path):
    _, baseline = case("llama/lora/default")
    file = tmp_path / "lora--default.json"
    file.write_text(baseline.path.read_text().replace('{"merge": "holds"', '{"merge": "hold"'))

    with pytest.raises(InputError, match=r"law\.merge is 'hold', no word of a law"):
        read(file)


# The command ----------------------------------------------------------------------------------------------------------


def listed(capsys, *arguments):
    assert cli.main(["laws", str(BASELINES), *arguments]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("method", "law", "place"),
    [
        ("lora", "weighted", "llama1 rslora"),
        ("road", "safe.nothing", "opt"),
        ("adamss", "safe.nothing", "opt"),
    ],
)
def test_the_list_holds_what_is_known_to_be_broken(method, law, place, capsys):
    head, name, *lines = listed(capsys, "--cells", "--method", method)

    assert head.split() == ["law", "broken", "by", "on"]
    assert name == method
    assert [law, place] in [[line.split()[0], " ".join(line.split()[2:])] for line in lines if line.startswith("  ")]


@pytest.mark.parametrize("arguments", [[], ["--cells"], ["--matrix"], ["--law", "merge"], ["--method", "lora"]])
def test_a_line_has_80_columns_at_most(arguments, capsys):
    assert max(map(len, listed(capsys, *arguments))) <= 80


def test_the_list_is_short_enough_to_read(capsys):
    assert len(listed(capsys)) < 480


def test_what_is_by_design_stands_apart_with_its_reason_and_is_counted_apart(capsys):
    lines = listed(capsys, "--method", "ia3")
    above, below = lines[: lines.index("by design")], lines[lines.index("by design") :]

    assert not [line for line in above if line.split()[0] == "unmerge.weights"]
    assert "never by zero: a comment says so:" in " ".join(" ".join(below).split())
    assert "broken by design" in lines[-1]


def test_every_cause_explains_a_word():
    told = {cell.cause for cell in cli.laws.cells(BASELINES) if standing(cell.word) == "broken"}

    assert [cause for cause in CAUSES if cause not in told] == []


# Scripts --------------------------------------------------------------------------------------------------------------

SHOWN = [("lora", "weighted"), ("road", "safe.nothing"), ("adamss", "safe.nothing"), ("lora", "hotswap")]


def test_each_broken_law_has_a_script_that_python_reads_and_that_names_nothing_of_ours():
    texts = [script(cell, REPOSITORY / "benchmarks") for cell in broken_laws()]

    assert len(texts) > 100
    without = {cell.law for cell in cli.laws.cells(BASELINES) if standing(cell.word) == "broken"} - TEMPLATES.keys()
    assert without == {"old"}  # of which the file stands in this repository
    assert not [text for text in texts if "peftbench" in text]
    for text in texts:
        compile(text, "script", "exec")


@pytest.mark.parametrize(("method", "law"), SHOWN)
def test_a_script_shows_what_is_recorded(method, law):
    cells = [cell for cell in broken_laws() if (cell.method, cell.law) == (method, law)]

    assert cells
    for cell in cells:
        shown, said = shown_by(script(cell, REPOSITORY / "benchmarks"))
        assert reproduces(cell, shown), said


def test_the_command_prints_a_script_for_each_cause(capsys):
    suites = str(REPOSITORY / "benchmarks")
    lines = listed(capsys, "--method", "lora", "--law", "weighted", "--script", "--suites", suites)

    heads = [line for line in lines if line.startswith("# lora on ")]
    assert any("rslora" in head for head in heads)
    assert lines.count("import torch") == len(heads)
    assert [line for line in lines if line.startswith('print("should be 0:"')]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--law", "merge"], "give --method and --law"),
        (["--method", "lora", "--law", "unmerge"], "lora does not break unmerge"),
    ],
)
def test_a_script_of_nothing_is_refused(arguments, words, capsys):
    with pytest.raises(SystemExit):
        cli.main(["laws", str(BASELINES), "--script", *arguments])

    assert words in capsys.readouterr().err


def test_the_matrix_has_a_row_for_each_method(capsys):
    lines = listed(capsys, "--matrix")

    assert {line.split()[0] for line in lines[2 : lines.index("")]} == {
        cell.method for cell in cli.laws.cells(BASELINES)
    }


def test_a_folder_without_baselines_of_the_kind_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["laws", str(tmp_path)])

    assert "holds no baseline" in capsys.readouterr().err


def test_a_law_that_there_is_not_is_refused_with_those_that_there_are(capsys):
    with pytest.raises(SystemExit):
        cli.main(["laws", str(BASELINES), "--law", "mergers"])

    assert "merge.safe" in capsys.readouterr().err
