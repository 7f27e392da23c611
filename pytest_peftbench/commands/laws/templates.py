"""Texts of scripts that show a broken law by PEFT alone: a base model of each structure, and what is done to it.

Places that start with a $ are filled in by `scripts`: $base and $model make what is named so, $out is the adapted
model's output, $plain the same without what a method wants beside the inputs, $alone that of the base model; $trained
stands for a training, $differ prints how far `obtained` is from `expected`.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

WIDTH = 100


@dataclass(frozen=True)
class Base:
    """A base model: the lines that make it, those of its inputs, and how it is called."""

    model: str
    inputs: str
    call: str = "x"
    output: str = ""


def folded(name: str, arguments: str) -> str:
    """A call, over several lines if it is too long for one."""
    if len(name) + len(arguments) < WIDTH - len("config = ()"):
        return f"{name}({arguments})"
    lines = textwrap.wrap(arguments, WIDTH - 4, break_long_words=False, break_on_hyphens=False)
    return "\n".join([f"{name}(", *(f"    {line}" for line in lines), ")"])


def _convolution(dimensions: int) -> Base:
    layer, shape = f"nn.Conv{dimensions}d", ", ".join(["7"] * dimensions)
    return Base(
        "base = nn.Sequential(OrderedDict(\n"
        f"    first={layer}(3, 8, 3, padding=1), norm=nn.GroupNorm(2, 8),\n"
        f"    strided={layer}(8, 12, 3, stride=2, bias=False), point={layer}(12, 8, 1),\n"
        "))",
        f"x = torch.randn(2, 3, {shape})",
    )


def _transformer(kind: str, head: str, sizes: str, output: str = ".logits", inputs: str = "") -> Base:
    inputs = inputs or 'inputs = {"input_ids": torch.arange(1, 13).view(2, 6), "attention_mask": torch.ones(2, 6)}'
    return Base(f"base = {kind}{head}({folded(f'{kind}Config', sizes)}).eval()", inputs, "**inputs", output)


def _llama(layers: int) -> Base:
    return _transformer("Llama", "ForCausalLM", f"{_DECODER}{layers}, num_key_value_heads=2, intermediate_size=48")


_DECODER = "vocab_size=48, hidden_size=32, num_attention_heads=4, num_hidden_layers="
_SHORT = "max_position_embeddings=32, "
_BERT = _DECODER + "1, intermediate_size=48"
# From the simplest on.
BASES: dict[str, Base] = {
    "linear": Base(
        "base = nn.Sequential(OrderedDict(\n"
        "    wide=nn.Linear(10, 21), norm=nn.LayerNorm(21), narrow=nn.Linear(21, 14),\n"
        "    plain=nn.Linear(14, 14, bias=False),\n"
        "))",
        "x = torch.randn(2, 10)",
    ),
    "even": Base(
        "base = nn.Sequential(OrderedDict(\n"
        "    tokens=nn.Embedding(20, 16), norm=nn.LayerNorm(16), first=nn.Linear(16, 16), tanh=nn.Tanh(),\n"
        "    square=nn.Linear(16, 16),\n"
        "))",
        "x = torch.arange(12).view(2, 6)",
    ),
    "conv1d": _convolution(1),
    "conv2d": _convolution(2),
    "conv2d-groups": Base(
        "base = nn.Sequential(OrderedDict(\n"
        "    first=nn.Conv2d(3, 8, 3), norm=nn.GroupNorm(2, 8), grouped=nn.Conv2d(8, 12, 3, groups=2),\n"
        "))",
        "x = torch.randn(2, 3, 7, 7)",
    ),
    "conv3d": _convolution(3),
    "embedding": Base(
        "base = nn.Sequential(OrderedDict(tokens=nn.Embedding(20, 12), norm=nn.LayerNorm(12)))",
        "x = torch.arange(12).view(2, 6)",
    ),
    "attention": Base(
        "class Attention(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.mha = nn.MultiheadAttention(16, 4, batch_first=True)\n"
        "    def forward(self, x):\n"
        "        return self.mha(x, x, x)[0]\n"
        "base = Attention()",
        "x = torch.randn(2, 6, 16)",
    ),
    "experts": Base(
        "class Experts(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.up = nn.Parameter(torch.randn(3, 16, 20) / 4)\n"
        "        self.down = nn.Parameter(torch.randn(3, 20, 16) / 4)\n"
        "    def forward(self, x):\n"
        '        return torch.einsum("bti,eio,eoj->btj", x, self.up, self.down)\n'
        "base = nn.Sequential(OrderedDict(experts=Experts()))",
        "x = torch.randn(2, 6, 16)",
    ),
    "llama": _llama(2),
    "llama1": _llama(1),
    "gpt2": _transformer("GPT2", "LMHeadModel", "vocab_size=48, n_embd=32, n_layer=1, n_head=4"),
    "opt": _transformer(
        "OPT", "ForCausalLM", _DECODER + "1, ffn_dim=48, word_embed_proj_dim=32, init_std=0.3, " + _SHORT.strip(", ")
    ),
    "gemma": _transformer(
        "Gemma", "ForCausalLM", _DECODER + "1, num_key_value_heads=2, intermediate_size=48, head_dim=8"
    ),
    "bert": _transformer("Bert", "ForSequenceClassification", _BERT),
    "bert-tokens": _transformer("Bert", "ForTokenClassification", _BERT),
    "bert-answers": _transformer("Bert", "ForQuestionAnswering", _BERT, ".start_logits"),
    "bert-features": _transformer("Bert", "Model", _BERT, ".last_hidden_state"),
    "t5": _transformer(
        "T5",
        "ForConditionalGeneration",
        "vocab_size=48, d_model=32, d_kv=8, d_ff=48, num_heads=4, num_layers=1, decoder_start_token_id=0",
        inputs='ids = torch.arange(1, 13).view(2, 6)\ninputs = {"input_ids": ids, "decoder_input_ids": ids[:, :4]}',
    ),
    "vit": _transformer(
        "ViT",
        "ForImageClassification",
        "image_size=8, patch_size=4, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48",
        inputs='inputs = {"pixel_values": torch.randn(2, 3, 8, 8)}',
    ),
    "sd3": Base(
        "base = SD3Transformer2DModel(\n"
        "    sample_size=8, in_channels=4, out_channels=4, num_layers=1, pos_embed_max_size=8,\n"
        "    joint_attention_dim=24, caption_projection_dim=32, pooled_projection_dim=16,\n"
        "    attention_head_dim=8, num_attention_heads=4,\n"
        ").eval()",
        "inputs = {\n"
        '    "hidden_states": torch.randn(2, 4, 8, 8), "encoder_hidden_states": torch.randn(2, 6, 24),\n'
        '    "pooled_projections": torch.randn(2, 16), "timestep": torch.tensor([200, 700]),\n'
        "}",
        "**inputs",
        ".sample",
    ),
}

# Where a name that a script uses comes from.
HOMES: dict[str, str] = {
    "copy": "",
    "io": "",
    "tempfile": "",
    "nn": "torch",
    "OrderedDict": "collections",
    "SD3Transformer2DModel": "diffusers",
    "hotswap_adapter": "peft.utils.hotswap",
    "rescale_adapter_scale": "peft.helpers",
    "BaseTunerLayer": "peft.tuners.tuners_utils",
    **dict.fromkeys(
        """PeftModel convert_to_lora get_base_model_state_dict get_peft_model get_peft_model_state_dict
        inject_adapter_in_model set_peft_model_state_dict""".split(),
        "peft",
    ),
}

PERTURBED = """\
for p in model.parameters():
    p.data += 0.2 * torch.randn_like(p) * p.requires_grad  # as if trained"""
ALLOCATED = """\
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
for step in range(1, 4):
    $out.square().mean().backward()
    optimizer.step()
    model.base_model.update_and_allocate(step)
    optimizer.zero_grad()"""
DIFFER = 'print("should be 0:", ((obtained - expected).abs().max() / expected.abs().max()).item())'

_ONE = "$base\n$model\n$trained\n"
_EXPECTED = f"{_ONE}expected = $out\n"
_OBTAINED = "obtained = $out\n$differ"
_BASE_OUTPUT = "$base\nexpected = $alone\n$model\n$trained\n"
_TRAINABLE = "{name for name, p in model.named_parameters() if p.requires_grad}"
_COUNT = 'print("should be 0:", len(obtained ^ expected), sorted(obtained ^ expected)[:3])'
_ADDED = f"{_ONE}trainable = lambda: {_TRAINABLE}\n"
_TWO = """\
$base
$model
model.add_adapter("second", another$options)
for name in ("second", "default"):
    model.set_adapter(name)
    for p in model.parameters():
        p.data += 0.2 * torch.randn_like(p) * p.requires_grad  # as if trained
model.eval()
"""
_TWO_SAVED = _TWO.replace("$model", "untouched = copy.deepcopy(base)\n$model")
# What the second adapter gives alone.
_OTHER = """\
$base
torch.manual_seed(1)
model = other = get_peft_model(copy.deepcopy(base), copy.deepcopy(config)$options).eval()
$trained
expected = $out
"""
_SAVED = """\
$base
untouched = copy.deepcopy(base)
$model
$trained
expected = $out
folder = tempfile.mkdtemp()
model.save_pretrained(folder)
"""
_LOAD = f"{_SAVED}model = PeftModel.from_pretrained(untouched, folder"
_WEIGHTED = """\
model.set_adapter("sum")
obtained = $out
$differ"""

# What another processor may make of a matrix: every second column of its factors has the other sign.
_ELSEWHERE = """\
svd, eigh, qr = torch.linalg.svd, torch.linalg.eigh, torch.linalg.qr
signs = lambda count: torch.tensor([1.0, -1.0]).repeat(count)[:count]
def other_svd(*a, **k):
    u, s, v = svd(*a, **k)
    n = s.shape[-1]
    u[..., :n] *= signs(n)
    v[..., :n, :] *= signs(n)[:, None]
    return torch.return_types.linalg_svd((u, s, v))
def other_eigh(*a, **k):
    values, vectors = eigh(*a, **k)
    return torch.return_types.linalg_eigh((values, vectors * signs(vectors.shape[-1])))
def other_qr(*a, **k):
    q, r = qr(*a, **k)
    return torch.return_types.linalg_qr((q * signs(q.shape[-1]), r * signs(r.shape[-2])[:, None]))
torch.linalg.svd, torch.linalg.eigh, torch.linalg.qr = other_svd, other_eigh, other_qr
try:
    model = PeftModel.from_pretrained(untouched, folder).eval()
finally:
    torch.linalg.svd, torch.linalg.eigh, torch.linalg.qr = svd, eigh, qr
"""


def _two_weighted(kind: str, options: str = "") -> str:
    combined = '["default"], [1.0]' if "ties" in kind else '["default", "second"], [1.0, 0.0]'
    return (
        f"{_TWO}expected = $out\n"
        f'model.base_model.add_weighted_adapter({combined}, "sum", '
        f'combination_type="{kind}"{options})\n{_WEIGHTED}'
    )


_WEIGHTS = """\
weights = lambda: {n: p.clone() for n, p in model.named_parameters() if "base_layer" in n}
"""
_CHANGED = """\
print("should be 0:", max((after[n] - before[n]).abs().max().item() for n in before))"""
_TOKENS = "max_new_tokens=20, min_new_tokens=20, do_sample=False"
_GENERATED = f"model.generate(**inputs$extra, {_TOKENS}"
_SAMPLED = _GENERATED.replace("do_sample=False", "do_sample=True, num_return_sequences=8")
_GENERATED_PLAIN = f"base.generate(**inputs, {_TOKENS}"
# Of how many parameters of an adapter on half precision the type is none that was asked for.
_OF_ANOTHER_TYPE = """\
$base
model = get_peft_model(base.to(torch.bfloat16), config, autocast_adapter_dtype=$autocast)
obtained = [name for name, p in model.named_parameters() if p.requires_grad and p.dtype != $asked]
print("should be 0:", len(obtained), obtained[:3])"""
_MIXED_METHODS = """\
$base
model = get_peft_model(base, config, mixed=True).eval()
$trained
alone = $out
other = LoHaConfig(r=2, target_modules=config.target_modules)
model.add_adapter("other", other)
model.set_adapter("other")
$trained
model.set_adapter(["default", "other"])
model.eval()
both = $out
"""
_MIXED_MERGED = f"{_MIXED_METHODS}model.merge_adapter()\n"
_MIXED_SET = f'{_MIXED_MERGED}model.unmerge_adapter()\nmodel.set_adapter("default")\n'

LAWS: dict[str, str] = {
    # in double precision, as the law is asked: in single one rounding hides a division of nothing by nothing
    "inject": "torch.set_default_dtype(torch.float64)\n$base\n$model\nobtained = $out\n"
    f"trainable = {_TRAINABLE}\n"
    'print("should be 0:", float(not trainable or obtained.isnan().any()))',
    "inject.low_level": "$base\nother = copy.deepcopy(base)\ntorch.manual_seed(1)\n$model\nexpected = $out\n"
    'torch.manual_seed(1)\nmodel = inject_adapter_in_model(config, other, "default").eval()\n' + _OBTAINED,
    "train": "$base\n$model\noutput = model.train()($call$extra)$output\noutput.square().mean().backward()\n"
    "obtained = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}\n"
    'print("should be 0:", len(obtained), sorted(obtained)[:3])',
    "train.base": "$base\n$model\nbefore = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}\n"
    "optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)\n"
    "model.train()\n"
    "for _ in range(3):\n    $out.square().mean().backward()\n    optimizer.step()\n    optimizer.zero_grad()\n"
    "after = dict(model.named_parameters())\n"
    "changed = [n for n in before if not torch.equal(before[n], after[n])]\n"
    'print("should be 0:", len(changed), changed)',
    "inject.dtype": _OF_ANOTHER_TYPE.replace("$autocast", "True").replace("$asked", "torch.float32"),
    "inject.dtype.kept": _OF_ANOTHER_TYPE.replace("$autocast", "False").replace("$asked", "torch.bfloat16"),
    "train.accumulate": f"{_ONE}model.train()\n$out.square().mean().backward()\n"
    "expected = [p.grad for p in model.parameters() if p.grad is not None]\nmodel.zero_grad()\n"
    "for half in (x[:1], x[1:]):\n    (model(half)$output.square().mean() / 2).backward()\n"
    "obtained = [p.grad for p in model.parameters() if p.grad is not None]\n"
    'print("should be 0:", max((a - b).abs().max().item() for a, b in zip(obtained, expected, strict=True)))',
    "train.mode": f"{_EXPECTED}model.train()\n{_OBTAINED}",
    "batch": f"{_EXPECTED.replace('$out', '$out[:1]')}obtained = model($first$extra)$output\n$differ",
    "disable": f"{_BASE_OUTPUT}with model.disable_adapter():\n    obtained = $plain\n$differ",
    "disable.nested": f"{_BASE_OUTPUT}with model.disable_adapter():\n    with model.disable_adapter():\n        pass\n"
    "    obtained = $plain\n$differ",
    "enable": f"{_EXPECTED}with model.disable_adapter():\n    pass\n{_OBTAINED}",
    "enable.requires_grad": f"{_ADDED}expected = trainable()\nwith model.disable_adapter():\n    pass\n"
    f"obtained = trainable()\n{_COUNT}",
    "freeze": f'$base\n$model\nmodel.set_requires_grad("default", requires_grad=False)\n'
    f"obtained, expected = {_TRAINABLE}, set()\n{_COUNT}",
    "thaw": f'{_ADDED}expected = trainable()\nmodel.set_requires_grad("default", requires_grad=False)\n'
    f'model.set_requires_grad("default")\nobtained = trainable()\n{_COUNT}',
    "checkpointing": f"{_ONE}model.train()\n$out.square().mean().backward()\n"
    "expected = [p.grad for p in model.parameters() if p.grad is not None]\nmodel.zero_grad()\n"
    "model.gradient_checkpointing_enable()\n$out.square().mean().backward()\n"
    "obtained = [p.grad for p in model.parameters() if p.grad is not None]\n"
    'print("should be 0:", max((a - b).abs().max().item() for a, b in zip(obtained, expected, strict=True)))',
    "base.state": "$base\nexpected = {name: tensor.clone() for name, tensor in base.state_dict().items()}\n"
    "$model\n$trained\nobtained = get_base_model_state_dict(model)\n"
    "others = obtained.keys() ^ expected.keys()\n"
    "changed = [(obtained[n] - expected[n]).abs().max().item() for n in obtained.keys() & expected.keys()]\n"
    'print("should be 0:", len(others) + max(changed, default=0.0), sorted(others)[:3])',
    "convert": "$base\nuntouched = copy.deepcopy(base)\n$model\n$trained\nexpected = $out\n"
    "lora, state = convert_to_lora(model, rank=1.0)\nmodel = get_peft_model(untouched, lora).eval()\n"
    f"set_peft_model_state_dict(model, state)\n{_OBTAINED}",
    "status": "$base\n$model\nstatus = model.get_model_status()\n"
    'expected = ["default"], True, [], ["default"]\n'
    "obtained = status.active_adapters, status.enabled, status.merged_adapters, status.available_adapters\n"
    'print("should be 0:", int(obtained != expected), obtained, expected)',
    "copy": f"{_EXPECTED}model = copy.deepcopy(model)\n{_OBTAINED}",
    "pickle": f"{_EXPECTED}file = io.BytesIO()\ntorch.save(model, file)\nfile.seek(0)\n"
    f"model = torch.load(file, weights_only=False)\n{_OBTAINED}",
    "save.load": f"{_LOAD}).eval()\n{_OBTAINED}",
    "load.inference": f"{_LOAD})\nobtained, expected = {_TRAINABLE}, set()\n{_COUNT}",
    "load.trainable": _SAVED.replace("expected = $out", f"expected = {_TRAINABLE}")
    + f"model = PeftModel.from_pretrained(untouched, folder, is_trainable=True)\nobtained = {_TRAINABLE}\n{_COUNT}",
    "load.low_memory": f"{_LOAD}, low_cpu_mem_usage=True).eval()\n{_OBTAINED}",
    "load.name": f'{_LOAD}, adapter_name="second").eval()\n{_OBTAINED}',
    "load.elsewhere": f"{_SAVED}{_ELSEWHERE}{_OBTAINED}",
    "load.onto": f"{_OTHER}folder = tempfile.mkdtemp()\nother.save_pretrained(folder)\n$model\n"
    f'model.load_adapter(folder, "second")\nmodel.set_adapter("second")\nmodel.eval()\n{_OBTAINED}',
    "save.two": f'{_TWO_SAVED}model.set_adapter("second")\n'
    "expected = $out\nfolder = tempfile.mkdtemp()\nmodel.save_pretrained(folder)\n"
    f'model = PeftModel.from_pretrained(untouched, folder + "/second").eval()\n{_OBTAINED}',
    "load.state": f"{_OTHER}$model\nset_peft_model_state_dict(model, get_peft_model_state_dict(other))\n{_OBTAINED}",
    "save.again": f"{_SAVED}expected = get_peft_model_state_dict(model)\n"
    "model = PeftModel.from_pretrained(untouched, folder).eval()\n$out\nobtained = get_peft_model_state_dict(model)\n"
    "found = [(obtained[n] - expected[n]).abs().max().item() for n in expected]\n"
    'print("should be 0:", max(found, default=float("inf")))',
    "merge": f"{_EXPECTED}model.merge_adapter()\n{_OBTAINED}",
    "merge.again": f"{_EXPECTED}model.merge_adapter()\nmodel.merge_adapter()\n{_OBTAINED}",
    "merge.disable": f"{_BASE_OUTPUT}model.merge_adapter()\nwith model.disable_adapter():\n    obtained = $plain\n"
    "$differ",
    "merge.safe": f"{_EXPECTED}model.merge_adapter(safe_merge=True)\n{_OBTAINED}",
    "unmerge": f"{_EXPECTED}model.merge_adapter()\nmodel.unmerge_adapter()\n{_OBTAINED}",
    "unmerge.weights": f"{_ONE}{_WEIGHTS}before = weights()\nmodel.merge_adapter()\nmodel.unmerge_adapter()\n"
    f"after = weights()\n{_CHANGED}",
    "merge.train": f"{_EXPECTED}model.train().merge_adapter()\nmodel.eval()\n{_OBTAINED}",
    "merge.unload": f"{_EXPECTED}model = model.merge_and_unload()\nobtained = $plain\n$differ",
    "unload": f"{_BASE_OUTPUT}model = model.unload()\nobtained = $plain\n$differ",
    "safe.raises": f"{_ONE}for name, p in model.named_parameters():\n    if $spoiled in name:\n"
    "        p.data.fill_(torch.nan)\n"
    "model.merge_adapter(safe_merge=True)  # should raise a ValueError",
    "safe.nothing": f"{_ONE}for name, p in model.named_parameters():\n    if $spoiled in name:\n"
    "        p.data.fill_(torch.nan)\n"
    f"{_WEIGHTS}before = {{n: p for n, p in weights().items() if p.isfinite().all()}}\n"
    "try:\n    model.merge_adapter(safe_merge=True)\nexcept ValueError as refused:\n    print(refused)\n"
    f"after = weights()\n{_CHANGED}",
    "add": f'{_EXPECTED}model.add_adapter("second", another$options)\nmodel.eval()\n{_OBTAINED}',
    "add.requires_grad": f'{_ADDED}expected = trainable()\nmodel.add_adapter("second", another$options)\n'
    f"obtained = trainable()\n{_COUNT}",
    "add.frozen": f'{_ADDED}model.set_requires_grad("default", requires_grad=False)\nexpected = trainable()\n'
    f'model.add_adapter("second", another$options)\nobtained = trainable()\n{_COUNT}',
    "set": f"{_OTHER}$model\ntorch.manual_seed(1)\n"
    f'model.add_adapter("second", another$options)\nmodel.set_adapter("second")\n$trained\nmodel.eval()\n{_OBTAINED}',
    "set.requires_grad": f'{_ADDED}expected = {{name.replace(".default", ".second") for name in trainable()}}\n'
    'model.add_adapter("second", another$options)\nmodel.set_adapter("second")\n'
    f"obtained = trainable()\n{_COUNT}",
    "set.back": f'{_EXPECTED}model.add_adapter("second", another$options)\nmodel.set_adapter("second")\n'
    f'model.set_adapter("default")\nmodel.eval()\n{_OBTAINED}',
    "set.inference": f'$base\n$model\nmodel.set_adapter("default", inference_mode=True)\n'
    f"obtained, expected = {_TRAINABLE}, set()\n{_COUNT}",
    "delete": f'{_EXPECTED}model.add_adapter("second", another$options)\nmodel.delete_adapter("second")\n'
    f"model.eval()\n{_OBTAINED}",
    "delete.bytes": "$base\n$model\n"
    "size = lambda: sum({t.data_ptr(): t.nbytes for t in model.state_dict().values()}.values())\n"
    'before = size()\nmodel.add_adapter("second", another$options)\nmodel.delete_adapter("second")\n'
    'print("should be 0:", abs(size() - before))',
    "delete.active": f'{_TWO}model.set_adapter("second")\nexpected = $out\nmodel.set_adapter("default")\n'
    f'model.delete_adapter("default")  # which leaves the second one\nmodel.eval()\n{_OBTAINED}',
    "delete.merged": f'{_EXPECTED}model.add_adapter("second", another$options)\nmodel.merge_adapter()\ntry:\n'
    '    model.delete_adapter("default")\nexcept ValueError as refused:\n    print(refused)\n'
    f"model.eval()\n{_OBTAINED}",
    "both": f'{_TWO}one = $out\nmodel.base_model.set_adapter(["default", "second"])\nboth = $out\n'
    'model.set_adapter("second")\nother = $out\n'
    'print("should be 0:", float(torch.equal(one, both) or torch.equal(other, both)))',
    "both.unload": f'{_TWO}model.base_model.set_adapter(["default", "second"])\nexpected = $out\n'
    "model = model.merge_and_unload()\nobtained = $plain\n$differ",
    "both.merge": f'{_TWO}model.base_model.set_adapter(["default", "second"])\nexpected = $out\n'
    f"model.merge_adapter()\n{_OBTAINED}",
    "both.merge.apart": f'{_TWO}model.base_model.set_adapter(["default", "second"])\nexpected = $out\n'
    f'model.merge_adapter(["default"])\nmodel.merge_adapter(["second"])\n{_OBTAINED}',
    "both.unmerge": f'{_TWO}model.base_model.set_adapter(["default", "second"])\n{_WEIGHTS}before = weights()\n'
    f"model.merge_adapter()\nmodel.unmerge_adapter()\nafter = weights()\n{_CHANGED}",
    "mixed": f'{_TWO}model.set_adapter("second")\nexpected = $out\nmodel.set_adapter("default")\n'
    'obtained = model($call$extra, adapter_names=["second", "second"])$output\n$differ',
    "mixed.methods.merge": f"{_MIXED_MERGED}expected, obtained = both, $out\n$differ",
    "mixed.methods.unmerge": f"{_MIXED_MERGED}model.unmerge_adapter()\nexpected, obtained = both, $out\n$differ",
    "mixed.methods.set": f"{_MIXED_SET}expected, obtained = alone, $out\n$differ",
    "mixed.methods.delete": f'{_MIXED_SET}model.delete_adapter("other")\nexpected, obtained = alone, $out\n$differ',
    "weighted": f'{_EXPECTED}model.base_model.add_weighted_adapter(["default"], [1.0], "sum")\n{_WEIGHTED}',
    "weighted.linear": _two_weighted("linear"),
    "weighted.cat": _two_weighted("cat"),
    "weighted.svd": _two_weighted("svd"),
    **{
        f"weighted.{kind}": _two_weighted(kind, ", density=1.0")
        for rule in ("ties", "dare_linear", "dare_ties", "magnitude_prune")
        for kind in (rule, f"{rule}_svd")
    },
    "weighted.cat.both": f'{_TWO}model.base_model.set_adapter(["default", "second"])\nexpected = $out\n'
    'model.base_model.add_weighted_adapter(["default", "second"], [1.0, 1.0], "sum", combination_type="cat")\n'
    f"{_WEIGHTED}",
    "scale": f'{_EXPECTED}layers = [module for module in model.modules() if hasattr(module, "scale_layer")]\n'
    "for layer in layers:\n    layer.scale_layer(2.0)\nscaled = $out\n"
    "for layer in layers:\n    layer.unscale_layer(2.0)\nobtained = $out\n"
    'print("should be 0:", float(torch.equal(scaled, expected)) + (obtained - expected).abs().max().item())',
    "scale.reset": f'{_EXPECTED}for module in model.modules():\n    if hasattr(module, "scale_layer"):\n'
    f"        module.scale_layer(2.0)\n        module.unscale_layer()\n{_OBTAINED}",
    "scale.set": f'{_EXPECTED}for module in model.modules():\n    if hasattr(module, "scale_layer"):\n'
    f'        module.scale_layer(2.0)\n        module.set_scale("default", 1.0)\n{_OBTAINED}',
    "scale.context": f"{_EXPECTED}with rescale_adapter_scale(model, 0.5):\n    pass\n{_OBTAINED}",
    "hotswap": f"{_OTHER}folder = tempfile.mkdtemp()\nother.save_pretrained(folder)\n$model\n"
    f'hotswap_adapter(model, folder, "default")\n{_OBTAINED}',
    "hotswap.alpha": f'{_OTHER}folder = tempfile.mkdtemp()\nother.peft_config["default"].lora_alpha *= 2\n'
    "other.save_pretrained(folder)\n"
    "model = PeftModel.from_pretrained(copy.deepcopy(base), folder).eval()\nexpected = $out\n$model\n"
    f'hotswap_adapter(model, folder, "default")\n{_OBTAINED}',
    "generate": f"{_ONE}expected = {_GENERATED}, use_cache=True)\nobtained = {_GENERATED}, use_cache=False)\n"
    'print("should be 0:", (obtained != expected).sum().item(), obtained, expected)',
    "generate.disable": "$base\n"
    f"expected = {_GENERATED_PLAIN})\n"
    "$model\n$trained\nwith model.disable_adapter():\n"
    f"    obtained = model.generate(**inputs, {_TOKENS})\n"
    'print("should be 0:", (obtained != expected).sum().item(), obtained, expected)',
    "generate.beams": f"{_ONE}expected = {_GENERATED}, num_beams=2, use_cache=True)\n"
    f"obtained = {_GENERATED}, num_beams=2, use_cache=False)\n"
    'print("should be 0:", (obtained != expected).sum().item(), obtained, expected)',
    "generate.sample": f"{_ONE}torch.manual_seed(0)\nexpected = {_SAMPLED}, use_cache=True)\n"
    f"torch.manual_seed(0)\nobtained = {_SAMPLED}, use_cache=False)\n"
    'print("should be 0:", (obtained != expected).sum().item(), obtained, expected)',
    "generate.mixed": f"{_OTHER}second = {_GENERATED}, num_beams=2)\nplain = {_GENERATED_PLAIN}, num_beams=2)\n"
    "expected = torch.cat([second[:1], plain[1:]])\n$model\ntorch.manual_seed(1)\n"
    'model.add_adapter("second", another$options)\nmodel.set_adapter("second")\n$trained\n'
    f'obtained = {_GENERATED}, adapter_names=["second", "__base__"], num_beams=2)\n'
    'print("should be 0:", (obtained != expected).sum().item(), obtained, expected)',
}
