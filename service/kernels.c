/* Loops over pixels that NumPy would do in many passes: service/kernels.py says what each gives, has the same in NumPy,
   and checks types and shapes before it calls. Plain C without Python's headers: one file for all versions.

   Floating point is to the bit that of NumPy: each product and each sum is rounded, so no fused multiply-add
   (-ffp-contract=off). */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* The SHA-256 of this file, in hexadecimal: a library of an older one is not taken. */
const char segdepth_source[] = SOURCE;

/* Where the loader can choose at run time: twice as wide vectors on processors that have them. Of static functions only:
   Clang gives exported ones another name. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__)
#define WIDE_VECTORS __attribute__((target_clones("avx2", "default")))
#else
#define WIDE_VECTORS
#endif

/* One row of the source at the columns of the result, rounded. `padded` has room for it and one more, `next` for a row
   of the result. */
WIDE_VECTORS
static void widen(const uint16_t *row, ptrdiff_t columns, const ptrdiff_t *left, const float *across, ptrdiff_t width,
                  float *padded, float *next, float *out)
{
    for (ptrdiff_t x = 0; x < columns; x++)
        padded[x] = row[x];
    padded[columns] = padded[columns - 1]; /* Its weight is always 0; what is not set might be no number. */
    /* Apart from the arithmetic, which then is done in vectors. */
    for (ptrdiff_t x = 0; x < width; x++) {
        out[x] = padded[left[x]];
        next[x] = padded[left[x] + 1];
    }
    for (ptrdiff_t x = 0; x < width; x++)
        out[x] = (float)(int32_t)((next[x] - out[x]) * across[x] + out[x] + 0.5f);
}

WIDE_VECTORS
static void mix(const float *above, const float *below, float down, ptrdiff_t width, uint16_t *out)
{
    for (ptrdiff_t x = 0; x < width; x++)
        out[x] = (uint16_t)(int32_t)((below[x] - above[x]) * down + (above[x] + 0.5f));
}

/* uint16 [rows, columns] -> [height, width]. Returns 0, or -1 without memory. */
int segdepth_bilinear(const uint16_t *source, ptrdiff_t rows, ptrdiff_t columns, const ptrdiff_t *first,
                      const float *down, ptrdiff_t height, const ptrdiff_t *left, const float *across, ptrdiff_t width,
                      uint16_t *out)
{
    float *memory = malloc((size_t)(3 * width + columns + 1) * sizeof(float));
    if (!memory)
        return -1;
    float *above = memory, *below = above + width, *next = below + width, *padded = next + width;
    /* Rows of the source are widened once: results lie between the same two several times, and then go down by one. */
    ptrdiff_t has_above = -1, has_below = -1;
    for (ptrdiff_t y = 0; y < height; y++) {
        ptrdiff_t i = first[y], j = i + (i + 1 < rows);
        if (has_above != i) {
            if (has_below == i) {
                float *swapped = above;
                above = below;
                below = swapped;
                has_below = has_above;
            } else {
                widen(source + i * columns, columns, left, across, width, padded, next, above);
            }
            has_above = i;
        }
        if (has_below != j) {
            widen(source + j * columns, columns, left, across, width, padded, next, below);
            has_below = j;
        }
        mix(above, below, down[y], width, out + y * width);
    }
    free(memory);
    return 0;
}

WIDE_VECTORS
static void steps(const uint16_t *depth, ptrdiff_t n, float per_mm, float offset, uint8_t *out)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        float step = (float)depth[i] * per_mm + offset;
        step = step < 1.0f ? 1.0f : step;
        step = step > 255.0f ? 255.0f : step;
        out[i] = depth[i] ? (uint8_t)(int32_t)step : 0;
    }
}

/* uint16 [n] -> uint8 [n]: depth * per_mm + offset, from 1 to 255; 0 stays 0. */
void segdepth_steps(const uint16_t *depth, ptrdiff_t n, float per_mm, float offset, uint8_t *out)
{
    steps(depth, n, per_mm, offset, out);
}

WIDE_VECTORS
static void subtract(const uint8_t *row, const uint8_t *above, ptrdiff_t n, uint8_t *out)
{
    for (ptrdiff_t i = 0; i < n; i++)
        out[i] = (uint8_t)(row[i] - above[i]);
}

WIDE_VECTORS
static void swap_pairs(uint8_t *bytes, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i + 1 < n; i += 2) {
        uint16_t pair;
        memcpy(&pair, bytes + i, 2);
        pair = (uint16_t)(pair << 8 | pair >> 8);
        memcpy(bytes + i, &pair, 2);
    }
}

/* The filter Up of PNG on [height] rows of bytes, each behind the filter's number. With `swap`, samples of two bytes get
   their other one first. */
void segdepth_filter_up(const uint8_t *above, const uint8_t *rows, ptrdiff_t height, ptrdiff_t row_bytes, int swap,
                        uint8_t *out)
{
    for (ptrdiff_t y = 0; y < height; y++, above = rows, rows += row_bytes, out += row_bytes) {
        *out++ = 2;
        subtract(rows, above, row_bytes, out);
        if (swap)
            swap_pairs(out, row_bytes);
    }
}

/* Of every class, by id: the first pixel with its least depth above 0, or 0; the sum of the depths' squares. */
void segdepth_summarize(const uint8_t *labels, const uint16_t *depth, ptrdiff_t n, ptrdiff_t nearest[256],
                        int64_t squares[256])
{
    uint32_t least[256];
    memset(least, 255, sizeof least);
    memset(nearest, 0, 256 * sizeof *nearest);
    memset(squares, 0, 256 * sizeof *squares);
    /* By runs of a class, in which nothing waits for what was just written. */
    for (ptrdiff_t i = 0; i < n;) {
        uint8_t id = labels[i];
        int64_t sum = 0;
        for (; i < n && labels[i] == id; i++) {
            uint32_t here = depth[i];
            sum += (int64_t)here * here;
            if (here && here < least[id]) {
                least[id] = here;
                nearest[id] = i;
            }
        }
        squares[id] += sum;
    }
}

/* How often each value occurs, where a pixel counts as often as its row times its column do. */
void segdepth_counts(const uint8_t *values, const ptrdiff_t *row, ptrdiff_t rows, const ptrdiff_t *column,
                     ptrdiff_t columns, int64_t counts[256])
{
    memset(counts, 0, 256 * sizeof *counts);
    for (ptrdiff_t y = 0; y < rows; y++, values += columns) {
        int64_t run = 0;
        for (ptrdiff_t x = 0; x < columns; x++) {
            run += column[x];
            if (x + 1 == columns || values[x + 1] != values[x]) {
                counts[values[x]] += run * row[y];
                run = 0;
            }
        }
    }
}
