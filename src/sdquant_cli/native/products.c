/* Linear layers and convolutions of codes: uint8 inputs with a scale for each row, int8 or int4 weights.
 *
 * A row is a token of a linear layer or a pixel of a convolution in (n, h, w, c); its input x is s (q - z), with a scale
 * s and a zero-point z of its own. A convolution is a sum over taps, each a linear layer of shifted rows:
 *
 *     y[p, o] = sum over taps t and segments g of  s[p + t] v[g, o] sum_c (q[p + t, c] - z[p + t]) w[t, c, o]  + b[o]
 *
 * The inner sum is exact, in int32; a segment is a part of the input channels, at most SEGMENT, and v the weight's
 * scale there. Rows beyond the border add nothing. Codes of 16 bits are two planes of bytes: q = low + 256 high.
 *
 * Every output is computed by one thread in one order, so results do not depend on the number of threads.
 */
#include <stdint.h>
#include <string.h>

#if defined(__AVX512VNNI__) || defined(__AVX2__)
#include <immintrin.h>
#endif

/* What the CPU decides: int32 in a vector, rows and vectors of a tile whose sums stay in registers, and whether an
 * instruction multiplies bytes and sums exactly; where none does, both operands are widened to int16 first. Codes of 4
 * bits are small enough for the one that sums pairs in int16. */
#if defined(PRODUCTS_LANES) /* by the tests, on any CPU */
enum { LANES = PRODUCTS_LANES, ROWS = PRODUCTS_ROWS, VECTORS = PRODUCTS_VECTORS, WIDENED = PRODUCTS_WIDENED };
#elif defined(__AVX512VNNI__)
enum { LANES = 16, ROWS = 6, VECTORS = 4, WIDENED = 0 };
#elif defined(__AVX512BW__)
enum { LANES = 16, ROWS = 6, VECTORS = 4, WIDENED = 1 };
#elif defined(__AVXVNNI__)
enum { LANES = 8, ROWS = 6, VECTORS = 2, WIDENED = 0 };
#elif defined(__AVX2__)
enum { LANES = 8, ROWS = 6, VECTORS = 2, WIDENED = 1 };
#else
enum { LANES = 4, ROWS = 4, VECTORS = 2, WIDENED = 1 };
#endif

enum {
    WIDE = 64,                         /* outputs of a panel */
    TILE = LANES * VECTORS,            /* outputs of a tile */
    BLOCK = 126 / ROWS * ROWS,         /* rows that a panel's part of one tap, in cache, is multiplied with */
    SEGMENT = WIDENED ? 256 : 512,     /* input channels that are summed in int32 */
    QUAD = 4,                          /* input channels of an int32 */
    MOST_TAPS = 64,                    /* of a convolution's kernel */
    STEPS = SEGMENT / QUAD << WIDENED, /* int32 of a row's segment */
};

#if !defined(PRODUCTS_LANES) && defined(__AVX2__) && !defined(__AVX512VNNI__) && !defined(__AVXVNNI__)
enum { SUMS_PAIRS = 1 };
#else
enum { SUMS_PAIRS = 0 };
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef int16_t Shorts __attribute__((vector_size(LANES * 4)));
typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef Ints LooseInts __attribute__((aligned(4), may_alias));
typedef Floats LooseFloats __attribute__((aligned(4), may_alias));

/* A layer's weight and how it moves over its input. */
typedef struct {
    const void *panels;   /* see lay_out */
    const int32_t *sums;  /* (panels, taps, segments, WIDE): sums of a segment's codes */
    const float *scales;  /* (panels, groups, WIDE) */
    const float *bias;    /* (panels, WIDE) */
    int64_t inputs, outputs, groups; /* groups of input channels: each has scales of its own */
    int64_t bits;                    /* 8, or 4: two codes in a byte */
    int64_t kernel[2], stride[2], padding[2], dilation[2];
} Layer;

/* Codes (n, h, w, inputs), their scales and their zero-points. */
typedef struct {
    const uint8_t *low, *high; /* `high` is null for codes of 8 bits */
    const float *scale;
    const int32_t *zero;
    int64_t line;     /* bytes from row to row: a multiple of 8 that holds the inputs, zeros after them */
    int64_t shape[3]; /* n, h, w */
} Input;

/* Where outputs (n, h', w', outputs) go, fp32 or bfloat16, and what is added to them. */
typedef struct {
    void *to;
    const void *residual; /* as `to`, or null */
    const float *addend;  /* (n, outputs), or null */
    int64_t bfloat16;
    int64_t size[2]; /* h', w' */
} Output;

INLINE Ints all(int32_t value) { return value - (Ints){0}; }
INLINE Ints load(const int32_t *at) { return *(const LooseInts *)at; }

/* Add to each lane its products of pairs of int16 or quads of bytes, x unsigned. */
INLINE Ints dot(Ints sum, Ints x, Ints w)
{
#if defined(PRODUCTS_LANES)
    for (int b = 0; b < (WIDENED ? 2 : 4); b++) {
        const int bits = WIDENED ? 16 : 8, up = 32 - bits - b * bits;
        sum += ((x >> b * bits) & (WIDENED ? 0xffff : 0xff)) * (Ints)((w << up) >> (32 - bits));
    }
    return sum;
#elif defined(__AVX512VNNI__)
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)w);
#elif defined(__AVX512BW__)
    return sum + (Ints)_mm512_madd_epi16((__m512i)x, (__m512i)w);
#elif defined(__AVXVNNI__)
    return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)x, (__m256i)w);
#elif defined(__AVX2__)
    return sum + (Ints)_mm256_madd_epi16((__m256i)x, (__m256i)w);
#else
    return sum + (x & 0xffff) * ((w << 16) >> 16) + ((x >> 16) & 0xffff) * (w >> 16);
#endif
}

/* Add to each int16 the sum of two products of bytes, x unsigned; no more than 8 of them where w has 4 bits. */
INLINE Shorts dot_of_bytes(Shorts sum, Ints x, Ints w)
{
#if defined(PRODUCTS_LANES)
    (void)x, (void)w;
    return sum;
#elif defined(__AVX512BW__)
    return sum + (Shorts)_mm512_maddubs_epi16((__m512i)x, (__m512i)w);
#elif defined(__AVX2__)
    return sum + (Shorts)_mm256_maddubs_epi16((__m256i)x, (__m256i)w);
#else
    (void)x, (void)w;
    return sum;
#endif
}

/* The bytes of quads as int16: the first pair of ints has bytes 0 and 2, the second 1 and 3. */
INLINE void widen(Ints quads, int32_t *first, int32_t *second)
{
    *(LooseInts *)first = (Ints)((Shorts)(quads << 8) >> 8);
    *(LooseInts *)second = (Ints)((Shorts)quads >> 8);
}

static void widen_codes(const int32_t *quads, int32_t *to, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        to[2 * i] = quads[i] & 0x00ff00ff;
        to[2 * i + 1] = quads[i] >> 8 & 0x00ff00ff;
    }
}

/* Whether operands are widened for a weight's bits. */
INLINE int is_widened(int64_t bits) { return WIDENED && !(SUMS_PAIRS && bits == 4); }

/* Four bits of each byte as a signed byte. */
INLINE Ints nibbles(Ints packed)
{
    typedef int8_t Bytes __attribute__((vector_size(LANES * 4)));
    return (Ints)(((Bytes)(packed & 0x0f0f0f0f) ^ 8) - 8);
}

/* Weights of `quads` quads of channels for WIDE outputs as tiles read them, (WIDE / TILE, steps, TILE); in `room`, unless
 * they lie so. */
static const int32_t *ready(const int32_t *panel, int64_t bits, int64_t quads, int32_t *room)
{
    const int widened = is_widened(bits);
    if (bits == 8 && !WIDENED && TILE == WIDE) return panel;
    for (int64_t i = 0; i < quads; i++) {
        const int32_t *from = panel + (bits == 8 ? i : i / 2) * WIDE;
        for (int64_t j = 0; j < WIDE; j += LANES) {
            int32_t *to = room + ((j / TILE * quads + i) * TILE << widened) + j % TILE;
            Ints w = load(from + j);
            if (bits == 4) w = nibbles(i % 2 ? w >> 4 : w);
            if (widened)
                widen(w, to, to + TILE);
            else
                *(LooseInts *)to = w;
        }
    }
    return room;
}

INLINE void multiply(const int32_t *const rows[ROWS], const int32_t *weights, int64_t steps, Ints sum[ROWS][VECTORS])
{
    for (int64_t i = 0; i < steps; i++) {
        Ints w[VECTORS];
        UNROLL for (int j = 0; j < VECTORS; j++) w[j] = load(weights + i * TILE + j * LANES);
        UNROLL for (int r = 0; r < ROWS; r++)
        {
            const Ints x = all(rows[r][i]);
            UNROLL for (int j = 0; j < VECTORS; j++) sum[r][j] = dot(sum[r][j], x, w[j]);
        }
    }
}

/* `multiply` for weights of 4 bits, by sums of pairs. */
INLINE void multiply_pairs(const int32_t *const rows[ROWS], const int32_t *weights, int64_t steps,
                           Ints sum[ROWS][VECTORS])
{
    enum { EXACT = 8 };
    const Shorts ones = (Shorts){0} + 1;
    for (int64_t i = 0; i < steps; i += EXACT) {
        Shorts pairs[ROWS][VECTORS] = {0};
        for (int64_t k = i; k < steps && k < i + EXACT; k++) {
            Ints w[VECTORS];
            UNROLL for (int j = 0; j < VECTORS; j++) w[j] = load(weights + k * TILE + j * LANES);
            UNROLL for (int r = 0; r < ROWS; r++)
            {
                const Ints x = all(rows[r][k]);
                UNROLL for (int j = 0; j < VECTORS; j++) pairs[r][j] = dot_of_bytes(pairs[r][j], x, w[j]);
            }
        }
        UNROLL for (int r = 0; r < ROWS; r++)
            UNROLL for (int j = 0; j < VECTORS; j++) sum[r][j] = dot(sum[r][j], (Ints)pairs[r][j], (Ints)ones);
    }
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t parts(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

/* The part of the input channels that one sum in int32 covers. */
typedef struct {
    int64_t channel, count, group;
} Segment;

/* Segments of a tap, all groups of which have as many. */
static int64_t segments_of(const Layer *layer) { return layer->groups * parts(layer->inputs / layer->groups, SEGMENT); }

static Segment segment_at(const Layer *layer, int64_t index)
{
    const int64_t size = layer->inputs / layer->groups, each = parts(size, SEGMENT);
    const int64_t group = index / each, start = index % each * SEGMENT;
    return (Segment){group * size + start, least(size - start, SEGMENT), group};
}

static int64_t panel_bytes(const Layer *layer)
{
    return layer->kernel[0] * layer->kernel[1] * parts(layer->inputs, 8) * 8 * WIDE * layer->bits / 8;
}

/* The rows of a block: where each begins in the input, and what the current tap reads there. */
typedef struct {
    int32_t item[BLOCK], top[BLOCK], left[BLOCK];
    int32_t at[BLOCK]; /* row of the input, or -1 */
} Places;

static void place(Places *places, const Layer *layer, const Output *out, int64_t first, int64_t count)
{
    const int64_t area = out->size[0] * out->size[1];
    for (int64_t i = 0; i < count; i++) {
        const int64_t within = (first + i) % area;
        places->item[i] = (int32_t)((first + i) / area);
        places->top[i] = (int32_t)(within / out->size[1] * layer->stride[0] - layer->padding[0]);
        places->left[i] = (int32_t)(within % out->size[1] * layer->stride[1] - layer->padding[1]);
    }
}

static void look_at_tap(Places *places, const Layer *layer, const Input *in, int64_t tap, int64_t count)
{
    const int64_t h = in->shape[1], w = in->shape[2];
    const int64_t down = tap / layer->kernel[1] * layer->dilation[0], right = tap % layer->kernel[1] * layer->dilation[1];
    for (int64_t i = 0; i < BLOCK; i++) {
        const int64_t y = i < count ? places->top[i] + down : -1, x = i < count ? places->left[i] + right : -1;
        const int inside = y >= 0 && y < h && x >= 0 && x < w;
        places->at[i] = inside ? (int32_t)((places->item[i] * h + y) * w + x) : -1;
    }
}

/* What a block's rows and a panel's weights are while one segment of one tap is multiplied. */
typedef struct {
    const int32_t *rows[BLOCK]; /* codes, widened where that is necessary */
    float scale[BLOCK];
    int32_t zero[BLOCK];
    const int32_t *weights; /* ready */
    const int32_t *sums;
    const float *scales;
    int64_t quads, steps;
    int first, last; /* of all segments of the block */
} Pass;

static const int32_t NOTHING[SEGMENT / QUAD + 1]; /* codes of a row beyond the border */

static void read_rows(Pass *pass, const Input *in, const Places *places, int64_t channel, int high, int64_t count,
                      int64_t bits, int32_t *widened)
{
    const uint8_t *plane = high ? in->high : in->low;
    for (int64_t i = 0; i < parts(count, ROWS) * ROWS; i++) {
        const int64_t at = places->at[i];
        const int32_t *quads = at < 0 ? NOTHING : (const int32_t *)(plane + at * in->line + channel);
        pass->scale[i] = at < 0 ? 0 : high ? in->scale[at] * 256 : in->scale[at];
        pass->zero[i] = at < 0 ? 0 : in->zero[at] >> (high ? 8 : 0) & 255;
        pass->rows[i] = quads;
        if (is_widened(bits)) {
            widen_codes(quads, widened + i * STEPS, pass->quads);
            pass->rows[i] = widened + i * STEPS;
        }
    }
}

typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));
typedef Halves LooseHalves __attribute__((aligned(2), may_alias));

/* Values of one dtype or the other, at an index. */
INLINE Floats values_at(const void *from, int64_t bfloat16, int64_t index)
{
    if (!bfloat16) return *(const LooseFloats *)((const float *)from + index);
    const Halves halves = *(const LooseHalves *)((const uint16_t *)from + index);
    return (Floats)(__builtin_convertvector(halves, Ints) << 16);
}

INLINE void write_values(void *to, int64_t bfloat16, int64_t index, Floats y)
{
    if (!bfloat16) {
        *(LooseFloats *)((float *)to + index) = y;
        return;
    }
    typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
    const Words bits = (Words)y, nearest = bits + 0x7fff + (bits >> 16 & 1), is_number = (Words)(y == y);
    *(LooseHalves *)((uint16_t *)to + index) =
        __builtin_convertvector(((nearest & is_number) | (0x7fc00000 & ~is_number)) >> 16, Halves);
}

/* Write outputs of a row that fill a vector: what was summed, the bias, and what else is added. */
INLINE void finish(const Layer *layer, const Output *out, Floats y, int64_t item, int64_t row, int64_t column)
{
    const int64_t at = row * layer->outputs + column;
    y += *(const LooseFloats *)(layer->bias + column);
    if (out->addend) y += *(const LooseFloats *)(out->addend + item * layer->outputs + column);
    if (out->residual) y += values_at(out->residual, out->bfloat16, at);
    write_values(out->to, out->bfloat16, at, y);
}

/* The same for the last outputs of a row, fewer than a vector has. */
static void finish_some(const Layer *layer, const Output *out, Floats y, int64_t item, int64_t row, int64_t column)
{
    const int64_t at = row * layer->outputs + column, count = layer->outputs - column;
    const int64_t size = out->bfloat16 ? sizeof(uint16_t) : sizeof(float);
    float addend[LANES] = {0}, residual[LANES] = {0}, written[LANES];
    if (out->addend) memcpy(addend, out->addend + item * layer->outputs + column, count * sizeof(float));
    if (out->residual) memcpy(residual, (const char *)out->residual + at * size, count * size);
    y += *(const LooseFloats *)(layer->bias + column) + *(const LooseFloats *)addend;
    y += values_at(residual, out->bfloat16, 0);
    write_values(written, out->bfloat16, 0, y);
    memcpy((char *)out->to + at * size, written, count * size);
}

/* ROWS rows from `start` of a block, and TILE outputs from `column` of a panel. */
static void tile(const Layer *layer, const Output *out, const Pass *pass, const Places *places, int64_t first,
                 int64_t start, int64_t count, int64_t panel, int64_t column, float *partial)
{
    Ints sum[ROWS][VECTORS];
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int j = 0; j < VECTORS; j++) sum[r][j] =
            load(pass->sums + column + j * LANES) * -pass->zero[start + r];
    if (SUMS_PAIRS && layer->bits == 4)
        multiply_pairs(pass->rows + start, pass->weights + column * pass->steps, pass->steps, sum);
    else
        multiply(pass->rows + start, pass->weights + column * pass->steps, pass->steps, sum);
    UNROLL for (int r = 0; r < ROWS; r++)
    {
        UNROLL for (int j = 0; j < VECTORS; j++)
        {
            const int64_t at = column + j * LANES, output = panel * WIDE + at;
            float *kept = partial + (start + r) * WIDE + at;
            Floats y = __builtin_convertvector(sum[r][j], Floats) * pass->scale[start + r];
            y *= *(const LooseFloats *)(pass->scales + at);
            if (!pass->first) y += *(const LooseFloats *)kept;
            if (!pass->last)
                *(LooseFloats *)kept = y;
            else if (start + r < count && output + LANES <= layer->outputs)
                finish(layer, out, y, places->item[start + r], first + start + r, output);
            else if (start + r < count && output < layer->outputs)
                finish_some(layer, out, y, places->item[start + r], first + start + r, output);
        }
    }
}

/* Outputs of one panel at rows first ... first + count - 1. */
static void block(const Layer *layer, const Input *in, const Output *out, int64_t panel, int64_t first, int64_t count)
{
    Places places;
    Pass pass;
    int32_t room[STEPS * WIDE], widened[WIDENED ? BLOCK * STEPS : 1];
    float partial[BLOCK * WIDE];
    const int64_t taps = layer->kernel[0] * layer->kernel[1], segments = segments_of(layer);
    const int64_t planes = in->high ? 2 : 1, passes = taps * segments * planes;
    const int64_t columns = least(WIDE, layer->outputs - panel * WIDE);
    const uint8_t *weights = (const uint8_t *)layer->panels + panel * panel_bytes(layer);
    place(&places, layer, out, first, count);
    for (int64_t index = 0; index < passes; index++) {
        const int64_t tap = index / planes / segments, part = index / planes % segments, plane = index % planes;
        const Segment segment = segment_at(layer, part);
        const uint8_t *at = weights + tap * (panel_bytes(layer) / taps) + segment.channel * WIDE * layer->bits / 8;
        pass.quads = parts(segment.count, QUAD);
        pass.steps = pass.quads << is_widened(layer->bits);
        pass.sums = layer->sums + ((panel * taps + tap) * segments + part) * WIDE;
        pass.scales = layer->scales + (panel * layer->groups + segment.group) * WIDE;
        pass.first = index == 0, pass.last = index == passes - 1;
        if (plane == 0) pass.weights = ready((const int32_t *)at, layer->bits, pass.quads, room);
        if (plane == 0 && part == 0) look_at_tap(&places, layer, in, tap, count);
        read_rows(&pass, in, &places, segment.channel, (int)plane, count, layer->bits, widened);
        for (int64_t column = 0; column < columns; column += TILE)
            for (int64_t start = 0; start < count; start += ROWS)
                tile(layer, out, &pass, &places, first, start, count, panel, column, partial);
    }
}

/* Compute a layer. Panels go by outside: their weights stay in cache while rows pass. */
void product(const Layer *layer, const Input *in, const Output *out)
{
    const int64_t rows = in->shape[0] * out->size[0] * out->size[1];
    const int64_t blocks = parts(rows, BLOCK), tasks = blocks * parts(layer->outputs, WIDE);
#pragma omp parallel for schedule(static) if (tasks > 1)
    for (int64_t task = 0; task < tasks; task++) {
        const int64_t first = task % blocks * BLOCK;
        block(layer, in, out, task / blocks, first, least(rows - first, BLOCK));
    }
}

/* `count` codes of an output, from code `first` on, an even one, as bytes. */
INLINE void read_codes(const uint8_t *from, int64_t bits, int64_t first, int64_t count, int8_t *to)
{
    if (bits == 8) {
        memcpy(to, from + first, count);
        return;
    }
    from += first / 2;
    for (int64_t i = 0; i < count / 2; i++) {
        to[2 * i] = (int8_t)(((from[i] & 15) ^ 8) - 8);
        to[2 * i + 1] = (int8_t)((from[i] >> 4 ^ 8) - 8);
    }
    if (count % 2)
        to[count - 1] = (int8_t)(((from[count / 2] & 15) ^ 8) - 8);
}

static int64_t segment_of(const Layer *layer, int64_t channel)
{
    const int64_t size = layer->inputs / layer->groups;
    return channel / size * parts(size, SEGMENT) + channel % size / SEGMENT;
}

/* One panel of `lay_out`; taps and bits are constants where this is called. */
INLINE void lay_panel(const Layer *layer, const uint8_t *codes, uint8_t *to, int32_t *sums, int64_t outputs,
                      const int64_t taps, const int64_t bits)
{
    const int64_t segments = segments_of(layer), values = layer->inputs * taps, step = bits == 8 ? 4 : 8;
    const int64_t line = bits == 8 ? values : parts(values, 2), tap_bytes = panel_bytes(layer) / taps;
    for (int64_t c = 0; c < layer->inputs; c += step) {
        const int64_t count = least(step, layer->inputs - c);
        int32_t *sum = sums + segment_of(layer, c) * WIDE;
        for (int64_t o = 0; o < outputs; o++) {
            int8_t read[8 * MOST_TAPS];
            if (count == step)
                read_codes(codes + o * line, bits, c * taps, step * taps, read);
            else {
                memset(read, 0, step * taps);
                read_codes(codes + o * line, bits, c * taps, count * taps, read);
            }
            for (int64_t tap = 0; tap < taps; tap++) {
                uint32_t packed = 0;
                int32_t total = 0;
                for (int b = 0; b < 4; b++) {
                    const int low = read[b * taps + tap], high = bits == 8 ? 0 : read[(b + 4) * taps + tap];
                    packed |= (bits == 8 ? (uint32_t)low & 255 : ((uint32_t)low & 15) | ((uint32_t)high & 15) << 4) << 8 * b;
                    total += low + high;
                }
                memcpy(to + tap * tap_bytes + (c / step * WIDE + o) * 4, &packed, sizeof packed);
                sum[tap * segments * WIDE + o] += total;
            }
        }
    }
}

/* Lay a weight's codes (outputs, inputs, taps) out as panels (panels, taps, inputs / 4, WIDE, 4), or with 4 bits as
 * (panels, taps, inputs / 8, WIDE, 4), two channels that are 4 apart in a byte; and sum them. With 4 bits an output's
 * codes lie as in codes.pack. `panels` and `sums` are zeros before; there are at most MOST_TAPS taps. */
void lay_out(const Layer *layer, const uint8_t *codes, uint8_t *panels, int32_t *sums)
{
    const int64_t taps = layer->kernel[0] * layer->kernel[1], bits = layer->bits, values = layer->inputs * taps;
    const int64_t line = bits == 8 ? values : parts(values, 2);
#pragma omp parallel for schedule(static)
    for (int64_t panel = 0; panel < parts(layer->outputs, WIDE); panel++) {
        const int64_t first = panel * WIDE, outputs = least(WIDE, layer->outputs - first);
        const uint8_t *from = codes + first * line;
        uint8_t *to = panels + panel * panel_bytes(layer);
        int32_t *sum = sums + panel * taps * segments_of(layer) * WIDE;
        if (taps == 9 && bits == 8)
            lay_panel(layer, from, to, sum, outputs, 9, 8);
        else if (taps == 9 && bits == 4)
            lay_panel(layer, from, to, sum, outputs, 9, 4);
        else if (taps == 1 && bits == 8)
            lay_panel(layer, from, to, sum, outputs, 1, 8);
        else if (taps == 1 && bits == 4)
            lay_panel(layer, from, to, sum, outputs, 1, 4);
        else
            lay_panel(layer, from, to, sum, outputs, taps, bits);
    }
}

int64_t segment_channels(void) { return SEGMENT; }

/* The instructions that multiply codes. */
const char *instructions(void)
{
#if defined(__AVX512VNNI__)
    return "AVX512-VNNI";
#elif defined(__AVX512BW__)
    return "AVX512";
#elif defined(__AVXVNNI__)
    return "AVX-VNNI";
#elif defined(__AVX2__)
    return "AVX2";
#else
    return "those of the compiler's choice";
#endif
}
