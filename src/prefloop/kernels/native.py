"""Calls `native.c` and `learning.c`. Where they were not compiled, or do not load, `AVAILABLE` is false.

The threads of the C code are torch's. All tensors are float32 or int64 on the CPU, and contiguous.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import POINTER, c_float, c_int64, c_uint32, c_void_p
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from prefloop.kernels.plain import is_plain, refuse_unless_plain

WIDEST = 256  # A head has at most so many numbers; this and the next are as in native.c.
BLOCK, PART = 64, 1024
READ = (torch.float32, torch.float64, torch.int64)  # C functions are given these types of numbers.
ACTIVATIONS = ("silu", "gelu", "gelu_tanh")  # The order is that of native.c.


class Matrix(ctypes.Structure):
    _fields_ = [("panels", c_void_p), ("bias", c_void_p), ("in_", c_int64), ("out", c_int64)]


class LayerStruct(ctypes.Structure):
    _fields_ = [
        *((name, Matrix) for name in ("qkv", "out", "gate_up", "down")),
        *((name, c_void_p) for name in ("q_weight", "k_weight", "out_weight", "down_weight")),
        ("rope", c_int64),
    ]


class Body(ctypes.Structure):
    _fields_ = [
        *((name, c_int64) for name in ("layers", "hidden", "query_heads", "kv_heads", "head_dim")),
        *((name, c_int64) for name in ("centred", "parallel", "gated", "activation")),
        *((name, c_float) for name in ("eps", "scale")),
        *((name, c_void_p) for name in ("embedding", "position_embeddings", "weight", "bias", "layer")),
    ]


class Tokens(ctypes.Structure):
    _fields_ = [
        *((name, c_int64) for name in ("n", "kept", "positions")),
        *((name, c_void_p) for name in ("id", "position", "at", "own", "own_capacity")),
        *((name, c_void_p) for name in ("before", "before_capacity", "count")),
        *((name, c_void_p) for name in ("cos", "sin")),
        *((name, c_void_p) for name in ("x", "unit", "asked", "read", "gate_up", "between")),
    ]


class PackedRows(ctypes.Structure):
    _fields_ = [
        *((name, c_int64) for name in ("tokens", "lists", "times", "query_heads", "kv_heads", "head_dim")),
        *((name, c_void_p) for name in ("start", "length", "place", "cos", "sin")),
        *((name, c_float) for name in ("scaling", "share")),
        ("seed", c_uint32),
    ]


FUNCTIONS: dict[str, list[Any]] = {
    "forward": [c_void_p] * 2,
    "pack": [c_void_p, *[c_int64] * 4, c_void_p],
    "multiply": [*[c_void_p] * 3, c_int64],
    "draw": [*[c_void_p] * 2, c_float, *[c_void_p] * 2, *[c_int64] * 2, c_void_p],
    "attention": [c_void_p] * 5,
    "attention_back": [c_void_p] * 7,
    "norm": [*[c_void_p] * 2, c_float, *[c_void_p] * 2, *[c_int64] * 2],
    "norm_back": [*[c_void_p] * 6, *[c_int64] * 2],
    "gate": [*[c_void_p] * 2, *[c_int64] * 2],
    "gate_back": [*[c_void_p] * 3, *[c_int64] * 2],
}


# C writes these structs too; the function of the library says how C lays them out.
STRUCTS: dict[str, type[ctypes.Structure]] = {
    "layout_of_matrix": Matrix,
    "layout_of_layer": LayerStruct,
    "layout_of_body": Body,
    "layout_of_tokens": Tokens,
    "layout_of_rows": PackedRows,
}


def other_layout(library: Any, structs: Mapping[str, type[ctypes.Structure]]) -> str | None:
    """Return the first struct whose fields C has at other offsets, or in another length; None if all are the same.

    Raises AttributeError where the library does not say.
    """
    for name, struct in structs.items():
        ask = getattr(library, name)
        ask.restype = POINTER(c_int64)
        said = ask()
        theirs = list(takewhile(lambda number: number >= 0, (said[n] for n in count())))  # The number -1 ends the list.
        mine = [*(getattr(struct, field[0]).offset for field in struct._fields_), ctypes.sizeof(struct)]
        if theirs != mine:
            return struct.__name__
    return None


def _load() -> Any:
    kind = {"AVX512": "avx512", "AVX2": "avx2"}.get(torch.backends.cpu.get_cpu_capability(), "neon")
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_native_{kind}{suffix}")
        if path.exists():
            try:
                found = ctypes.CDLL(str(path))
                found.lanes.restype = c_int64
                for name, arguments in FUNCTIONS.items():
                    getattr(found, name).argtypes, getattr(found, name).restype = arguments, None
                if other_layout(found, STRUCTS):  # The library was compiled from other sources than these.
                    return None
            # The library was built for another OpenMP than torch's, or is left over from an older version.
            except (OSError, AttributeError):
                return None
            return found
    return None


_library: Any = _load()
AVAILABLE = _library is not None
LANES = int(_library.lanes()) if AVAILABLE else 1


def fits(x: Tensor) -> bool:
    """Return whether native code can and may compute with it."""
    return AVAILABLE and x.device.type == "cpu" and x.dtype == torch.float32 and is_plain(x)


def call(name: str, *arguments: float | None) -> None:
    """Call a function of the library with addresses and numbers."""
    getattr(_library, name)(*arguments)


def address(x: Tensor | None) -> int | None:
    """Return where its numbers are; the caller keeps the tensor. Raises TypeError for what C would misread."""
    if x is None:
        return None
    refuse_unless_plain(x)
    if x.device.type != "cpu" or x.dtype not in READ:
        raise TypeError(f"compiled code for a CPU cannot read {x.dtype} on {x.device}: use x.cpu().float()")
    if not x.is_contiguous():
        raise TypeError("compiled code reads contiguous tensors only: use x.contiguous()")
    return x.data_ptr()


def padded(length: Any) -> Any:
    """Return what an integer, or a tensor of them, is rounded up to where numbers lie in vectors."""
    return -(-length // LANES) * LANES


class Panels:
    """Holds a copy of a matrix [out,in], however it lies, with its bias, laid out for `times`."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        refuse_unless_plain(weight)
        self.out, self.in_ = weight.shape
        self.weight = weight.new_empty(padded(self.out), self.in_)
        weight = weight.detach()
        call("pack", weight.data_ptr(), *weight.stride(), self.out, self.in_, address(self.weight))
        self.bias = None if bias is None else F.pad(bias.detach(), (0, padded(self.out) - self.out))
        self.struct = Matrix(address(self.weight), address(self.bias), self.in_, self.out)


def times(x: Tensor, matrix: Panels) -> Tensor:
    """Return x [N,in] times the matrix, [N,out]."""
    x = x.contiguous()
    out = x.new_empty(len(x), matrix.out)
    call("multiply", ctypes.addressof(matrix.struct), address(x), address(out), len(x))
    return out


def forward(body: Body, tokens: Tokens) -> None:
    """Compute the body of a model; see native.c."""
    call("forward", ctypes.addressof(body), ctypes.addressof(tokens))


def draw(logits: Tensor, u: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Draw as `engine.sampler.choose` does without top-p: token [N], logp [N]. logits [N,V], u [N] float64."""
    logits, u = logits.contiguous(), u.contiguous()
    n, words = logits.shape
    ids, logp = logits.new_empty(n, dtype=torch.long), logits.new_empty(n)
    sums = logits.new_empty(n, -(-words // BLOCK))
    given = address(logits), address(u), 1 / temperature, address(ids), address(logp), n, words, address(sums)
    call("draw", *given)
    return ids, logp
