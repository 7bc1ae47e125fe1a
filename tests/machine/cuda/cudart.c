/* A stand-in for libcudart: GPU memory is host memory, copies are made at once, events are one millisecond apart. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char calls[4096];
static const char *failing = "";
static int status = 0;
static float now = 0;

const char *recorded(void) { return calls; }
void fail(const char *name, int code) { failing = name; status = code; }

static int done(const char *name) {
    strcat(strcat(calls, name), " ");
    return strcmp(name, failing) ? 0 : status;
}

const char *cudaGetErrorName(int code) {
    switch (code) {
    case 2: return "cudaErrorMemoryAllocation";
    case 34: return "cudaErrorStubLibrary";
    case 35: return "cudaErrorInsufficientDriver";
    case 100: return "cudaErrorNoDevice";
    default: return "cudaErrorIllegalAddress";
    }
}

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 9 : attribute == 16 ? 58 : -1;
    return device ? 101 : done("attribute");
}
int cudaDeviceSynchronize(void) { return done("device-synchronize"); }
int cudaDriverGetVersion(int *value) { *value = getenv("DRIVER") ? atoi(getenv("DRIVER")) : 0; return 0; }
#ifndef RUNTIME
#define RUNTIME 13020
#endif
int cudaRuntimeGetVersion(int *value) { *value = RUNTIME; return 0; }
int cudaMalloc(void **address, size_t size) { *address = malloc(size); return done("malloc"); }
int cudaFree(void *address) { free(address); return done("free"); }
int cudaStreamCreate(void **stream) { *stream = (void *)(1L << 40); return done("stream-create"); }
int cudaStreamDestroy(void *stream) { return stream == (void *)(1L << 40) ? done("stream-destroy") : 400; }
int cudaStreamSynchronize(void *stream) { return stream == (void *)(1L << 40) ? done("stream-synchronize") : 400; }
int cudaMemcpyAsync(void *target, const void *source, size_t size, int kind, void *stream) {
    memcpy(target, source, size);
    return stream == (void *)(1L << 40) ? done(kind == 1 ? "upload" : kind == 2 ? "download" : "copy") : 400;
}
int cudaEventCreate(void **event) { *event = malloc(sizeof(float)); return done("event-create"); }
int cudaEventDestroy(void *event) { free(event); return done("event-destroy"); }
int cudaEventRecord(float *event, void *stream) { *event = now++; return stream ? 400 : done("record"); }
int cudaEventSynchronize(void *event) { return done("event-synchronize"); }
int cudaEventElapsedTime(float *milliseconds, float *start, float *end) {
    *milliseconds = *end - *start;
    return done("elapsed");
}
