"""The real tasks' own code paths on a CPU: models that `save_pretrained` wrote, data sets in the hub's formats."""

import json
import textwrap

import pytest
from support import REAL_TEST, REPOSITORY, Bench, make_suite, output, small_llama, write_json

from pytest_peftbench.tasks.image_generation.spec import EMBEDDED as IMAGES
from pytest_peftbench.tasks.math_reasoning.spec import EMBEDDED as MATH

LORA = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
IMAGE_LORA = {"peft_type": "LORA", "r": 4, "target_modules": ["to_q", "to_v"]}
CASES = {
    "MetaMathQA-llama-lora-r4",
    "MetaMathQA-qwen3-lora-r4",
    "image-gen-FLUX.2-klein-base-4B-lora-r4",
}
PROMPTS = [f"sks cat number {number}" for number in range(6)]
MATH_PARAMS = {
    "max_steps": 2,
    "eval_steps": 2,
    "generation_kwargs": {"max_length": 80, "max_new_tokens": 3},
    "use_gc": True,
    "dtype": "bfloat16",
}
IMAGE_PARAMS = {
    **json.loads((REPOSITORY / "benchmarks/image-gen/tiny/default_training_params.json").read_text()),
    "model_id": "black-forest-labs/FLUX.2-klein-base-4B",
    "dataset_id": "peft-internal-testing/cat-image-dataset",
    "dino_model_id": "facebook/dinov2-base",
    "dtype": "bfloat16",
    "use_gc": True,
    "max_steps": 2,
    "eval_steps": 2,
    "batch_size": 2,
    "valid_size": 1,
    "test_size": 2,
    "num_inference_steps": 2,
    "instance_prompts": PROMPTS,
    "sample_image_prompts": ["a photo of sks cat"],
    "drift_image_prompts": ["a photo of a dog"],
}
# No clock, and a record of every connection that is tried.
CONFTEST = """
    import socket
    import pytest

    from pytest_peftbench.measure import environment

    environment.pin()  # before the fixture below imports torch

    @pytest.fixture(scope="session", autouse=True)
    def no_clock():
        from pytest_peftbench.measure import timing
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(timing, "compare", lambda *_, **__: timing.Timing(1.0, 1.0, 1.0, 0.01, ()))
            yield

    def refuse(*arguments, **kwargs):
        with open("connections.txt", "a") as file:
            file.write(f"{arguments}")
        raise OSError("no network in this test")

    socket.socket.connect = socket.getaddrinfo = refuse
"""


def save_models(folder):
    """A Llama, a Qwen3, a FLUX.2 pipeline and an image encoder, randomly initialised."""
    import torch
    from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel
    from transformers import AutoModel, AutoTokenizer, BitImageProcessorPil, Qwen3Config, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(MATH / "model")
    llama = small_llama(vocab_size=len(tokenizer))
    qwen3 = Qwen3ForCausalLM(Qwen3Config(**{**llama.config.to_dict(), "head_dim": 8, "model_type": "qwen3"}))
    for name, model in (("Mini-Llama", llama), ("Mini-Qwen3", qwen3)):
        model.to(torch.bfloat16).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)

    pipeline = Flux2KleinPipeline.from_pretrained(IMAGES / "model")
    torch.manual_seed(0)
    config = {**pipeline.transformer.config, "num_layers": 1, "num_single_layers": 1}
    pipeline.transformer = Flux2Transformer2DModel.from_config(config)
    pipeline.save_pretrained(folder / "FLUX.2-klein-base-4B")
    dino = IMAGES / "dino"
    AutoModel.from_pretrained(dino).save_pretrained(folder / "dinov2-base")
    BitImageProcessorPil.from_pretrained(dino).save_pretrained(folder / "dinov2-base")


def save_data(folder):
    """The four data sets with files, columns and configs as the hub has them."""
    from datasets import Dataset, Features, Image

    problems = [
        {
            "question": f"{words} has {n} pens and finds {n} more. How many now?",
            "answer": f"{n}+{n}=<<{n}>>.\n#### {n + n}",
        }
        for n, words in enumerate(["Ana", "Ben in the far away village", "Leo", "Eva and Max"], start=1)
    ]
    train = [
        {"query": row["question"], "response": f"The answer is: {n}", "type": "GSM_Rephrased", "original_question": "-"}
        for n, row in enumerate(problems * 3)
    ]
    write_json(folder / "MetaMathQA" / "MetaMathQA-395K.json", train)

    for config, rows in (("main", problems), ("socratic", problems[:1])):
        for split in ("train", "test"):
            parquet(Dataset.from_list(rows), folder / "gsm8k" / config / f"{split}-00000-of-00001.parquet")
    card(
        folder / "gsm8k",
        """
        configs:
        - config_name: main
          data_files:
          - {split: train, path: main/train-*}
          - {split: test, path: main/test-*}
        - config_name: socratic
          data_files:
          - {split: train, path: socratic/train-*}
          - {split: test, path: socratic/test-*}
        """,
    )
    articles = {"en": "The river Aldo runs through the town of Mira.", "de": "Der Fluss Aldo fließt durch Mira."}
    for language, text in articles.items():
        rows = Dataset.from_list([{"text": text * 3, "id": "1", "title": "Aldo"}] * 3)
        parquet(rows, folder / "finewiki" / "data" / f"{language}wiki" / "000_00000.parquet")
    card(
        folder / "finewiki",
        """
        configs:
        - config_name: en
          data_files:
          - {split: train, path: data/enwiki/*}
        - config_name: de
          data_files:
          - {split: train, path: data/dewiki/*}
        """,
    )
    pictures = sorted((IMAGES / "data" / "cat-image-dataset").glob("*.png"))[: len(PROMPTS)]
    rows = Dataset.from_dict({"image": [str(path) for path in pictures]}, features=Features({"image": Image()}))
    parquet(rows, folder / "cat-image-dataset" / "data" / "train-00000-of-00001.parquet")


def parquet(rows, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(path)


def card(folder, text):
    (folder / "README.md").write_text("---\n" + textwrap.dedent(text).strip() + "\n---\n")


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Benchmarks of the two tasks with their models and data beside them, and the run that recorded baselines."""
    bench = Bench(tmp_path_factory.mktemp("local"))
    make_suite(bench.suite.parent / "llama", {"lora/r4": (LORA, None)}, model_id="meta-llama/Mini-Llama", **MATH_PARAMS)
    make_suite(bench.suite.parent / "qwen3", {"lora/r4": (LORA, None)}, model_id="Qwen/Mini-Qwen3", **MATH_PARAMS)
    image = bench.path / "image-gen"
    write_json(image / "default_training_params.json", IMAGE_PARAMS)
    write_json(image / "experiments/lora/r4/adapter_config.json", IMAGE_LORA)
    bench.write("test_mini.py", REAL_TEST)
    bench.write("test_image.py", REAL_TEST.replace("MetaMathQA", "image-gen").replace("test_mini", "test_image"))
    bench.write("conftest.py", CONFTEST)
    save_models(bench.path / "models")
    save_data(bench.path / "data")
    return bench, run(bench, "--peft-update-baselines", HF_HUB_OFFLINE="0")


def run(bench, *arguments, **environment):
    suites = [f"--peft-suite={bench.path / path}" for path in ("MetaMathQA/llama", "MetaMathQA/qwen3", "image-gen")]
    return bench.spawn(
        *suites, "--peft-data", "data", "--peft-models", "models", "--peft-seeds", "1", *arguments, **environment
    )


def verdicts(result):
    section = output(result).partition("PEFT benchmark")[2].splitlines()
    return {line.split()[0]: line.split()[1] for line in section if "-lora-r4 " in line}


def test_models_and_data_in_local_folders_ask_nothing_of_the_hub_even_where_they_might(local):
    bench, recorded = local

    assert recorded.returncode == 0, output(recorded)
    assert verdicts(recorded) == dict.fromkeys(CASES, "recorded")
    assert len(list((bench.path / "baselines").rglob("lora--r4.json"))) == 3
    assert not (bench.path / "connections.txt").exists(), (bench.path / "connections.txt").read_text()


def test_offline_the_next_run_is_identical(local):
    bench, _ = local

    compared = run(bench, "-k", "qwen3", HF_HUB_OFFLINE="1")

    assert compared.returncode == 0, output(compared)
    assert verdicts(compared) == {"MetaMathQA-qwen3-lora-r4": "identical"}
