/* Scaled dot-product attention in fp32, for CPUs with AVX2.
 *
 * q is (n, l, heads, d), k and v (n, s, heads, d), as linear layers give them; so is the output. Blocks of QUERIES rows
 * of q pass by blocks of KEYS keys and values, which stay in cache, with the softmax carried along: scores of a block
 * of keys are never held for more than ROWS rows (Dao et al. 2022, FlashAttention).
 *
 * Every output is computed by one thread in one order, so results depend neither on the number of threads nor on the
 * other items of a batch.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

/* Floats in a vector, rows and vectors of sums that stay in registers. */
enum { LANES = 8, ROWS = 6, VECTORS = 2 };

#if defined(__AVX512F__) /* not measured against torch's own attention there */
int attention_supported(void) { return 0; }
#else
int attention_supported(void) { return 1; }
#endif

enum {
    TILE = LANES * VECTORS,     /* keys whose scores stay in registers */
    KEYS = 480 / TILE * TILE,   /* of a block */
    QUERIES = 96 / ROWS * ROWS, /* of a block */
    MOST = 256,                 /* channels of a head */
};

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")
#define UNROLL_SOME _Pragma("GCC unroll 4")

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef Floats LooseFloats __attribute__((aligned(4), may_alias));

INLINE Floats all(float value) { return value - (Floats){0}; }
INLINE Floats load(const float *at) { return *(const LooseFloats *)at; }
INLINE void store(float *at, Floats value) { *(LooseFloats *)at = value; }

INLINE Floats add_product(Floats sum, Floats x, Floats y) { return (Floats)_mm256_fmadd_ps((__m256)x, (__m256)y, (__m256)sum); }
/* The larger one; y where x or y is no number. */
INLINE Floats larger(Floats x, Floats y) { return (Floats)_mm256_max_ps((__m256)x, (__m256)y); }

/* Keep a vector in a register: the compiler would read it again for every row. */
INLINE void keep(Floats *x) { __asm__("" : "+x"(*x)); }

/* 2^x for x <= 0; at least 2^-126. */
INLINE Floats exp2_of(Floats x)
{
    x = larger(all(-126.f), x);
    const Floats shifted = x + 12582912.f, whole = shifted - 12582912.f, part = x - whole; /* in [-1/2, 1/2] */
    Floats y = all(1.3333558e-3f);
    y = add_product(all(9.6181291e-3f), y, part);
    y = add_product(all(5.5504109e-2f), y, part);
    y = add_product(all(2.4022651e-1f), y, part);
    y = add_product(all(6.9314718e-1f), y, part);
    y = add_product(all(1.f), y, part);
    return (Floats)((Ints)y + ((Ints)shifted << 23));
}

/* A block of keys and values of one head: keys (KEYS / TILE, d, TILE), values (KEYS, width), zeros beyond the last. */
typedef struct {
    const float *keys, *values;
    int64_t count;    /* keys */
    int64_t d, width; /* channels, and those of values with zeros up to whole vectors */
} Block;

/* What a row of q has come to. */
typedef struct {
    float greatest[QUERIES], total[QUERIES];
    float sums[QUERIES * MOST];
} Progress;

/* scores (ROWS, KEYS) of a tile of keys, from q (d, ROWS). */
INLINE void multiply_keys(const float *q, const float *keys, int64_t d, float *scores)
{
    Floats sum[ROWS][VECTORS] = {0};
    UNROLL_SOME for (int64_t c = 0; c < d; c++)
    {
        Floats key[VECTORS];
        UNROLL for (int j = 0; j < VECTORS; j++) key[j] = load(keys + c * TILE + j * LANES), keep(&key[j]);
        UNROLL for (int r = 0; r < ROWS; r++)
        {
            const Floats x = all(q[c * ROWS + r]);
            UNROLL for (int j = 0; j < VECTORS; j++) sum[r][j] = add_product(sum[r][j], x, key[j]);
        }
    }
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int j = 0; j < VECTORS; j++) store(scores + r * KEYS + j * LANES, sum[r][j]);
}

/* sums (ROWS, MOST) = sums * decay + weights (ROWS, KEYS) times `vectors` vectors of channels. */
INLINE void multiply_values(const float *weights, const Block *block, const float *values, const float *decay,
                            float *sums, int vectors)
{
    Floats sum[ROWS][VECTORS];
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int j = 0; j < vectors; j++) sum[r][j] = load(sums + r * MOST + j * LANES) * decay[r];
    UNROLL_SOME for (int64_t i = 0; i < block->count; i++)
    {
        Floats value[VECTORS];
        UNROLL for (int j = 0; j < vectors; j++) value[j] = load(values + i * block->width + j * LANES), keep(&value[j]);
        UNROLL for (int r = 0; r < ROWS; r++)
        {
            const Floats x = all(weights[r * KEYS + i]);
            UNROLL for (int j = 0; j < vectors; j++) sum[r][j] = add_product(sum[r][j], x, value[j]);
        }
    }
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int j = 0; j < vectors; j++) store(sums + r * MOST + j * LANES, sum[r][j]);
}

static void add_values(const float *weights, const Block *block, const float *decay, float *sums)
{
    int64_t channel = 0;
    for (; channel + VECTORS * LANES <= block->width; channel += VECTORS * LANES)
        multiply_values(weights, block, block->values + channel, decay, sums + channel, VECTORS);
    if (channel < block->width) multiply_values(weights, block, block->values + channel, decay, sums + channel, 1);
}

/* Scores of one row to weights, in place; returns the factor of what was summed before. */
INLINE float weigh(float *scores, int64_t count, float *greatest, float *total)
{
    Floats top = all(-INFINITY), sum = {0};
    const int64_t padded = (count + LANES - 1) / LANES * LANES;
    for (int64_t i = count; i < padded; i++) scores[i] = -INFINITY;
    for (int64_t i = 0; i < padded; i += LANES) top = larger(load(scores + i), top);
    float most = *greatest;
    for (int j = 0; j < LANES; j++) most = top[j] > most ? top[j] : most;
    const float decay = *greatest == -INFINITY ? 0 : exp2f(*greatest - most);
    for (int64_t i = 0; i < padded; i += LANES) {
        const Floats weight = exp2_of(load(scores + i) - most);
        store(scores + i, weight);
        sum += weight;
    }
    float added = 0;
    for (int j = 0; j < LANES; j++) added += sum[j];
    *total = *total * decay + added, *greatest = most;
    return decay;
}

static void pass(const float *q, int64_t rows, const Block *block, Progress *progress)
{
    float scores[ROWS * KEYS], decay[ROWS];
    for (int64_t first = 0; first < rows; first += ROWS) {
        for (int64_t i = 0; i < block->count; i += TILE)
            multiply_keys(q + first * block->d, block->keys + i * block->d, block->d, scores + i);
        for (int r = 0; r < ROWS; r++)
            decay[r] = weigh(scores + r * KEYS, block->count, progress->greatest + first + r, progress->total + first + r);
        add_values(scores, block, decay, progress->sums + first * MOST);
    }
}

/* Keys (s, stride) of a head as blocks read them, (tiles, d, TILE). */
static void lay_out_keys(const float *k, int64_t s, int64_t stride, int64_t d, float *to)
{
    for (int64_t i = 0; i < (s + TILE - 1) / TILE * TILE; i++)
        for (int64_t c = 0; c < d; c++) to[(i / TILE * d + c) * TILE + i % TILE] = i < s ? k[i * stride + c] : 0;
}

static void lay_out_values(const float *v, int64_t s, int64_t stride, int64_t d, int64_t width, float *to)
{
    for (int64_t i = 0; i < s; i++) {
        memcpy(to + i * width, v + i * stride, d * sizeof *to);
        memset(to + i * width + d, 0, (width - d) * sizeof *to);
    }
}

/* Rows of a block of q (rows, stride), times `scale` as weights are powers of two. */
static void one_block(const float *q, float *out, int64_t rows, int64_t stride, float scale, const Block *whole)
{
    Progress progress;
    float scaled[QUERIES * MOST];
    const int64_t d = whole->d;
    memset(&progress, 0, sizeof progress);
    memset(scaled, 0, sizeof scaled);
    for (int64_t i = 0; i < QUERIES; i++) progress.greatest[i] = -INFINITY;
    for (int64_t i = 0; i < rows; i++) /* as (rows / ROWS, d, ROWS) */
        for (int64_t c = 0; c < d; c++) scaled[(i / ROWS * d + c) * ROWS + i % ROWS] = q[i * stride + c] * scale;
    for (int64_t key = 0; key < whole->count; key += KEYS) {
        Block block = *whole;
        block.keys += key * d, block.values += key * whole->width;
        block.count = whole->count - key < KEYS ? whole->count - key : KEYS;
        pass(scaled, rows, &block, &progress);
    }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t c = 0; c < d; c++) out[i * stride + c] = progress.sums[i * MOST + c] / progress.total[i];
}

/* `scale` multiplies products of q and k; all pointers are fp32. Returns 0, or 1 without memory. */
int attention(const float *q, const float *k, const float *v, float *out, int64_t n, int64_t l, int64_t s, int64_t heads,
              int64_t d, float scale)
{
    const int64_t stride = heads * d, width = (d + LANES - 1) / LANES * LANES, tiles = (s + TILE - 1) / TILE;
    const int64_t blocks = (l + QUERIES - 1) / QUERIES, size = tiles * TILE * d + s * width;
    float *room = malloc(n * heads * size * sizeof *room);
    if (!room) return 1;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n * heads; i++) {
            const int64_t at = i / heads * s * stride + i % heads * d;
            lay_out_keys(k + at, s, stride, d, room + i * size);
            lay_out_values(v + at, s, stride, d, width, room + i * size + tiles * TILE * d);
        }
#pragma omp for schedule(static)
        for (int64_t task = 0; task < n * heads * blocks; task++) {
            const int64_t i = task / blocks, first = task % blocks * QUERIES;
            const Block whole = {room + i * size, room + i * size + tiles * TILE * d, s, d, width};
            const int64_t at = (i / heads * l + first) * stride + i % heads * d;
            one_block(q + at, out + at, l - first < QUERIES ? l - first : QUERIES, stride, scale * 1.44269504f, &whole);
        }
    }
    free(room);
    return 0;
}
#else
int attention_supported(void) { return 0; }
int attention(const float *q, const float *k, const float *v, float *out, int64_t n, int64_t l, int64_t s, int64_t heads,
              int64_t d, float scale)
{
    (void)q, (void)k, (void)v, (void)out, (void)n, (void)l, (void)s, (void)heads, (void)d, (void)scale;
    return 1;
}
#endif
