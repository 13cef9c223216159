/* Floating-point activations to the codes of their grid, one or two bytes each, with a border of zeros.
 *
 * x is (n, h, w, c), c innermost, float or bfloat16; the codes are (n, h + 2 pad_h, w + 2 pad_w, c). A border
 * cell holds the zero-point, which stands for 0. Codes of more than 8 bits are split: `low` gets their low
 * bytes and `high` the rest; `high` is null otherwise. The arithmetic is that of quant/grid.py.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

static const int64_t WORTH_THREADS = 16384; /* elements below which starting threads costs more than it saves */

static inline int32_t code(float x, float step, float zero, float top)
{
    float q = rintf(x / step) + zero;
    q = q < 0 ? 0 : q;
    q = q > top ? top : q;
    return (int32_t)q;
}

static inline float widen(uint16_t bfloat16)
{
    const uint32_t bits = (uint32_t)bfloat16 << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#define LINE(name, type, value)                                                                       \
    static void name(const type *x, uint8_t *low, uint8_t *high, int64_t count, float step, float zero, \
                     float top)                                                                       \
    {                                                                                                 \
        if (high) {                                                                                   \
            for (int64_t i = 0; i < count; i++) {                                                     \
                const int32_t q = code(value, step, zero, top);                                       \
                low[i] = (uint8_t)(q & 255);                                                          \
                high[i] = (uint8_t)(q >> 8);                                                          \
            }                                                                                         \
        } else {                                                                                      \
            for (int64_t i = 0; i < count; i++) low[i] = (uint8_t)code(value, step, zero, top);       \
        }                                                                                             \
    }
LINE(line_of_float, float, x[i])
LINE(line_of_bfloat16, uint16_t, widen(x[i]))

void quantize(const void *x, int64_t is_bfloat16, uint8_t *low, uint8_t *high, int64_t n, int64_t h, int64_t w,
              int64_t c, int64_t pad_h, int64_t pad_w, float step, float zero, float top)
{
    const int64_t rows = h + 2 * pad_h, line = (w + 2 * pad_w) * c, side = pad_w * c, inner = w * c;
    const int border_low = (int)zero & 255, border_high = (int)zero >> 8;
#pragma omp parallel for schedule(static) if (n * rows * line > WORTH_THREADS)
    for (int64_t task = 0; task < n * rows; task++) {
        const int64_t image = task / rows, row = task % rows - pad_h;
        uint8_t *to_low = low + task * line, *to_high = high ? high + task * line : 0;
        if (row < 0 || row >= h) {
            memset(to_low, border_low, line);
            if (high) memset(to_high, border_high, line);
            continue;
        }
        memset(to_low, border_low, side);
        memset(to_low + side + inner, border_low, side);
        if (high) {
            memset(to_high, border_high, side);
            memset(to_high + side + inner, border_high, side);
            to_high += side;
        }
        const int64_t start = (image * h + row) * inner;
        if (is_bfloat16)
            line_of_bfloat16((const uint16_t *)x + start, to_low + side, to_high, inner, step, zero, top);
        else
            line_of_float((const float *)x + start, to_low + side, to_high, inner, step, zero, top);
    }
}
