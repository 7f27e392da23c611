"""Faults of what users do with an adapter besides training it: a law tells each, or the witness where no law can."""

from __future__ import annotations

from pytest_peftbench.commands.selftest.faults.fault import Fault
from pytest_peftbench.commands.selftest.faults.places import (
    LOHA,
    LORA,
    LYCORIS,
    MODEL,
    NAMES_REMOVED,
    STATE_DICT,
    TUNER,
)
from pytest_peftbench.commands.selftest.patching import Edit
from pytest_peftbench.results.laws import LAW
from pytest_peftbench.results.metrics import Lane

_OTHER = "peft.utils.other"
_SAVE = "peft.utils.save_and_load"
_MODEL = f"{MODEL}:PeftModel"
_LANGUAGE_MODEL = f"{MODEL}:PeftModelForCausalLM"
_LORA_MODEL = "peft.tuners.lora.model:LoraModel"
_LAYER = f"{TUNER}:BaseTunerLayer"


def _layer(method: str, function: str) -> str:
    """`peft.tuners.ia3.layer:Linear.merge` of `ia3` and `Linear.merge`."""
    return f"peft.tuners.{method}.layer:{function}"


def _law(name: str, case: str, size: str, law: str, *edits: Edit) -> Fault:
    """A fault that breaks the law. case: `<structure>/<method>/<name>`."""
    return _fault(name, case, size, f"{LAW}{law}", *edits)


def _fault(name: str, case: str, size: str, metric: str, *edits: Edit) -> Fault:
    """A fault that the metric tells; the witness is told by a lane of its own."""
    structure, _, experiment = case.partition("/")
    lane: Lane = "numerics" if metric == "witness" else "exact"
    return Fault(name, experiment, size, lane, (metric,), edits, structure)


_MERGING = (
    _law(
        "merging forgets the scale",
        "linear/lora/default",
        "a factor of 1.5",
        "merge",
        Edit(
            f"{LORA}:Linear.merge",
            "base_layer.weight.data += delta_weight",
            "base_layer.weight.data += delta_weight / self.scaling[active_adapter]",
        ),
    ),
    _law(
        "unmerging leaves a hundredth",
        "linear/lora/default",
        "0.01 of the update",
        "unmerge.weights",
        Edit(f"{LORA}:Linear.unmerge", "weight.data -= delta_weight", "weight.data -= 0.99 * delta_weight"),
    ),
    _law(
        "unmerging adds",
        "linear/lokr/default",
        "twice the update",
        "unmerge",
        Edit(f"{LYCORIS}.unmerge", "weight.data -= self", "weight.data += self"),
    ),
    _law(
        "what is merged is merged again",
        "linear/loha/default",
        "twice the update",
        "merge.again",
        Edit(f"{TUNER}:check_adapters_to_merge", "if name not in merged_adapters]", "]"),
    ),
    _law(
        "a second adapter is not merged after the first",
        "linear/psoft/default",
        "one of two adapters",
        "both.merge.apart",
        Edit(f"{TUNER}:check_adapters_to_merge", "if name not in merged_adapters]", "if not merged_adapters]"),
    ),
    _law(
        "the base model is asked without unmerging",
        "linear/psoft/default",
        "all layers",
        "merge.disable",
        Edit(_layer("psoft", "Linear.forward"), "self.unmerge()", "pass"),
    ),
    _law(
        "merging in training mode drops out rows",
        "llama1/loha/dropout",
        "a probability of 0.3",
        "merge.train",
        Edit(f"{LOHA}.get_delta_weight", "if apply_rank_dropout:", "if self.training and rank_dropout:"),
    ),
    _law(
        "a kernel merged mirrored",
        "conv2d/lora/default",
        "height and width exchanged",
        "merge",
        Edit(
            f"{LORA}:_ConvNd.get_delta_weight",
            "output_tensor = output_tensor.transpose(0, 1) * self",
            "output_tensor = output_tensor.transpose(0, 1).transpose(-1, -2) * self",
        ),
    ),
    _law(
        "a convolution's kernel of one merged without its scale",
        "conv2d/lora/default",
        "a factor of 1.5 in one of 3 layers",
        "merge.unload",
        Edit(
            f"{LORA}:_ConvNd.get_delta_weight",
            "weight_A.squeeze(3).squeeze(2)",
            "weight_A.squeeze(3).squeeze(2) / self.scaling[adapter]",
        ),
    ),
    _law(
        "groups of a convolution scaled by each other's channels",
        "conv2d-groups/ia3/default",
        "2 groups",
        "merge",
        Edit(
            _layer("ia3", "_ConvNd._get_ia3_scaling_for_weight"),
            "return ia3_scaling.reshape(base_layer.out_channels",
            "return ia3_scaling.flip(0).reshape(base_layer.out_channels",
        ),
    ),
    _law(
        "an embedding's scale forgotten",
        "gemma/trainabletokens/default",
        "a factor of 5.7",
        "merge",
        Edit(
            _layer("trainable_tokens", "TrainableTokensLayer.forward_adapters"),
            "if embed_scale is not None:",
            "if False:",
        ),
    ),
    _law(
        "a row of an embedding merged beside its own",
        "embedding/lora/default",
        "one row further",
        "merge.safe",
        Edit(
            f"{LORA}:Embedding.merge",
            "orig_weight += self.get_delta_weight(active_adapter)",
            "orig_weight += self.get_delta_weight(active_adapter).roll(1, 0)",
        ),
    ),
    _law(
        "unmerging restores the trained tokens and not the original ones",
        "gemma/trainabletokens/default",
        "3 rows",
        "unmerge.weights",
        Edit(
            _layer("trainable_tokens", "TrainableTokensLayer.unmerge"),
            "self.trainable_tokens_original[adapter_name]",
            "self.trainable_tokens_delta[adapter_name]",
        ),
    ),
    _law(
        "attention's output stays merged",
        "attention/lora/default",
        "one of 2 products",
        "disable",
        Edit(
            f"{LORA}:MultiheadAttention.unmerge",
            "self.get_base_layer().out_proj.unmerge()",
            "self.get_base_layer().out_proj.merged_adapters.clear()",
        ),
    ),
    _law(
        "the inner one of two parameters is not merged",
        "experts/lora/default",
        "one of 2 parameters",
        "merge.unload",
        Edit(
            f"{LORA}:ParamWrapper.unload_and_optionally_merge_module",
            "base_layer.merge(safe_merge=safe_merge, adapter_names=adapter_names)",
            "pass",
        ),
    ),
    _law(
        "a parameter's experts merged in another order",
        "experts/lora/default",
        "3 experts",
        "merge",
        Edit(
            f"{LORA}:ParamWrapper.get_delta_weight",
            "weight_B.reshape(weight_B.shape[0], -1, self.num_experts)",
            "weight_B.reshape(weight_B.shape[0], self.num_experts, -1).transpose(1, 2)",
        ),
    ),
    _law(
        "a magnitude is not merged",
        "llama1/lora/dora",
        "all layers",
        "merge",
        Edit(
            "peft.tuners.lora.variants:DoraLinearVariant.merge_unsafe",
            "new_weight = dora_factor * (",
            "new_weight = (",
        ),
    ),
    _law(
        "a magnitude's norm is of the merged weight",
        "llama1/lora/dora",
        "the second of two adapters",
        "both.merge.apart",
        Edit(
            "peft.tuners.lora.variants:DoraLinearVariant.merge_unsafe",
            "with module._unmerged_base_weight() as base_weight:",
            "base_weight = orig_weight.data\nif True:",
        ),
    ),
    _law(
        "a bias is not rotated",
        "opt/road/default",
        "4 biases",
        "merge",
        Edit(
            _layer("road", "Linear.merge"),
            "orig_bias = torch.matmul(road_R.to(orig_dtype), orig_bias)",
            "pass",
            times=2,
        ),
    ),
    _law(
        "a weight's vector is not merged",
        "linear/vera/default",
        "one of 2 vectors a layer",
        "merge",
        Edit(_layer("vera", "Linear.get_delta_weight"), "(lambda_d * sliced_A)", "sliced_A"),
    ),
    _law(
        "an adapter's bias is merged without the scale",
        "opt/lora/lora-bias",
        "a factor of 1.5",
        "merge",
        Edit(
            f"{LORA}:Linear.merge",
            "base_layer.bias.data += self.lora_B[active_adapter].bias * self.scaling[active_adapter]",
            "base_layer.bias.data += self.lora_B[active_adapter].bias",
        ),
    ),
    _law(
        "a rotation is merged without the identity taken off",
        "linear/psoft/default",
        "the whole projection",
        "merge",
        Edit(_layer("psoft", "Linear.get_delta_weight"), "(R_c - id_mat)", "R_c"),
    ),
    _law(
        "the hybrid part is not merged",
        "llama1/gralora/hybrid",
        "rank 2 of 6",
        "merge",
        Edit(_layer("gralora", "Linear.get_delta_weight"), "if hybrid_r > 0:", "if False:"),
    ),
    _law(
        "the initial component is not taken off",
        "linear/osf/default",
        "rank 4",
        "merge.unload",
        Edit(_layer("osf", "OSFLayer.get_delta_weight"), "return current - initial", "return current"),
    ),
    _law(
        "merging adds twice",
        "linear/delora/default",
        "twice the update",
        "merge.unload",
        Edit(_layer("delora", "DeloraLinear.merge"), "add_(delta_weight)", "add_(delta_weight, alpha=2)"),
    ),
    _law(
        "merging subtracts",
        "linear/waveft/default",
        "minus the update",
        "merge",
        Edit(
            _layer("waveft", "WaveFTLinear.merge"),
            "base_layer.weight.data += transpose",
            "base_layer.weight.data -= transpose",
        ),
    ),
    _law(
        "the number of ranks forgotten",
        "linear/adalora/default",
        "a divisor of 6",
        "merge",
        Edit(_layer("adalora", "SVDLinear.get_delta_weight"), "/ (self.ranknum[adapter] + 1e-5)", ""),
    ),
    _law(
        "the mean is merged with the variance's vector",
        "linear/pvera/default",
        "the other half",
        "merge",
        Edit(
            _layer("pvera", "Linear.get_delta_weight"),
            "lambda_d[: lambda_d.size(0) // 2, :]",
            "lambda_d[lambda_d.size(0) // 2 :, :]",
        ),
    ),
    _law(
        "a second adapter is merged onto the merged weights",
        "linear/glora/default",
        "the second of two adapters",
        "both.merge",
        Edit(_layer("glora", "GloraLayer.merge"), "new_weight += w0 * A + B", "new_weight += new_weight * A + B"),
    ),
    _law(
        "unmerging recomputes from the merged weight",
        "linear/deft/default",
        "a projection of it",
        "unmerge.weights",
        Edit(_layer("deft", "DeftLinear.unmerge"), "if factor is not None:", "if False:"),
    ),
    _law(
        "reflections are undone in the order in which they were done",
        "linear/hra/default",
        "4 reflections",
        "unmerge.weights",
        Edit(_layer("hra", "HRALinear.unmerge"), "reverse=True", "reverse=False"),
    ),
    _law(
        "a rotation is undone by itself",
        "llama/boft/placed",
        "not transposed",
        "unmerge.weights",
        Edit(_layer("boft", "Linear.unmerge"), "butterfly_oft_mat.t()", "butterfly_oft_mat"),
    ),
    _law(
        "a rotation is undone by its transpose",
        "linear/oft/default",
        "not orthogonal to 1e-3",
        "unmerge.weights",
        Edit(_layer("oft", "Linear.unmerge"), "torch.linalg.inv(oft_mat)", "oft_mat.t()"),
    ),
    _law(
        "what is left of a row is added when unmerged",
        "linear/miss/default",
        "1 or 2 columns a layer",
        "unmerge",
        Edit(
            _layer("miss", "MissLinear.get_delta_weight_miss"),
            "sign * miss_B.transpose(0, 1)",
            "miss_B.transpose(0, 1)",
        ),
    ),
    _law(
        "unmerging from two adds",
        "linear/fourierft/default",
        "twice the updates",
        "both.unmerge",
        Edit(_layer("fourierft", "FourierFTLinear.unmerge"), "weight.data -= transpose", "weight.data += transpose"),
    ),
    _law(
        "a swapped layer is not swapped back",
        "opt/lntuning/default",
        "4 layers",
        "unmerge",
        Edit(
            _layer("ln_tuning", "LNTuningLayer.unmerge"),
            "merged_name = self.merged_adapters.pop()",
            "merged_name = self.merged_adapters.pop()\nreturn",
        ),
    ),
    _law(
        "the forward pass writes into the base weights",
        "linear/shira/default",
        "an update a pass",
        "disable",
        Edit(_layer("shira", "Linear.forward"), "self.get_base_weight().clone()", "self.get_base_weight()"),
    ),
    _law(
        "a safe merge changes what it refuses",
        "linear/randlora/default",
        "no copy",
        "safe.nothing",
        Edit(
            _layer("randlora", "Linear.merge"),
            "orig_weights = base_layer.weight.data.clone()",
            "orig_weights = base_layer.weight.data",
        ),
    ),
    _law(
        "a safe merge takes a weight that is partly no number",
        "linear/unilora/default",
        "one entry of a tensor",
        "safe.raises",
        Edit(_layer("unilora", "Linear.merge"), ").all():", ").any():", times=2),
    ),
    _law(
        "unloading leaves a layer",
        "linear/tinylora/default",
        "those without a bias",
        "unload",
        Edit(
            f"{TUNER}:BaseTuner._unload_and_optionally_merge",
            'elif hasattr(target, "base_layer"):',
            'elif hasattr(target, "base_layer") and target.bias is not None:',
        ),
    ),
)

_SEVERAL = (
    _law(
        "an adapter that is added is set",
        "linear/lora/default",
        "all layers",
        "add",
        Edit(
            f"{TUNER}:BaseTuner.inject_adapter",
            "self.set_adapter(self.active_adapters, inference_mode",
            "self.set_adapter(adapter_name, inference_mode",
        ),
    ),
    _law(
        "an adapter that is left stays trainable",
        "linear/waveft/default",
        "all layers",
        "set.requires_grad",
        Edit(
            f"{_LAYER}.set_adapter",
            "_set_layer_requires_grad(layer, should_require_grad)",
            "if should_require_grad:\n    _set_layer_requires_grad(layer, True)",
        ),
    ),
    _law(
        "an adapter that is set is frozen",
        "linear/shira/default",
        "the second of two",
        "set.requires_grad",
        Edit(
            f"{_LAYER}.set_adapter",
            "(key in adapter_names) and (not inference_mode)",
            "key in adapter_names and key == 'default'",
        ),
    ),
    _law(
        "a saved module that is left stays trainable",
        "bert/loha/default",
        "the classifier",
        "set.requires_grad",
        Edit(
            f"{_OTHER}:ModulesToSaveWrapper.set_adapter",
            "_set_layer_requires_grad(self.modules_to_save[currently_active_adapter_name], False)",
            "pass",
        ),
    ),
    _law(
        "an adapter for inference is trainable",
        "linear/oft/default",
        "all layers",
        "set.inference",
        Edit(f"{_LAYER}.set_adapter", "(key in adapter_names) and (not inference_mode)", "key in adapter_names"),
    ),
    _law(
        "a deleted adapter leaves a tensor",
        "linear/hra/default",
        "one a layer",
        "delete.bytes",
        Edit(f"{_LAYER}.delete_adapter", "del getattr(self, attr)[adapter_name]", "pass"),
    ),
    _law(
        "a deleted prompt stays",
        "llama/prompttuning/default",
        "one tensor",
        "delete.bytes",
        Edit(f"{_MODEL}.delete_adapter", "del self.prompt_encoder[adapter_name]", "pass"),
    ),
    _law(
        "a saved module of a deleted adapter stays",
        "bert/loha/default",
        "the classifier",
        "delete.bytes",
        Edit(
            f"{_OTHER}:ModulesToSaveWrapper.delete_adapter",
            "if new_active_adapter != self.active_adapters[0]:",
            "return\nif new_active_adapter != self.active_adapters[0]:",
        ),
    ),
    _law(
        "a deleted adapter is still said to be active",
        "linear/supertuning/default",
        "the model's own list",
        "delete.active",
        Edit(f"{TUNER}:BaseTuner.delete_adapter", "self.active_adapter = new_adapter or []", "pass"),
    ),
    _law(
        "an adapter that is added thaws a frozen one",
        "opt/lora/lora-bias",
        "all layers",
        "add.frozen",
        Edit(f"{TUNER}:BaseTuner.inject_adapter", "parameter.requires_grad = requires_grad", "pass"),
    ),
    _law(
        "a merged adapter is deleted",
        "linear/hira/default",
        "its update stays",
        "delete.merged",
        Edit(f"{TUNER}:_check_adapters_not_merged", "if still_merged:", "if False:"),
    ),
    _law(
        "rows get the active adapter",
        "linear/lora/default",
        "one of 2 rows",
        "mixed",
        Edit(
            f"{LORA}:LoraLayer._mixed_batch_forward",
            "lora_A = self.lora_A[active_adapter]",
            "active_adapter = self.active_adapters[0]\nlora_A = self.lora_A[active_adapter]",
        ),
    ),
    _law(
        "rows get each other's adapter",
        "opt/road/default",
        "2 rows",
        "mixed",
        Edit(_layer("road", "Linear._mixed_batch_forward"), "if item == adapter", "if item != adapter"),
    ),
    _law(
        "an unknown adapter is set",
        "linear/ia3/default",
        "no error",
        "refuse.set",
        Edit(
            f"{_MODEL}.set_adapter",
            'raise ValueError(f"Adapter {adapter_name} not found.")',
            "return",
        ),
    ),
)

_SAVING = (
    _law(
        "a tensor is not saved",
        "linear/lora/default",
        "one of all",
        "save.load",
        Edit(STATE_DICT, NAMES_REMOVED, f"    to_return.pop(sorted(to_return)[-1])\n{NAMES_REMOVED}"),
    ),
    _law(
        "a saved module is saved as it was before training",
        "bert/loha/default",
        "the classifier",
        "save.load",
        Edit(
            f"{_OTHER}:ModulesToSaveWrapper.adapter_state_dict",
            'state_dict[f"modules_to_save.{adapter_name}.{k}"]',
            'state_dict[f"original_module.{k}"]',
        ),
    ),
    _law(
        "trained biases of adapted layers are not saved",
        "opt/lora/bias-only",
        "4 biases",
        "save.load",
        Edit(
            f"{TUNER}:BaseTuner._get_learnable_bias_state_dict",
            'bias_name = f"{module_name}.base_layer.bias"',
            'bias_name = f"{module_name}.bias"',
        ),
    ),
    _law(
        "places hang on the state of the generators",
        "linear/fourierft/default",
        "the seed forgotten",
        "save.load",
        Edit(
            _layer("fourierft", "FourierFTLayer.update_layer"),
            ".manual_seed(self.fourierft_random_loc_seed[adapter_name])",
            ".manual_seed(torch.initial_seed())",
        ),
    ),
    _law(
        "the best vectors are saved with all weights of one size",
        "llama1/vblora/topk",
        "3 vectors",
        "save.load",
        Edit(
            "peft.tuners.vblora.model:VBLoRAModel._get_adapter_state_dict",
            "torch.softmax(logits, dim=-1)",
            "torch.softmax(0 * logits, dim=-1)",
        ),
    ),
    _law(
        "a loaded prompt is encoded once more",
        "llama/ptuning/default",
        "by an encoder that is not there",
        "save.load",
        Edit(
            f"{_MODEL}.get_prompt",
            "prompts = prompt_encoder.embedding.weight",
            "prompts = prompt_encoder(prompt_tokens[:1])",
        ),
    ),
    _law(
        "the router is not saved",
        "llama/poly/default",
        "one tensor a layer",
        "save.load",
        Edit(
            STATE_DICT,
            NAMES_REMOVED,
            "    to_return = {key: value for key, value in to_return.items() if 'router' not in key}\n" + NAMES_REMOVED,
        ),
    ),
    _law(
        "factors of the tasks are not loaded",
        "llama/multitaskprompttuning/default",
        "2 of 3 tensors",
        "load.onto",
        Edit(
            "peft.tuners.multitask_prompt_tuning.model:MultitaskPromptEmbedding._load_adapter_state_dict",
            "self.load_state_dict(state_dict, strict=False)",
            "pass",
        ),
    ),
    _law(
        "an adapter loaded for inference is trainable",
        "linear/peanut/default",
        "all tensors",
        "load.inference",
        Edit(
            f"{_MODEL}.from_pretrained",
            "config.inference_mode = not is_trainable",
            "config.inference_mode = False",
            times=2,
        ),
    ),
    _law(
        "an adapter loaded to be trained is frozen",
        "linear/lora/default",
        "all tensors",
        "load.trainable",
        Edit(
            f"{_MODEL}.from_pretrained",
            "config.inference_mode = not is_trainable",
            "config.inference_mode = True",
            times=2,
        ),
    ),
    _law(
        "what is loaded lean stays empty",
        "linear/ia3/default",
        "all tensors",
        "load.low_memory",
        Edit(f"{_SAVE}:set_peft_model_state_dict", "strict=False, assign=True", "strict=False"),
    ),
    _law(
        "a loaded adapter is looked for by the default name",
        "linear/loha/default",
        "another name",
        "load.name",
        Edit(
            f"{TUNER}:BaseTuner._remap_adapter_state_dict_for_load",
            "adapter_name=adapter_name)",
            'adapter_name="default")',
        ),
    ),
    _law(
        "the first adapter is saved in the second one's folder",
        "linear/randlora/default",
        "the second of two",
        "save.two",
        Edit(
            f"{_MODEL}.save_pretrained",
            "adapter_name=adapter_name,",
            "adapter_name=selected_adapters[0],",
        ),
    ),
    _law(
        "an adapter is not copied out of its module",
        "llama/adaptionprompt/default",
        "the gate",
        "save.load",
        Edit(
            "peft.tuners.adaption_prompt.model:AdaptionPromptModel._get_adapter_state_dict",
            '.startswith("adaption_")',
            '.startswith("adaption_prompt")',
        ),
    ),
    _law(
        "the base model's names keep the adapter's",
        "linear/tinylora/default",
        "base_layer",
        "base.state",
        Edit(f"{_SAVE}:_peft_key_to_original_key", 'elif part == "base_layer" and', 'elif part == "base" and'),
    ),
)

_COMBINING = (
    _law(
        "a combination forgets the scale",
        "linear/lora/default",
        "a factor of 1.5",
        "weighted.cat",
        Edit(
            f"{_LORA_MODEL}.add_weighted_adapter",
            "loras_A.append(current_adapter_lora_A.data * weight * target.scaling[adapter])",
            "loras_A.append(current_adapter_lora_A.data * weight)",
        ),
    ),
    _law(
        "a combination weighs both factors in full",
        "linear/lora/default",
        "a factor of 1.5",
        "weighted.linear",
        Edit(
            f"{_LORA_MODEL}._generalized_task_arithmetic_weighted_adapter",
            "valid_weights_B.append(math.sqrt(abs(weight_with_scaling)))",
            "valid_weights_B.append(abs(weight_with_scaling))",
        ),
    ),
    _law(
        "a decomposition loses its last part",
        "linear/lora/default",
        "1 of 4 singular values",
        "weighted.svd",
        Edit(
            f"{_LORA_MODEL}._svd_generalized_task_arithmetic_weighted_adapter",
            "U = U @ torch.diag(S)",
            "S[-1] = 0\nU = U @ torch.diag(S)",
        ),
    ),
    _law(
        "a combination of vectors forgets the weight",
        "linear/ia3/default",
        "0 is taken for 1",
        "weighted",
        Edit("peft.tuners.ia3.model:IA3Model.add_weighted_adapter", "* weight", "* weight * 0.5"),
    ),
    _law(
        "scaling sets instead of multiplying",
        "linear/lora/default",
        "2 for 3",
        "scale",
        Edit(
            f"{LORA}:LoraLayer.scale_layer",
            "self.scaling[active_adapter] *= scale",
            "self.scaling[active_adapter] = scale",
        ),
    ),
    _law(
        "the inverse of a scaling is another",
        "linear/loha/default",
        "divided by 4 for 2",
        "scale",
        Edit(f"{LYCORIS}.unscale_layer", "/= scale", "/= scale**2"),
    ),
    _law(
        "a scaling for a while is for good",
        "embedding/lora/default",
        "a factor of 0.5",
        "scale.context",
        Edit("peft.helpers:rescale_adapter_scale", "module.scaling = scaling", "pass"),
    ),
    _law(
        "half of an adapter is not hot-swapped",
        "linear/lora/default",
        "one factor of 2",
        "hotswap",
        Edit(
            "peft.utils.hotswap:hotswap_adapter_from_state_dict",
            "if shapes_match:",
            'if shapes_match and ".lora_A." in key:\n    continue\nif shapes_match:',
        ),
    ),
    _law(
        "a hot-swapped adapter keeps the alpha of the one before",
        "opt/lora/lora-bias",
        "a factor of 2",
        "hotswap.alpha",
        Edit("peft.utils.hotswap:_update_scaling", "lora_module.scaling[adapter_name] = scaling", "pass"),
    ),
    _law(
        "a scaling is reset without the root of the rank",
        "conv2d/lora/rslora",
        "a factor of 2",
        "scale.reset",
        Edit(f"{LORA}:LoraLayer.unscale_layer", "if self.use_rslora.get(active_adapter, False):", "if False:"),
    ),
    _law(
        "a scale is set without the root of the rank",
        "conv2d/lora/rslora",
        "a factor of 2",
        "scale.set",
        Edit(f"{LORA}:LoraLayer.set_scale", "if self.use_rslora.get(adapter, False):", "if False:"),
    ),
    _law(
        "a conversion forgets the size of what it decomposed",
        "linear/waveft/default",
        "singular values of 1",
        "convert",
        Edit(
            "peft.tuners.lora.conversion:_convert_module_to_lora",
            "U[:, :effective_rank] * S[:effective_rank]",
            "U[:, :effective_rank]",
        ),
    ),
)

_SWITCHING = (
    _law(
        "disabling does not nest",
        "linear/lokr/default",
        "all layers",
        "disable.nested",
        Edit(f"{_MODEL}.disable_adapter", "if model_status.enabled is not False:", "if True:"),
    ),
    _law(
        "a saved module is not switched off",
        "bert/loha/default",
        "the classifier",
        "disable",
        Edit(f"{_OTHER}:AuxiliaryTrainingWrapper.enable_adapters", "self._disable_adapters = True", "pass"),
    ),
    _law(
        "a prompt is not taken away",
        "llama/prompttuning/default",
        "4 tokens",
        "disable",
        Edit(f"{_MODEL}.disable_adapter", "self.forward = self.base_model.forward", "pass"),
    ),
    _law(
        "enabled again, an adapter stays frozen",
        "linear/vera/default",
        "all tensors",
        "enable.requires_grad",
        Edit(f"{_LAYER}.enable_adapters", "self.set_adapter(self.active_adapters)", "pass"),
    ),
    _law(
        "a saved module is not frozen",
        "bert/loha/default",
        "the classifier",
        "freeze",
        Edit(
            f"{_OTHER}:AuxiliaryTrainingWrapper.set_requires_grad",
            "if key in adapter_names_set:",
            "if key in adapter_names_set and requires_grad:",
        ),
    ),
    _law(
        "what is thawed is only half of it",
        "linear/randlora/default",
        "one of 2 tensors a layer",
        "thaw",
        Edit(
            f"{_LAYER}.set_requires_grad",
            "for layer_name in self.adapter_layer_names:",
            "for layer_name in self.adapter_layer_names[: 1 if requires_grad else None]:",
        ),
    ),
    _law(
        "adapters that are parameters are not listed",
        "linear/hra/default",
        "all layers",
        "status",
        Edit(f"{_LAYER}._get_available_adapters", "(nn.ModuleDict, nn.ParameterDict)", "nn.ModuleDict"),
    ),
    _law(
        "a prompt comes again with each token",
        "llama/prompttuning/default",
        "the cache is not looked at",
        "generate",
        Edit(
            f"{_LANGUAGE_MODEL}.prepare_inputs_for_generation",
            "isinstance(cache, transformers.Cache) and not cache.get_seq_length()",
            "isinstance(cache, transformers.Cache)",
        ),
    ),
    _law(
        "names of adapters are not repeated for beams",
        "opt/lora/lora-bias",
        "2 beams",
        "generate.mixed",
        Edit(
            f"{_LORA_MODEL}._enable_peft_forward_hooks",
            '[n for n in adapter_names for _ in range(kwargs["num_beams"])]',
            'list(adapter_names) * kwargs["num_beams"]',
        ),
    ),
)

_CONFIG = (
    _fault(
        "the rank of a pattern is ignored",
        "llama1/lora/patterns",
        "2 -> 4 in half of the layers",
        "params.trainable",
        Edit(
            f"{_LORA_MODEL}._create_and_replace",
            "lora_config.rank_pattern.get(r_key, lora_config.r)",
            "lora_config.r",
        ),
    ),
    _fault(
        "the alpha of a pattern is ignored",
        "llama1/lora/patterns",
        "3 -> 6 in half of the layers",
        "witness",
        Edit(
            f"{_LORA_MODEL}._create_and_replace",
            "lora_config.alpha_pattern.get(alpha_key, lora_config.lora_alpha)",
            "lora_config.lora_alpha",
        ),
    ),
    _fault(
        "excluded modules are adapted",
        "llama/deft/spared",
        "one of 4 layers",
        "params.trainable",
        Edit(f"{TUNER}:check_target_module_exists", 'if hasattr(config, "exclude_modules") and', "if False and"),
    ),
    _fault(
        "layers are counted from one",
        "llama/boft/placed",
        "the layer before",
        "witness",
        Edit(
            f"{TUNER}:check_target_module_exists",
            "layer_index = int(layer_index)",
            "layer_index = int(layer_index) + 1",
        ),
    ),
    _fault(
        "a random start is ignored",
        "llama1/loha/patterns",
        "an update of zero",
        "witness",
        Edit(f"{LOHA}.update_layer", "if init_weights:", "if True:"),
    ),
    _fault(
        "the root of the rank is forgotten",
        "conv2d/lora/rslora",
        "a factor of 2",
        "witness",
        Edit(f"{LORA}:_ConvNd.update_layer", "lora_alpha / math.sqrt(r)", "lora_alpha / r"),
    ),
    _fault(
        "a scaling is counted twice",
        "linear/fourierft/default",
        "a factor of 2",
        "witness",
        Edit(
            _layer("fourierft", "FourierFTLayer.get_delta_weight"),
            "* self.fourierft_scaling",
            "* 2 * self.fourierft_scaling",
        ),
    ),
    _fault(
        "a bound on tokens is ignored",
        "llama/cpt/default",
        "no projection",
        "witness",
        Edit("peft.tuners.cpt.model:CPTEmbedding.forward", "self.get_projection()", "self.delta_embedding.weight.data"),
    ),
    _fault(
        "an adapter of half precision is not widened",
        "llama1/loha/bfloat16",
        "bfloat16 for float32",
        "checkpoint.tensors",
        Edit(f"{TUNER}:cast_adapter_dtype", "if not autocast_adapter_dtype:", "if True:"),
    ),
    _fault(
        "what is tied is saved apart",
        "opt/lora/tied-saved",
        "one matrix of 2",
        "witness",
        Edit(
            f"{_OTHER}:ModulesToSaveWrapper.update",
            "new_linear.weight = tied_module.weight",
            "new_linear.weight = torch.nn.Parameter(tied_module.weight.detach().clone())",
        ),
    ),
    _fault(
        "a frozen part of a prefix is trained",
        "llama1/cartridge/frozen",
        "2 of 4 tokens",
        "params.trainable",
        Edit(
            "peft.tuners.cartridge.model:CartridgeEncoder.__init__",
            "torch.nn.Parameter(frozen, requires_grad=False)",
            "torch.nn.Parameter(frozen)",
        ),
    ),
    _fault(
        "virtual tokens are not attended to",
        "llama/prefixtuning/default",
        "4 tokens",
        "witness",
        Edit(
            f"{_LANGUAGE_MODEL}.forward",
            "prefix_attention_mask = torch.ones(",
            "prefix_attention_mask = torch.zeros(",
        ),
    ),
)

LIFE_CYCLE = (*_MERGING, *_SEVERAL, *_SAVING, *_COMBINING, *_SWITCHING, *_CONFIG)
