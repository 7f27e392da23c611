"""Faults that counters and checks tell: more work, other shapes, a capability lost."""

from __future__ import annotations

from pytest_peftbench.commands.selftest.faults.fault import Fault
from pytest_peftbench.commands.selftest.faults.places import (
    BOFT,
    DORA,
    FOURIER,
    HIRA,
    IA3,
    LN,
    LOHA,
    LOKR,
    LORA,
    LORA_FORWARD,
    LYCORIS,
    MODEL,
    NAMES_REMOVED,
    PROMPT,
    STATE_DICT,
    TUNER,
    VERA,
    XLORA,
)
from pytest_peftbench.commands.selftest.patching import Edit

EXACT = (
    Fault(
        "delta weight computed twice",
        "loha/rank8",
        "two more products of factors a layer",
        "exact",
        ("train_step.flops", "decode_step.flops"),
        (
            Edit(
                f"{LOHA}.forward",
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
                f"{LORA}:Linear.forward",
                f"result = result + {LORA_FORWARD}",
                f"lora_A(x)\nresult = result + {LORA_FORWARD}",
            ),
        ),
    ),
    Fault(
        "inputs copied, and the copies kept for the backward pass",
        "lora/rank8",
        "one activation a layer",
        "exact",
        ("train_step.saved_bytes",),
        (Edit(f"{LORA}:Linear.forward", "lora_A(dropout(x))", "lora_A(dropout(x).clone())"),),
    ),
    Fault(
        "dropout layer for a probability of 0",
        "lora/rank8",
        "a layer that does nothing",
        "exact",
        ("inject.host_calls",),
        (Edit(f"{LORA}:LoraLayer.update_layer", "if lora_dropout > 0.0:", "if lora_dropout >= 0.0:"),),
    ),
    Fault(
        "rotation multiplied by the identity once more",
        "boft/block8",
        "one square product a layer",
        "exact",
        ("train_step.flops",),
        (
            Edit(
                f"{BOFT}.forward",
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
                f"{VERA}.forward",
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
                f"{FOURIER}:FourierFTLinear.forward",
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
            Edit(f"{DORA}.forward", "weight_norm = weight_norm.detach()", "weight_norm = weight_norm"),
            Edit(f"{DORA}.forward", "lora_weight=lora_weight.detach(), ", "lora_weight=lora_weight, "),
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
                f"{TUNER}:BaseTuner._mark_only_adapters_as_trainable",
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
                f"{LOHA}.update_layer",
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
                f"{TUNER}:check_target_module_exists",
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
                f"{TUNER}:check_target_module_exists",
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
                f"{IA3}.model:IA3Model._check_target_module_feedforward",
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
                f"{LOKR}.reset_adapter_parameters",
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
        (Edit(f"{IA3}.layer:IA3Layer.reset_ia3_parameters", "1.0)", "1.01)"),),
    ),
    Fault(
        "adapter not disabled",
        "ia3/default",
        "all layers",
        "exact",
        ("disable.restores_base",),
        (
            Edit(
                f"{TUNER}:BaseTuner.disable_adapter_layers",
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
                f"{TUNER}:BaseTuner._enable_adapter_layers",
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
                f"{MODEL}:PeftModel.disable_adapter",
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
        (Edit(f"{XLORA}:XLoraLayer.adapters_disabled", "return self.model.disabled", "return False"),),
    ),
    Fault(
        "adapter not disabled",
        "lntuning/default",
        "norms are not told",
        "exact",
        ("disable.restores_base",),
        (Edit(f"{LN}.enable_adapters", "self._disable_adapters = True", "self._disable_adapters = False"),),
    ),
    Fault(
        "merged weights off",
        "hira/rank8",
        "1 % of the delta weight",
        "exact",
        ("merge.same_output",),
        (Edit(f"{HIRA}:HiraLayer._merge", "base_weight * new_delta", "base_weight * new_delta * 1.01"),),
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
                f"{LYCORIS}.unmerge",
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
        (Edit(STATE_DICT, NAMES_REMOVED, "    to_return.pop(sorted(to_return)[-1])\n"),),
    ),
    Fault(
        "state dict holds base weights",
        "miss/rank8",
        "the 28 targeted weights",
        "exact",
        ("checkpoint.bytes", "checkpoint.tensors"),
        (
            Edit(
                STATE_DICT,
                NAMES_REMOVED,
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
        (Edit(STATE_DICT, NAMES_REMOVED, "    to_return = {k: v.half() for k, v in to_return.items()}\n"),),
    ),
    Fault(
        "dropout active in evaluation",
        "lora/rank8",
        "probability 0.1",
        "exact",
        ("enable.restores_adapter",),
        (Edit(f"{LORA}:Linear.forward", "dropout(x)", "nn.functional.dropout(x, 0.1, not self.training)"),),
    ),
    Fault(
        "virtual tokens looked up twice",
        "prompttuning/sample-vocab",
        "one operator a pass",
        "exact",
        ("train_step.calls", "forward_inference.calls"),
        (Edit(f"{PROMPT}.forward", "prompt_embeddings = ", "self.embedding(indices)\nprompt_embeddings = "),),
    ),
)
