"""C that launches a compiled layer: two files that a program needs to use it, beside CUDA's driver."""

from __future__ import annotations

from string import Template

from toolkit.kernels.headwise_launch import PROGRAMS_AN_SM
from toolkit.kernels.headwise_layer import Layer
from toolkit.kernels.machine_code import Binary

_HEADER = Template("""\
/* Attention of one layer, compiled for $target. Made by toolkit.kernels.ahead_of_time; changes are lost.

   $what

   All tensors are $dtype, contiguous, on the device, and begin at multiples of 16 bytes:
$tensors
*/
#ifndef $guard
#define $guard

#include <cuda.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Once, with the context current in which it will run. CUDA_ERROR_NO_BINARY_FOR_GPU: another GPU. */
CUresult ${name}_load(void);

/* Returns before the GPU is done. CUDA_ERROR_NOT_INITIALIZED: not loaded; CUDA_ERROR_INVALID_VALUE: no images, or so
   many that the grid is too large; CUDA_ERROR_MISALIGNED_ADDRESS: a tensor begins elsewhere. */
CUresult $name(CUstream stream, $parameters, unsigned batch);

CUresult ${name}_unload(void);

#ifdef __cplusplus
}
#endif
#endif
""")
_SOURCE = Template("""\
#include "$name.h"

#include <stddef.h>

enum { HEADS = $heads, LEAST = $least, TILES = $tiles, THREADS = $threads, SHARED = $shared };
enum { PROGRAMS_AN_SM = $programs };

static const unsigned char cubin[] = {
$bytes};

static CUmodule module;
static CUfunction function;
static int processors;

CUresult ${name}_load(void) {
    CUdevice device;
    CUresult result = cuCtxGetDevice(&device);
    if (result == CUDA_SUCCESS)
        result = cuDeviceGetAttribute(&processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
    if (result == CUDA_SUCCESS)
        result = cuModuleLoadData(&module, cubin);
    if (result == CUDA_SUCCESS)
        result = cuModuleGetFunction(&function, module, "$symbol");
    if (result == CUDA_SUCCESS) /* more than 48 KiB must be asked for */
        result = cuFuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, SHARED);
    if (result != CUDA_SUCCESS && module != NULL)
        ${name}_unload();
    return result;
}

CUresult ${name}_unload(void) {
    CUresult result = module == NULL ? CUDA_ERROR_NOT_INITIALIZED : cuModuleUnload(module);
    module = NULL;
    function = NULL;
    return result;
}

/* Among how many programs the queries of a head are shared out, so that few images fill the GPU too. */
static unsigned shares(unsigned programs) {
    unsigned found = PROGRAMS_AN_SM * (unsigned)processors / programs;
    return found < LEAST ? LEAST : found > TILES ? TILES : found;
}

CUresult $name(CUstream stream, $parameters, unsigned batch) {
    CUdeviceptr scratch = 0; /* the compiler's, for kernels that need some: this one does not */
    void *arguments[] = {$arguments, &scratch, &scratch};
    if (function == NULL)
        return CUDA_ERROR_NOT_INITIALIZED;
    if (batch == 0 || batch > 0x7fffffffu / HEADS)
        return CUDA_ERROR_INVALID_VALUE;
    if (($pointers) % 16 != 0)
        return CUDA_ERROR_MISALIGNED_ADDRESS;
    return cuLaunchKernel(
        function, batch * HEADS, shares(batch * HEADS), 1, THREADS, 1, 1, SHARED, stream, arguments, NULL);
}
""")


def header_and_source(name: str, layer: Layer, binary: Binary, dtype: str) -> tuple[str, str]:
    """NAME.h and NAME.c; `name` is one that C takes."""
    tensors = layer.tensors()
    words = {
        "name": name,
        "guard": f"{name.upper()}_H",
        "target": binary.target,
        "what": f"softmax(q k^T * {layer.scale:g}{' + bias' if layer.bias_heads else ''}) v for heads of widths "
        + ", ".join(f"{qk} x {v}" for qk, v in layer.heads),
        "dtype": dtype,
        "tensors": "\n".join(f"     {tensor:<8} {shape}" for tensor, shape in tensors.items()),
        "parameters": ", ".join(f"CUdeviceptr {tensor}" for tensor in tensors),
        "arguments": ", ".join(f"&{tensor}" for tensor in tensors),
        "pointers": " | ".join(tensors),
        "heads": len(layer.heads),
        "tiles": layer.tiles(binary.capability),
        "threads": binary.threads,
        "shared": binary.shared,
        "programs": PROGRAMS_AN_SM,
        "symbol": binary.symbol,
        "least": layer.least_shares(binary.capability),
        "bytes": _bytes(binary.cubin),
    }
    return _HEADER.substitute(words), _SOURCE.substitute(words)


def _bytes(code: bytes) -> str:
    """Lines of 16."""
    lines = (code[start : start + 16] for start in range(0, len(code), 16))
    return "".join(f"    {', '.join(map(str, line))},\n" for line in lines)
