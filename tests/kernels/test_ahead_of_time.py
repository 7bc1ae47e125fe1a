"""The command that cross-compiles a layer, and the C code that launches it.

The C code is linked with a fake CUDA driver that records its calls and returns a chosen result.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.kernels import ahead_of_time

DRIVER = r"""
#include <cuda.h>
#include <string.h>

CUresult answer = CUDA_SUCCESS;
const unsigned char *image;
char symbol[64];
unsigned grid[3], block, shared, opted_in, loaded;
CUdeviceptr arguments[7];
int count = 3;

CUresult cuCtxGetDevice(CUdevice *device) { *device = 0; return answer; }
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    *value = attribute == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT && device == 0 ? 16 : -1;
    return CUDA_SUCCESS;
}
CUresult cuModuleLoadData(CUmodule *module, const void *data) {
    image = data; *module = (CUmodule)1; loaded++; return CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule module) { loaded--; return module == (CUmodule)1 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN; }
CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    strcpy(symbol, name); *function = (CUfunction)2;
    return module == (CUmodule)1 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN;
}
CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    opted_in = attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES ? value : 0;
    return function == (CUfunction)2 ? answer : CUDA_ERROR_UNKNOWN;
}
CUresult cuLaunchKernel(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned block_y,
                        unsigned block_z, unsigned bytes, CUstream stream, void **given, void **extra) {
    grid[0] = x; grid[1] = y; grid[2] = z; block = threads * block_y * block_z; shared = bytes;
    for (int each = 0; each < count; each++) arguments[each] = *(CUdeviceptr *)given[each];
    return function == (CUfunction)2 && stream == (CUstream)3 && extra == NULL ? answer : CUDA_ERROR_UNKNOWN;
}
"""
SUCCESS, INVALID_VALUE, NOT_INITIALIZED, NO_BINARY, MISALIGNED = 0, 1, 3, 209, 716
"""Values of cuda.h's CUresult."""


def called(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "toolkit.kernels.ahead_of_time", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "0"},
        check=False,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, ctypes.CDLL]]:
    """`built(...)`: the command's output folder for these arguments, and its C code as a shared library."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    import triton

    headers = Path(triton.__file__).parent / "backends" / "nvidia" / "include"

    def build(*arguments: str) -> tuple[Path, ctypes.CDLL]:
        folder = tmp_path_factory.mktemp("layer")
        ended = called("--gpu", "sm_87", "--scale", "0.125", "--out", str(folder), *arguments)
        assert ended.returncode == 0, ended.stderr
        (folder / "driver.c").write_text(DRIVER)
        sources = [str(file) for file in folder.glob("*.c")]
        strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", f"-isystem{headers}"]
        subprocess.run([compiler, *strict, "-shared", "-fPIC", "-o", folder / "layer.so", *sources], check=True)
        return folder, ctypes.CDLL(str(folder / "layer.so"))

    return build


def test_a_program_without_triton_launches_it(built: Callable[..., tuple[Path, ctypes.CDLL]]) -> None:
    folder, library = built("--tokens", "197", "--heads", "64x64,40x24", "--name", "block_3")
    cubin = (folder / "block_3.cubin").read_bytes()
    ptx = (folder / "block_3.ptx").read_text()
    assert cubin.startswith(b"\x7fELF")
    assert ".target sm_87" in ptx
    assert str(Path(__file__).parents[2]) not in ptx, "a path of the compiling machine"
    assert ptx.split(".entry")[1].split(")")[0].count(".param") == 2 + 2, (
        "packed, out, and two of Triton's calling convention"
    )
    assert "packed   [batch, 197, 296]" in (folder / "block_3.h").read_text()

    def number(name: str) -> int:
        return ctypes.c_uint.in_dll(library, name).value

    library.block_3.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint]
    assert library.block_3(3, 16, 32, 1) == NOT_INITIALIZED
    assert library.block_3_load() == SUCCESS
    assert ctypes.string_at(ctypes.c_void_p.in_dll(library, "image").value or 0, len(cubin)) == cubin
    assert (ctypes.c_char * 64).in_dll(library, "symbol").value == b"layer"
    assert library.block_3(3, 160, 320, 5) == SUCCESS
    assert list((ctypes.c_uint * 3).in_dll(library, "grid")) == [2 * 5, 3, 1], "16 SMs run 32 programs"
    assert list((ctypes.c_uint64 * 3).in_dll(library, "arguments")) == [160, 320, 0]
    assert number("block") == 128
    assert number("shared") == number("opted_in") > 48 << 10
    for batch, splits in ((1, 4), (8, 2), (64, 1)):  # 197 queries are four blocks of 64
        assert library.block_3(3, 160, 320, batch) == SUCCESS
        assert list((ctypes.c_uint * 3).in_dll(library, "grid")) == [2 * batch, splits, 1]

    assert library.block_3(3, 160, 320, 0) == INVALID_VALUE
    assert library.block_3(3, 160, 320, 1 << 30) == INVALID_VALUE
    assert library.block_3(3, 162, 320, 1) == MISALIGNED
    ctypes.c_int.in_dll(library, "answer").value = NO_BINARY
    assert library.block_3(3, 160, 320, 1) == NO_BINARY
    assert library.block_3_unload() == SUCCESS
    assert library.block_3_unload() == NOT_INITIALIZED
    assert library.block_3_load() == NO_BINARY
    assert number("loaded") == 0


def test_separate_queries_and_biases_are_arguments(built: Callable[..., tuple[Path, ctypes.CDLL]]) -> None:
    folder, library = built("--tokens", "577", "--heads", "64x64,40x24", "--queries", "1", "--bias", "--key-bias")
    header = (folder / "headwise_attention.h").read_text()
    assert "bias     [2, 1, 584]" in header
    assert "key_bias [batch, 577]: float32" in header
    tensors = ("packed", "queries", "bias", "key_bias", "out")
    assert ", ".join(f"CUdeviceptr {name}" for name in tensors) + ", unsigned batch" in header
    ctypes.c_int.in_dll(library, "count").value = 7
    attention = library.headwise_attention
    attention.argtypes = [ctypes.c_void_p, *[ctypes.c_uint64] * 5, ctypes.c_uint]
    assert library.headwise_attention_load() == SUCCESS
    assert attention(3, 16, 32, 48, 64, 80, 1) == SUCCESS
    assert list((ctypes.c_uint64 * 7).in_dll(library, "arguments")) == [16, 32, 48, 64, 80, 0, 0]


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = called("--gpu", "sm_90", "--tokens", "50", "--heads", "16x16", "--scale", "0.125")
    assert ended.stdout.startswith("headwise_attention for sm_90: "), ended.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--gpu": "sm_70"}, "invalid choice: 'sm_70'"),
        ({"--heads": "64"}, "expected widths such as 64x64,40x24, got '64'"),
        ({"--heads": "60x64"}, "not all head widths are multiples of 8"),
        ({"--heads": "136x64"}, "a head is wider than 128"),
        ({"--heads": "0x64"}, "every head needs a qk_dim and a v_dim of at least 1"),
        ({"--tokens": "0"}, "expected an integer of at least 1"),
        ({"--target": "sm_87"}, "--target is now called --gpu"),
        ({"--scale": "no"}, "invalid float value"),
        ({"--name": "block-3"}, "'block-3' is not a C identifier"),
    ],
    ids=str,
)
def test_bad_arguments(change: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = {"--gpu": "sm_80", "--tokens": "50", "--heads": "16x16", "--scale": "0.125"} | change
    with pytest.raises(SystemExit) as ended:
        ahead_of_time.main([word for pair in arguments.items() for word in pair])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
