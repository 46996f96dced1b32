/* Training's arithmetic on a CPU, for one instruction set: `_kernels.c` includes this file once for each, with NAME(x)
 * the name of x for it and VECTORS how many vectors of 16 floats of a row a product keeps in registers.
 *
 * Shapes: T positions of a row, E width of a head, B = BLOCK queries or keys of a tile.
 */

/* Adds to or sets out[m][n], m < rows, n < 16 * vectors: the sum over k of left[m][k] * right[k][n], one chain of
 * multiply-adds an output, in the order of k. */
INLINE void NAME(tile)(float *out, int64_t out_step, const float *left, int64_t left_row, int64_t left_step,
                       const float *right, int64_t right_step, int64_t inner, int add, const int rows, const int vectors) {
    f16 sums[12][4];
#pragma GCC unroll 12
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sums[m][v] = add ? *(const f16 *)(out + m * out_step + 16 * v) : (f16){};
    for (int64_t k = 0; k < inner; k++) {
        f16 loaded[4];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) loaded[v] = *(const f16 *)(right + k * right_step + 16 * v);
#pragma GCC unroll 12
        for (int m = 0; m < rows; m++) {
            const float scalar = left[m * left_row + k * left_step];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sums[m][v] += scalar * loaded[v];
        }
    }
#pragma GCC unroll 12
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) *(f16 *)(out + m * out_step + 16 * v) = sums[m][v];
}

#define ROWS_OF(COUNT, V)                                                                                              \
    for (; m + COUNT <= rows; m += COUNT)                                                                              \
        NAME(tile)(out + m * out_step + n, out_step, left + m * left_row, left_row, left_step, right + n, right_step,  \
                   inner, add, COUNT, V)

/* `tile` for any number of rows; columns is a multiple of 16. */
static void NAME(product)(float *out, int64_t out_step, const float *left, int64_t left_row, int64_t left_step,
                          const float *right, int64_t right_step, int64_t rows, int64_t columns, int64_t inner, int add) {
    int64_t n = 0;
#if VECTORS == 4
    for (; n + 64 <= columns; n += 64) {
        int64_t m = 0;
        ROWS_OF(6, 4);
        ROWS_OF(4, 4);
        ROWS_OF(1, 4);
    }
    for (; n + 32 <= columns; n += 32) {
        int64_t m = 0;
        ROWS_OF(12, 2);
        ROWS_OF(4, 2);
        ROWS_OF(1, 2);
    }
#endif
    for (; n < columns; n += 16) {
        int64_t m = 0;
        ROWS_OF(6, 1);
        ROWS_OF(4, 1);
        ROWS_OF(1, 1);
    }
}
#undef ROWS_OF

/* `product` of a tile whose left side is queries: of the tile on the diagonal, keys (columns or inner) after a query's own
 * strip are left out. What is left out is masked or zero. */
INLINE void NAME(by_query)(float *out, int64_t out_step, const float *left, int64_t left_row, const float *right,
                           int64_t right_step, int64_t rows, int64_t columns, int64_t inner, int add, int diagonal, int scores) {
    if (!diagonal) {
        NAME(product)(out, out_step, left, left_row, 1, right, right_step, rows, columns, inner, add);
        return;
    }
    for (int64_t m = 0; m < rows; m += STRIP)
        NAME(product)(out + m * out_step, out_step, left + m * left_row, left_row, 1, right, right_step, MIN(STRIP, rows - m),
                      scores ? m + STRIP : columns, scores ? inner : m + STRIP, add);
}

/* Adds to each key's gradient what the tile's queries give, shares turned; on the diagonal only those from its strip on. */
INLINE void NAME(by_key)(float *out, const float *shares, const float *right, int64_t rows, int64_t width, int diagonal) {
    const int64_t strip = diagonal ? STRIP : BLOCK;
    for (int64_t n = 0; n < BLOCK; n += strip) {
        const int64_t from = diagonal ? n : 0;
        if (from < rows)
            NAME(product)(out + n * width, width, shares + from * BLOCK + n, 1, BLOCK, right + from * width, width, strip,
                          width, rows - from, 1);
    }
}

/* What one tile of queries reads, begun with the first key that any of them may read. */
INLINE void NAME(mask)(float *scores, const int64_t *first, int64_t start, int64_t rows, int64_t key) {
    if (key + BLOCK <= start && first[start + rows - 1] <= key) return; /* all is allowed */
    for (int64_t m = 0; m < rows; m++)
        for (int64_t n = 0; n < BLOCK; n++)
            if (key + n > start + m || key + n < first[start + m]) scores[m * BLOCK + n] = -INFINITY;
}

/* A tile of one head's rows in float32, times `scale`; rows beyond the last are zero. */
INLINE void NAME(gather)(float *out, const void *in, int bfloat16, int64_t step, int64_t rows, int64_t width, float scale) {
    for (int64_t m = 0; m < rows; m++)
        for (int64_t e = 0; e < width; e += 16)
            *(f16 *)(out + m * width + e) = load16(in, bfloat16, m * step + e) * scale;
    memset(out + rows * width, 0, (BLOCK - rows) * width * sizeof(float));
}

/* Tile by tile of BLOCK rows: width x BLOCK, so that a vector holds 16 keys; rows beyond the last are zero. */
INLINE void NAME(turn)(float *out, const float *in, int64_t padded, int64_t width) {
    for (int64_t start = 0; start < padded; start += BLOCK)
        for (int64_t e = 0; e < width; e++)
            for (int64_t n = 0; n < BLOCK; n++) out[start * width + e * BLOCK + n] = in[(start + n) * width + e];
}

/* One row's and one group's part of the result: see `attend` in `_kernels.c`. */
static void NAME(attend_group)(const Attention *a, int64_t row, int64_t group, float *scratch) {
    const int64_t T = a->length, E = a->width, padded = PADDED(T), heads = a->heads, shared = heads / a->groups;
    const int64_t *first = a->first + row * T;
    float *keys = scratch, *turned = keys + padded * E, *values = turned + padded * E, *queries = values + padded * E;
    float *scores = queries + BLOCK * E, *mixed = scores + BLOCK * BLOCK;
    for (int64_t start = 0; start < padded; start += BLOCK) {
        const int64_t rows = MIN(BLOCK, T - start), at = ((row * T + start) * a->groups + group) * E;
        NAME(gather)(keys + start * E, OFFSET(a->k, at), a->bfloat16, a->groups * E, rows, E, 1.0f);
        NAME(gather)(values + start * E, OFFSET(a->v, at), a->bfloat16, a->groups * E, rows, E, 1.0f);
    }
    NAME(turn)(turned, keys, padded, E);
    for (int64_t head = group * shared; head < (group + 1) * shared; head++)
        for (int64_t start = 0; start < T; start += BLOCK) {
            const int64_t rows = MIN(BLOCK, T - start), at = ((row * T + start) * heads + head) * E;
            float most[BLOCK], sums[BLOCK];
            NAME(gather)(queries, OFFSET(a->q, at), a->bfloat16, heads * E, rows, E, a->scale);
            memset(mixed, 0, BLOCK * E * sizeof(float));
            for (int64_t m = 0; m < BLOCK; m++) most[m] = -INFINITY, sums[m] = 0.0f;
            for (int64_t key = first[start] / BLOCK * BLOCK; key <= start; key += BLOCK) {
                NAME(by_query)(scores, BLOCK, queries, E, turned + key * E, BLOCK, rows, BLOCK, E, 0, key == start, 1);
                NAME(mask)(scores, first, start, rows, key);
                for (int64_t m = 0; m < rows; m++) {
                    f16 *x = (f16 *)(scores + m * BLOCK);
                    const float old = most[m], now = MAX(old, most16(max16(max16(x[0], x[1]), max16(x[2], x[3]))));
                    const float base = now == -INFINITY ? 0.0f : now; /* nothing to read yet */
                    for (int v = 0; v < 4; v++) x[v] = exp16(x[v] - base);
                    const float kept = old == now ? 1.0f : expf(old - base);
                    sums[m] = sums[m] * kept + sum16((x[0] + x[1]) + (x[2] + x[3]));
                    most[m] = now;
                    if (kept != 1.0f)
                        for (int64_t e = 0; e < E; e += 16) *(f16 *)(mixed + m * E + e) *= kept;
                }
                NAME(by_query)(mixed, E, scores, BLOCK, values + key * E, E, rows, E, BLOCK, 1, key == start, 0);
            }
            for (int64_t m = 0; m < rows; m++) {
                for (int64_t e = 0; e < E; e += 16)
                    store16(a->out, a->bfloat16, at + m * heads * E + e, *(f16 *)(mixed + m * E + e) * (1.0f / sums[m]));
                a->logs[(row * heads + head) * T + start + m] = most[m] + logf(sums[m]);
            }
        }
}

/* One row's and one group's part of the gradients. */
static void NAME(attend_group_back)(const Attention *a, int64_t row, int64_t group, float *scratch) {
    const int64_t T = a->length, E = a->width, padded = PADDED(T), heads = a->heads, shared = heads / a->groups;
    const int64_t *first = a->first + row * T;
    float *keys = scratch, *turned = keys + padded * E, *values = turned + padded * E, *values_turned = values + padded * E;
    float *d_keys = values_turned + padded * E, *d_values = d_keys + padded * E, *queries = d_values + padded * E;
    float *grads = queries + BLOCK * E, *d_queries = grads + BLOCK * E, *shares = d_queries + BLOCK * E;
    float *d_shares = shares + BLOCK * BLOCK;
    for (int64_t start = 0; start < padded; start += BLOCK) {
        const int64_t rows = MIN(BLOCK, T - start), at = ((row * T + start) * a->groups + group) * E;
        NAME(gather)(keys + start * E, OFFSET(a->k, at), a->bfloat16, a->groups * E, rows, E, 1.0f);
        NAME(gather)(values + start * E, OFFSET(a->v, at), a->bfloat16, a->groups * E, rows, E, 1.0f);
    }
    NAME(turn)(turned, keys, padded, E);
    NAME(turn)(values_turned, values, padded, E);
    memset(d_keys, 0, 2 * padded * E * sizeof(float));
    for (int64_t head = group * shared; head < (group + 1) * shared; head++)
        for (int64_t start = 0; start < T; start += BLOCK) {
            const int64_t rows = MIN(BLOCK, T - start), at = ((row * T + start) * heads + head) * E;
            const float *logs = a->logs + (row * heads + head) * T + start;
            float along[BLOCK]; /* of each query, its output times the output's gradient */
            NAME(gather)(queries, OFFSET(a->q, at), a->bfloat16, heads * E, rows, E, a->scale);
            NAME(gather)(grads, OFFSET(a->grad, at), a->bfloat16, heads * E, rows, E, 1.0f);
            memset(d_queries, 0, BLOCK * E * sizeof(float));
            for (int64_t m = 0; m < rows; m++) {
                f16 sum = {};
                for (int64_t e = 0; e < E; e += 16)
                    sum += load16(a->out, a->bfloat16, at + m * heads * E + e) * *(f16 *)(grads + m * E + e);
                along[m] = sum16(sum);
            }
            for (int64_t key = first[start] / BLOCK * BLOCK; key <= start; key += BLOCK) {
                NAME(by_query)(shares, BLOCK, queries, E, turned + key * E, BLOCK, rows, BLOCK, E, 0, key == start, 1);
                NAME(mask)(shares, first, start, rows, key);
                NAME(by_query)(d_shares, BLOCK, grads, E, values_turned + key * E, BLOCK, rows, BLOCK, E, 0, key == start, 1);
                for (int64_t m = 0; m < rows; m++) {
                    f16 *x = (f16 *)(shares + m * BLOCK), *d = (f16 *)(d_shares + m * BLOCK);
                    for (int v = 0; v < 4; v++) {
                        x[v] = exp16(at_most0(x[v] - logs[m])); /* sums were rounded */
                        d[v] = x[v] * (d[v] - along[m]);
                    }
                    if (key == start) /* was not computed */
                        memset((float *)d + m / STRIP * STRIP + STRIP, 0, (BLOCK - m / STRIP * STRIP - STRIP) * sizeof(float));
                }
                NAME(by_key)(d_values + key * E, shares, grads, rows, E, key == start);
                NAME(by_key)(d_keys + key * E, d_shares, queries, rows, E, key == start);
                NAME(by_query)(d_queries, E, d_shares, BLOCK, keys + key * E, E, rows, E, BLOCK, 1, key == start, 0);
            }
            for (int64_t m = 0; m < rows; m++)
                for (int64_t e = 0; e < E; e += 16)
                    store16(a->dq, a->bfloat16, at + m * heads * E + e, *(f16 *)(d_queries + m * E + e) * a->scale);
        }
    for (int64_t t = 0; t < T; t++)
        for (int64_t e = 0; e < E; e += 16) {
            const int64_t at = ((row * T + t) * a->groups + group) * E + e;
            store16(a->dk, a->bfloat16, at, *(f16 *)(d_keys + t * E + e));
            store16(a->dv, a->bfloat16, at, *(f16 *)(d_values + t * E + e));
        }
}

/* One slot's loss; its logits become their gradient if `learns`. */
static void NAME(cross_entropy_row)(const CrossEntropy *c, int64_t n) {
    const int64_t V = c->vocabulary, whole = V / 16 * 16, at = n * V;
    f16 high = load_some16(c->logits, c->bfloat16, at + whole, V - whole, -INFINITY), sum = {};
    for (int64_t v = 0; v < whole; v += 16) high = max16(high, load16(c->logits, c->bfloat16, at + v));
    const float most = most16(high), weight = c->weights[n], target = load1(c->logits, c->bfloat16, at + c->targets[n]);
    for (int64_t v = 0; v < whole; v += 16) sum += exp16(load16(c->logits, c->bfloat16, at + v) - most);
    sum += exp16(load_some16(c->logits, c->bfloat16, at + whole, V - whole, -INFINITY) - most);
    const float total = sum16(sum);
    c->losses[n] = (logf(total) + most - target) * weight;
    if (!c->learns) return;
    const float share = weight / total;
    for (int64_t v = 0; v < whole; v += 16)
        store16(c->logits, c->bfloat16, at + v, exp16(load16(c->logits, c->bfloat16, at + v) - most) * share);
    f16 rest = exp16(load_some16(c->logits, c->bfloat16, at + whole, V - whole, -INFINITY) - most) * share;
    for (int64_t v = whole; v < V; v++) store1(c->logits, c->bfloat16, at + v, rest[v - whole]);
    store1(c->logits, c->bfloat16, at + c->targets[n], expf(target - most) * share - weight);
}
