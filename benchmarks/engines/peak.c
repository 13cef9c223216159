/* The highest rate of products: the dot products of products.c on registers alone, in tera-operations a second. */
#include "../../src/sdquant_cli/native/products.c"
#include <time.h>

enum { SUMS = ROWS * VECTORS, TURNS = 20000000 };

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

/* The empty assembly keeps the compiler from computing a product once for all sums. */
#define RATE(Type, product, products)                                        \
    Type sums[SUMS] = {0};                                                   \
    Ints x = all(1), w = all(1);                                             \
    const double began = seconds();                                          \
    for (int turn = 0; turn < TURNS; turn++) {                               \
        _Pragma("GCC unroll 32") for (int i = 0; i < SUMS; i++) {            \
            sums[i] = product(sums[i], x, w);                                \
            __asm__ volatile("" : "+v"(x), "+v"(w), "+v"(sums[i]));          \
        }                                                                    \
    }                                                                        \
    return 2e-12 * TURNS * SUMS * (products) / (seconds() - began)

/* Of 8-bit weights: pairs of int16 where no instruction sums products of bytes exactly. */
double peak_of_8_bits(void)
{
    RATE(Ints, dot, LANES * (WIDENED ? 2 : 4));
}

/* Of 4-bit weights; on AVX2 their products are summed in int16. */
double peak_of_4_bits(void)
{
    if (!SUMS_PAIRS)
        return peak_of_8_bits();
    RATE(Shorts, dot_of_bytes, LANES * 4);
}
