/* What training computes on a CPU beside matrix products: attention within documents, and cross-entropy.
 *
 * float32 or bfloat16 in and out, float32 within. Attention goes by tiles of 64 queries and 64 keys, with a softmax that
 * is corrected as it goes (FlashAttention); tiles that no query of theirs may read are left out, so its time follows the
 * documents' lengths. Its backward pass forms the shares again. Every row and group of heads is one thread's: the number
 * of threads changes no bit.
 *
 * Callers pass addresses of contiguous tensors; the checks are in `kernels.py`. The global interpreter lock is not held.
 * Compiled for AVX-512, AVX2 and whatever the compiler's default is; the best that the machine has is taken at import.
 */

#define PY_SSIZE_T_CLEAN
#include "../_module.h"
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 64
#define STRIP 16 /* of the tile on the diagonal */
#define INLINE static inline __attribute__((always_inline))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define PADDED(length) (((length) + BLOCK - 1) / BLOCK * BLOCK)
#define OFFSET(address, elements) ((const char *)(address) + (elements) * (a->bfloat16 ? 2 : 4))
#ifdef _OPENMP
#include <omp.h>
#define THREAD omp_get_thread_num()
#define PARALLEL _Pragma("omp parallel for schedule(dynamic) num_threads(threads)")
#else
#define THREAD 0
#define PARALLEL
#endif

typedef float f16 __attribute__((vector_size(64), aligned(4)));
typedef float f8 __attribute__((vector_size(32), aligned(4)));
typedef float f4 __attribute__((vector_size(16), aligned(4)));
typedef int32_t i16 __attribute__((vector_size(64), aligned(4)));
typedef uint32_t u16 __attribute__((vector_size(64), aligned(4)));
typedef uint16_t h16 __attribute__((vector_size(32), aligned(2)));

/* q, out, grad, dq: rows x length x heads x width; k, v, dk, dv: rows x length x groups x width. */
typedef struct {
    const void *q, *k, *v;
    const int64_t *first; /* rows x length: query t reads keys first[t] .. t; never falls along a row */
    void *out;
    float *logs; /* rows x heads x length: logarithms of the softmaxes' sums */
    const void *grad;
    void *dq, *dk, *dv;
    int64_t rows, length, heads, groups, width;
    float scale;
    int bfloat16;
} Attention;

typedef struct {
    void *logits; /* rows x vocabulary; their gradient takes their place if `learns` */
    const int64_t *targets;
    const float *weights;
    float *losses;
    int64_t rows, vocabulary;
    int bfloat16, learns;
} CrossEntropy;

/* exp of 16 floats at most 0; relative error below 2e-7, and 0 far below. */
INLINE f16 exp16(f16 x) {
    i16 low = x < -87.0f;
    x = (f16)((i16)x & ~low);
    f16 shifted = x * 1.44269504f + 12582912.0f; /* rounds to the nearest integer in the low bits */
    i16 whole = (i16)shifted - 0x4B400000;
    f16 n = shifted - 12582912.0f;
    x = x - n * 0.693359375f - n * -2.12194440e-4f;
    f16 y = x * 1.9875691500e-4f + 1.3981999507e-3f; /* Cephes' polynomial */
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    y = y * x * x + x + 1.0f;
    i16 scaled = (i16)(y * (f16)((whole + 127) << 23));
    return (f16)(scaled & ~low);
}

INLINE f16 max16(f16 a, f16 b) {
    i16 first = a > b;
    return (f16)(((i16)a & first) | ((i16)b & ~first));
}

INLINE f16 at_most0(f16 x) { return (f16)((i16)x & (x < 0.0f)); }

INLINE float sum16(f16 x) {
    f8 y = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) + __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
    f4 z = __builtin_shufflevector(y, y, 0, 1, 2, 3) + __builtin_shufflevector(y, y, 4, 5, 6, 7);
    return (z[0] + z[2]) + (z[1] + z[3]);
}

INLINE float most16(f16 x) {
    x = max16(x, __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15));
    x = max16(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7));
    return MAX(MAX(x[0], x[1]), MAX(x[2], x[3]));
}

INLINE f16 wide16(h16 x) { return (f16)(__builtin_convertvector(x, u16) << 16); }

INLINE h16 narrow16(f16 x) { /* to the nearest, ties to even */
    u16 bits = (u16)x;
    return __builtin_convertvector((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, h16);
}

INLINE f16 load16(const void *in, int bfloat16, int64_t at) {
    return bfloat16 ? wide16(*(const h16 *)((const uint16_t *)in + at)) : *(const f16 *)((const float *)in + at);
}

INLINE void store16(void *out, int bfloat16, int64_t at, f16 x) {
    if (bfloat16)
        *(h16 *)((uint16_t *)out + at) = narrow16(x);
    else
        *(f16 *)((float *)out + at) = x;
}

INLINE float load1(const void *in, int bfloat16, int64_t at) {
    if (!bfloat16) return ((const float *)in)[at];
    uint32_t bits = (uint32_t)((const uint16_t *)in)[at] << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

INLINE void store1(void *out, int bfloat16, int64_t at, float x) {
    f16 all = (f16){} + x;
    if (bfloat16)
        ((uint16_t *)out)[at] = narrow16(all)[0];
    else
        ((float *)out)[at] = x;
}

INLINE f16 load_some16(const void *in, int bfloat16, int64_t at, int64_t count, float rest) {
    f16 x = (f16){} + rest;
    for (int64_t n = 0; n < count; n++) x[n] = load1(in, bfloat16, at + n);
    return x;
}

#define VECTORS 1
#define NAME(x) x##_plain
#include "_kernels.h"
#undef NAME
#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define NAME(x) x##_avx2
#include "_kernels.h"
#undef NAME
#pragma GCC pop_options
#undef VECTORS
#define VECTORS 4
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,prefer-vector-width=512")
#define NAME(x) x##_avx512
#include "_kernels.h"
#undef NAME
#pragma GCC pop_options
#endif

typedef struct {
    const char *name;
    void (*forward)(const Attention *, int64_t, int64_t, float *);
    void (*backward)(const Attention *, int64_t, int64_t, float *);
    void (*cross_entropy)(const CrossEntropy *, int64_t);
} Best;

static Best best;

#define ADDRESS(x) ((void *)(uintptr_t)(x))

/* Rows x groups, each a thread's. */
static PyObject *run(const Attention *a, void (*part)(const Attention *, int64_t, int64_t, float *), int64_t floats, int threads) {
    float *scratch = malloc((size_t)threads * floats * sizeof(float));
    if (!scratch) return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS;
    PARALLEL
    for (int64_t n = 0; n < a->rows * a->groups; n++) part(a, n / a->groups, n % a->groups, scratch + THREAD * floats);
    Py_END_ALLOW_THREADS;
    free(scratch);
    Py_RETURN_NONE;
}

static PyObject *py_attend(PyObject *self, PyObject *args) {
    unsigned long long q, k, v, first, out, logs;
    long long rows, length, heads, groups, width;
    float scale;
    int bfloat16, threads;
    if (!PyArg_ParseTuple(args, "KKKKKKLLLLLfpi", &q, &k, &v, &first, &out, &logs, &rows, &length, &heads, &groups, &width,
                          &scale, &bfloat16, &threads))
        return NULL;
    Attention a = {ADDRESS(q), ADDRESS(k), ADDRESS(v), ADDRESS(first), ADDRESS(out), ADDRESS(logs), NULL, NULL, NULL, NULL,
                   rows, length, heads, groups, width, scale, bfloat16};
    return run(&a, best.forward, (3 * PADDED(length) + 2 * BLOCK) * width + BLOCK * BLOCK, threads);
}

static PyObject *py_attend_back(PyObject *self, PyObject *args) {
    unsigned long long q, k, v, first, out, logs, grad, dq, dk, dv;
    long long rows, length, heads, groups, width;
    float scale;
    int bfloat16, threads;
    if (!PyArg_ParseTuple(args, "KKKKKKKKKKLLLLLfpi", &q, &k, &v, &first, &out, &logs, &grad, &dq, &dk, &dv, &rows, &length,
                          &heads, &groups, &width, &scale, &bfloat16, &threads))
        return NULL;
    Attention a = {ADDRESS(q), ADDRESS(k), ADDRESS(v), ADDRESS(first), ADDRESS(out), ADDRESS(logs), ADDRESS(grad), ADDRESS(dq),
                   ADDRESS(dk), ADDRESS(dv), rows, length, heads, groups, width, scale, bfloat16};
    return run(&a, best.backward, (6 * PADDED(length) + 3 * BLOCK) * width + 2 * BLOCK * BLOCK, threads);
}

static PyObject *py_cross_entropy(PyObject *self, PyObject *args) {
    unsigned long long logits, targets, weights, losses;
    long long rows, vocabulary;
    int bfloat16, learns, threads;
    if (!PyArg_ParseTuple(args, "KKKKLLppi", &logits, &targets, &weights, &losses, &rows, &vocabulary, &bfloat16, &learns,
                          &threads))
        return NULL;
    CrossEntropy c = {ADDRESS(logits), ADDRESS(targets), ADDRESS(weights), ADDRESS(losses), rows, vocabulary, bfloat16, learns};
    Py_BEGIN_ALLOW_THREADS;
    PARALLEL
    for (int64_t n = 0; n < rows; n++) best.cross_entropy(&c, n);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

#define USE(SUFFIX)                                                                                                    \
    best.name = #SUFFIX, best.forward = attend_group_##SUFFIX, best.backward = attend_group_back_##SUFFIX,             \
    best.cross_entropy = cross_entropy_row_##SUFFIX

/* The best instruction set that the machine has and the caller allows; its name. */
static PyObject *py_use(PyObject *self, PyObject *args) {
    const char *name = "";
    if (!PyArg_ParseTuple(args, "|s", &name)) return NULL;
    int known = !*name || !strcmp(name, "plain");
    const Best before = best;
    USE(plain);
#if defined(__x86_64__)
    __builtin_cpu_init();
    if ((!*name || !strcmp(name, "avx2")) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        USE(avx2);
        known = 1;
    }
    if ((!*name || !strcmp(name, "avx512")) && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) {
        USE(avx512);
        known = 1;
    }
#endif
    if (!known) {
        best = before;
        return PyErr_Format(PyExc_ValueError, "this machine has no %s", name);
    }
    return PyUnicode_FromString(best.name);
}

static PyMethodDef methods[] = {
    {"attend", py_attend, METH_VARARGS, "Attention within documents."},
    {"attend_back", py_attend_back, METH_VARARGS, "Its gradients."},
    {"cross_entropy", py_cross_entropy, METH_VARARGS, "Losses of slots; logits become their gradient."},
    {"use", py_use, METH_VARARGS, "Choose the instruction set by name, or the best; returns its name."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernels", "Training on a CPU.", -1, methods};

PyMODINIT_FUNC PyInit__kernels(void) {
    return module_at_its_best(&module, py_use);
}
