/* Rounding to a uniform grid and its gradients, each in one pass over memory.
 *
 * x is (rows, inner). A row has its own step size and zero-point (stride 1), or all share one (stride 0).
 * The arithmetic is that of quant/rounding.py, operation for operation; compile without contraction and
 * without -ffast-math. Sums run over fixed blocks, so results do not depend on the number of threads.
 *
 * Values whose hashed place is below `bound` are left as they are (quant/drop.py); 0: none are.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

enum { BLOCK = 4096 };                /* elements a thread takes at once: two such blocks fit its cache */
static const int64_t WORTH_THREADS = 16384; /* elements below which starting threads costs more than it saves */

static int64_t blocks_of(int64_t inner) { return (inner + BLOCK - 1) / BLOCK; }

/* Wellons 2018, lowbias32. */
static inline uint32_t hash(uint32_t h)
{
    h = (h ^ h >> 16) * 0x7feb352du;
    h = (h ^ h >> 15) * 0x846ca68bu;
    return h ^ h >> 16;
}

/* `bound` is a constant 0 where nothing is left: the loops below are compiled once with the hash, once without. */
#define INLINE static inline __attribute__((always_inline))

INLINE void values(const float *in, float *out, int64_t count, float s, float z, float low, float high,
                   uint32_t place, uint32_t seed, uint32_t bound)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        float code = rintf(in[i] / s) + z;
        code = code < low ? low : code;
        code = code > high ? high : code;
        const float y = (code - z) * s;
        out[i] = bound && hash((place + (uint32_t)i) ^ seed) < bound ? in[i] : y;
    }
}

INLINE float gradients(const float *in, const float *g, float *out, int64_t count, float s, float z, float low,
                       float high, uint32_t place, uint32_t seed, uint32_t bound)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; i++) {
        const float scaled = in[i] / s, rounded = rintf(scaled);
        float code = rounded + z;
        code = code < low ? low : code;
        code = code > high ? high : code;
        code -= z;
        const int left = bound && hash((place + (uint32_t)i) ^ seed) < bound;
        const float slope = code == rounded ? rounded - scaled : code;
        out[i] = left || code == rounded ? g[i] : 0.0f;
        sum += left ? 0.0f : g[i] * slope;
    }
    return sum;
}

/* y = (clip(round(x / s) + z, low, high) - z) * s */
void fake_quantize(const float *x, float *y, int64_t rows, int64_t inner, const float *step,
                   const float *zero, int64_t step_stride, int64_t zero_stride, float low, float high,
                   uint32_t seed, uint32_t bound)
{
    const int64_t blocks = blocks_of(inner), tasks = rows * blocks;
#pragma omp parallel for schedule(static) if (rows * inner > WORTH_THREADS)
    for (int64_t task = 0; task < tasks; task++) {
        const int64_t row = task / blocks, start = task % blocks * BLOCK;
        const int64_t count = inner - start < BLOCK ? inner - start : BLOCK;
        const float s = step[row * step_stride], z = zero[row * zero_stride];
        const int64_t at = row * inner + start;
        if (bound)
            values(x + at, y + at, count, s, z, low, high, at, seed, bound);
        else
            values(x + at, y + at, count, s, z, low, high, 0, 0, 0);
    }
}

/* Given up = dL/dy: dL/dx, and dL/ds summed over each row (skipped where to_step is null). */
void fake_quantize_backward(const float *x, const float *up, float *to_x, float *to_step, int64_t rows,
                            int64_t inner, const float *step, const float *zero, int64_t step_stride,
                            int64_t zero_stride, float low, float high, uint32_t seed, uint32_t bound)
{
    const int64_t blocks = blocks_of(inner), tasks = rows * blocks;
    float *partial = to_step ? malloc((tasks ? tasks : 1) * sizeof(float)) : NULL;
#pragma omp parallel for schedule(static) if (rows * inner > WORTH_THREADS)
    for (int64_t task = 0; task < tasks; task++) {
        const int64_t row = task / blocks, start = task % blocks * BLOCK;
        const int64_t count = inner - start < BLOCK ? inner - start : BLOCK;
        const float s = step[row * step_stride], z = zero[row * zero_stride];
        const int64_t at = row * inner + start;
        const float sum = bound ? gradients(x + at, up + at, to_x + at, count, s, z, low, high, at, seed, bound)
                                : gradients(x + at, up + at, to_x + at, count, s, z, low, high, 0, 0, 0);
        if (partial)
            partial[task] = sum;
    }
    if (partial) {
        for (int64_t row = 0; row < rows; row++) {
            double sum = 0;
            for (int64_t b = 0; b < blocks; b++)
                sum += partial[row * blocks + b];
            to_step[row] = (float)sum;
        }
        free(partial);
    }
}

/* Sum over a row of (y - x)^2, y on the symmetric grid of step size s. */
INLINE double squared_error(const float *x, int64_t inner, float s, float low, float high)
{
    double sum = 0;
    for (int64_t start = 0; start < inner; start += BLOCK) {
        const int64_t count = inner - start < BLOCK ? inner - start : BLOCK;
        const float *in = x + start;
        float part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t i = 0; i < count; i++) {
            float code = rintf(in[i] / s);
            code = code < low ? low : code;
            code = code > high ? high : code;
            const float off = code * s - in[i];
            part += off * off;
        }
        sum += part;
    }
    return sum;
}

/* For each row the step size, of largest * factors[0 ... count-1], with the least squared error; the first of equals,
 * and largest / -low where no error is a number. */
void best_steps(const float *x, float *best, int64_t rows, int64_t inner, const float *largest, const float *factors,
                int64_t count, float low, float high)
{
#pragma omp parallel for schedule(static) if (rows * inner * count > WORTH_THREADS)
    for (int64_t row = 0; row < rows; row++) {
        double least = INFINITY;
        best[row] = largest[row] / -low;
        for (int64_t k = 0; k < count; k++) {
            const float s = largest[row] * factors[k];
            const double error = squared_error(x + row * inner, inner, s, low, high);
            if (error < least) {
                least = error;
                best[row] = s;
            }
        }
    }
}

/* The scale and zero-point of a position from the smallest and largest value there (quant/ranges.py). */
INLINE void affine(float low, float high, float top, float *s, float *z)
{
    low = low > 0 ? 0 : low;
    high = high < 0 ? 0 : high;
    float step = (high - low) / top;
    step = step < 1e-8f ? 1e-8f : step;
    float zero = rintf(0.0f - low / step);
    zero = zero < 0 ? 0 : zero;
    *s = step;
    *z = zero > top ? top : zero;
}

/* x is (outer, channels, inner); each of outer * inner positions has its own step size and zero-point, from its
 * channels. Codes are 0 ... top. */
void fake_quantize_tokens(const float *x, float *y, int64_t outer, int64_t channels, int64_t inner, float top,
                          uint32_t seed, uint32_t bound)
{
    enum { WIDTH = 64 }; /* positions at once: their channels are read twice, the second time from cache */
    const int64_t blocks = (inner + WIDTH - 1) / WIDTH, tasks = outer * blocks;
#pragma omp parallel for schedule(static) if (outer * channels * inner > WORTH_THREADS)
    for (int64_t task = 0; task < tasks; task++) {
        const int64_t start = task % blocks * WIDTH, at = task / blocks * channels * inner + start;
        const int64_t count = inner - start < WIDTH ? inner - start : WIDTH;
        const float *in = x + at;
        if (inner == 1) {
            float low = in[0], high = in[0], s, z;
#pragma omp simd reduction(min : low) reduction(max : high)
            for (int64_t c = 0; c < channels; c++) {
                low = in[c] < low ? in[c] : low;
                high = in[c] > high ? in[c] : high;
            }
            affine(low, high, top, &s, &z);
            if (bound)
                values(in, y + at, channels, s, z, 0, top, at, seed, bound);
            else
                values(in, y + at, channels, s, z, 0, top, 0, 0, 0);
            continue;
        }
        float low[WIDTH], high[WIDTH], s[WIDTH], z[WIDTH];
        for (int64_t i = 0; i < count; i++) low[i] = high[i] = in[i];
        for (int64_t c = 1; c < channels; c++) {
            const float *line = in + c * inner;
#pragma omp simd
            for (int64_t i = 0; i < count; i++) {
                low[i] = line[i] < low[i] ? line[i] : low[i];
                high[i] = line[i] > high[i] ? line[i] : high[i];
            }
        }
        for (int64_t i = 0; i < count; i++) affine(low[i], high[i], top, s + i, z + i);
        for (int64_t c = 0; c < channels; c++) {
            const float *line = in + c * inner;
            float *out = y + at + c * inner;
            const uint32_t place = (uint32_t)(at + c * inner);
#pragma omp simd
            for (int64_t i = 0; i < count; i++) {
                float code = rintf(line[i] / s[i]) + z[i];
                code = code < 0 ? 0 : code;
                code = code > top ? top : code;
                const float rounded = (code - z[i]) * s[i];
                out[i] = bound && hash((place + (uint32_t)i) ^ seed) < bound ? line[i] : rounded;
            }
        }
    }
}
