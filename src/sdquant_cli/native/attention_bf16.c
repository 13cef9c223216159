/* Scaled dot-product attention in bfloat16 with sums in fp32, for CPUs that multiply bfloat16 pairs.
 *
 * q is (n, l, heads, d), k and v (n, s, heads, d), as linear layers give them; so is the output. Each head's keys
 * and values are laid out once in pairs, then rows of q go by in blocks, with the softmax carried along:
 * a block of scores is never larger than ROWS x COLUMNS (Dao et al. 2022, FlashAttention).
 */
#include <stdint.h>

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 6, WIDE = 64, COLUMNS = 512, LANES = 16, MOST = 256 /* channels of a head */ };

int attention_supported(void) { return 1; }

static inline __m512bh pairs(const void *at) { return (__m512bh)_mm512_loadu_si512(at); }

/* 2^x for x <= 0; below -126 it is 0. */
static inline __m512 exp2_of(__m512 x)
{
    const __mmask16 tiny = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.f), _CMP_LT_OQ);
    x = _mm512_max_ps(_mm512_set1_ps(-126.f), x); /* x if it is no number */
    const __m512 whole = _mm512_roundscale_ps(x, 8), part = _mm512_sub_ps(x, whole); /* in [-1/2, 1/2] */
    __m512 y = _mm512_set1_ps(1.3333558e-3f);
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(9.6181291e-3f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(5.5504109e-2f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(2.4022651e-1f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(6.9314718e-1f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(1.f));
    return _mm512_mask_blend_ps(tiny, _mm512_scalef_ps(y, whole), _mm512_setzero_ps());
}

/* scores (ROWS, COLUMNS) of WIDE keys at `column`: sum over channel pairs. */
static inline void multiply_keys(const uint32_t *const q[ROWS], const uint32_t *k, int64_t width, int64_t halves,
                                 float *scores)
{
    __m512 sum[ROWS][4];
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < 4; j++) sum[r][j] = _mm512_setzero_ps();
    for (int64_t i = 0; i < halves; i++) {
        __m512bh key[4];
        for (int j = 0; j < 4; j++) key[j] = pairs(k + i * width + j * LANES);
        for (int r = 0; r < ROWS; r++) {
            const __m512bh one = (__m512bh)_mm512_set1_epi32((int)q[r][i]);
            for (int j = 0; j < 4; j++) sum[r][j] = _mm512_dpbf16_ps(sum[r][j], one, key[j]);
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < 4; j++) _mm512_storeu_ps(scores + r * COLUMNS + j * LANES, sum[r][j]);
}

/* out (ROWS, stride) = out * decay + weights (ROWS, COLUMNS) times `vectors` x LANES channels of v. */
#define MULTIPLY_VALUES(vectors)                                                                              \
    static inline void multiply_values_##vectors(const uint32_t *weights, const uint32_t *v, int64_t width,   \
                                                 int64_t halves, const float *decay, float *out, int64_t stride) \
    {                                                                                                         \
        __m512 sum[ROWS][vectors];                                                                            \
        for (int r = 0; r < ROWS; r++)                                                                        \
            for (int j = 0; j < vectors; j++)                                                                 \
                sum[r][j] = _mm512_mul_ps(_mm512_loadu_ps(out + r * stride + j * LANES),                      \
                                          _mm512_set1_ps(decay[r]));                                          \
        for (int64_t i = 0; i < halves; i++) {                                                                \
            __m512bh value[vectors];                                                                          \
            for (int j = 0; j < vectors; j++) value[j] = pairs(v + i * width + j * LANES);                    \
            for (int r = 0; r < ROWS; r++) {                                                                  \
                const __m512bh one = (__m512bh)_mm512_set1_epi32((int)weights[r * (COLUMNS / 2) + i]);        \
                for (int j = 0; j < vectors; j++) sum[r][j] = _mm512_dpbf16_ps(sum[r][j], one, value[j]);     \
            }                                                                                                 \
        }                                                                                                     \
        for (int r = 0; r < ROWS; r++)                                                                        \
            for (int j = 0; j < vectors; j++) _mm512_storeu_ps(out + r * stride + j * LANES, sum[r][j]);      \
    }
MULTIPLY_VALUES(1)
MULTIPLY_VALUES(2)
MULTIPLY_VALUES(3)
MULTIPLY_VALUES(4)

static void multiply_values(const uint32_t *weights, const uint32_t *v, int64_t width, int64_t halves,
                            const float *decay, float *out)
{
    int64_t done = 0, left = width / LANES;
    while (left) {
        const int64_t take = left == 5 ? 3 : left > 4 ? 4 : left;
        const uint32_t *at = v + done * LANES;
        float *to = out + done * LANES;
        switch (take) {
        case 1: multiply_values_1(weights, at, width, halves, decay, to, MOST); break;
        case 2: multiply_values_2(weights, at, width, halves, decay, to, MOST); break;
        case 3: multiply_values_3(weights, at, width, halves, decay, to, MOST); break;
        default: multiply_values_4(weights, at, width, halves, decay, to, MOST);
        }
        done += take, left -= take;
    }
}

/* Scores (ROWS, count) to weights in bfloat16; greatest and total of each row are carried along. */
static void weigh(float *scores, int64_t count, int64_t padded, float scale, float *greatest, float *total,
                  float *decay, uint16_t *weights)
{
    for (int r = 0; r < ROWS; r++) {
        float *row = scores + r * COLUMNS;
        for (int64_t i = count; i < padded; i++) row[i] = -INFINITY;
        __m512 top = _mm512_set1_ps(-INFINITY);
        for (int64_t i = 0; i < padded; i += LANES) top = _mm512_max_ps(top, _mm512_loadu_ps(row + i));
        const float most = fmaxf(greatest[r], _mm512_reduce_max_ps(top) * scale);
        decay[r] = greatest[r] == -INFINITY ? 0.f : exp2f(greatest[r] - most);
        greatest[r] = most;
        __m512 sum = _mm512_setzero_ps();
        for (int64_t i = 0; i < padded; i += LANES) {
            const __m512 x = _mm512_fmsub_ps(_mm512_loadu_ps(row + i), _mm512_set1_ps(scale), _mm512_set1_ps(most));
            const __m512 weight = exp2_of(x);
            sum = _mm512_add_ps(sum, weight);
            _mm256_storeu_si256((__m256i *)(weights + r * COLUMNS + i), (__m256i)_mm512_cvtneps_pbh(weight));
        }
        total[r] = total[r] * decay[r] + _mm512_reduce_add_ps(sum);
    }
}

static void one_head(const uint16_t *q, const uint16_t *k, const uint16_t *v, uint16_t *out, int64_t l, int64_t s,
                     int64_t d, int64_t stride, float scale, uint32_t *keys, uint32_t *values)
{
    const int64_t wide = (s + WIDE - 1) / WIDE * WIDE, width = (d + LANES - 1) / LANES * LANES, half = d / 2;
    memset(keys, 0, half * wide * sizeof *keys);
    for (int64_t i = 0; i < s; i++)
        for (int64_t j = 0; j < half; j++) memcpy(keys + j * wide + i, k + i * stride + 2 * j, sizeof *keys);
    memset(values, 0, wide / 2 * width * sizeof *values);
    for (int64_t i = 0; i < s; i++)
        for (int64_t j = 0; j < d; j++) ((uint16_t *)values)[((i / 2) * width + j) * 2 + i % 2] = v[i * stride + j];

    float scores[ROWS * COLUMNS], sums[ROWS * MOST];
    uint16_t weights[ROWS * COLUMNS];
    for (int64_t first = 0; first < l; first += ROWS) {
        const uint32_t *rows[ROWS];
        float greatest[ROWS], total[ROWS], decay[ROWS];
        for (int r = 0; r < ROWS; r++) { /* beyond the last row: the last one again, thrown away */
            rows[r] = (const uint32_t *)(q + (first + r < l ? first + r : l - 1) * stride);
            greatest[r] = -INFINITY, total[r] = 0;
        }
        memset(sums, 0, sizeof sums);
        for (int64_t from = 0; from < s; from += COLUMNS) {
            const int64_t count = s - from < COLUMNS ? s - from : COLUMNS;
            const int64_t padded = (count + WIDE - 1) / WIDE * WIDE;
            for (int64_t c = 0; c < padded; c += WIDE)
                multiply_keys(rows, keys + from + c, wide, half, scores + c);
            weigh(scores, count, padded, scale, greatest, total, decay, weights);
            multiply_values((const uint32_t *)weights, values + from / 2 * width, width, padded / 2, decay, sums);
        }
        for (int r = 0; r < ROWS && first + r < l; r++) {
            uint16_t *to = out + (first + r) * stride;
            for (int64_t j = 0; j < d; j += LANES) {
                const __m512 y = _mm512_div_ps(_mm512_loadu_ps(sums + r * MOST + j), _mm512_set1_ps(total[r]));
                const __mmask16 mask = d - j >= LANES ? 0xffff : (__mmask16)((1u << (d - j)) - 1);
                _mm256_mask_storeu_epi16(to + j, mask, (__m256i)_mm512_cvtneps_pbh(y));
            }
        }
    }
}

/* `scale` multiplies products of q and k; all pointers are bfloat16. Returns 0, or 1 without memory. */
int attention(const uint16_t *q, const uint16_t *k, const uint16_t *v, uint16_t *out, int64_t n, int64_t l, int64_t s,
              int64_t heads, int64_t d, float scale)
{
    const int64_t wide = (s + WIDE - 1) / WIDE * WIDE, width = (d + LANES - 1) / LANES * LANES, stride = heads * d;
    int failed = 0;
#pragma omp parallel for schedule(dynamic)
    for (int64_t task = 0; task < n * heads; task++) {
        const int64_t item = task / heads, head = task % heads;
        uint32_t *room = malloc((d / 2 * wide + wide / 2 * width) * sizeof *room);
        if (!room) {
            failed = 1;
            continue;
        }
        const int64_t of_q = item * l * stride + head * d, of_k = item * s * stride + head * d;
        one_head(q + of_q, k + of_k, v + of_k, out + of_q, l, s, d, stride, scale * 1.44269504f, room,
                 room + d / 2 * wide);
        free(room);
    }
    return failed;
}
#else
int attention_supported(void) { return 0; }
int attention(const uint16_t *q, const uint16_t *k, const uint16_t *v, uint16_t *out, int64_t n, int64_t l, int64_t s,
              int64_t heads, int64_t d, float scale)
{
    (void)q, (void)k, (void)v, (void)out, (void)n, (void)l, (void)s, (void)heads, (void)d, (void)scale;
    return 1;
}
#endif
