/* The engine's arithmetic on a CPU in float32 (MiMo 2.2), every row by itself.
 *
 * A row is one token of one sequence. Whatever is computed for it goes through the same operations in the same order
 * whichever rows stand beside it: every output of a matrix product is one chain of fused multiply-adds over the inputs,
 * whatever the tile it is computed in; a score is one chain over a head's width; a softmax sums its lanes in one order.
 * So logits are the same, bit for bit, in any batch, chunk and verify width, and nothing is padded for it. Weights are
 * read once for up to six rows: verifying drafts costs little more than decoding.
 *
 * Callers pass addresses of contiguous tensors; the checks are in `cpu.py`. The global interpreter lock is not held.
 * Compiled for AVX-512, AVX2 and whatever the compiler's default is; the best that the machine has is taken at import.
 */

#define PY_SSIZE_T_CLEAN
#include "../_module.h"
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PANEL 64 /* outputs whose weights lie together, input by input */
#define INLINE static inline __attribute__((always_inline))
#define WORTH 1000000 /* multiplications for which a second thread is worth waking */
#ifdef _OPENMP
#include <omp.h>
#define THREAD omp_get_thread_num()
#define PARALLEL _Pragma("omp parallel for schedule(static) if(many) num_threads(threads)")
#else
#define THREAD 0
#define PARALLEL
#endif

typedef float f4 __attribute__((vector_size(16), aligned(4)));
typedef float f8 __attribute__((vector_size(32), aligned(4)));
typedef float f16 __attribute__((vector_size(64), aligned(4)));
typedef int32_t i16 __attribute__((vector_size(64), aligned(4)));
typedef double d8 __attribute__((vector_size(64), aligned(8)));
typedef int64_t l8 __attribute__((vector_size(64), aligned(8)));
typedef uint64_t u8 __attribute__((vector_size(64), aligned(8)));

/* What paged attention needs to know; addresses are of one layer's part of the cache. */
typedef struct {
    const float *qkv; /* rows x (heads + 2 kv_heads) x width: queries, keys, values, not yet rotated */
    const float *cos, *sin; /* positions x width / 2 */
    float *keys;   /* blocks x kv_heads x width x block: transposed, so that a load holds 16 positions of a block */
    float *values; /* blocks x kv_heads x block x width */
    const int32_t *table; /* table rows x columns */
    const int64_t *positions, *table_rows, *slots, *lengths; /* a row each; slot -1 stores nothing, length 0 reads nothing */
    float *out; /* rows x heads x width */
    float *scratch; /* a thread's: group x padded, then group x width, then group */
    int64_t rows, heads, kv_heads, width, block, columns, padded;
    int threads;
} Attention;

/* x[rows][inputs] times packed weights, plus bias; `add` adds to what out holds. */
typedef struct {
    const float *x, *packed, *bias;
    float *out;
    int64_t rows, inputs, outputs;
    int add, threads;
} Product;

/* exp of 16 floats at most 0; relative error below 2e-7, and 0 far below. */
INLINE f16 exp16(f16 x) {
    i16 low = x < -87.0f;
    x = (f16)(((i16)x & ~low) | ((i16)(f16){} & low));
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

/* exp of 8 doubles at most 0; 0 below -700. */
INLINE d8 exp8(d8 x) {
    l8 low = x < -700.0;
    x = (d8)((l8)x & ~low);
    d8 shifted = x * 1.4426950408889634 + 6755399441055744.0;
    l8 whole = (l8)shifted - (l8)(d8){6755399441055744.0, 6755399441055744.0, 6755399441055744.0, 6755399441055744.0,
                                      6755399441055744.0, 6755399441055744.0, 6755399441055744.0, 6755399441055744.0};
    d8 n = shifted - 6755399441055744.0;
    x = x - n * 6.93147180369123816490e-01 - n * 1.90821492927058770002e-10;
    d8 y = x * (1.0 / 479001600.0) + (1.0 / 39916800.0); /* Taylor: |x| <= 0.35 */
    y = y * x + 1.0 / 3628800.0;
    y = y * x + 1.0 / 362880.0;
    y = y * x + 1.0 / 40320.0;
    y = y * x + 1.0 / 5040.0;
    y = y * x + 1.0 / 720.0;
    y = y * x + 1.0 / 120.0;
    y = y * x + 1.0 / 24.0;
    y = y * x + 1.0 / 6.0;
    y = y * x + 0.5;
    y = y * x * x + x + 1.0;
    l8 scaled = (l8)(y * (d8)((whole + 1023) << 52));
    return (d8)(scaled & ~low);
}

/* -log of 8 doubles in (0, 1). */
INLINE d8 minus_log8(d8 u) {
    l8 bits = (l8)u;
    l8 exponent = (bits >> 52) - 1023;
    d8 m = (d8)((bits & 0xFFFFFFFFFFFFFLL) | 0x3FF0000000000000LL); /* 1 to 2 */
    l8 high = m > 1.4142135623730951;
    m = (d8)(((l8)(m * 0.5) & high) | ((l8)m & ~high));
    exponent = exponent - high; /* true is -1 */
    d8 s = (m - 1.0) / (m + 1.0), t = s * s;
    d8 y = t * (1.0 / 17.0) + 1.0 / 15.0;
    y = y * t + 1.0 / 13.0;
    y = y * t + 1.0 / 11.0;
    y = y * t + 1.0 / 9.0;
    y = y * t + 1.0 / 7.0;
    y = y * t + 1.0 / 5.0;
    y = y * t + 1.0 / 3.0;
    y = y * t * s + s;
    return -(2.0 * y + __builtin_convertvector(exponent, d8) * 0.69314718055994531);
}

INLINE float sum16(f16 x) {
    float total = 0.0f;
    for (int i = 0; i < 16; i++) total += x[i];
    return total;
}

INLINE double sum8(d8 x) {
    double total = 0.0;
    for (int i = 0; i < 8; i++) total += x[i];
    return total;
}

/* SplitMix64's finaliser. */
INLINE uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
    return x ^ (x >> 31);
}

/* Uniform in (0, 1): a hash of (key, id) and of nothing else. */
INLINE d8 uniform8(uint64_t key, int64_t first) {
    u8 id = {first + 1, first + 2, first + 3, first + 4, first + 5, first + 6, first + 7, first + 8};
    u8 x = id * 0x9E3779B97F4A7C15ULL + key;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
    x = x ^ (x >> 31);
    return (__builtin_convertvector((l8)(x >> 11), d8) + 0.5) * 0x1p-53;
}

/* A row's logits from `first`, -inf beyond the end. */
INLINE d8 logits8(const float *row, int64_t first, int64_t end) {
    d8 x;
    if (first + 8 <= end) {
        f8 y = *(const f8 *)(row + first);
        x = __builtin_convertvector(y, d8);
    } else {
        for (int i = 0; i < 8; i++) x[i] = first + i < end ? (double)row[first + i] : -INFINITY;
    }
    return x;
}

/* One tile of a product: R rows by N vectors of W outputs, in registers. */
#define TILE(NAME, TYPE, W, N)                                                                                         \
    INLINE void NAME(const Product *p, int64_t row, int64_t column, const float *weights, const int R) {              \
        TYPE sums[6][N];                                                                                               \
        const float *x = p->x + row * p->inputs;                                                                       \
        for (int r = 0; r < R; r++)                                                                                    \
            for (int v = 0; v < N; v++) sums[r][v] = (TYPE){};                                                         \
        for (int64_t k = 0; k < p->inputs; k++) {                                                                      \
            TYPE w[N];                                                                                                 \
            for (int v = 0; v < N; v++) w[v] = *(const TYPE *)(weights + k * PANEL + v * W);                           \
            for (int r = 0; r < R; r++) {                                                                              \
                float factor = x[r * p->inputs + k];                                                                   \
                for (int v = 0; v < N; v++) sums[r][v] += w[v] * factor;                                               \
            }                                                                                                          \
        }                                                                                                              \
        for (int r = 0; r < R; r++) {                                                                                  \
            float *out = p->out + (row + r) * p->outputs + column;                                                     \
            for (int v = 0; v < N; v++)                                                                                \
                if (column + (v + 1) * W <= p->outputs) {                                                              \
                    TYPE y = sums[r][v];                                                                               \
                    if (p->bias) y += *(const TYPE *)(p->bias + column + v * W);                                       \
                    if (p->add) y += *(TYPE *)(out + v * W);                                                           \
                    *(TYPE *)(out + v * W) = y;                                                                        \
                } else {                                                                                               \
                    for (int i = 0; i < W && column + v * W + i < p->outputs; i++) {                                   \
                        float y = sums[r][v][i];                                                                       \
                        if (p->bias) y += p->bias[column + v * W + i];                                                 \
                        if (p->add) y += out[v * W + i];                                                               \
                        out[v * W + i] = y;                                                                            \
                    }                                                                                                  \
                }                                                                                                      \
        }                                                                                                              \
    }

/* All kernels for one kind of machine. */
#define KERNELS(SUFFIX, TARGET, TYPE, W, N)                                                                            \
    TILE(tile_##SUFFIX, TYPE, W, N)                                                                                    \
    TARGET static void panels_##SUFFIX(const Product *p, int64_t first, int64_t last, int64_t panel) {                 \
        const float *weights = p->packed + panel * p->inputs;                                                          \
        for (int64_t part = 0; part < PANEL && panel + part < p->outputs; part += W * N) {                             \
            int64_t row = first;                                                                                       \
            for (; row + 6 <= last; row += 6) tile_##SUFFIX(p, row, panel + part, weights + part, 6);                  \
            switch (last - row) {                                                                                      \
                case 5: tile_##SUFFIX(p, row, panel + part, weights + part, 5); break;                                 \
                case 4: tile_##SUFFIX(p, row, panel + part, weights + part, 4); break;                                 \
                case 3: tile_##SUFFIX(p, row, panel + part, weights + part, 3); break;                                 \
                case 2: tile_##SUFFIX(p, row, panel + part, weights + part, 2); break;                                 \
                case 1: tile_##SUFFIX(p, row, panel + part, weights + part, 1); break;                                 \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    static void product_##SUFFIX(const Product *p) {                                                                   \
        int64_t most = 65536 / p->inputs / 6 * 6; /* rows that stay in the second cache while weights go by */         \
        if (most < 6) most = 6;                                                                                        \
        const int64_t tiles = (p->rows + most - 1) / most, panels = (p->outputs + PANEL - 1) / PANEL;                  \
        const int threads = p->threads, many = threads > 1 && p->rows * p->inputs * p->outputs > WORTH;                \
        (void)many;                                                                                                    \
        PARALLEL                                                                                                       \
        for (int64_t n = 0; n < tiles * panels; n++) {                                                                 \
            const int64_t first = n / panels * most, last = first + most < p->rows ? first + most : p->rows;           \
            panels_##SUFFIX(p, first, last, n % panels * PANEL);                                                       \
        }                                                                                                              \
    }                                                                                                                  \
    TARGET static void store_##SUFFIX(const Attention *a) { store(a); }                                                \
    TARGET static void read_##SUFFIX(const Attention *a, int64_t n, float *scratch) { read_row(a, n, scratch); }           \
    static void attend_##SUFFIX(const Attention *a) {                                                                  \
        store_##SUFFIX(a);                                                                                             \
        const int threads = a->threads, many = threads > 1 && a->rows * a->padded * a->heads * a->width > WORTH;       \
        const int64_t own = a->heads / a->kv_heads * (a->padded + a->width + 1);                                       \
        (void)many;                                                                                                    \
        PARALLEL                                                                                                       \
        for (int64_t n = 0; n < a->rows; n++) read_##SUFFIX(a, n, a->scratch + THREAD * own);                          \
    }                                                                                                                  \
    TARGET static void norm_##SUFFIX(const float *x, const float *weight, float *out, int64_t rows, int64_t stride,    \
                                     int64_t width, float eps) {                                                       \
        norm(x, weight, out, rows, stride, width, eps);                                                                \
    }                                                                                                                  \
    TARGET static void gate_##SUFFIX(const float *x, float *out, int64_t rows, int64_t width) {                        \
        gate(x, out, rows, width);                                                                                     \
    }                                                                                                                  \
    TARGET static void draw_##SUFFIX(const Draw *d) { draw(d); }

/* Root-mean-square norm of rows that begin `stride` floats apart in out. */
INLINE void norm(const float *x, const float *weight, float *out, int64_t rows, int64_t stride, int64_t width, float eps) {
    for (int64_t n = 0; n < rows; n++, x += width, out += stride) {
        f16 squares = {};
        int64_t e = 0;
        for (; e + 16 <= width; e += 16) {
            f16 y = *(const f16 *)(x + e);
            squares += y * y;
        }
        float total = sum16(squares);
        for (; e < width; e++) total += x[e] * x[e];
        float scale = 1.0f / sqrtf(total / (float)width + eps);
        for (e = 0; e + 16 <= width; e += 16)
            *(f16 *)(out + e) = *(const f16 *)(x + e) * scale * *(const f16 *)(weight + e);
        for (; e < width; e++) out[e] = x[e] * scale * weight[e];
    }
}

/* silu(gate) * up; a row of x holds the gate's outputs, then up's. */
INLINE void gate(const float *x, float *out, int64_t rows, int64_t width) {
    for (int64_t n = 0; n < rows; n++, x += 2 * width, out += width)
        for (int64_t e = 0; e < width; e += 16) {
            int64_t count = width - e < 16 ? width - e : 16;
            f16 g = {}, up = {};
            if (count == 16) {
                g = *(const f16 *)(x + e);
                up = *(const f16 *)(x + width + e);
            } else {
                memcpy(&g, x + e, count * 4);
                memcpy(&up, x + width + e, count * 4);
            }
            i16 negative = g < 0.0f;
            f16 size = (f16)((i16)g & 0x7FFFFFFF);
            f16 small = exp16(-size); /* sigmoid(-|g|) = e / (1 + e), sigmoid(|g|) = 1 / (1 + e) */
            f16 top = (f16)(((i16)small & negative) | ((i16)(small * 0.0f + 1.0f) & ~negative));
            f16 y = g * (top / (small + 1.0f)) * up;
            if (count == 16)
                *(f16 *)(out + e) = y;
            else
                memcpy(out + e, &y, count * 4);
        }
}

/* Scores of 16 positions of a block for two queries; even and odd inputs are summed apart, then together. */
INLINE void score(const float *keys, int64_t P, int64_t E, const float *q, const float *r, float *s, float *t) {
    f16 q0 = {}, q1 = {}, r0 = {}, r1 = {};
    for (int64_t e = 0; e < E; e += 2) {
        f16 even = *(const f16 *)(keys + e * P), odd = *(const f16 *)(keys + (e + 1) * P);
        q0 += even * q[e];
        r0 += even * r[e];
        q1 += odd * q[e + 1];
        r1 += odd * r[e + 1];
    }
    *(f16 *)s = q0 + q1;
    *(f16 *)t = r0 + r1;
}

/* 32 outputs of two queries; even and odd positions are summed apart, then together. */
INLINE void read32(const Attention *a, const int32_t *table, const float *values, const float *one, const float *two,
                   int64_t length, float *o, float *p, float first, float second) {
    const int64_t P = a->block, E = a->width, step = a->kv_heads * P * E;
    f16 x0 = {}, x1 = {}, x2 = {}, x3 = {}, y0 = {}, y1 = {}, y2 = {}, y3 = {};
    for (int64_t start = 0; start < length; start += P) {
        const float *v = values + table[start / P] * step;
        const int64_t used = length - start < P ? length - start : P;
        int64_t s = 0;
        for (; s + 2 <= used; s += 2, v += 2 * E) {
            f16 a0 = *(const f16 *)v, a1 = *(const f16 *)(v + 16);
            f16 b0 = *(const f16 *)(v + E), b1 = *(const f16 *)(v + E + 16);
            float w0 = one[start + s], w1 = one[start + s + 1], z0 = two[start + s], z1 = two[start + s + 1];
            x0 += a0 * w0;
            x1 += a1 * w0;
            y0 += a0 * z0;
            y1 += a1 * z0;
            x2 += b0 * w1;
            x3 += b1 * w1;
            y2 += b0 * z1;
            y3 += b1 * z1;
        }
        if (s < used) {
            f16 a0 = *(const f16 *)v, a1 = *(const f16 *)(v + 16);
            x0 += a0 * one[start + s];
            x1 += a1 * one[start + s];
            y0 += a0 * two[start + s];
            y1 += a1 * two[start + s];
        }
    }
    *(f16 *)o = (x0 + x2) * first;
    *(f16 *)(o + 16) = (x1 + x3) * first;
    *(f16 *)p = (y0 + y2) * second;
    *(f16 *)(p + 16) = (y1 + y3) * second;
}

/* Rotates and stores every row's key and value. */
INLINE void store(const Attention *a) {
    const int64_t E = a->width, half = E / 2, P = a->block;
    const int64_t row_floats = (a->heads + 2 * a->kv_heads) * E;
    for (int64_t n = 0; n < a->rows; n++) {
        if (a->slots[n] < 0) continue;
        const float *cos = a->cos + a->positions[n] * half, *sin = a->sin + a->positions[n] * half;
        int64_t block = a->slots[n] / P, at = a->slots[n] % P;
        for (int64_t k = 0; k < a->kv_heads; k++) {
            const float *key = a->qkv + n * row_floats + (a->heads + k) * E, *value = key + a->kv_heads * E;
            float *keys = a->keys + (block * a->kv_heads + k) * E * P + at;
            for (int64_t e = 0; e < half; e++) {
                keys[e * P] = key[e] * cos[e] - key[half + e] * sin[e];
                keys[(half + e) * P] = key[half + e] * cos[e] + key[e] * sin[e];
            }
            memcpy(a->values + ((block * a->kv_heads + k) * P + at) * E, value, E * sizeof(float));
        }
    }
}

/* Lets row n read its sequence's slots. */
INLINE void read_row(const Attention *a, int64_t n, float *scratch) {
    const int64_t E = a->width, half = E / 2, P = a->block, group = a->heads / a->kv_heads;
    const int64_t row_floats = (a->heads + 2 * a->kv_heads) * E;
    const float scale = 1.0f / sqrtf((float)E);
    float *queries = scratch + group * a->padded, *inverses = queries + group * E;
    const int64_t length = a->lengths[n], blocks = (length + P - 1) / P;
    const int32_t *table = a->table + a->table_rows[n] * a->columns;
    const float *cos = a->cos + a->positions[n] * half, *sin = a->sin + a->positions[n] * half;
    for (int64_t k = 0; k < a->kv_heads; k++) {
        float *out = a->out + (n * a->heads + k * group) * E;
        if (!length) {
            memset(out, 0, group * E * sizeof(float));
            continue;
        }
        for (int64_t g = 0; g < group; g++) {
            const float *q = a->qkv + n * row_floats + (k * group + g) * E;
            for (int64_t e = 0; e < half; e++) {
                queries[g * E + e] = (q[e] * cos[e] - q[half + e] * sin[e]) * scale;
                queries[g * E + half + e] = (q[half + e] * cos[e] + q[e] * sin[e]) * scale;
            }
        }
        for (int64_t g = 0; g < group; g += 2) {
            const float *q = queries + g * E, *r = g + 1 < group ? q + E : q;
            float *s = scratch + g * a->padded, *t = g + 1 < group ? s + a->padded : s;
            for (int64_t j = 0; j < blocks; j++) {
                const float *keys = a->keys + (table[j] * a->kv_heads + k) * E * P;
                for (int64_t p = 0; p < P; p += 16) score(keys + p, P, E, q, r, s + j * P + p, t + j * P + p);
            }
        }
        for (int64_t g = 0; g < group; g++) {
            float *weights = scratch + g * a->padded;
            const int64_t end = (length + 15) / 16 * 16;
            for (int64_t s = length; s < end; s++) weights[s] = -INFINITY;
            f16 most = *(const f16 *)weights, totals = {};
            for (int64_t s = 16; s < end; s += 16) {
                f16 x = *(const f16 *)(weights + s);
                i16 larger = x > most;
                most = (f16)(((i16)x & larger) | ((i16)most & ~larger));
            }
            float top = most[0];
            for (int i = 1; i < 16; i++) top = most[i] > top ? most[i] : top;
            for (int64_t s = 0; s < end; s += 16) {
                f16 w = exp16(*(const f16 *)(weights + s) - top);
                *(f16 *)(weights + s) = w;
                totals += w;
            }
            inverses[g] = 1.0f / sum16(totals);
        }
        for (int64_t g = 0; g < group; g += 2) {
            const float *one = scratch + g * a->padded, *two = g + 1 < group ? one + a->padded : one;
            const float first = inverses[g], second = g + 1 < group ? inverses[g + 1] : first;
            float *o = out + g * E, *p = g + 1 < group ? o + E : o;
            const float *values = a->values + k * P * E;
            int64_t e = 0;
            for (; e + 32 <= E; e += 32) read32(a, table, values + e, one, two, length, o + e, p + e, first, second);
            for (; e < E; e++) {
                float x = 0.0f, y = 0.0f;
                for (int64_t s = 0; s < length; s++) {
                    float value = values[table[s / P] * a->kv_heads * P * E + s % P * E + e];
                    x += value * one[s];
                    y += value * two[s];
                }
                o[e] = x * first;
                p[e] = y * second;
            }
        }
    }
}

/* What a row asks for, as `sample.py` packs it. */
typedef struct {
    double temperature;   /* 0 is greedy */
    double top_p, min_p;  /* 1 and 0 are off */
    int64_t top_k;        /* 0 is off */
    uint64_t seed, index;
} Ask;

/* What sampling needs to know. */
typedef struct {
    const float *logits; /* rows x vocabulary */
    const Ask *asks;     /* NULL: score the ids, draw none */
    int64_t *ids;        /* out; in without asks */
    double *logprobs, *raw; /* or NULL */
    float *scratch; /* vocabulary */
    int64_t rows, vocabulary, allowed;
} Draw;

static int descending(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* Least scaled logit that top-k, then top-p of what is left, and min-p keep. */
static float least_kept(const Draw *d, const Ask *ask, const float *row, float divisor, float top, double total) {
    const double p = ask->top_p;
    const int64_t k = ask->top_k && ask->top_k < d->allowed ? ask->top_k : d->allowed;
    float least = -INFINITY;
    if (p < 1.0 || k < d->allowed) {
        /* Without top-k, what is less likely than an even share of the mass that may go is beyond the cut. */
        float floor = k < d->allowed ? -INFINITY : top + (float)log((1.0 - p) * total / (double)d->allowed) - 1e-3f;
        int64_t count = 0;
        for (int64_t v = 0; v < d->allowed; v++) {
            float x = row[v] / divisor;
            d->scratch[count] = x;
            count += x >= floor;
        }
        qsort(d->scratch, (size_t)count, sizeof(float), descending);
        if (count > k) count = k;
        double within = k < d->allowed ? 0.0 : total, before = 0.0;
        if (k < d->allowed)
            for (int64_t i = 0; i < count; i++) within += exp((double)d->scratch[i] - (double)top);
        int64_t kept = 0; /* the one that crosses top-p stays; top-p 1 keeps all, whatever the sum's rounding */
        while (kept < count && (p >= 1.0 || before < p * within)) before += exp((double)d->scratch[kept++] - (double)top);
        if (kept && (kept < d->allowed)) least = d->scratch[kept - 1];
    }
    if (ask->min_p > 0.0) {
        float faint = top + (float)log(ask->min_p);
        least = faint > least ? faint : least;
    }
    return least;
}

INLINE float largest(const float *row, int64_t count) {
    float top = -INFINITY;
    int64_t v = 0;
    if (count >= 16) {
        f16 most = *(const f16 *)row;
        for (v = 16; v + 16 <= count; v += 16) {
            f16 x = *(const f16 *)(row + v);
            i16 larger = x > most;
            most = (f16)(((i16)x & larger) | ((i16)most & ~larger));
        }
        for (int i = 0; i < 16; i++) top = most[i] > top ? most[i] : top;
    }
    for (; v < count; v++) top = row[v] > top ? row[v] : top;
    return top;
}

INLINE d8 scaled8(const float *row, int64_t v, int64_t allowed, float divisor) {
    f8 scaled;
    if (v + 8 <= allowed) {
        scaled = *(const f8 *)(row + v) / divisor;
    } else {
        for (int i = 0; i < 8; i++) scaled[i] = v + i < allowed ? row[v + i] / divisor : -INFINITY;
    }
    return __builtin_convertvector(scaled, d8);
}

/* Id v arrives after an exponential time of rate exp(logit / temperature); the first to arrive is drawn. */
INLINE void draw(const Draw *d) {
    for (int64_t n = 0; n < d->rows; n++) {
        const float *row = d->logits + n * d->vocabulary;
        const float most = largest(row, d->vocabulary);
        d8 raws = {};
        if (d->raw)
            for (int64_t v = 0; v < d->vocabulary; v += 8) raws += exp8(logits8(row, v, d->vocabulary) - (double)most);
        int64_t id = d->ids[n];
        if (d->asks) {
            const Ask *ask = d->asks + n;
            const int greedy = ask->temperature == 0.0;
            const float divisor = greedy ? 1.0f : (float)ask->temperature, top = largest(row, d->allowed) / divisor;
            const uint64_t key = mix(mix(ask->seed) + ask->index * 0x9E3779B97F4A7C15ULL);
            float least = -INFINITY;
            if (!greedy && (ask->top_p < 1.0 || ask->top_k || ask->min_p > 0.0)) {
                d8 sums = {};
                for (int64_t v = 0; v < d->allowed; v += 8) sums += exp8(scaled8(row, v, d->allowed, divisor) - (double)top);
                least = least_kept(d, ask, row, divisor, top, sum8(sums));
            }
            d8 totals = {}, best;
            l8 winners = {}, ids = {0, 1, 2, 3, 4, 5, 6, 7};
            for (int i = 0; i < 8; i++) best[i] = -INFINITY;
            for (int64_t v = 0; v < d->allowed; v += 8, ids += 8) {
                d8 scaled = scaled8(row, v, d->allowed, divisor), race;
                if (greedy) {
                    race = scaled;
                    if (d->logprobs) totals += exp8(scaled - (double)top);
                } else {
                    d8 rate = exp8(scaled - (double)top);
                    rate = (d8)((l8)rate & (scaled >= (double)least));
                    totals += rate;
                    race = rate / minus_log8(uniform8(key, v));
                }
                l8 ahead = race > best;
                best = (d8)(((l8)race & ahead) | ((l8)best & ~ahead));
                winners = (ids & ahead) | (winners & ~ahead);
            }
            int lane = 0;
            for (int i = 1; i < 8; i++)
                if (best[i] > best[lane] || (best[i] == best[lane] && winners[i] < winners[lane])) lane = i;
            d->ids[n] = id = winners[lane];
            if (d->logprobs) d->logprobs[n] = (float)((double)(row[id] / divisor) - (double)top - log(sum8(totals)));
        }
        if (d->raw) d->raw[n] = (float)((double)row[id] - (double)most - log(sum8(raws)));
    }
}

#if defined(__x86_64__)
KERNELS(avx512, __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), f16, 16, 4)
KERNELS(avx2, __attribute__((target("avx2,fma"))), f8, 8, 2)
#endif
KERNELS(plain, , f4, 4, 4)

typedef struct {
    const char *name;
    void (*product)(const Product *);
    void (*attend)(const Attention *);
    void (*norm)(const float *, const float *, float *, int64_t, int64_t, int64_t, float);
    void (*gate)(const float *, float *, int64_t, int64_t);
    void (*draw)(const Draw *);
} Best;

static Best best;

#define ADDRESS(x) ((void *)(uintptr_t)(x))

static PyObject *py_pack(PyObject *self, PyObject *args) {
    unsigned long long weight, packed;
    long long outputs, inputs;
    if (!PyArg_ParseTuple(args, "KKLL", &weight, &packed, &outputs, &inputs)) return NULL;
    const float *from = ADDRESS(weight);
    float *to = ADDRESS(packed);
    Py_BEGIN_ALLOW_THREADS;
    for (int64_t panel = 0; panel < outputs; panel += PANEL)
        for (int64_t k0 = 0; k0 < inputs; k0 += 16)
            for (int64_t c = 0; c < PANEL; c++)
                for (int64_t k = k0; k < k0 + 16 && k < inputs; k++)
                    to[panel * inputs + k * PANEL + c] = panel + c < outputs ? from[(panel + c) * inputs + k] : 0.0f;
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

static PyObject *py_product(PyObject *self, PyObject *args) {
    unsigned long long x, packed, bias, out;
    long long rows, inputs, outputs;
    int add, threads;
    if (!PyArg_ParseTuple(args, "KKKKLLLpi", &x, &packed, &bias, &out, &rows, &inputs, &outputs, &add, &threads))
        return NULL;
    Product p = {ADDRESS(x), ADDRESS(packed), ADDRESS(bias), ADDRESS(out), rows, inputs, outputs, add, threads};
    Py_BEGIN_ALLOW_THREADS;
    best.product(&p);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

static PyObject *py_norm(PyObject *self, PyObject *args) {
    unsigned long long x, weight, out;
    long long rows, stride, width;
    float eps;
    if (!PyArg_ParseTuple(args, "KKKLLLf", &x, &weight, &out, &rows, &stride, &width, &eps)) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    best.norm(ADDRESS(x), ADDRESS(weight), ADDRESS(out), rows, stride, width, eps);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

static PyObject *py_gate(PyObject *self, PyObject *args) {
    unsigned long long x, out;
    long long rows, width;
    if (!PyArg_ParseTuple(args, "KKLL", &x, &out, &rows, &width)) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    best.gate(ADDRESS(x), ADDRESS(out), rows, width);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

/* A transformer block's packed weights and norms, as `cpu.py` lays them out; a bias of 0 is none. */
typedef struct {
    int64_t qkv, qkv_bias, output, gate_up, down, input_norm, post_norm;
} Block;

/* What all blocks share, as `cpu.py` lays it out: buffers between kernels, the cache, sizes. */
typedef struct {
    int64_t x, y, qkv, mixed, gates, gated, joined;
    int64_t embedding, keys, values, layer_bytes, cos, sin, table;
    int64_t hidden, inner, heads, kv_heads, width, block, columns;
} Room;

static void run_block(const Room *r, const Block *b, int64_t layer, const int64_t *columns, int64_t rows, float eps,
                      int threads, float *scratch, int64_t padded) {
    const int64_t queries = r->heads * r->width, all = (r->heads + 2 * r->kv_heads) * r->width;
    const float *x = ADDRESS(r->x), *y = ADDRESS(r->y);
    best.norm(x, ADDRESS(b->input_norm), ADDRESS(r->y), rows, r->hidden, r->hidden, eps);
    Product p = {y, ADDRESS(b->qkv), ADDRESS(b->qkv_bias), ADDRESS(r->qkv), rows, r->hidden, all, 0, threads};
    best.product(&p);
    Attention a = {ADDRESS(r->qkv), ADDRESS(r->cos), ADDRESS(r->sin), ADDRESS(r->keys + layer * r->layer_bytes),
                   ADDRESS(r->values + layer * r->layer_bytes), ADDRESS(r->table), columns + rows, columns + 2 * rows,
                   columns + 3 * rows, columns + 4 * rows, ADDRESS(r->mixed), scratch, rows, r->heads, r->kv_heads,
                   r->width, r->block, r->columns, padded, threads};
    best.attend(&a);
    p = (Product){ADDRESS(r->mixed), ADDRESS(b->output), NULL, ADDRESS(r->x), rows, queries, r->hidden, 1, threads};
    best.product(&p);
    best.norm(x, ADDRESS(b->post_norm), ADDRESS(r->y), rows, r->hidden, r->hidden, eps);
    p = (Product){y, ADDRESS(b->gate_up), NULL, ADDRESS(r->gates), rows, r->hidden, 2 * r->inner, 0, threads};
    best.product(&p);
    best.gate(ADDRESS(r->gates), ADDRESS(r->gated), rows, r->inner);
    p = (Product){ADDRESS(r->gated), ADDRESS(b->down), NULL, ADDRESS(r->x), rows, r->inner, r->hidden, 1, threads};
    best.product(&p);
}

/* What an MTP layer has before its block, as `cpu.py` lays it out; a state norm of 0 is none. */
typedef struct {
    int64_t projection, hidden_norm, token_norm, state_norm;
} Join;

/* Rows' embeddings, joined with the states in their slots if it is an MTP layer's pass; then blocks; states out. */
static PyObject *py_pass(PyObject *self, PyObject *args) {
    unsigned long long room, blocks, join, states_in, states_out, columns;
    long long count, first, rows;
    float eps;
    int threads;
    if (!PyArg_ParseTuple(args, "KKLLKKKKLfi", &room, &blocks, &count, &first, &join, &states_in, &states_out, &columns,
                          &rows, &eps, &threads))
        return NULL;
    const Room *r = ADDRESS(room);
    const Join *j = ADDRESS(join);
    const int64_t *ids = ADDRESS(columns), *slots = ids + 3 * rows, *lengths = ids + 4 * rows, D = r->hidden;
    int64_t longest = 0, group = r->heads / r->kv_heads;
    for (int64_t n = 0; n < rows; n++) longest = lengths[n] > longest ? lengths[n] : longest;
    int64_t padded = longest + r->block + 16;
    float *scratch = malloc(threads * group * (padded + r->width + 1) * sizeof(float));
    if (!scratch) return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS;
    float *x = ADDRESS(r->x), *y = ADDRESS(r->y), *joined = ADDRESS(r->joined);
    for (int64_t n = 0; n < rows; n++) memcpy(x + n * D, (const float *)ADDRESS(r->embedding) + ids[n] * D, D * sizeof(float));
    if (j) {
        for (int64_t n = 0; n < rows; n++)
            memcpy(y + n * D, (const float *)ADDRESS(states_in) + (slots[n] < 0 ? 0 : slots[n]) * D, D * sizeof(float));
        if (j->state_norm) best.norm(y, ADDRESS(j->state_norm), y, rows, D, D, eps);
        best.norm(y, ADDRESS(j->hidden_norm), joined, rows, 2 * D, D, eps);
        best.norm(x, ADDRESS(j->token_norm), joined + D, rows, 2 * D, D, eps);
        Product p = {joined, ADDRESS(j->projection), NULL, x, rows, 2 * D, D, 0, threads};
        best.product(&p);
    }
    for (int64_t n = 0; n < count; n++)
        run_block(r, (const Block *)ADDRESS(blocks) + n, first + n, ids, rows, eps, threads, scratch, padded);
    if (states_out)
        for (int64_t n = 0; n < rows; n++)
            if (slots[n] >= 0) memcpy((float *)ADDRESS(states_out) + slots[n] * D, x + n * D, D * sizeof(float));
    Py_END_ALLOW_THREADS;
    free(scratch);
    Py_RETURN_NONE;
}

static PyObject *py_draw(PyObject *self, PyObject *args) {
    unsigned long long logits, out;
    const char *asks;
    Py_ssize_t size;
    long long rows, vocabulary, allowed;
    int score;
    if (!PyArg_ParseTuple(args, "Kz#KLLLp", &logits, &asks, &size, &out, &rows, &vocabulary, &allowed, &score)) return NULL;
    if (asks && size != rows * (Py_ssize_t)sizeof(Ask))
        return PyErr_Format(PyExc_ValueError, "%lld rows need %zu bytes each, got %zd", rows, sizeof(Ask), size);
    Ask *copy = malloc((size_t)rows * sizeof(Ask) + (size_t)vocabulary * sizeof(float) + 1); /* aligned */
    if (!copy) return PyErr_NoMemory();
    if (asks) memcpy(copy, asks, (size_t)size);
    double *found = ADDRESS(out);
    Draw d = {ADDRESS(logits), asks ? copy : NULL, (int64_t *)found, score ? found + rows : NULL, score ? found + 2 * rows : NULL,
              (float *)(copy + rows), rows, vocabulary, allowed};
    Py_BEGIN_ALLOW_THREADS;
    best.draw(&d);
    Py_END_ALLOW_THREADS;
    free(copy);
    Py_RETURN_NONE;
}

static PyObject *py_logits(PyObject *self, PyObject *args) {
    unsigned long long x, chosen, norm, y, packed, out;
    long long rows, inputs, outputs;
    float eps;
    int threads;
    if (!PyArg_ParseTuple(args, "KKKKKKLLLfi", &x, &chosen, &norm, &y, &packed, &out, &rows, &inputs, &outputs, &eps,
                          &threads))
        return NULL;
    Product p = {ADDRESS(y), ADDRESS(packed), NULL, ADDRESS(out), rows, inputs, outputs, 0, threads};
    const int64_t *row = ADDRESS(chosen);
    Py_BEGIN_ALLOW_THREADS;
    for (int64_t n = 0; n < rows; n++)
        best.norm((const float *)ADDRESS(x) + (row ? row[n] : n) * inputs, ADDRESS(norm), (float *)ADDRESS(y) + n * inputs,
                  1, inputs, inputs, eps);
    best.product(&p);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

#define USE(SUFFIX)                                                                                                    \
    best.name = #SUFFIX, best.product = product_##SUFFIX, best.attend = attend_##SUFFIX, best.norm = norm_##SUFFIX,    \
    best.gate = gate_##SUFFIX, best.draw = draw_##SUFFIX

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
    {"pack", py_pack, METH_VARARGS, "Weights (outputs, inputs) into panels of 64 outputs, input by input."},
    {"product", py_product, METH_VARARGS, "Rows times packed weights."},
    {"norm", py_norm, METH_VARARGS, "Root-mean-square norm."},
    {"gate", py_gate, METH_VARARGS, "silu(gate) * up."},
    {"forward", py_pass, METH_VARARGS, "A pass of the trunk or of an MTP layer over the paged cache."},
    {"logits", py_logits, METH_VARARGS, "A final norm and the head, for chosen rows or all."},
    {"draw", py_draw, METH_VARARGS, "Draw one token a row, or score given ones."},
    {"use", py_use, METH_VARARGS, "Choose the instruction set by name, or the best; returns its name."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernels", "Row-independent float32 kernels.", -1, methods};

PyMODINIT_FUNC PyInit__kernels(void) {
    return module_at_its_best(&module, py_use);
}
