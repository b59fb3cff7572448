/* Computes the forward pass of a body, as `models/families.py` describes it, in single precision on a processor, for tokens that
 * read keys and values kept before, and draws a token. `kernels/native.py` calls it, and it must equal `models/packed.py`.
 *
 * OpenMP's threads share every phase. No result depends on how, because each number is added up by one thread. What takes
 * long is given out in small parts, since a core that is shared with others is slower than the rest.
 * Matrices come in panels: LANES columns of the transposed weight side by side, row after row, so that a tile of ROWS
 * tokens and LANES results stays in registers. It is linked without an OpenMP library, so that torch's is used, and its threads.
 */
#include "native.h"

typedef struct { const float *panels, *bias; int64_t in, out; } Matrix;
typedef struct {
    Matrix qkv, out, gate_up, down;
    const float *q_weight, *k_weight;      /* These belong to the norms of heads, where there are any. */
    const float *out_weight, *down_weight; /* These belong to the norms of what attention and the MLP return. */
    int64_t rope;                          /* the number of the table of cosines and sines */
} Layer;
typedef struct {
    int64_t layers, hidden, query_heads, kv_heads, head_dim;
    int64_t centred;        /* whether norms take the mean away */
    int64_t parallel;       /* whether the MLP reads the input of the layer */
    int64_t gated, activation; /* whether there are gates; the function of the gates, or of all: native.py names it */
    float eps, scale; /* scale is that of the embedding. */
    const float *embedding, *position_embeddings, *weight, *bias; /* position_embeddings may be null; the last two belong to the last norm. */
    const Layer *layer;
} Body;
/* Holds tokens [n]. Keys and values lie in regions: each layer has [kv_heads,head_dim,capacity] keys and
 * [kv_heads,capacity,head_dim] values. A token writes its own into region `own` at place `at`, and reads that region up to itself, and all `count`
 * of region `before`. Where `kept` is 0 a region has room for one layer, and the next one overwrites it. */
typedef struct {
    int64_t n, kept, positions;
    const int64_t *id, *position, *at, *own, *own_capacity, *before, *before_capacity, *count;
    const float *cos, *sin; /* [tables,positions,head_dim/2] for each position */
    float *x, *unit, *asked, *read, *gate_up, *between; /* [n,*], the last two [at most PART,*] */
} Tokens;

int64_t lanes(void) { return LANES; }

/* These say where each field of the structs above lies, and how long each struct is. `kernels/native.py` writes them a second time,
 * and compares its own numbers with these when it loads the library. */
#define OF(field) offsetof(Matrix, field)
static const int64_t matrix_layout[] = {OF(panels), OF(bias), OF(in), OF(out), sizeof(Matrix), -1};
#undef OF
#define OF(field) offsetof(Layer, field)
static const int64_t layer_layout[] = {OF(qkv), OF(out), OF(gate_up), OF(down), OF(q_weight), OF(k_weight), OF(out_weight), OF(down_weight), OF(rope), sizeof(Layer), -1};
#undef OF
#define OF(field) offsetof(Body, field)
static const int64_t body_layout[] = {OF(layers), OF(hidden), OF(query_heads), OF(kv_heads), OF(head_dim), OF(centred), OF(parallel), OF(gated), OF(activation), OF(eps), OF(scale), OF(embedding), OF(position_embeddings), OF(weight), OF(bias), OF(layer), sizeof(Body), -1};
#undef OF
#define OF(field) offsetof(Tokens, field)
static const int64_t tokens_layout[] = {OF(n), OF(kept), OF(positions), OF(id), OF(position), OF(at), OF(own), OF(own_capacity), OF(before), OF(before_capacity), OF(count), OF(cos), OF(sin), OF(x), OF(unit), OF(asked), OF(read), OF(gate_up), OF(between), sizeof(Tokens), -1};
#undef OF
const int64_t *layout_of_matrix(void) { return matrix_layout; }
const int64_t *layout_of_layer(void) { return layer_layout; }
const int64_t *layout_of_body(void) { return body_layout; }
const int64_t *layout_of_tokens(void) { return tokens_layout; }

INLINE void tile(const Matrix *m, const float *x, const float *panel, int64_t depth, const float *bias, float *y, int lanes, int add, const int rows)
{
    Lanes left[ROWS], right[ROWS];
    for (int i = 0; i < rows; i++) left[i] = right[i] = (Lanes){0};
    for (int64_t k = 0; k < depth; k++) {
        const Lanes a = *(const Lanes *)(panel + k * LANES), b = *(const Lanes *)(panel + k * LANES + WIDTH);
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            left[i] += x[i * m->in + k] * a;
            right[i] += x[i * m->in + k] * b;
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) {
        float *to = y + i * m->out;
        if (bias) left[i] += *(const Lanes *)bias, right[i] += *(const Lanes *)(bias + WIDTH);
        if (lanes == LANES) {
            if (add) left[i] += *(const Lanes *)to, right[i] += *(const Lanes *)(to + WIDTH);
            *(Lanes *)to = left[i], *(Lanes *)(to + WIDTH) = right[i];
        } else {
            float sum[LANES];
            *(Lanes *)sum = left[i], *(Lanes *)(sum + WIDTH) = right[i];
            for (int j = 0; j < lanes; j++) to[j] = sum[j] + (add ? to[j] : 0.0f);
        }
    }
}

/* Multiplies x [n,in] by the matrix, and writes the result to y [n,out] or adds it; within a parallel region. In a small matrix
 * a few tokens go through all panels, and in a large one all tokens of a part go through a few panels: one of the two comes
 * from memory as a whole once, and the other is in the cache. */
static void product(const Matrix *m, const float *x, float *y, int64_t n, int add)
{
    const int large = m->in * m->out > LARGE;
    const int64_t panels = (m->out + LANES - 1) / LANES, kv_heads = (panels + PANELS - 1) / PANELS, most = large ? PART : n;
    const int64_t parts = (m->in + DEPTH - 1) / DEPTH, depth = (m->in + parts - 1) / parts;
    for (int64_t top = 0; top < n; top += most)
        for (int64_t start = 0; start < m->in; start += depth) {
            const int64_t deep = m->in - start < depth ? m->in - start : depth, bottom = n - top < most ? n : top + most;
            const int64_t chunks = (bottom - top + CHUNK - 1) / CHUNK;
#pragma omp for schedule(dynamic, 1)
            for (int64_t one = 0; one < kv_heads * chunks; one++) {
                const int64_t chunk = large ? one % chunks : one / kv_heads, group = large ? one / chunks : one % kv_heads;
                const int64_t from = top + chunk * CHUNK, end = from + CHUNK < bottom ? from + CHUNK : bottom;
                for (int64_t p = group * PANELS; p < (group + 1) * PANELS && p < panels; p++) {
                    const float *panel = m->panels + (p * m->in + start) * LANES;
                    const float *bias = m->bias && !start ? m->bias + p * LANES : 0;
                    const int lanes = m->out - p * LANES < LANES ? (int)(m->out - p * LANES) : LANES, onto = add || start;
                    for (int64_t row = from; row < end; row += ROWS) {
                        const float *of = x + row * m->in + start;
                        float *to = y + row * m->out + p * LANES;
#define CASE(r) case r: tile(m, of, panel, deep, bias, to, lanes, onto, r); break;
                        switch (end - row < ROWS ? end - row : ROWS) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) }
                    }
                }
            }
        }
}

static void units(const Body *b, const float *x, const float *weight, const float *bias, float *out, int64_t n)
{
    const int64_t h = b->hidden;
#pragma omp for schedule(static)
    for (int64_t row = 0; row < n; row++) {
        const float *from = x + row * h;
        float *to = out + row * h, mean = 0;
        if (b->centred) {
            for (int64_t i = 0; i < h; i++) mean += from[i];
            mean /= (float)h;
        }
        for (int64_t i = 0; i < h; i++) to[i] = from[i] - mean;
        const float by = inverse_length(to, h, b->eps);
        for (int64_t i = 0; i < h; i++) to[i] = to[i] * by * (weight ? weight[i] : 1.0f) + (bias ? bias[i] : 0.0f);
    }
}

/* Adds to x what there is, divided by its norm, times a weight. */
static void add_units(const Body *b, const float *from, const float *weight, float *x, int64_t n)
{
    const int64_t h = b->hidden;
#pragma omp for schedule(static)
    for (int64_t row = 0; row < n; row++) {
        const float by = inverse_length(from + row * h, h, b->eps);
        for (int64_t i = 0; i < h; i++) x[row * h + i] += from[row * h + i] * by * weight[i];
    }
}

INLINE void rope(float *x, const float *cos, const float *sin, const float *weight, float eps, int64_t head_dim)
{
    const int64_t half = head_dim / 2;
    if (weight) {
        const float by = inverse_length(x, head_dim, eps);
        for (int64_t i = 0; i < head_dim; i++) x[i] *= by * weight[i];
    }
    for (int64_t i = 0; i < half; i++) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i] + a * sin[i];
    }
}

INLINE float *region(const Body *b, const Tokens *t, int64_t start, int64_t capacity, int64_t layer, int64_t group)
{
    return (float *)start + (2 * layer * t->kept * b->kv_heads + group) * b->head_dim * capacity;
}

/* Rotates queries and keys to their positions, and puts keys and values where they are read. */
static void place(const Body *b, const Layer *l, const Tokens *t, int64_t layer)
{
    const int64_t head_dim = b->head_dim, half = head_dim / 2;
#pragma omp for schedule(static)
    for (int64_t row = 0; row < t->n; row++) {
        const int64_t turned = (l->rope * t->positions + t->position[row]) * half;
        const float *cos = t->cos + turned, *sin = t->sin + turned;
        const int64_t at = t->at[row], capacity = t->own_capacity[row];
        float *of_row = t->asked + row * (b->query_heads + 2 * b->kv_heads) * head_dim;
        for (int64_t head = 0; head < b->query_heads; head++) rope(of_row + head * head_dim, cos, sin, l->q_weight, b->eps, head_dim);
        for (int64_t group = 0; group < b->kv_heads; group++) {
            float *key = of_row + (b->query_heads + group) * head_dim, *value = key + b->kv_heads * head_dim;
            float *keys = region(b, t, t->own[row], capacity, layer, group), *values = keys + b->kv_heads * head_dim * capacity;
            rope(key, cos, sin, l->k_weight, b->eps, head_dim);
            for (int64_t d = 0; d < head_dim; d++) keys[d * capacity + at] = key[d];
            for (int64_t d = 0; d < head_dim; d++) values[at * head_dim + d] = value[d];
        }
    }
}

/* Reads for the queries of one group, numbered by token, then by head; those that read the same region do so together. */
static void attend(const Body *b, const Tokens *t, int64_t layer)
{
    const Dropout none = {0};
    const int64_t head_dim = b->head_dim, r = b->query_heads / b->kv_heads, all = b->query_heads + 2 * b->kv_heads, every = t->n * r;
#pragma omp for collapse(2) schedule(dynamic, 4)
    for (int64_t start = 0; start < every; start += QUERIES)
        for (int64_t group = 0; group < b->kv_heads; group++) {
            const int queries = every - start < QUERIES ? (int)(every - start) : QUERIES;
            const float *q[QUERIES];
            int64_t row[QUERIES], count[2][QUERIES];
            Reading found[QUERIES];
            for (int i = 0; i < queries; i++) {
                row[i] = (start + i) / r;
                q[i] = t->asked + (row[i] * all + group * r + (start + i) % r) * head_dim;
                count[0][i] = t->count[row[i]], count[1][i] = t->at[row[i]] + 1;
                found[i].top = -INFINITY, found[i].sum = 0;
                for (int64_t d = 0; d < head_dim; d++) found[i].read[d] = 0;
            }
            for (int part = 0; part < 2; part++) {
                const int64_t *where = part ? t->own : t->before, *wide = part ? t->own_capacity : t->before_capacity;
                int same = queries == QUERIES;
                for (int i = 1; i < queries; i++) same &= where[row[i]] == where[row[0]];
                for (int i = 0; i < queries; i += same ? queries : 1) {
                    const int64_t capacity = wide[row[i]];
                    const float *keys = region(b, t, where[row[i]], capacity, layer, group);
                    const float *values = keys + b->kv_heads * head_dim * capacity;
                    if (same) over(q, count[part], keys, capacity, values, head_dim, head_dim, found, &none, QUERIES);
                    else over(q + i, count[part] + i, keys, capacity, values, head_dim, head_dim, found + i, &none, 1);
                }
            }
            for (int i = 0; i < queries; i++)
                for (int64_t d = 0; d < head_dim; d++)
                    t->read[(row[i] * b->query_heads + group * r + (start + i) % r) * head_dim + d] = found[i].read[d] / found[i].sum;
        }
}

/* Computes the error function within 5e-7 (Abramowitz and Stegun 1964, 7.1.26, which is within 1.5e-7 before rounding). */
INLINE float error(float x)
{
    const float size = fabsf(x), t = 1.0f / (1.0f + 0.3275911f * size);
    const float p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
    return copysignf(1.0f - p * power(-size * size), x);
}

INLINE float curved(float x, int activation)
{
    if (activation == 0) return x / shut(x);
    if (activation == 1) return 0.5f * x * (1.0f + error(0.70710678f * x));
    return x / shut(1.59576912f * (x + 0.044715f * x * x * x)); /* Half of 1 + tanh(y) is the logistic of 2y. */
}

INLINE void curve(const float *x, float *out, int64_t n, int64_t h, int gated, const int activation)
{
#pragma omp for schedule(static)
    for (int64_t row = 0; row < n; row++) {
        const float *from = x + (gated ? 2 : 1) * row * h;
        if (gated)
            for (int64_t i = 0; i < h; i++) out[row * h + i] = curved(from[i], activation) * from[h + i];
        else
            for (int64_t i = 0; i < h; i++) out[row * h + i] = curved(from[i], activation);
    }
}

static void between(const Body *b, const float *x, float *out, int64_t n, int64_t h)
{
    switch (b->activation) {
        case 0: curve(x, out, n, h, (int)b->gated, 0); break;
        case 1: curve(x, out, n, h, (int)b->gated, 1); break;
        default: curve(x, out, n, h, (int)b->gated, 2);
    }
}

/* Writes the final states of tokens into t->unit [n,hidden]. */
void forward(const Body *b, const Tokens *t)
{
    const int64_t n = t->n, h = b->hidden;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t row = 0; row < n; row++) {
            const float *word = b->embedding + t->id[row] * h, *at = b->position_embeddings ? b->position_embeddings + t->position[row] * h : 0;
            for (int64_t i = 0; i < h; i++) t->x[row * h + i] = word[i] * b->scale + (at ? at[i] : 0.0f);
        }
        for (int64_t layer = 0; layer < b->layers; layer++) {
            const Layer *l = b->layer + layer;
            units(b, t->x, 0, 0, t->unit, n);
            product(&l->qkv, t->unit, t->asked, n, 0);
            place(b, l, t, layer);
            attend(b, t, layer);
            product(&l->out, t->read, l->out_weight ? t->unit : t->x, n, !l->out_weight);
            if (l->out_weight) add_units(b, t->unit, l->out_weight, t->x, n);
            if (!b->parallel) units(b, t->x, 0, 0, t->unit, n);
            for (int64_t from = 0; from < n; from += PART) {
                const int64_t some = n - from < PART ? n - from : PART;
                product(&l->gate_up, t->unit + from * h, t->gate_up, some, 0);
                between(b, t->gate_up, t->between, some, l->down.in);
                float *unit = t->unit + from * h, *x = t->x + from * h;
                product(&l->down, t->between, l->down_weight ? unit : x, some, !l->down_weight);
                if (l->down_weight) add_units(b, unit, l->down_weight, x, some);
            }
        }
        units(b, t->x, b->weight, b->bias, t->unit, n);
    }
}

/* Copies a matrix [out,in], whose numbers lie `down` and `across` apart, into panels. */
void pack(const float *w, int64_t down, int64_t across, int64_t out, int64_t in, float *panels)
{
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < (out + LANES - 1) / LANES; p++) {
        const int64_t lanes = out - p * LANES < LANES ? out - p * LANES : LANES;
        const float *from = w + p * LANES * down;
        float *to = panels + p * in * LANES;
        if (lanes < LANES)
            for (int64_t i = 0; i < in * LANES; i++) to[i] = 0;
        if (lanes == LANES && down == 1) /* In the transpose of a matrix a row of the panel stands together. */
            for (int64_t k = 0; k < in; k++)
                for (int64_t lane = 0; lane < LANES; lane++) to[k * LANES + lane] = from[k * across + lane];
        else
            for (int64_t part = 0; part < in; part += BLOCK) /* These are few enough to stay in the cache. */
                for (int64_t lane = 0; lane < lanes; lane++)
                    for (int64_t k = part; k < part + BLOCK && k < in; k++) to[k * LANES + lane] = from[lane * down + k * across];
    }
}

/* Multiplies x [n,in] by the matrix, and writes the result to y [n,out]. */
void multiply(const Matrix *m, const float *x, float *y, int64_t n)
{
#pragma omp parallel
    product(m, x, y, n, 0);
}

/* Finds the word in whose share of the summed probabilities the place u lies, and its log-probability. sums [n,words/BLOCK] */
static void draw_row(const float *x, double u, float by, int64_t *id, float *logp, int64_t words, float *sums)
{
    const int64_t blocks = (words + BLOCK - 1) / BLOCK;
    float top = -INFINITY;
    double total = 0, before = 0;
    for (int64_t j = 0; j < words; j++) top = x[j] > top ? x[j] : top;
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t end = (block + 1) * BLOCK < words ? (block + 1) * BLOCK : words;
        float sum = 0;
        for (int64_t j = block * BLOCK; j < end; j++) sum += power((x[j] - top) * by);
        sums[block] = sum;
        total += sum;
    }
    const double place = u * total;
    int64_t block = 0, found = -1;
    while (block < blocks - 1 && before + sums[block] < place) before += sums[block++];
    for (int64_t j = block * BLOCK; j < words; j++) { /* Rounding must not lead to a word of no probability. */
        const float p = power((x[j] - top) * by);
        before += p;
        if (p > 0) found = j;
        if (p > 0 && before >= place) break;
    }
    *id = found < 0 ? 0 : found; /* With NaN it is below 0; whoever reads the log-probability will see that. */
    *logp = (x[*id] - top) * by - (float)log(total);
}

void draw(const float *x, const double *u, float by, int64_t *id, float *logp, int64_t n, int64_t words, float *sums)
{
    const int64_t blocks = (words + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < n; row++)
        draw_row(x + row * words, u[row], by, id + row, logp + row, words, sums + row * blocks);
}
