/* MinHash signatures and union-find (MiMo 2.1): what deduplication computes for every document of a crawl.
 *
 * A text becomes lower-case UTF-8 with blanks between its words, the words become hashes, runs of words become 32-bit
 * shingle hashes x, and entry k of a signature is the least of a_k x + b_k mod 2^32 over all shingles. Everything is
 * integer arithmetic, so the instruction sets give equal bits; `minhash_numba.py` is the same in numba.
 *
 * Callers pass addresses of contiguous arrays; the checks are in `minhash.py`. The interpreter's lock is not held.
 * Compiled for AVX-512, AVX2 and whatever the compiler's default is; the best that the machine has is taken at import.
 */

#define PY_SSIZE_T_CLEAN
#include "../../_module.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define BATCH 1024 /* shingles hashed before the signature is brought up to date with them */
#define LETTER (1u << 24) /* of a table entry: part of a word */
#define ALONE (2u << 24) /* a word by itself */
#define LENGTH_FACTOR 0xA0761D6478BD642Full
#define WORD_FACTOR 0xE7037ED1A0B428DBull
#define BASE 0x9E3779B97F4A7C15ull

typedef struct {
    const uint8_t *data;
    const int64_t *borders; /* texts + 1 */
    const uint32_t *table; /* by code point: its lower case, and LETTER or ALONE in the high byte */
    const uint32_t *factors, *offsets; /* lanes: hashes, rounded up to 16 */
    uint32_t *out; /* texts x hashes */
    int64_t texts, ngram, hashes, lanes;
} Job;

typedef struct {
    uint8_t *text;
    int64_t room;
    uint64_t *words; /* ngram - 1 of before, then BATCH */
    uint32_t *shingles; /* BATCH */
    uint32_t *least; /* lanes */
} Scratch;

INLINE uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

INLINE uint64_t load8(const uint8_t *at) {
    uint64_t x;
    memcpy(&x, at, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    x = __builtin_bswap64(x);
#endif
    return x;
}

/* Length and 8-byte pieces of a word, the last one filled with zeros. */
INLINE uint64_t hash_word(const uint8_t *at, int64_t length) {
    uint64_t h = (uint64_t)length * LENGTH_FACTOR;
    for (; length > 8; length -= 8, at += 8) {
        h = (h ^ load8(at)) * WORD_FACTOR;
        h ^= h >> 32;
    }
    h = (h ^ (load8(at) & (~0ull >> (64 - 8 * length)))) * WORD_FACTOR;
    return h ^ (h >> 32);
}

/* One character at `at`, before `end`; bytes that are no UTF-8 give 0, which is no letter. Surrogates pass. */
INLINE int64_t decode(const uint8_t *at, const uint8_t *end, uint32_t *code) {
    uint32_t c = at[0];
    int more = c < 0x80 ? 0 : c < 0xC2 ? -1 : c < 0xE0 ? 1 : c < 0xF0 ? 2 : c < 0xF5 ? 3 : -1;
    *code = 0;
    if (more < 0 || end - at <= more) return 1;
    c &= more ? 0x3Fu >> more : 0x7F;
    for (int i = 1; i <= more; i++) {
        if ((at[i] & 0xC0) != 0x80) return 1;
        c = c << 6 | (at[i] & 0x3F);
    }
    if (c > 0x10FFFF || (more == 2 && c < 0x800) || (more == 3 && c < 0x10000)) return 1;
    *code = c;
    return 1 + more;
}

INLINE int64_t encode(uint32_t c, uint8_t *out) {
    if (c < 0x80) {
        out[0] = c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = 0xC0 | c >> 6, out[1] = 0x80 | (c & 0x3F);
        return 2;
    }
    if (c < 0x10000) {
        out[0] = 0xE0 | c >> 12, out[1] = 0x80 | (c >> 6 & 0x3F), out[2] = 0x80 | (c & 0x3F);
        return 3;
    }
    out[0] = 0xF0 | c >> 18, out[1] = 0x80 | (c >> 12 & 0x3F), out[2] = 0x80 | (c >> 6 & 0x3F), out[3] = 0x80 | (c & 0x3F);
    return 4;
}

/* 64 bytes at once if all are ASCII; 0 if not. */
INLINE int lower64(const uint8_t *in, uint8_t *out) {
    uint8_t any = 0;
    for (int i = 0; i < 64; i++) any |= in[i];
    if (any & 0x80) return 0;
    for (int i = 0; i < 64; i++) {
        uint8_t c = in[i], low = c | 0x20;
        uint8_t kept = (uint8_t)(c - '0') < 10 ? c : ' ';
        out[i] = (uint8_t)(low - 'a') < 26 ? low : kept;
    }
    return 1;
}

/* The text in lower case, blanks for what is in no word and around every ALONE character; at most 2 x length + 64. */
INLINE int64_t normalise(const Job *job, const uint8_t *in, int64_t length, uint8_t *out) {
    const uint8_t *end = in + length, *const start = out;
    while (in < end) {
        if (end - in >= 64 && lower64(in, out)) {
            in += 64, out += 64;
            continue;
        }
        for (const uint8_t *until = end - in > 64 ? in + 64 : end; in < until;) {
            uint32_t code;
            if (*in < 0x80)
                code = *in++;
            else
                in += decode(in, end, &code);
            uint32_t entry = job->table[code];
            if (entry & ALONE) {
                *out++ = ' ';
                out += encode(entry & 0xFFFFFF, out);
                *out++ = ' ';
            } else if (entry & LETTER)
                out += encode(entry & 0xFFFFFF, out);
            else
                *out++ = ' ';
        }
    }
    return out - start;
}

/* Runs of words to shingles: the last `count` of ngram - 1 + count words; words move up. */
INLINE void shingle(uint64_t *words, int64_t count, int64_t ngram, uint64_t top, uint64_t *rolled, uint32_t *out) {
    uint64_t h = *rolled;
    for (int64_t i = 0; i < count; i++) {
        h = h * BASE + words[ngram - 1 + i];
        out[i] = mix(h) >> 32;
        h -= words[i] * top;
    }
    *rolled = h;
    memmove(words, words + count, (ngram - 1) * sizeof *words);
}

INLINE uint64_t blanks_plain(const uint8_t *at) { /* bit i: byte i is no blank */
    uint64_t found = 0;
    for (int i = 0; i < 64; i += 8) {
        uint64_t x = load8(at + i) ^ 0x2020202020202020ull;
        x = ((x & 0x7F7F7F7F7F7F7F7Full) + 0x7F7F7F7F7F7F7F7Full) | x;
        found |= (((x & 0x8080808080808080ull) >> 7) * 0x0102040810204080ull >> 56) << i;
    }
    return found;
}

INLINE void update_plain(uint32_t *least, const Job *job, const uint32_t *x, int64_t count) {
    for (int64_t k = 0; k < job->lanes; k += 16)
        for (int64_t s = 0; s < count; s++)
            for (int i = 0; i < 16; i++) {
                uint32_t value = x[s] * job->factors[k + i] + job->offsets[k + i];
                least[k + i] = value < least[k + i] ? value : least[k + i];
            }
}

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx2")))

AVX2 INLINE uint64_t blanks_avx2(const uint8_t *at) {
    const __m256i blank = _mm256_set1_epi8(' ');
    uint32_t a = _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_loadu_si256((const void *)at), blank));
    uint32_t b = _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_loadu_si256((const void *)(at + 32)), blank));
    return ~(a | (uint64_t)b << 32);
}

AVX512 INLINE uint64_t blanks_avx512(const uint8_t *at) {
    return _mm512_cmpneq_epi8_mask(_mm512_loadu_si512(at), _mm512_set1_epi8(' '));
}

/* V vectors of the signature stay in registers while all shingles pass. */
#define PASS(VECTOR, LANES, P, SUFFIX, V)                                                                              \
    for (; k + V * LANES <= job->lanes; k += V * LANES) {                                                              \
        VECTOR m[V], a[V], b[V];                                                                                       \
        for (int v = 0; v < V; v++) {                                                                                  \
            m[v] = P##_loadu_##SUFFIX((const void *)(least + k + v * LANES));                                          \
            a[v] = P##_loadu_##SUFFIX((const void *)(job->factors + k + v * LANES));                                   \
            b[v] = P##_loadu_##SUFFIX((const void *)(job->offsets + k + v * LANES));                                   \
        }                                                                                                              \
        for (int64_t s = 0; s < count; s++) {                                                                          \
            VECTOR one = P##_set1_epi32((int)x[s]);                                                                    \
            _Pragma("GCC unroll 8") for (int v = 0; v < V; v++)                                                        \
                m[v] = P##_min_epu32(m[v], P##_add_epi32(P##_mullo_epi32(one, a[v]), b[v]));                           \
        }                                                                                                              \
        for (int v = 0; v < V; v++) P##_storeu_##SUFFIX((void *)(least + k + v * LANES), m[v]);                        \
    }

AVX2 INLINE void update_avx2(uint32_t *least, const Job *job, const uint32_t *x, int64_t count) {
    int64_t k = 0;
    PASS(__m256i, 8, _mm256, si256, 4)
    PASS(__m256i, 8, _mm256, si256, 2)
}

AVX512 INLINE void update_avx512(uint32_t *least, const Job *job, const uint32_t *x, int64_t count) {
    int64_t k = 0;
    PASS(__m512i, 16, _mm512, si512, 7)
    PASS(__m512i, 16, _mm512, si512, 1)
}
#endif

/* The signatures of texts first to last; 0 if there is no memory. */
#define SIGN(ISA, TARGET)                                                                                              \
    TARGET static int sign_##ISA(const Job *job, Scratch *s) {                                                         \
        uint64_t top = 1;                                                                                              \
        for (int64_t i = 1; i < job->ngram; i++) top *= BASE;                                                          \
        for (int64_t t = 0; t < job->texts; t++) {                                                                     \
            int64_t length = job->borders[t + 1] - job->borders[t];                                                    \
            if (s->room < 2 * length + 192) {                                                                          \
                free(s->text);                                                                                         \
                s->room = 3 * length + 4096;                                                                           \
                s->text = malloc(s->room);                                                                             \
                if (!s->text) return 0;                                                                                \
            }                                                                                                          \
            length = normalise(job, job->data + job->borders[t], length, s->text);                                     \
            memset(s->text + length, ' ', 128);                                                                        \
            memset(s->least, 0xFF, job->lanes * sizeof *s->least);                                                     \
            uint64_t carry = 0, rolled = 0;                                                                            \
            int64_t begin = 0, seen = 0, held = 0; /* held: words that wait beyond the first ngram - 1 */              \
            for (int64_t at = 0; at <= length; at += 64) {                                                             \
                uint64_t in_word = blanks_##ISA(s->text + at), turns = in_word ^ (in_word << 1 | carry);               \
                carry = in_word >> 63;                                                                                 \
                for (; turns; turns &= turns - 1) {                                                                    \
                    int64_t place = at + __builtin_ctzll(turns);                                                       \
                    if (in_word & turns & -turns) {                                                                    \
                        begin = place;                                                                                 \
                        continue;                                                                                      \
                    }                                                                                                  \
                    uint64_t word = hash_word(s->text + begin, place - begin);                                         \
                    if (seen < job->ngram - 1) {                                                                       \
                        rolled = rolled * BASE + word;                                                                 \
                        s->words[seen++] = word;                                                                       \
                        continue;                                                                                      \
                    }                                                                                                  \
                    seen++;                                                                                            \
                    s->words[job->ngram - 1 + held++] = word;                                                          \
                    if (held == BATCH) {                                                                               \
                        shingle(s->words, held, job->ngram, top, &rolled, s->shingles);                                \
                        update_##ISA(s->least, job, s->shingles, held);                                                \
                        held = 0;                                                                                      \
                    }                                                                                                  \
                }                                                                                                      \
            }                                                                                                          \
            if (held)                                                                                                  \
                shingle(s->words, held, job->ngram, top, &rolled, s->shingles);                                        \
            else if (seen && seen < job->ngram)                                                                        \
                s->shingles[held++] = mix(rolled) >> 32; /* too short: one shingle of all words */                     \
            update_##ISA(s->least, job, s->shingles, held);                                                            \
            memcpy(job->out + t * job->hashes, s->least, job->hashes * sizeof *s->least);                              \
        }                                                                                                              \
        return 1;                                                                                                      \
    }

SIGN(plain, )
#if defined(__x86_64__)
SIGN(avx2, AVX2)
SIGN(avx512, AVX512)
#endif

static int (*sign)(const Job *, Scratch *);
#define ADDRESS(x) ((void *)(uintptr_t)(x))

static PyObject *py_sign(PyObject *self, PyObject *args) {
    unsigned long long data, borders, table, factors, offsets, out;
    long long texts, ngram, hashes, lanes;
    if (!PyArg_ParseTuple(args, "KKKKKKLLLL", &data, &borders, &table, &factors, &offsets, &out, &texts, &ngram, &hashes, &lanes))
        return NULL;
    Job job = {ADDRESS(data), ADDRESS(borders), ADDRESS(table), ADDRESS(factors), ADDRESS(offsets), ADDRESS(out),
               texts, ngram, hashes, lanes};
    Scratch s = {NULL, 0, malloc((ngram - 1 + BATCH) * sizeof *s.words), malloc(BATCH * sizeof *s.shingles),
                 malloc(lanes * sizeof *s.least)};
    int done = 0;
    if (s.words && s.shingles && s.least) {
        Py_BEGIN_ALLOW_THREADS;
        done = sign(&job, &s);
        Py_END_ALLOW_THREADS;
    }
    free(s.text), free(s.words), free(s.shingles), free(s.least);
    if (!done) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *py_band_keys(PyObject *self, PyObject *args) {
    unsigned long long signatures, out;
    long long texts, bands, rows;
    if (!PyArg_ParseTuple(args, "KKLLL", &signatures, &out, &texts, &bands, &rows)) return NULL;
    const uint32_t *s = ADDRESS(signatures);
    uint64_t *keys = ADDRESS(out);
    Py_BEGIN_ALLOW_THREADS;
    for (int64_t n = 0; n < texts * bands; n++) {
        uint64_t h = n % bands + 1;
        for (int64_t r = 0; r < rows; r++) h = mix(h * BASE + *s++);
        keys[n] = h;
    }
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

INLINE int64_t root(int64_t *parent, int64_t i) {
    while (parent[i] != i) i = parent[i] = parent[parent[i]];
    return i;
}

/* Union-find over pairs a[i], b[i] of 0..nodes - 1; parent becomes the least of each component. */
static PyObject *py_join(PyObject *self, PyObject *args) {
    unsigned long long first, second, parents;
    long long pairs, nodes;
    if (!PyArg_ParseTuple(args, "KKLKL", &first, &second, &pairs, &parents, &nodes)) return NULL;
    const int64_t *a = ADDRESS(first), *b = ADDRESS(second);
    int64_t *parent = ADDRESS(parents);
    Py_BEGIN_ALLOW_THREADS;
    for (int64_t i = 0; i < nodes; i++) parent[i] = i;
    for (int64_t i = 0; i < pairs; i++) {
        int64_t x = root(parent, a[i]), y = root(parent, b[i]);
        if (x < y)
            parent[y] = x;
        else
            parent[x] = y;
    }
    for (int64_t i = 0; i < nodes; i++) parent[i] = parent[parent[i]]; /* a parent is never above its child */
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

/* The best instruction set that the machine has, or the one asked for; its name. */
static PyObject *py_use(PyObject *self, PyObject *args) {
    const char *name = "", *found = NULL;
    if (!PyArg_ParseTuple(args, "|s", &name)) return NULL;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if ((!*name || !strcmp(name, "avx512")) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        sign = sign_avx512, found = "avx512";
    else if ((!*name || !strcmp(name, "avx2")) && __builtin_cpu_supports("avx2"))
        sign = sign_avx2, found = "avx2";
#endif
    if (!found && (!*name || !strcmp(name, "plain"))) sign = sign_plain, found = "plain";
    if (!found) return PyErr_Format(PyExc_ValueError, "this machine has no %s", name);
    return PyUnicode_FromString(found);
}

static PyMethodDef methods[] = {
    {"sign", py_sign, METH_VARARGS, "MinHash signatures of UTF-8 texts."},
    {"band_keys", py_band_keys, METH_VARARGS, "64-bit keys of the bands of signatures."},
    {"join", py_join, METH_VARARGS, "Connected components of pairs."},
    {"use", py_use, METH_VARARGS, "Choose the instruction set by name, or the best; returns its name."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernels", "Deduplication.", -1, methods};

PyMODINIT_FUNC PyInit__kernels(void) {
    return module_at_its_best(&module, py_use);
}
