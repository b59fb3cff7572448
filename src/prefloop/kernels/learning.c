/* Computes what training a model needs besides matrix products, in single precision on a processor: attention of packed
 * rows, norms and gates, forward and backward. `kernels/attention.py` and `kernels/linear.py` call it.
 *
 * As in native.c, torch's threads share the work, and no result depends on how.
 */
#include "native.h"

/* Describes rows of packed tokens: `lists` of them, then `times` rows for each that continue it. A token has `query_heads` queries,
 * then `kv_heads` keys, then `kv_heads` values. */
typedef struct {
    int64_t tokens, lists, times, query_heads, kv_heads, head_dim;
    const int64_t *start, *length, *place; /* They are those of each row; place is what stands before it where rows are padded to LANES. */
    const float *cos, *sin;                /* [tokens,head_dim/2] for each token */
    float scaling, share; /* share is that of the weights which are left out. */
    uint32_t seed;        /* It chooses these weights. */
} PackedRows;

#define OF(field) offsetof(PackedRows, field)
static const int64_t rows_layout[] = {OF(tokens), OF(lists), OF(times), OF(query_heads), OF(kv_heads), OF(head_dim), OF(start), OF(length), OF(place), OF(cos), OF(sin), OF(scaling), OF(share), OF(seed), sizeof(PackedRows), -1};
#undef OF
const int64_t *layout_of_rows(void) { return rows_layout; } /* It is as in native.c. */

INLINE int64_t capacity(const PackedRows *r, int64_t row) { return (r->length[row] + LANES - 1) / LANES * LANES; }
INLINE int64_t vectors(const PackedRows *r) { return (r->query_heads + 2 * r->kv_heads) * r->head_dim; }

/* Returns the transposed vectors [head_dim,capacity] of a row's group; kind 0 is keys, and 1 is values. */
INLINE float *turned_space(const PackedRows *r, float *space, int64_t row, int64_t group, int64_t kind)
{
    return space + (2 * r->place[row] * r->kv_heads + (2 * group + kind) * capacity(r, row)) * r->head_dim;
}

/* Rotates queries and keys by their positions, in place; back: rotates gradients the other way. */
static void rope_all(const PackedRows *r, float *x, int back)
{
    const int64_t half = r->head_dim / 2;
#pragma omp for schedule(static)
    for (int64_t token = 0; token < r->tokens; token++) {
        const float *cos = r->cos + token * half, *sin = r->sin + token * half;
        for (int64_t head = 0; head < r->query_heads + r->kv_heads; head++) {
            float *one = x + token * vectors(r) + head * r->head_dim;
            const float by = head < r->query_heads ? r->scaling : 1.0f, sign = back ? -by : by;
            for (int64_t i = 0; i < half; i++) {
                const float a = one[i], b = one[i + half];
                one[i] = a * cos[i] * by - b * sin[i] * sign;
                one[i + half] = b * cos[i] * by + a * sin[i] * sign;
            }
        }
    }
}

static void transpose(const PackedRows *r, const float *x, float *space, int64_t kinds)
{
    const int64_t rows = r->lists * (1 + r->times);
#pragma omp for collapse(2) schedule(dynamic, 4)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t group = 0; group < r->kv_heads; group++)
            for (int64_t kind = 0; kind < kinds; kind++) {
                float *to = turned_space(r, space, row, group, kind);
                const float *from = x + r->start[row] * vectors(r) + (r->query_heads + kind * r->kv_heads + group) * r->head_dim;
                for (int64_t t = 0; t < r->length[row]; t += LANES) { /* Whole cache lines are written. */
                    const int64_t end = t + LANES < r->length[row] ? t + LANES : r->length[row];
                    for (int64_t d = 0; d < r->head_dim; d++)
                        for (int64_t i = t; i < end; i++) to[d * capacity(r, row) + i] = from[i * vectors(r) + d];
                }
            }
}

/* Finds queries `number` onwards of a row and group, counted by token, then by head. */
typedef struct { int64_t head[QUERIES], count[QUERIES]; const float *q[QUERIES]; } Asking;

INLINE Asking query_heads(const PackedRows *r, const float *x, int64_t row, int64_t group, int64_t number, int queries)
{
    const int64_t each = r->query_heads / r->kv_heads;
    Asking a;
    for (int i = 0; i < queries; i++) {
        const int64_t token = (number + i) / each, head = group * each + (number + i) % each;
        a.head[i] = (r->start[row] + token) * r->query_heads + head;
        a.count[i] = token + 1;
        a.q[i] = x + (r->start[row] + token) * vectors(r) + head * r->head_dim;
    }
    return a;
}

INLINE Dropout dropping(const PackedRows *r, const Asking *a, int64_t row)
{
    return (Dropout){r->share, 1.0f / (1.0f - r->share), r->seed, a->head, r->start[row]};
}

INLINE void attend_some(const PackedRows *r, const float *x, float *space, int64_t row, int64_t group, int64_t number, float *read, float *logs, const int queries)
{
    const Asking a = query_heads(r, x, row, group, number, queries);
    const int64_t head_dim = r->head_dim, value = (r->query_heads + r->kv_heads + group) * head_dim, before = (row - r->lists) / (r->times ? r->times : 1);
    Reading found[QUERIES];
    for (int i = 0; i < queries; i++) {
        found[i].top = -INFINITY, found[i].sum = 0;
        for (int64_t d = 0; d < head_dim; d++) found[i].read[d] = 0;
    }
    if (row >= r->lists) {
        int64_t all[QUERIES];
        for (int i = 0; i < queries; i++) all[i] = r->length[before];
        const Dropout drop = dropping(r, &a, before);
        over(a.q, all, turned_space(r, space, before, group, 0), capacity(r, before), x + r->start[before] * vectors(r) + value, vectors(r), head_dim, found, &drop, queries);
    }
    const Dropout drop = dropping(r, &a, row);
    over(a.q, a.count, turned_space(r, space, row, group, 0), capacity(r, row), x + r->start[row] * vectors(r) + value, vectors(r), head_dim, found, &drop, queries);
    for (int i = 0; i < queries; i++) {
        for (int64_t d = 0; d < head_dim; d++) read[a.head[i] * head_dim + d] = found[i].read[d] / found[i].sum;
        logs[a.head[i]] = found[i].top + logf(found[i].sum);
    }
}

/* Rotates x [tokens,vectors] in place. Writes what every token reads [tokens,query_heads*head_dim], and the logarithm of its sum
 * of weights [tokens,query_heads]. space has 2 * kv_heads * head_dim numbers for each place. */
void attention(const PackedRows *r, float *x, float *space, float *read, float *logs)
{
    const int64_t rows = r->lists * (1 + r->times), each = r->query_heads / r->kv_heads;
#pragma omp parallel
    {
        rope_all(r, x, 0);
        transpose(r, x, space, 1);
#pragma omp for collapse(2) schedule(dynamic, 2)
        for (int64_t row = 0; row < rows; row++)
            for (int64_t group = 0; group < r->kv_heads; group++) {
                int64_t number = 0;
                for (; number + QUERIES <= r->length[row] * each; number += QUERIES)
                    attend_some(r, x, space, row, group, number, read, logs, QUERIES);
                for (; number < r->length[row] * each; number++)
                    attend_some(r, x, space, row, group, number, read, logs, 1);
            }
    }
}

/* Computes the gradient through what queries of one row read from another row, or from their own (dq [queries][head_dim] adds up). */
INLINE void back_over(const PackedRows *r, const float *x, float *space, const Asking *a, const int64_t count[], const float *const came[], const float *logs, const float *inner, int64_t row, int64_t group, float dq[QUERIES][WIDEST], float *result, const int queries)
{
    float weight[QUERIES][KEYS], slope[QUERIES][KEYS];
    const int64_t head_dim = r->head_dim, wide = capacity(r, row), step = vectors(r), most = count[queries - 1];
    const Dropout drop = dropping(r, a, row);
    for (int64_t from = 0; from < most; from += KEYS) {
        const int some = most - from < KEYS ? (int)(most - from) : KEYS;
        scores(a->q, turned_space(r, space, row, group, 0) + from, wide, head_dim, some, weight, queries);
        scores(came, turned_space(r, space, row, group, 1) + from, wide, head_dim, some, slope, queries);
        for (int i = 0; i < queries; i++) {
            const int own = count[i] <= from ? 0 : count[i] - from < some ? (int)(count[i] - from) : some;
            for (int j = 0; j < own; j++) weight[i][j] = power(weight[i][j] - logs[i]);
            for (int j = own; j < some; j++) weight[i][j] = slope[i][j] = 0;
            dropout(&drop, i, from, own, slope[i]);
            for (int j = 0; j < own; j++) slope[i][j] = weight[i][j] * (slope[i][j] - inner[i]);
            dropout(&drop, i, from, own, weight[i]);
        }
        const float *keys = x + (r->start[row] + from) * step + (r->query_heads + group) * head_dim;
        float *dk = result + (r->start[row] + from) * step + (r->query_heads + group) * head_dim, *dv = dk + r->kv_heads * head_dim;
        for (int64_t d = 0; d < head_dim; d += WIDTH) {
            const int lanes = head_dim - d < WIDTH ? (int)(head_dim - d) : WIDTH;
            if (lanes == WIDTH) {
                Lanes to[QUERIES], q[QUERIES], g[QUERIES];
#pragma GCC unroll 4
                for (int i = 0; i < queries; i++)
                    to[i] = *(Lanes *)(dq[i] + d), q[i] = *(const Lanes *)(a->q[i] + d), g[i] = *(const Lanes *)(came[i] + d);
                for (int j = 0; j < some; j++) {
                    const Lanes key = *(const Lanes *)(keys + j * step + d);
                    Lanes k = *(Lanes *)(dk + j * step + d), v = *(Lanes *)(dv + j * step + d);
#pragma GCC unroll 4
                    for (int i = 0; i < queries; i++) {
                        to[i] += slope[i][j] * key;
                        k += slope[i][j] * q[i];
                        v += weight[i][j] * g[i];
                    }
                    *(Lanes *)(dk + j * step + d) = k, *(Lanes *)(dv + j * step + d) = v;
                }
#pragma GCC unroll 4
                for (int i = 0; i < queries; i++) *(Lanes *)(dq[i] + d) = to[i];
            } else
                for (int i = 0; i < queries; i++)
                    for (int j = 0; j < some; j++)
                        for (int64_t e = d; e < d + lanes; e++) {
                            dq[i][e] += slope[i][j] * keys[j * step + e];
                            dk[j * step + e] += slope[i][j] * a->q[i][e];
                            dv[j * step + e] += weight[i][j] * came[i][e];
                        }
        }
    }
}

INLINE void back_some(const PackedRows *r, const float *x, float *space, int64_t row, int64_t group, int64_t number, const float *read, const float *logs, const float *gradient, float *result, const int queries)
{
    const Asking a = query_heads(r, x, row, group, number, queries);
    const int64_t head_dim = r->head_dim;
    const float *came[QUERIES];
    float dq[QUERIES][WIDEST], log_of[QUERIES], inner[QUERIES];
    for (int i = 0; i < queries; i++) {
        came[i] = gradient + a.head[i] * head_dim;
        log_of[i] = logs[a.head[i]];
        inner[i] = 0;
        for (int64_t d = 0; d < head_dim; d++) inner[i] += came[i][d] * read[a.head[i] * head_dim + d], dq[i][d] = 0;
    }
    if (row >= r->lists) {
        const int64_t before = (row - r->lists) / r->times;
        int64_t all[QUERIES];
        for (int i = 0; i < queries; i++) all[i] = r->length[before];
        back_over(r, x, space, &a, all, came, log_of, inner, before, group, dq, result, queries);
    }
    back_over(r, x, space, &a, a.count, came, log_of, inner, row, group, dq, result, queries);
    for (int i = 0; i < queries; i++)
        for (int64_t d = 0; d < head_dim; d++) result[(a.q[i] - x) + d] = dq[i][d];
}

/* x is as `attention` left it; gradient [tokens,query_heads*head_dim]; result [tokens,vectors] begins with zeros. One thread does a
 * list and a group, so that the gradients that a prompt gets from the rows that continue it are added up in one order. */
void attention_back(const PackedRows *r, const float *x, float *space, const float *read, const float *logs, const float *gradient, float *result)
{
    const int64_t each = r->query_heads / r->kv_heads;
#pragma omp parallel
    {
        transpose(r, x, space, 2);
#pragma omp for collapse(2) schedule(dynamic, 1)
        for (int64_t list = 0; list < r->lists; list++)
            for (int64_t group = 0; group < r->kv_heads; group++)
                for (int64_t one = 0; one <= r->times; one++) {
                    const int64_t row = one ? r->lists + list * r->times + one - 1 : list;
                    int64_t number = 0;
                    for (; number + QUERIES <= r->length[row] * each; number += QUERIES)
                        back_some(r, x, space, row, group, number, read, logs, gradient, result, QUERIES);
                    for (; number < r->length[row] * each; number++)
                        back_some(r, x, space, row, group, number, read, logs, gradient, result, 1);
                }
        rope_all(r, result, 1);
    }
}

/* Divides x [n,h] by its root mean square, and multiplies by a weight; by [n] is one over the root. */
void norm(const float *x, const float *weight, float eps, float *out, float *by, int64_t n, int64_t h)
{
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < n; row++) {
        by[row] = inverse_length(x + row * h, h, eps);
        for (int64_t i = 0; i < h; i++) out[row * h + i] = x[row * h + i] * by[row] * weight[i];
    }
}

/* Writes gradients to [n,h] and to_weight [h], which begins with zeros. */
void norm_back(const float *x, const float *weight, const float *by, const float *gradient, float *to, float *to_weight, int64_t n, int64_t h)
{
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t row = 0; row < n; row++) {
            const float *from = x + row * h, *g = gradient + row * h;
            float inner = 0;
            for (int64_t i = 0; i < h; i++) inner += g[i] * weight[i] * from[i];
            inner *= by[row] * by[row] / (float)h;
            for (int64_t i = 0; i < h; i++) to[row * h + i] = by[row] * (g[i] * weight[i] - from[i] * inner);
        }
#pragma omp for schedule(static)
        for (int64_t start = 0; start < h; start += BLOCK) {
            const int64_t end = start + BLOCK < h ? start + BLOCK : h;
            for (int64_t row = 0; row < n; row++)
                for (int64_t i = start; i < end; i++) to_weight[i] += gradient[row * h + i] * x[row * h + i] * by[row];
        }
    }
}

/* Multiplies the SiLU of the first half of x [n,2h] by the second half. */
void gate(const float *x, float *out, int64_t n, int64_t h)
{
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < n; row++) {
        const float *from = x + 2 * row * h;
        for (int64_t i = 0; i < h; i++) out[row * h + i] = from[i] / shut(from[i]) * from[h + i];
    }
}

void gate_back(const float *x, const float *gradient, float *to, int64_t n, int64_t h)
{
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < n; row++) {
        const float *from = x + 2 * row * h, *g = gradient + row * h;
        for (int64_t i = 0; i < h; i++) {
            const float share = 1.0f / shut(from[i]);
            to[2 * row * h + i] = g[i] * from[h + i] * share * (1.0f + from[i] * (1.0f - share));
            to[2 * row * h + h + i] = g[i] * from[i] * share;
        }
    }
}
