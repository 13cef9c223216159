/* Rows of activations to codes, with a scale and a zero-point of each row, found from its values, or given for all.
 *
 * x is (items, rows, channels), float or bfloat16. On the way, in this order, each where it is asked for: a row becomes
 * the product of its first half and GELU of its second; it is normalized over its channels; it is multiplied and
 * shifted channel by channel, by numbers of its item or of all; SiLU; and its channels are smoothed. So a norm, an activation
 * and the rounding after them are one pass over memory.
 *
 * Codes are 0 ... top; those above 8 bits are split: `low` gets their low bytes and `high` the rest, else `high` is
 * null. A row of codes takes `line` bytes; those after its channels are zeros. The arithmetic of rounding is that of
 * quant/tokens.py.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
static const int64_t WORTH_THREADS = 16384; /* elements below which starting threads costs more than it saves */

typedef struct {
    const void *x;
    const float *multiplier, *shift; /* (items, channels), or (channels) where `each` is 0; null: none */
    const float *smoothing;          /* (channels), or null */
    uint8_t *low, *high;
    float *scale;
    int32_t *zero;
    int64_t bfloat16, items, rows, channels, line, each;
    int64_t gated, silu; /* whether x has twice the channels, and whether SiLU follows */
    float top, epsilon;  /* of the norm over a row; below zero: there is none */
} Rows;

INLINE float widen(uint16_t bfloat16)
{
    const uint32_t bits = (uint32_t)bfloat16 << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* e^x within 2e-7 of it (Cephes, expf); 0 below -87. */
INLINE float exponential(float x)
{
    x = x > -88.0f ? x : -88.0f;
    x = x < 88.0f ? x : 88.0f;
    const float n = rintf(x * 1.44269504f), r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    const int32_t power = ((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &power, sizeof scale);
    return x > -87.0f ? y * scale : 0.0f;
}

INLINE float silu(float x) { return x / (1.0f + exponential(-x)); }

/* x (1 + erf(x / sqrt 2)) / 2; erf within 1.5e-7 (Abramowitz and Stegun, 7.1.26). */
INLINE float gelu(float x)
{
    const float z = fabsf(x) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * z);
    float y = 1.061405429f;
    y = y * t - 1.453152027f;
    y = y * t + 1.421413741f;
    y = y * t - 0.284496736f;
    y = y * t + 0.254829592f;
    const float tail = y * t * exponential(-z * z); /* 1 - erf(z) */
    return 0.5f * x * (x > 0 ? 2.0f - tail : tail);
}

static void read_values(const Rows *rows, int64_t at, int64_t count, float *to)
{
    if (rows->bfloat16) {
        const uint16_t *halves = (const uint16_t *)rows->x + at;
        for (int64_t c = 0; c < count; c++) to[c] = widen(halves[c]);
    } else
        memcpy(to, (const float *)rows->x + at, count * sizeof(float));
}

static void normalize(float *x, int64_t count, float epsilon)
{
    double sum = 0, square = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < count; c++) sum += x[c];
    const float mean = (float)(sum / count);
#pragma omp simd reduction(+ : square)
    for (int64_t c = 0; c < count; c++) square += (double)(x[c] - mean) * (x[c] - mean);
    const float factor = (float)(1 / sqrt(square / count + epsilon));
    for (int64_t c = 0; c < count; c++) x[c] = (x[c] - mean) * factor;
}

/* What a row is before it is rounded; `room` holds two rows. */
static const float *values(const Rows *rows, int64_t row, float *room)
{
    const int64_t count = rows->channels, of_item = row / rows->rows * rows->each * count;
    const int plain = !rows->bfloat16 && !rows->gated && !rows->multiplier && !rows->silu && rows->epsilon < 0;
    const float *x = (const float *)rows->x + row * count;
    if (!plain) {
        read_values(rows, row * count * (1 + rows->gated), count * (1 + rows->gated), room);
        x = room;
    }
    if (rows->gated)
        for (int64_t c = 0; c < count; c++) room[c] *= gelu(room[count + c]);
    if (rows->epsilon >= 0) normalize(room, count, rows->epsilon);
    if (rows->multiplier) {
        const float *multiplier = rows->multiplier + of_item, *shift = rows->shift + of_item;
        for (int64_t c = 0; c < count; c++) room[c] = room[c] * multiplier[c] + shift[c];
    }
    if (rows->silu)
        for (int64_t c = 0; c < count; c++) room[c] = silu(room[c]);
    if (rows->smoothing) {
        for (int64_t c = 0; c < count; c++) room[c] = x[c] * rows->smoothing[c];
        x = room;
    }
    return x;
}

/* The scale and zero-point of a row (quant/ranges.py); a scale that is no number where a value is none. */
static void affine(const float *x, int64_t count, float top, float *scale, float *zero)
{
    float low = 0, high = 0;
    int missing = 0;
#pragma omp simd reduction(min : low) reduction(max : high) reduction(| : missing)
    for (int64_t c = 0; c < count; c++) {
        low = x[c] < low ? x[c] : low;
        high = x[c] > high ? x[c] : high;
        missing |= x[c] != x[c];
    }
    const float step = (high - low) / top;
    *scale = missing ? NAN : step < 1e-8f ? 1e-8f : step;
    const float place = rintf(0.0f - low / *scale);
    *zero = place > 0 ? place < top ? place : top : 0;
}

INLINE int32_t code(float x, float scale, float zero, float top)
{
    float q = rintf(x / scale) + zero;
    q = q > 0 ? q : 0; /* of what is no number: 0 */
    return (int32_t)(q > top ? top : q);
}

static void write_codes(const float *x, int64_t count, float scale, float zero, float top, uint8_t *low, uint8_t *high)
{
    if (!high) {
        for (int64_t c = 0; c < count; c++) low[c] = (uint8_t)code(x[c], scale, zero, top);
        return;
    }
    for (int64_t c = 0; c < count; c++) {
        const int32_t q = code(x[c], scale, zero, top);
        low[c] = (uint8_t)(q & 255);
        high[c] = (uint8_t)(q >> 8);
    }
}

static void row_codes(const Rows *rows, int64_t row, float given_scale, float given_zero, float *room)
{
    const int64_t count = rows->channels, at = row * rows->line;
    const float *x = values(rows, row, room);
    float zero, scale;
    affine(x, count, rows->top, &scale, &zero);
    if (given_scale > 0) {
        scale = scale == scale ? given_scale : scale;
        zero = given_zero;
    }
    rows->scale[row] = scale;
    rows->zero[row] = (int32_t)zero;
    write_codes(x, count, scale, zero, rows->top, rows->low + at, rows->high ? rows->high + at : 0);
    memset(rows->low + at + count, 0, rows->line - count);
    if (rows->high) memset(rows->high + at + count, 0, rows->line - count);
}

/* A scale above zero, and its zero-point, are those of all rows; else they are found. Both are written for each row; the
 * scale of one with a value that is no number is none. Returns 1 without memory, else 0. */
int codes(const Rows *rows, float scale, float zero)
{
    const int64_t count = rows->items * rows->rows;
    int failed = 0;
#pragma omp parallel if (count * rows->channels > WORTH_THREADS)
    {
        float *room = malloc((2 * rows->channels + 1) * sizeof *room);
        if (!room) failed = 1;
#pragma omp for schedule(static)
        for (int64_t row = 0; row < count; row++)
            if (room) row_codes(rows, row, scale, zero, room);
        free(room);
    }
    return failed;
}

/* The multipliers and shifts (items, channels) that normalize x (items, rows, channels) over each group of channels
 * and all rows of an item, and apply a group norm's weight and bias (channels). Returns 1 without memory, else 0. */
int group_norm(const void *x, int64_t bfloat16, int64_t items, int64_t rows, int64_t channels, int64_t groups,
               double epsilon, const float *weight, const float *bias, float *multiplier, float *shift)
{
    enum { BLOCK = 64 }; /* rows that are summed together */
    const int64_t blocks = (rows + BLOCK - 1) / BLOCK, size = channels / groups;
    double *sums = malloc((items * blocks * 2 * channels + 1) * sizeof *sums);
    if (!sums) return 1;
    const Rows input = {.x = x, .bfloat16 = bfloat16};
    int failed = 0;
#pragma omp parallel if (items * rows * channels > WORTH_THREADS)
    {
        float *row = malloc((channels + 1) * sizeof *row);
        if (!row) failed = 1;
#pragma omp for schedule(static)
        for (int64_t task = 0; task < items * blocks; task++) {
            double *sum = sums + task * 2 * channels, *square = sum + channels;
            const int64_t first = task % blocks * BLOCK, item = task / blocks;
            memset(sum, 0, 2 * channels * sizeof *sum);
            for (int64_t r = first; row && r < rows && r < first + BLOCK; r++) {
                read_values(&input, (item * rows + r) * channels, channels, row);
                for (int64_t c = 0; c < channels; c++) {
                    sum[c] += row[c];
                    square[c] += (double)row[c] * row[c];
                }
            }
        }
        free(row);
    }
    for (int64_t item = 0; item < items; item++)
        for (int64_t group = 0; group < groups; group++) {
            double sum = 0, square = 0;
            for (int64_t b = 0; b < blocks; b++) {
                const double *block = sums + (item * blocks + b) * 2 * channels + group * size;
                for (int64_t c = 0; c < size; c++) sum += block[c], square += block[channels + c];
            }
            const double mean = sum / (rows * size), variance = square / (rows * size) - mean * mean;
            const double factor = 1 / sqrt((variance > 0 ? variance : 0) + epsilon);
            for (int64_t c = group * size; c < (group + 1) * size; c++) {
                multiplier[item * channels + c] = (float)(weight[c] * factor);
                shift[item * channels + c] = (float)(bias[c] - mean * weight[c] * factor);
            }
        }
    free(sums);
    return failed;
}
