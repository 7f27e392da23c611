"""The catalogue: faults of PEFT, and of the benchmark's own pipeline, that the gate must notice.

Each is small, as a slip in a pull request would be, and is tried on one case of the embedded suite. Sizes that are
figures stand in the edits themselves; what a fault moves in a metric is measured and not written down here.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_peftbench.commands.selftest.patching import Edit
from pytest_peftbench.compare import Verdict
from pytest_peftbench.results.metrics import Lane

_LORA = "peft.tuners.lora.layer"
_LOHA = "peft.tuners.loha.layer:LoHaLayer"
_LOKR = "peft.tuners.lokr.layer:LoKrLayer"
_LYCORIS = "peft.tuners.lycoris_utils:LycorisLayer"
_OFT = "peft.tuners.oft.layer:OFTRotationModule"
_BOFT = "peft.tuners.boft.layer:Linear"
_IA3 = "peft.tuners.ia3"
_VERA = "peft.tuners.vera.layer:Linear"
_HIRA = "peft.tuners.hira.layer"
_ADALORA = "peft.tuners.adalora"
_DORA = "peft.tuners.lora.dora:DoraLinearLayer"
_LN = "peft.tuners.ln_tuning.layer:LNTuningLayer"
_PROMPT = "peft.tuners.prompt_tuning.model:PromptEmbedding"
_PREFIX = "peft.tuners.prefix_tuning.model:PrefixEncoder"
_MISS = "peft.tuners.miss.layer"
_FOURIER = "peft.tuners.fourierft.layer"
_XLORA = "peft.tuners.xlora.layer"
_TUNER = "peft.tuners.tuners_utils"
_MODEL = "peft.peft_model"
_STATE_DICT = "peft.utils.save_and_load:get_peft_model_state_dict"
_TASK = "pytest_peftbench.tasks.math_reasoning.task"
_TRAINING = "pytest_peftbench.cases.training"

_LORA_FORWARD = "lora_B(lora_A(dropout(x))) * scaling"
_NAMES_REMOVED = "    # REMOVE ADAPTER NAME\n"
_BITS = ("first_losses", "adapter_sha256")
_BITS_OR_BASE = (*_BITS, "base model")  # of the benchmark's own loss and step, which train the base model too
_QUALITY = ("test_accuracy", "forgetting", "train_loss")


@dataclass(frozen=True)
class Fault:
    """One fault, and what must come of it.

    name: what is wrong. experiment: `<method>/<name>` in the suite, the case that it is tried on. size: how large it
    is, in words. lane, metrics: the fault is caught when one of these metrics, all of that lane, has the verdict that
    the lane's faults must have, see `verdict`.
    """

    name: str
    experiment: str
    size: str
    lane: Lane
    metrics: tuple[str, ...]
    edits: tuple[Edit, ...]

    @property
    def verdict(self) -> Verdict:
        """What a metric that tells the fault must say. Other bits are no regression by themselves, and yet no pass."""
        return "numerics changed" if self.lane == "numerics" else "regressed"

    @property
    def method(self) -> str:
        """The method of the case, as its folder is named."""
        return self.experiment.partition("/")[0]


def _numerics(name: str, experiment: str, size: str, *edits: Edit, metrics: tuple[str, ...] = _BITS) -> Fault:
    """A fault that must not pass for unchanged; quality may move or not."""
    return Fault(name, experiment, size, "numerics", metrics, edits)


EXACT = (
    Fault(
        "delta weight computed twice",
        "loha/rank8",
        "two more products of factors a layer",
        "exact",
        ("train_step.flops", "decode_step.flops"),
        (
            Edit(
                f"{_LOHA}.forward",
                "result = result + self._get_delta_activations(",
                "self.get_delta_weight(active_adapter)\nresult = result + self._get_delta_activations(",
            ),
        ),
    ),
    Fault(
        "first factor multiplied twice",
        "lora/rank8",
        "one more product of rank 8 a layer",
        "exact",
        ("train_step.flops",),
        (
            Edit(
                f"{_LORA}:Linear.forward",
                f"result = result + {_LORA_FORWARD}",
                f"lora_A(x)\nresult = result + {_LORA_FORWARD}",
            ),
        ),
    ),
    Fault(
        "inputs copied, and the copies kept for the backward pass",
        "lora/rank8",
        "one activation a layer",
        "exact",
        ("train_step.saved_bytes",),
        (Edit(f"{_LORA}:Linear.forward", "lora_A(dropout(x))", "lora_A(dropout(x).clone())"),),
    ),
    Fault(
        "dropout layer for a probability of 0",
        "lora/rank8",
        "a layer that does nothing",
        "exact",
        ("inject.host_calls",),
        (Edit(f"{_LORA}:LoraLayer.update_layer", "if lora_dropout > 0.0:", "if lora_dropout >= 0.0:"),),
    ),
    Fault(
        "rotation multiplied by the identity once more",
        "boft/block8",
        "one square product a layer",
        "exact",
        ("train_step.flops",),
        (
            Edit(
                f"{_BOFT}.forward",
                "boft_rotation = butterfly_oft_mat @ boft_rotation",
                "boft_rotation = butterfly_oft_mat @ boft_rotation @ torch.eye(self.in_features)",
            ),
        ),
    ),
    Fault(
        "adapter's product in double precision",
        "vera/rank64",
        "float32 -> float64",
        "exact",
        ("train_step.peak_bytes", "train_step.saved_bytes"),
        (
            Edit(
                f"{_VERA}.forward",
                "F.linear(dropout(x), sliced_A), sliced_B",
                "F.linear(dropout(x).double(), sliced_A.double()), sliced_B.double()",
            ),
        ),
    ),
    Fault(
        "delta weight computed twice in evaluation only",
        "fourierft/freq512",
        "one inverse transform a layer",
        "exact",
        ("decode_step.calls", "forward_inference.calls"),
        (
            Edit(
                f"{_FOURIER}:FourierFTLinear.forward",
                "x = x.to(delta_w.dtype)",
                "if not self.training:\n    self.get_delta_weight(active_adapter)\nx = x.to(delta_w.dtype)",
            ),
        ),
    ),
    Fault(
        "norm of the weights no longer detached",
        "lora/rank8-dora",
        "a graph through the norm a layer",
        "exact",
        ("train_step.calls", "train_step.saved_bytes"),
        (
            Edit(f"{_DORA}.forward", "weight_norm = weight_norm.detach()", "weight_norm = weight_norm"),
            Edit(f"{_DORA}.forward", "lora_weight=lora_weight.detach(), ", "lora_weight=lora_weight, "),
        ),
    ),
    Fault(
        "base weights copied while the adapter is added",
        "boft/block8",
        "a copy of each targeted weight",
        "exact",
        ("inject.peak_bytes",),
        (
            Edit(
                "peft.tuners.boft.layer:BOFTLayer.__init__",
                "base_layer = self.get_base_layer()",
                "base_layer = self.get_base_layer()\nself.original = base_layer.weight.detach().clone()",
            ),
        ),
    ),
    Fault(
        "adapter moved to its device twice",
        "vera/rank64",
        "one call a layer while the adapter is added",
        "exact",
        ("inject.host_calls",),
        (
            Edit(
                "peft.tuners.vera.layer:VeraLayer.update_layer",
                "self._move_adapter_to_device_of_base_layer(adapter_name)",
                "self._move_adapter_to_device_of_base_layer(adapter_name)\n"
                "self._move_adapter_to_device_of_base_layer(adapter_name)",
            ),
        ),
    ),
    Fault(
        "norms of the base model left trainable",
        "lora/rank8",
        "9 vectors of 128",
        "exact",
        ("params.trainable",),
        (
            Edit(
                f"{_TUNER}:BaseTuner._mark_only_adapters_as_trainable",
                "if n in adapter_param_names:",
                'if n in adapter_param_names or "norm" in n:',
            ),
        ),
    ),
    Fault(
        "rank silently halved",
        "loha/rank8",
        "rank 8 -> 4",
        "exact",
        ("checkpoint.tensors",),
        (
            Edit(
                f"{_LOHA}.update_layer",
                "self.create_adapter_parameters(adapter_name, r, shape)",
                "self.create_adapter_parameters(adapter_name, r // 2, shape)",
            ),
        ),
    ),
    Fault(
        "a targeted module passed over",
        "hira/rank8",
        "o_proj, 1 of 7 in each layer",
        "exact",
        ("checkpoint.tensors",),
        (
            Edit(
                f"{_TUNER}:check_target_module_exists",
                'any(key.endswith(f".{target_key}") for target_key in config.target_modules)',
                'any(key.endswith(f".{target_key}") for target_key in config.target_modules if target_key != "o_proj")',
            ),
        ),
    ),
    Fault(
        "a module targeted that is not named",
        "miss/rank8",
        "the output layer beside the 28 targeted",
        "exact",
        ("checkpoint.tensors", "params.trainable"),
        (
            Edit(
                f"{_TUNER}:check_target_module_exists",
                'any(key.endswith(f".{target_key}") for target_key in config.target_modules)',
                'key == "lm_head" or any(key.endswith(f".{target_key}") for target_key in config.target_modules)',
            ),
        ),
    ),
    Fault(
        "feed-forward module taken for another kind",
        "ia3/default",
        "down_proj scaled behind the layer, not before it",
        "exact",
        ("checkpoint.tensors",),
        (
            Edit(
                f"{_IA3}.model:IA3Model._check_target_module_feedforward",
                "return is_feedforward",
                "return False",
            ),
        ),
    ),
    Fault(
        "adapter is no identity at first: factor not zero",
        "lokr/rank8",
        "uniform instead of zeros",
        "exact",
        ("init.identity",),
        (
            Edit(
                f"{_LOKR}.reset_adapter_parameters",
                "nn.init.zeros_(self.lokr_w1[adapter_name])",
                "nn.init.kaiming_uniform_(self.lokr_w1[adapter_name], a=math.sqrt(5))",
            ),
        ),
    ),
    Fault(
        "adapter is no identity at first: vectors not one",
        "ia3/default",
        "1.0 -> 1.01",
        "exact",
        ("init.identity",),
        (Edit(f"{_IA3}.layer:IA3Layer.reset_ia3_parameters", "1.0)", "1.01)"),),
    ),
    Fault(
        "adapter not disabled",
        "ia3/default",
        "all layers",
        "exact",
        ("disable.restores_base",),
        (
            Edit(
                f"{_TUNER}:BaseTuner.disable_adapter_layers",
                "self._enable_adapter_layers(enabled=False)",
                "self._enable_adapter_layers(enabled=True)",
            ),
        ),
    ),
    Fault(
        "adapter not disabled in one kind of module",
        "hira/rank8",
        "down_proj, 1 of 7 in each layer",
        "exact",
        ("disable.restores_base",),
        (
            Edit(
                f"{_TUNER}:BaseTuner._enable_adapter_layers",
                "module.enable_adapters(enabled)",
                'module.enable_adapters(enabled or getattr(module, "in_features", 0) == 256)',
            ),
        ),
    ),
    Fault(
        "adapter stays off after it was disabled",
        "lokr/rank8",
        "all layers",
        "exact",
        ("enable.restores_adapter",),
        (
            Edit(
                f"{_MODEL}:PeftModel.disable_adapter",
                "if model_status.enabled is not False:",
                "if model_status.enabled is False:",
            ),
        ),
    ),
    Fault(
        "experts stay on when the adapter is disabled",
        "xlora/experts2",
        "all layers",
        "exact",
        ("disable.restores_base",),
        (Edit(f"{_XLORA}:XLoraLayer.adapters_disabled", "return self.model.disabled", "return False"),),
    ),
    Fault(
        "adapter not disabled",
        "lntuning/default",
        "norms are not told",
        "exact",
        ("disable.restores_base",),
        (Edit(f"{_LN}.enable_adapters", "self._disable_adapters = True", "self._disable_adapters = False"),),
    ),
    Fault(
        "merged weights off",
        "hira/rank8",
        "1 % of the delta weight",
        "exact",
        ("merge.same_output",),
        (Edit(f"{_HIRA}:HiraLayer._merge", "base_weight * new_delta", "base_weight * new_delta * 1.01"),),
    ),
    Fault(
        "merged weights off",
        "oft/block16",
        "1 % of the rotation",
        "exact",
        ("merge.same_output",),
        (
            Edit(
                "peft.tuners.oft.layer:Linear.merge",
                "weight.copy_(result.t())",
                "weight.copy_(weight + 1.01 * (result.t() - weight))",
            ),
        ),
    ),
    Fault(
        "base weights not restored by unmerging",
        "lokr/rank8",
        "1 % of the delta weight stays",
        "exact",
        ("unmerge.restores_base",),
        (
            Edit(
                f"{_LYCORIS}.unmerge",
                "-= self.get_delta_weight(active_adapter)",
                "-= 0.99 * self.get_delta_weight(active_adapter)",
            ),
        ),
    ),
    Fault(
        "state dict misses a tensor",
        "oft/block16",
        "1 of 28",
        "exact",
        ("checkpoint.tensors", "reload.same_output"),
        (Edit(_STATE_DICT, _NAMES_REMOVED, "    to_return.pop(sorted(to_return)[-1])\n"),),
    ),
    Fault(
        "state dict holds base weights",
        "miss/rank8",
        "the 28 targeted weights",
        "exact",
        ("checkpoint.bytes", "checkpoint.tensors"),
        (
            Edit(
                _STATE_DICT,
                _NAMES_REMOVED,
                '    to_return.update({k: v for k, v in state_dict.items() if ".base_layer." in k})\n',
            ),
        ),
    ),
    Fault(
        "checkpoint in another type",
        "prefixtuning/tokens8",
        "float32 -> float16",
        "exact",
        ("checkpoint.tensors",),
        (Edit(_STATE_DICT, _NAMES_REMOVED, "    to_return = {k: v.half() for k, v in to_return.items()}\n"),),
    ),
    Fault(
        "dropout active in evaluation",
        "lora/rank8",
        "probability 0.1",
        "exact",
        ("enable.restores_adapter",),
        (Edit(f"{_LORA}:Linear.forward", "dropout(x)", "nn.functional.dropout(x, 0.1, not self.training)"),),
    ),
    Fault(
        "virtual tokens looked up twice",
        "prompttuning/sample-vocab",
        "one operator a pass",
        "exact",
        ("train_step.calls", "forward_inference.calls"),
        (Edit(f"{_PROMPT}.forward", "prompt_embeddings = ", "self.embedding(indices)\nprompt_embeddings = "),),
    ),
)
NUMERICS = (
    _numerics(
        "scaling off",
        "lora/rank8",
        "x1.02",
        Edit(f"{_LORA}:Linear.forward", _LORA_FORWARD, "lora_B(lora_A(dropout(x))) * (scaling * 1.02)"),
    ),
    _numerics(
        "scaling off",
        "loha/rank8",
        "x1.0001",
        Edit(
            f"{_LOHA}.update_layer",
            "self.scaling[adapter_name] = alpha / r",
            "self.scaling[adapter_name] = 1.0001 * alpha / r",
        ),
    ),
    _numerics(
        "gradient stopped for one factor",
        "lora/rank8",
        "A of B A x",
        Edit(f"{_LORA}:Linear.forward", "lora_B(lora_A(dropout(x)))", "lora_B(lora_A(dropout(x)).detach())"),
    ),
    _numerics(
        "adapter ignored in some modules",
        "loha/rank8",
        "k_proj and v_proj",
        Edit(
            f"{_LOHA}.forward",
            "if active_adapter not in self._available_adapters:",
            "if active_adapter not in self._available_adapters or self.out_features == 64:",
        ),
    ),
    _numerics(
        "adapter is no identity at first: blocks not zero",
        "miss/rank8",
        "0 -> 0.0001",
        Edit(
            f"{_MISS}:MissLayer.reset_miss_parameters",
            "torch.zeros(r, self.out_features)",
            "torch.full((r, self.out_features), 1e-4)",
        ),
        metrics=(*_BITS, "init.max_output_difference"),
    ),
    _numerics(
        "orthogonality no longer asked for",
        "adalora/rank8",
        "penalty on the factors dropped",
        Edit(
            f"{_ADALORA}.model:AdaLoraModel.forward",
            "outputs.loss += orth_reg_weight * regu_loss",
            "outputs.loss += 0 * regu_loss",
        ),
    ),
    _numerics(
        "importance not smoothed",
        "adalora/rank8",
        "running mean of the sensitivity dropped",
        Edit(
            f"{_ADALORA}.layer:RankAllocator.update_ipt",
            "self.beta1 * self.exp_avg_ipt[n] + (1 - self.beta1) * self.ipt[n]",
            "self.ipt[n]",
        ),
        metrics=("adapter_sha256",),
    ),
    _numerics(
        "last term of a series dropped",
        "oft/block16",
        "1 of 5 terms of the rotation",
        Edit(f"{_OFT}._cayley_batch", "R.add_(Q_power)", "R.add_(Q_power, alpha=0.0)"),
    ),
    _numerics(
        "start of the prompt off",
        "prompttuning/sample-vocab",
        "x1.02",
        Edit(
            f"{_PROMPT}.__init__",
            "word_embedding_weights = word_embeddings(init_token_ids).detach().clone()",
            "word_embedding_weights = word_embeddings(init_token_ids).detach().clone() * 1.02",
            times=2,
        ),
        metrics=(*_BITS, "init.max_output_difference"),
    ),
    _numerics(
        "padding counted in the loss",
        "lora/rank8",
        "all padding of a batch",
        Edit(f"{_TASK}:_train_batch", 'batch["attention_mask"] == 0', 'batch["attention_mask"] < 0'),
        metrics=_BITS_OR_BASE,
    ),
    _numerics(
        "gradients not clipped",
        "vera/rank64",
        "norm above 1.0",
        Edit(f"{_TRAINING}:Trainer.step", "if self.clip:", "if False:"),
        metrics=_BITS_OR_BASE,
    ),
    _numerics(
        "end of text not learned",
        "lora/rank8",
        "EOS left out of the loss",
        Edit(
            f"{_TASK}:_train_batch",
            'batch["attention_mask"] == 0',
            'batch["input_ids"] == data.tokenizer.eos_token_id',
        ),
        metrics=_BITS_OR_BASE,
    ),
)
QUALITY = (
    Fault(
        "scaling missing",
        "fourierft/freq512",
        "a factor that the config sets",
        "quality",
        _QUALITY,
        (Edit(f"{_FOURIER}:FourierFTLayer.get_delta_weight", " * self.fourierft_scaling[adapter]", ""),),
    ),
    Fault(
        "optimizer lost a group",
        "lora/rank8-loraplus",
        "the second factors",
        "quality",
        _QUALITY,
        (
            Edit(
                "peft.optimizers.loraplus:create_loraplus_optimizer",
                'list(param_groups["groupB"].values())',
                "[]",
            ),
        ),
    ),
    Fault(
        "scaling off",
        "lora/rank8",
        "x0.1",
        "quality",
        _QUALITY,
        (Edit(f"{_LORA}:Linear.forward", _LORA_FORWARD, "lora_B(lora_A(dropout(x))) * (scaling * 0.1)"),),
    ),
    Fault(
        "scaling off",
        "hira/rank8",
        "x4",
        "quality",
        _QUALITY,
        (Edit(f"{_HIRA}:Linear.forward", "result = result + hira_result", "result = result + 4 * hira_result"),),
    ),
    Fault(
        "learning rate does not warm up or decay",
        "loha/rank8",
        "constant instead of cosine",
        "quality",
        _QUALITY,
        (Edit(f"{_TRAINING}:make_schedule", "cosine if config.lr_scheduler else lambda _: 1.0", "lambda _: 1.0"),),
    ),
    Fault(
        "adapter off while tested",
        "lokr/rank8",
        "all layers",
        "quality",
        ("test_accuracy",),
        (
            Edit(
                f"{_TASK}:MathReasoning.evaluate",
                "correct = _solve(model, data, data.test, experiment, extra, progress)",
                "with model.disable_adapter():\n"
                "    correct = _solve(model, data, data.test, experiment, extra, progress)",
            ),
        ),
    ),
    Fault(
        "rescaling vectors frozen",
        "vera/rank64",
        "one of two vectors a layer",
        "quality",
        _QUALITY,
        (Edit(f"{_VERA}.forward", "lambda_b * F.linear(", "lambda_b.detach() * F.linear("),),
    ),
)
# Each wait is measured in what the case itself does, so that a slow or busy machine stretches both.
NOISY = (
    Fault(
        "training step waits",
        "loha/rank8",
        "twice as long as the forward pass",
        "noisy",
        ("step_time_ratio",),
        (
            Edit(
                f"{_TUNER}:BaseTuner.forward",
                "return self.model(*args, **kwargs)",
                "import time\n"
                "started = time.perf_counter()\n"
                "output = self.model(*args, **kwargs)\n"
                "if self.training:\n"
                "    time.sleep(2 * (time.perf_counter() - started))\n"
                "return output",
            ),
        ),
    ),
    Fault(
        "decoding works on the host, without an operator",
        "hira/rank8",
        "30,000 additions in Python a layer",
        "noisy",
        ("decode_time_ratio",),
        (
            Edit(
                f"{_HIRA}:Linear.forward",
                "if self.disable_adapters:",
                "if not self.training:\n    sum(range(30_000))\nif self.disable_adapters:",
            ),
        ),
    ),
    Fault(
        "every pass works on the host, without an operator",
        "ia3/default",
        "200,000 additions in Python a layer",
        "noisy",
        ("step_time_ratio", "decode_time_ratio"),
        (
            Edit(
                f"{_IA3}.layer:Linear.forward",
                "dtype = previous_dtype = x.dtype",
                "dtype = previous_dtype = x.dtype\nsum(range(200_000))",
            ),
        ),
    ),
)
FAULTS: tuple[Fault, ...] = (*EXACT, *NUMERICS, *QUALITY, *NOISY)
