/* native.c and learning.c share this: vectors, e^x, and what queries read from keys and values. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__AVX512F__)
#define WIDTH 16
#elif defined(__AVX__)
#define WIDTH 8
#else
#define WIDTH 4
#endif
#define LANES (2 * WIDTH)
#define ROWS 6
#define CHUNK (4 * ROWS) /* One thread takes so many tokens through PANELS panels at a time. */
#define PANELS 4
#define LARGE (1 << 19)  /* A matrix of so many numbers is better not read for every CHUNK. */
#define DEPTH 2048       /* So many numbers of a token, and rows of those panels, are used at a time. */
#define KEYS 128         /* The weights of so many keys are held at a time. */
#define QUERIES 4        /* So many queries read the same keys together. */
#define PART 1024        /* So many tokens go through the wide matrices at a time; native.py knows the number too. */
#define WIDEST 256       /* A head has at most so many numbers. */
#define BLOCK 64         /* The probabilities of so many words are summed up together. */
#define INLINE static inline __attribute__((always_inline))

typedef float Lanes __attribute__((vector_size(4 * WIDTH), aligned(4)));

typedef int32_t Bits __attribute__((vector_size(4 * WIDTH), aligned(4)));

INLINE Lanes larger(Lanes a, Lanes b)
{
    const Bits which = a > b;
    return (Lanes)(((Bits)a & which) | ((Bits)b & ~which));
}

INLINE float power(float x) /* e^x for x up to 88: this is Cephes' expf, whose special cases are left out but for very small x. */
{
    const float n = rintf(x * 1.44269504f), r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union { int32_t i; float f; } two = {(int32_t)((uint32_t)((int32_t)n + 127) << 23)};
    return x < -87.0f ? 0.0f : p * two.f;
}

INLINE float shut(float x) /* This is one over the logistic function; e^88 is the largest that a float can hold. */
{
    return 1.0f + power(x < -87.0f ? 87.0f : -x);
}

INLINE float inverse_length(const float *x, int64_t n, float eps)
{
    float sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    return 1.0f / sqrtf(sum / (float)n + eps);
}

/* Computes products of queries with some keys [head_dim,wide], where `wide` is a multiple of LANES: out [queries,some]. */
INLINE void scores(const float *const q[], const float *keys, int64_t wide, int64_t head_dim, int some, float out[QUERIES][KEYS], const int queries)
{
    for (int j = 0; j < some; j += LANES) {
        const float *key = keys + j;
        Lanes left[QUERIES], right[QUERIES];
#pragma GCC unroll 4
        for (int i = 0; i < queries; i++) left[i] = right[i] = (Lanes){0};
        for (int64_t d = 0; d < head_dim; d++, key += wide) {
            const Lanes a = *(const Lanes *)key, b = *(const Lanes *)(key + WIDTH);
#pragma GCC unroll 4
            for (int i = 0; i < queries; i++) left[i] += q[i][d] * a, right[i] += q[i][d] * b;
        }
#pragma GCC unroll 4
        for (int i = 0; i < queries; i++) *(Lanes *)(out[i] + j) = left[i], *(Lanes *)(out[i] + j + WIDTH) = right[i];
    }
}

/* Dropout (Srivastava 2014) multiplies the weight that query number `query` gives to a key by 0 or by `by`. A hash
 * (lowbias32, Wellons 2018) of the seed and both numbers decides, so that the backward pass finds the same. */
typedef struct { float share, by; uint32_t seed; const int64_t *query; int64_t key; } Dropout;

INLINE uint32_t hashed(uint32_t x)
{
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

INLINE void dropout(const Dropout *drop, int query, int64_t from, int some, float *weight)
{
    if (!(drop->share > 0)) return;
    const uint32_t start = hashed(drop->seed ^ hashed((uint32_t)drop->query[query])) + (uint32_t)(drop->key + from);
    const int32_t below = (int32_t)(drop->share * 16777216.0f);
    for (int j = 0; j < some; j++) weight[j] *= (int32_t)(hashed(start + (uint32_t)j) >> 8) < below ? 0.0f : drop->by;
}

typedef struct { float top, sum, read[WIDEST]; } Reading; /* This is read of the keys so far: Milakov and Gimelshein (2018). */

/* Adds what queries q read from the first count[i] keys [head_dim,capacity] and values to what they have found. The values of
 * two keys are `apart` numbers from each other. */
INLINE void over(const float *const q[], const int64_t count[], const float *keys, int64_t capacity, const float *values, int64_t apart, int64_t head_dim, Reading found[], const Dropout *drop, const int queries)
{
    float weight[QUERIES][KEYS];
    int64_t most = 0;
    for (int i = 0; i < queries; i++) most = count[i] > most ? count[i] : most;
    for (int64_t from = 0; from < most; from += KEYS) {
        const int some = most - from < KEYS ? (int)(most - from) : KEYS;
        Lanes left[QUERIES], right[QUERIES];
        scores(q, keys + from, capacity, head_dim, some, weight, queries);
        for (int i = 0; i < queries; i++) {
            const int own = count[i] <= from ? 0 : count[i] - from < some ? (int)(count[i] - from) : some;
            const int upto = (own + WIDTH - 1) / WIDTH * WIDTH; /* Vectors are whole; numbers beyond its own weigh nothing. */
            for (int j = upto; j < some; j++) weight[i][j] = 0;
            if (!own) continue;
            for (int j = own; j < upto; j++) weight[i][j] = -INFINITY;
            Lanes tops = *(const Lanes *)weight[i];
            for (int j = WIDTH; j < upto; j += WIDTH) tops = larger(tops, *(const Lanes *)(weight[i] + j));
            float top = found[i].top, sum = 0;
            for (int j = 0; j < WIDTH; j++) top = tops[j] > top ? tops[j] : top;
            const float old = power(found[i].top - top);
            for (int j = 0; j < upto; j++) sum += weight[i][j] = power(weight[i][j] - top);
            for (int64_t d = 0; d < head_dim; d++) found[i].read[d] *= old;
            found[i].sum = found[i].sum * old + sum;
            found[i].top = top;
            dropout(drop, i, from, upto, weight[i]);
        }
        int64_t d = 0;
        for (; d + LANES <= head_dim; d += LANES) {
            const float *value = values + from * apart + d;
#pragma GCC unroll 4
            for (int i = 0; i < queries; i++)
                left[i] = *(const Lanes *)(found[i].read + d), right[i] = *(const Lanes *)(found[i].read + d + WIDTH);
            for (int j = 0; j < some; j++, value += apart) {
                const Lanes a = *(const Lanes *)value, b = *(const Lanes *)(value + WIDTH);
#pragma GCC unroll 4
                for (int i = 0; i < queries; i++) left[i] += weight[i][j] * a, right[i] += weight[i][j] * b;
            }
#pragma GCC unroll 4
            for (int i = 0; i < queries; i++)
                *(Lanes *)(found[i].read + d) = left[i], *(Lanes *)(found[i].read + d + WIDTH) = right[i];
        }
        for (; d < head_dim; d++)
            for (int i = 0; i < queries; i++)
                for (int j = 0; j < some; j++) found[i].read[d] += weight[i][j] * values[(from + j) * apart + d];
    }
}
