"""Size of a safetensors file, from the tensors' shapes alone: its header takes part, and names make the header."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor

# In the format's own order: tensors of later types come first in the file, those of one type by name.
_TYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.complex64: "C64",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint64: "U64",
}
_ORDER = {name: number for number, name in enumerate(_TYPES.values())}
_ALIGNMENT = 8


def file_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the file that `safetensors.torch.save_file(tensors, ..., metadata={"format": "pt"})` writes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(tensors, key=lambda name: (-_ORDER[_TYPES[tensors[name].dtype]], name)):
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // _ALIGNMENT) * _ALIGNMENT + end
