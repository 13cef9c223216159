/* Rows of activations to codes, with a scale and a zero-point of each row, found from its values, or given for all.
 *
 * x is (rows, channels), float or bfloat16; `smoothing` (channels) multiplies it, unless it is null. Codes are
 * 0 ... top; those above 8 bits are split: `low` gets their low bytes and `high` the rest, else `high` is null. A row of
 * codes takes `line` bytes; those after its channels are zeros. The arithmetic is that of quant/tokens.py.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
enum { AT_ONCE = 1024 }; /* channels of a row that stay in cache between the two passes over it */
static const int64_t WORTH_THREADS = 16384; /* elements below which starting threads costs more than it saves */

typedef struct {
    const void *x;
    const float *smoothing;
    uint8_t *low, *high;
    float *scale;
    int32_t *zero;
    int64_t bfloat16, channels, line;
    float top;
} Rows;

INLINE float widen(uint16_t bfloat16)
{
    const uint32_t bits = (uint32_t)bfloat16 << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Channels of a row in fp32, smoothed; `room` unless they lie so. */
static const float *values(const Rows *rows, int64_t at, int64_t channel, int64_t count, float *room)
{
    const float *wide = (const float *)rows->x + at + channel;
    if (rows->bfloat16) {
        const uint16_t *halves = (const uint16_t *)rows->x + at + channel;
        for (int64_t c = 0; c < count; c++) room[c] = widen(halves[c]);
        wide = room;
    }
    if (rows->smoothing) {
        const float *smoothing = rows->smoothing + channel;
        for (int64_t c = 0; c < count; c++) room[c] = wide[c] * smoothing[c];
        wide = room;
    }
    return wide;
}

/* Scale and zero-point from the smallest value, at most 0, and the largest, at least 0 (quant/ranges.py). */
INLINE void affine(float low, float high, float top, float *scale, float *zero)
{
    const float step = (high - low) / top;
    *scale = step < 1e-8f ? 1e-8f : step;
    const float place = rintf(0.0f - low / *scale);
    *zero = place > 0 ? place < top ? place : top : 0; /* of no number: 0 */
}

INLINE int32_t code(float x, float scale, float zero, float top)
{
    float q = rintf(x / scale) + zero;
    q = q > 0 ? q : 0; /* of what is no number: 0 */
    q = q > top ? top : q;
    return (int32_t)q;
}

/* The codes of a row. */
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

/* The smallest and the largest value of a row, or of none where one is no number. */
static void range_of(const Rows *rows, int64_t at, float *room, float *low, float *high)
{
    float least = 0, most = 0;
    int missing = 0;
    for (int64_t c = 0; c < rows->channels; c += AT_ONCE) {
        const int64_t count = rows->channels - c < AT_ONCE ? rows->channels - c : AT_ONCE;
        const float *x = values(rows, at, c, count, room);
#pragma omp simd reduction(min : least) reduction(max : most) reduction(| : missing)
        for (int64_t i = 0; i < count; i++) {
            least = x[i] < least ? x[i] : least;
            most = x[i] > most ? x[i] : most;
            missing |= x[i] != x[i];
        }
    }
    *low = missing ? NAN : least;
    *high = missing ? NAN : most;
}

static void row_codes(const Rows *rows, int64_t row, int find)
{
    float room[AT_ONCE], low, high, zero = (float)rows->zero[0], scale = rows->scale[0];
    if (find) {
        range_of(rows, row * rows->channels, room, &low, &high);
        affine(low, high, rows->top, &scale, &zero);
        rows->scale[row] = scale;
        rows->zero[row] = (int32_t)zero;
    }
    uint8_t *to_low = rows->low + row * rows->line, *to_high = rows->high ? rows->high + row * rows->line : 0;
    for (int64_t c = 0; c < rows->channels; c += AT_ONCE) {
        const int64_t count = rows->channels - c < AT_ONCE ? rows->channels - c : AT_ONCE;
        const float *x = values(rows, row * rows->channels, c, count, room);
        write_codes(x, count, scale, zero, rows->top, to_low + c, to_high ? to_high + c : 0);
    }
    memset(to_low + rows->channels, 0, rows->line - rows->channels);
    if (to_high) memset(to_high + rows->channels, 0, rows->line - rows->channels);
}

/* `find`: write the scale and the zero-point of each row; otherwise the first ones are those of all rows. */
void codes(const Rows *rows, int64_t count, int64_t find)
{
#pragma omp parallel for schedule(static) if (count * rows->channels > WORTH_THREADS)
    for (int64_t row = 0; row < count; row++) row_codes(rows, row, (int)find);
}
