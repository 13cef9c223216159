/* Rounding to a uniform grid and its gradients, each in one pass over memory.
 *
 * x is (rows, inner). A row has its own step size and zero-point (stride 1), or all share one (stride 0).
 * The arithmetic is that of quant/rounding.py, operation for operation; compile without contraction and
 * without -ffast-math. Sums run over fixed blocks, so results do not depend on the number of threads.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

enum { BLOCK = 4096 };                /* elements a thread takes at once: two such blocks fit its cache */
static const int64_t WORTH_THREADS = 16384; /* elements below which starting threads costs more than it saves */

static int64_t blocks_of(int64_t inner) { return (inner + BLOCK - 1) / BLOCK; }

/* y = (clip(round(x / s) + z, low, high) - z) * s */
void fake_quantize(const float *x, float *y, int64_t rows, int64_t inner, const float *step,
                   const float *zero, int64_t step_stride, int64_t zero_stride, float low, float high)
{
    const int64_t blocks = blocks_of(inner), tasks = rows * blocks;
#pragma omp parallel for schedule(static) if (rows * inner > WORTH_THREADS)
    for (int64_t task = 0; task < tasks; task++) {
        const int64_t row = task / blocks, start = task % blocks * BLOCK;
        const int64_t count = inner - start < BLOCK ? inner - start : BLOCK;
        const float s = step[row * step_stride], z = zero[row * zero_stride];
        const float *in = x + row * inner + start;
        float *out = y + row * inner + start;
#pragma omp simd
        for (int64_t i = 0; i < count; i++) {
            float code = rintf(in[i] / s) + z;
            code = code < low ? low : code;
            code = code > high ? high : code;
            out[i] = (code - z) * s;
        }
    }
}

/* Given up = dL/dy: dL/dx, and dL/ds summed over each row (skipped where to_step is null). */
void fake_quantize_backward(const float *x, const float *up, float *to_x, float *to_step, int64_t rows,
                            int64_t inner, const float *step, const float *zero, int64_t step_stride,
                            int64_t zero_stride, float low, float high)
{
    const int64_t blocks = blocks_of(inner), tasks = rows * blocks;
    float *partial = to_step ? malloc((tasks ? tasks : 1) * sizeof(float)) : NULL;
#pragma omp parallel for schedule(static) if (rows * inner > WORTH_THREADS)
    for (int64_t task = 0; task < tasks; task++) {
        const int64_t row = task / blocks, start = task % blocks * BLOCK;
        const int64_t count = inner - start < BLOCK ? inner - start : BLOCK;
        const float s = step[row * step_stride], z = zero[row * zero_stride];
        const float *in = x + row * inner + start, *g = up + row * inner + start;
        float *out = to_x + row * inner + start;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < count; i++) {
            const float scaled = in[i] / s, rounded = rintf(scaled);
            float code = rounded + z;
            code = code < low ? low : code;
            code = code > high ? high : code;
            code -= z;
            const float slope = code == rounded ? rounded - scaled : code;
            out[i] = code == rounded ? g[i] : 0.0f;
            sum += g[i] * slope;
        }
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

/* Sum over each row of (y - x)^2, y on the symmetric grid of the row's step size. */
void rounding_error(const float *x, double *error, int64_t rows, int64_t inner, const float *step, float low,
                    float high)
{
#pragma omp parallel for schedule(static) if (rows * inner > WORTH_THREADS)
    for (int64_t row = 0; row < rows; row++) {
        const float s = step[row];
        double sum = 0;
        for (int64_t start = 0; start < inner; start += BLOCK) {
            const int64_t count = inner - start < BLOCK ? inner - start : BLOCK;
            const float *in = x + row * inner + start;
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
        error[row] = sum;
    }
}
