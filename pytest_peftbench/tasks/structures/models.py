"""The structures themselves: tiny models of a fixed seed, their batch, and what comes out of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pytest_peftbench.tasks.structures.shapes import DEEP
from pytest_peftbench.tasks.task import Batch

ROWS = 2
TOKENS = 6
VOCABULARY = 48
# Of a transformer. One layer: what settings say of several is asked of a llama, which has two, and where many are.
_HIDDEN, _LAYERS, _HEADS = 32, 1, 4


# What single precision explains of an output or a gradient, relative to the largest: 2e-6 was measured.
SINGLE = 1e-4


@dataclass(frozen=True)
class Quantised:
    """What quantised weights stand for, and how far they and what they give may be from it.

    of: gives the model whose weights they are, drawn from the global seed. step: half of the widest gap between two
    values of their type, as a share of the largest: no weight is rounded by more. output: the largest relative
    difference of an output, which is that of single precision where layers do not round their inputs, too.
    """

    of: Callable[[], nn.Module]
    step: float
    output: float = SINGLE


@dataclass(frozen=True)
class Structure:
    """One structure.

    build: gives it with weights drawn from the global seed. inputs: draws a batch of ROWS. generates: whether it
    writes texts. quantised: of weights that are.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator], Batch]
    generates: bool = False
    quantised: Quantised | None = None

    def batch(self) -> Batch:
        """The same batch at each call."""
        return self.inputs(torch.Generator().manual_seed(0))


def output_of(found: Any) -> Tensor:
    """The tensor that a model's output is about."""
    if isinstance(found, Tensor):
        return found
    for name in ("logits", "sample", "last_hidden_state", "start_logits"):
        if isinstance(tensor := getattr(found, name, None), Tensor):
            return tensor
    return output_of(found[0])


# Models of transformers ---------------------------------------------------------------------------------------------


def _tokens(generator: torch.Generator) -> Batch:
    ids = torch.randint(VOCABULARY, (ROWS, TOKENS), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _llama(layers: int, hidden: int = _HIDDEN, feedforward: int = 48) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from transformers import LlamaConfig, LlamaForCausalLM

        sizes = {**_decoder(), "hidden_size": hidden, "intermediate_size": feedforward, "num_key_value_heads": 2}
        sizes["num_hidden_layers"] = layers
        return _initialised(LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False)))

    return build


# Rows of 64 weights and of 128: bitsandbytes' scales of 64 weights each belong to one row.
_wide_llama = _llama(2, 64, 128)


def _quantised(config: Callable[[], Any]) -> Callable[[], nn.Module]:
    """A llama with its layers quantised as transformers does it: while they are loaded."""

    def build() -> nn.Module:
        from transformers import LlamaForCausalLM

        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            _wide_llama().save_pretrained(folder)  # type: ignore[operator]
            options = {"device_map": "cpu", "dtype": torch.float32}
            model: nn.Module = LlamaForCausalLM.from_pretrained(folder, quantization_config=config(), **options)
        _pack_nothing(model)
        return model

    return build


def _pack_nothing(model: Any) -> None:
    """On processors with AVX512-BF16 alone, bitsandbytes packs weights of 4 bits when they are used: here on none."""
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def _bnb8() -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True)


def _bnb4() -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)


def _torchao() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(quant_type=Int8WeightOnlyConfig())


# 127 steps on either side, of weights that bitsandbytes reads in half precision: 0.0041 was measured. It rounds the
# inputs of layers as well: 0.021.
_BNB8 = Quantised(_wide_llama, step=0.005, output=0.1)
_TORCHAO = Quantised(_wide_llama, step=0.005)
# The widest gap of NormalFloat is from -1 to -0.696; 0.127 was measured.
_BNB4 = Quantised(_wide_llama, step=0.153)


def _gemma() -> nn.Module:
    from transformers import GemmaConfig, GemmaForCausalLM

    config = GemmaConfig(**_decoder(), num_key_value_heads=2, intermediate_size=48, head_dim=8)
    return _initialised(GemmaForCausalLM(config))


def _opt() -> nn.Module:
    from transformers import OPTConfig, OPTForCausalLM

    return _initialised(OPTForCausalLM(OPTConfig(**_decoder(), ffn_dim=48, word_embed_proj_dim=_HIDDEN, dropout=0.0)))


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": _HIDDEN, "n_layer": _LAYERS, "n_head": _HEADS, "n_positions": 32, "vocab_size": VOCABULARY}
    dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return _initialised(GPT2LMHeadModel(GPT2Config(**sizes, **dropouts, **_special())))


def _t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"vocab_size": VOCABULARY, "d_model": _HIDDEN, "d_kv": 8, "d_ff": 48, "num_heads": _HEADS}
    config = T5Config(**sizes, num_layers=_LAYERS, dropout_rate=0.0, pad_token_id=1, decoder_start_token_id=1)
    config.eos_token_id = None
    return _initialised(T5ForConditionalGeneration(config))


def _two_texts(generator: torch.Generator) -> Batch:
    return {**_tokens(generator), "decoder_input_ids": torch.randint(VOCABULARY, (ROWS, 4), generator=generator)}


def _bert(name: str) -> Callable[[], nn.Module]:
    """One of transformers' classes of BERT, by what it is for."""

    def build() -> nn.Module:
        import transformers

        return _initialised(getattr(transformers, name)(_bert_config()))

    return build


def _bert_config() -> Any:
    from transformers import BertConfig

    dropouts = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    sizes = {key: value for key, value in _decoder().items() if key not in ("attention_dropout", *_special())}
    return BertConfig(**sizes, **dropouts, intermediate_size=48, num_labels=2, pad_token_id=1)


def _vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"image_size": 8, "patch_size": 4, "intermediate_size": 48, "num_labels": 3}
    heads = {"num_hidden_layers": _LAYERS, "num_attention_heads": _HEADS}
    dropouts = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return _initialised(ViTForImageClassification(ViTConfig(hidden_size=_HIDDEN, **sizes, **heads, **dropouts)))


def _pictures(generator: torch.Generator) -> Batch:
    return {"pixel_values": torch.randn(ROWS, 3, 8, 8, generator=generator)}


def _sd3() -> nn.Module:
    from diffusers import SD3Transformer2DModel

    sizes = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "num_layers": _LAYERS, "pos_embed_max_size": 8}
    widths = {"joint_attention_dim": 24, "caption_projection_dim": _HIDDEN, "pooled_projection_dim": 16}
    model = SD3Transformer2DModel(**sizes, **widths, attention_head_dim=8, num_attention_heads=_HEADS)
    return _initialised(model)


def _noisy_pictures(generator: torch.Generator) -> Batch:
    return {
        "hidden_states": torch.randn(ROWS, 4, 8, 8, generator=generator),
        "encoder_hidden_states": torch.randn(ROWS, TOKENS, 24, generator=generator),
        "pooled_projections": torch.randn(ROWS, 16, generator=generator),
        "timestep": torch.tensor([200, 700]),
    }


def _decoder() -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": _HIDDEN,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "max_position_embeddings": 32,
        "attention_dropout": 0.0,
        **_special(),
    }


def _special() -> dict[str, Any]:
    """No text ends early, so that generations have one length."""
    return {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": None}


def _initialised(model: nn.Module) -> nn.Module:
    """With weights large enough to matter, and biases that are not zero: what is zero hides that it was forgotten."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


# Plain modules ------------------------------------------------------------------------------------------------------


class Layers(nn.Module):
    """Modules one after the other, a tanh between them. Plain: it has no config."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.order = list(layers)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        """The last layer's output."""
        for name in self.order[:-1]:
            x = torch.tanh(self.get_submodule(name)(x))
        result: Tensor = self.get_submodule(self.order[-1])(x)
        return result


def _linear() -> nn.Module:
    return Layers(
        {
            "wide": nn.Linear(10, 21),
            "norm": nn.LayerNorm(21),
            "narrow": nn.Linear(21, 14),
            "plain": nn.Linear(14, 14, bias=False),
            "last": nn.Linear(14, 3),
        }
    )


def _vectors(generator: torch.Generator) -> Batch:
    return {"x": torch.randn(ROWS, 10, generator=generator)}


class Even(nn.Module):
    """One layer that every method takes, behind an embedding and a norm: little to compile.

    It comes last, so that the model's output is of its type.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(20, 16)
        self.norm = nn.LayerNorm(16)
        self.first = nn.Linear(16, 16)
        self.square = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        """For each token of a text."""
        found: Tensor = self.square(torch.tanh(self.first(self.norm(self.tokens(x)))))
        return found


class Deep(nn.Module):
    """Many layers of one name, one after the other: `blocks.1.proj` begins as `blocks.11.proj` does."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Layers({"proj": nn.Linear(8, 8)}) for _ in range(DEEP))
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """The last layer's output."""
        for block in self.blocks:
            x = x + torch.tanh(block(x)) / 4
        found: Tensor = self.last(x)
        return found


def _few_vectors(generator: torch.Generator) -> Batch:
    return {"x": torch.randn(ROWS, 8, generator=generator)}


def _convolution(layer: type[nn.Module]) -> Callable[[], nn.Module]:
    """Padding, a stride, a kernel of one; with and without bias."""

    def build() -> nn.Module:
        return Layers(
            {
                "first": layer(3, 8, 3, padding=1),
                "norm": nn.GroupNorm(2, 8),
                "strided": layer(8, 12, 3, stride=2, bias=False),
                "point": layer(12, 8, 1),
                "last": layer(8, 2, 2),
            }
        )

    return build


def _groups() -> nn.Module:
    return Layers(
        {
            "first": nn.Conv2d(3, 8, 3, padding=1),
            "norm": nn.GroupNorm(2, 8),
            "grouped": nn.Conv2d(8, 12, 3, stride=2, groups=2),
            "last": nn.Conv2d(12, 2, 2),
        }
    )


def _grid(dimensions: int) -> Callable[[torch.Generator], Batch]:
    return lambda generator: {"x": torch.randn(ROWS, 3, *[7] * dimensions, generator=generator)}


def _embedding() -> nn.Module:
    return Layers({"tokens": nn.Embedding(20, 12), "norm": nn.LayerNorm(12), "last": nn.Linear(12, 5)})


def _indices(generator: torch.Generator) -> Batch:
    return {"x": torch.randint(20, (ROWS, TOKENS), generator=generator)}


class Attention(nn.Module):
    """Self-attention of torch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.mha = nn.MultiheadAttention(16, 4, batch_first=True)
        self.last = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """For each token of a text."""
        x = self.norm(x)
        found: Tensor = self.last(self.mha(x, x, x, need_weights=False)[0])
        return found


def _sequence(generator: torch.Generator) -> Batch:
    return {"x": torch.randn(ROWS, TOKENS, 16, generator=generator)}


class _ExpertWeights(nn.Module):
    """The weights of all experts in one parameter each."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 16, 20) / 4)
        self.down = nn.Parameter(torch.randn(3, 20, 16) / 4)

    def forward(self, x: Tensor, routing: Tensor) -> Tensor:
        hidden = torch.tanh(torch.einsum("bti,eio->beto", x, self.up))
        return torch.einsum("beto,eoi,bte->bti", hidden, self.down, routing)


class Experts(nn.Module):
    """A router and its experts."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(16, 3)
        self.experts = _ExpertWeights()
        self.last = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """For each token of a text."""
        found: Tensor = self.last(self.experts(x, self.router(x).softmax(-1)))
        return found


MODELS: dict[str, Structure] = {
    "llama": Structure(_llama(2), _tokens, generates=True),
    "llama1": Structure(_llama(1), _tokens, generates=True),
    "llama-bnb8": Structure(_quantised(_bnb8), _tokens, quantised=_BNB8),
    "llama-bnb4": Structure(_quantised(_bnb4), _tokens, quantised=_BNB4),
    "llama-torchao": Structure(_quantised(_torchao), _tokens, quantised=_TORCHAO),
    "opt": Structure(_opt, _tokens, generates=True),
    "gpt2": Structure(_gpt2, _tokens, generates=True),
    "t5": Structure(_t5, _two_texts, generates=True),
    "gemma": Structure(_gemma, _tokens, generates=True),
    "bert": Structure(_bert("BertForSequenceClassification"), _tokens),
    "bert-tokens": Structure(_bert("BertForTokenClassification"), _tokens),
    "bert-answers": Structure(_bert("BertForQuestionAnswering"), _tokens),
    "bert-features": Structure(_bert("BertModel"), _tokens),
    "vit": Structure(_vit, _pictures),
    "sd3": Structure(_sd3, _noisy_pictures),
    "linear": Structure(_linear, _vectors),
    "even": Structure(Even, _indices),
    "deep": Structure(Deep, _few_vectors),
    "conv1d": Structure(_convolution(nn.Conv1d), _grid(1)),
    "conv2d": Structure(_convolution(nn.Conv2d), _grid(2)),
    "conv3d": Structure(_convolution(nn.Conv3d), _grid(3)),
    "conv2d-groups": Structure(_groups, _grid(2)),
    "embedding": Structure(_embedding, _indices),
    "attention": Structure(Attention, _sequence),
    "experts": Structure(Experts, _sequence),
}
