"""The kernels on a real GPU: `make gpu`."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import triton
from torch import Tensor
from triton.backends.nvidia.driver import libcuda_dirs

from toolkit.kernels import ahead_of_time
from toolkit.kernels.dispatch import select_backend
from toolkit.kernels.eager import reference
from toolkit.kernels.heads import Heads
from toolkit.kernels.headwise_attention import headwise_attention
from toolkit.kernels.headwise_operator import operator
from toolkit.kernels.machine_code import SHARED_BYTES

pytestmark = pytest.mark.gpu

MIXED: Heads = ((64, 64), (40, 24), (24, 40), (16, 16), (64, 8), (8, 64))
LAYOUTS = {"even": ((64, 64),) * 12, "mixed": MIXED, "wide": ((128, 128), (128, 72))}
LARGEST_ERROR = {torch.bfloat16: 5e-3, torch.float16: 1e-3}
"""Relative error in the 2-norm against float64."""


def error(found: Tensor, exact: Tensor) -> float:
    difference = (found.detach().double() - exact.detach()).norm()
    return float(difference / exact.detach().norm().clamp(min=1e-12))  # of one token's bias the gradient is zero


@pytest.mark.parametrize("dtype", LARGEST_ERROR, ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("tokens", [1, 5, 50, 196, 197, 198, 257, 261, 577])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_forward_and_backward(layout: str, tokens: int, with_bias: bool, dtype: torch.dtype) -> None:
    heads = LAYOUTS[layout]
    generator = torch.Generator("cuda").manual_seed(tokens)
    width = sum(2 * qk + v for qk, v in heads)
    larger = torch.full((4, tokens + 3, width + 16), torch.nan, device="cuda", dtype=dtype)
    larger[:, :tokens, :width] = torch.randn(4, tokens, width, device="cuda", generator=generator)
    packed = larger[:, :tokens, :width].requires_grad_()
    bias = None
    if with_bias:
        bias = torch.randn(len(heads), tokens, tokens, device="cuda", generator=generator, dtype=dtype).requires_grad_()
    assert select_backend(packed, heads).backend == "triton"
    out = headwise_attention(packed, heads, 0.125, bias)
    grad_out = torch.randn(out.shape, device="cuda", generator=generator, dtype=dtype)
    inputs = [packed] if bias is None else [packed, bias]
    grads = torch.autograd.grad(out, inputs, grad_out)
    again = torch.autograd.grad(headwise_attention(packed, heads, 0.125, bias), inputs, grad_out)
    assert all(torch.equal(first, second) for first, second in zip(grads, again, strict=True)), (
        "not bitwise reproducible"
    )

    exact = [each.detach().double().requires_grad_() for each in inputs]
    expected = reference(exact[0], heads, 0.125, exact[1] if with_bias else None)
    assert error(out, expected) < LARGEST_ERROR[dtype]
    for found, right in zip(grads, torch.autograd.grad(expected, exact, grad_out.double()), strict=True):
        assert error(found, right) < 2 * LARGEST_ERROR[dtype]


@pytest.mark.parametrize("batch", [1, 70_000])
def test_fewer_queries_than_keys_in_large_batches(batch: int) -> None:
    packed = torch.randn(batch, 5, sum(qk + v for qk, v in MIXED), device="cuda", dtype=torch.bfloat16)
    queries = torch.randn(batch, 1, sum(qk for qk, _ in MIXED), device="cuda", dtype=torch.bfloat16)
    found = headwise_attention(packed, MIXED, 0.125, queries=queries)
    assert error(found, reference(packed.double(), MIXED, 0.125, None, queries.double())) < 5e-3


@pytest.mark.parametrize(
    ("dims", "dtype", "message"),
    [
        (([16, 16], [16, 16]), torch.float32, "not torch.float32"),
        (([12, 20], [16, 16]), torch.float16, "not all head widths are multiples of 8"),
        (([16, 16], [16, 24]), torch.float16, "must be 104 for these heads"),
    ],
)
def test_the_operator_refuses_what_the_kernel_does_not_compute(
    dims: tuple[list[int], list[int]], dtype: torch.dtype, message: str
) -> None:
    packed = torch.randn(2, 5, 96, device="cuda").to(dtype)
    with pytest.raises(ValueError, match=message):
        operator(packed, None, None, None, *dims, 0.125, False)


def test_in_a_cuda_graph() -> None:
    packed = torch.randn(8, 197, sum(2 * qk + v for qk, v in MIXED), device="cuda", dtype=torch.bfloat16)
    headwise_attention(packed, MIXED, 0.125)  # compiles the kernel
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = headwise_attention(packed, MIXED, 0.125)
    packed.normal_()
    graph.replay()
    torch.testing.assert_close(found, headwise_attention(packed, MIXED, 0.125))


@pytest.mark.parametrize("tokens", [197, 577])
def test_a_program_without_triton(tokens: int, tmp_path: Path) -> None:
    """The C code that `ahead_of_time` writes, with the real CUDA driver."""
    gpu, compiler = "sm_{}{}".format(*torch.cuda.get_device_capability()), shutil.which("cc")
    if gpu not in SHARED_BYTES or compiler is None:
        pytest.skip(f"no code for {gpu}, or no C compiler")
    heads = ",".join(f"{qk}x{v}" for qk, v in MIXED)
    words = f"--gpu {gpu} --tokens {tokens} --heads {heads} --scale 0.125 --dtype float16 --out {tmp_path}"
    ahead_of_time.main(words.split())
    headers = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
    made = tmp_path / "layer.so"
    source = tmp_path / "headwise_attention.c"
    driver = [f"-L{folder}" for folder in libcuda_dirs()] + ["-l:libcuda.so.1"]
    subprocess.run([compiler, "-shared", "-fPIC", f"-I{headers}", "-o", made, source, *driver], check=True)
    library = ctypes.CDLL(str(made))
    library.headwise_attention.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint]
    packed = torch.randn(3, tokens, sum(2 * qk + v for qk, v in MIXED), device="cuda", dtype=torch.float16)
    out = packed.new_full((3, tokens, sum(v for _, v in MIXED)), torch.nan)
    assert library.headwise_attention_load() == 0
    assert (
        library.headwise_attention(torch.cuda.current_stream().cuda_stream, packed.data_ptr(), out.data_ptr(), 3) == 0
    )
    torch.cuda.synchronize()
    assert library.headwise_attention_unload() == 0
    assert error(out, reference(packed.double(), MIXED, 0.125)) < LARGEST_ERROR[torch.float16]
