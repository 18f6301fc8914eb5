/* Operations on 8-bit pixels: Lab and CLAHE exactly as OpenCV's, grey and SMOOTH exactly as Pillow's.

conversions.py has the same with OpenCV. The loops are written so that compilers vectorise them. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__) && defined(__x86_64__) && defined(__gnu_linux__)
#define VECTORS __attribute__((target_clones("avx2", "default")))
#else
#define VECTORS
#endif

/* OpenCV's fixed-point scales: 12 bits for matrices, 15 for the cube root, 14 for XYZ, 12 for linear RGB. */
enum { MATRIX_SHIFT = 12, MATRIX_HALF = 1 << 11, ROOT_SHIFT = 15, XYZ_BASE = 1 << 14, LINEAR_SHIFT = 14, LINEAR_COUNT = 1 << 12 };

static const double WHITE[3] = {0.950456, 1.0, 1.088754};
static const double TO_XYZ[3][3] = {
    {0.412453, 0.357580, 0.180423}, {0.212671, 0.715160, 0.072169}, {0.019334, 0.119193, 0.950227}};
static const double FROM_XYZ[3][3] = {
    {3.240479, -1.53715, -0.498535}, {-0.969256, 1.875991, 0.041556}, {0.055648, -0.204043, 1.057311}};

/* 32 bits wide, as vectors of them can be gathered. */
static int32_t to_xyz[3][3], from_xyz[3][3];
static int32_t linear[256];     /* a channel's value, in eighths of 255 */
static int32_t root[3072];      /* f of CIE Lab for eighths of 255, up to 1.5 */
static int32_t y_of[256], fy_of[256];
static int32_t channel[LINEAR_COUNT];

static void make_tables(void)
{
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            to_xyz[i][j] = (int32_t)lrint((1 << MATRIX_SHIFT) * TO_XYZ[i][j] / WHITE[i]);
            from_xyz[i][j] = (int32_t)lrint((1 << MATRIX_SHIFT) * FROM_XYZ[i][j] * WHITE[j]);
        }
    for (int i = 0; i < 256; i++) {
        double v = i / 255.0;
        linear[i] = (int32_t)lrint(2040 * (v <= 0.04045 ? v / 12.92 : pow((v + 0.055) / 1.055, 2.4)));
        /* The lightness of 8 / 100 is that of the end of the straight part of f. */
        double f = i <= 20 ? 16.0 / 116 + i * 5 / 1479.0 : (i * 100 / 255.0 + 16) / 116;
        fy_of[i] = (int32_t)lrint(XYZ_BASE * f);
        y_of[i] = (int32_t)lrint(XYZ_BASE * (i <= 20 ? i * 180 / 414613.0 : f * f * f));
    }
    for (int i = 0; i < 3072; i++) {
        double v = i / 2040.0;
        root[i] = (int32_t)lrint((1 << ROOT_SHIFT) * (v < 216 / 24389.0 ? v * 841 / 108 + 16.0 / 116 : cbrt(v)));
    }
    /* OpenCV computes in single precision, in which these are halves and are rounded to the even number. */
    root[49] = 9454, root[628] = 22126;
    for (int i = 0; i < LINEAR_COUNT; i++) {
        double v = (double)i / LINEAR_COUNT;
        channel[i] = (int32_t)lrint(255 * (v <= 0.0031308 ? v * 12.92 : 1.055 * pow(v, 1 / 2.4) - 0.055));
    }
}

/* The bytes of an image and of the result, and the number of pixels in the image and in a row of it. */
typedef struct {
    const uint8_t *from;
    uint8_t *to;
    Py_ssize_t count, width;
} Job;

VECTORS static void run_to_lab(const Job *job)
{
    const uint8_t *restrict rgb = job->from;
    uint8_t *restrict lightness = job->to, *restrict a = lightness + job->count, *restrict b = a + job->count;
    const int32_t half = 1 << (ROOT_SHIFT - 1), middle = (128 << ROOT_SHIFT) + half;
    int32_t m[3][3];
    memcpy(m, to_xyz, sizeof m);
    for (Py_ssize_t i = 0, count = job->count; i < count; i++) {
        int32_t red = linear[rgb[3 * i]], green = linear[rgb[3 * i + 1]], blue = linear[rgb[3 * i + 2]];
        int32_t x = root[(m[0][0] * red + m[0][1] * green + m[0][2] * blue + MATRIX_HALF) >> MATRIX_SHIFT];
        int32_t y = root[(m[1][0] * red + m[1][1] * green + m[1][2] * blue + MATRIX_HALF) >> MATRIX_SHIFT];
        int32_t z = root[(m[2][0] * red + m[2][1] * green + m[2][2] * blue + MATRIX_HALF) >> MATRIX_SHIFT];
        lightness[i] = (uint8_t)((296 * y - 1336934 + half) >> ROOT_SHIFT);
        a[i] = (uint8_t)((500 * (x - y) + middle) >> ROOT_SHIFT);
        b[i] = (uint8_t)((200 * (y - z) + middle) >> ROOT_SHIFT);
    }
}

/* The inverse of f of CIE Lab, both in units of XYZ_BASE. */
static inline int32_t cubed(int32_t f)
{
    int32_t straight = f * 108 / 841 - 290, cube = ((f * f >> 14) * f) >> 14;
    return f <= 3390 ? straight : cube;
}

VECTORS static void run_from_lab(const Job *job)
{
    const uint8_t *restrict lightness = job->from, *restrict a = lightness + job->count, *restrict b = a + job->count;
    uint8_t *restrict rgb = job->to;
    int32_t m[3][3];
    memcpy(m, from_xyz, sizeof m);
    for (Py_ssize_t i = 0, count = job->count; i < count; i++) {
        int32_t y = y_of[lightness[i]], fy = fy_of[lightness[i]];
        int32_t x = cubed(fy + ((5 * a[i] * 53687 + 128) >> 13) - 4194);
        int32_t z = cubed(fy - ((b[i] * 41943 + 16) >> 9) + 10484);
        for (int k = 0; k < 3; k++) {
            int32_t v = (m[k][0] * x + m[k][1] * y + m[k][2] * z + (1 << (LINEAR_SHIFT - 1))) >> LINEAR_SHIFT;
            v = v < 0 ? 0 : v;
            rgb[3 * i + k] = (uint8_t)channel[v < LINEAR_COUNT ? v : LINEAR_COUNT - 1];
        }
    }
}

/* Pillow's mode L. */
VECTORS static void run_grey(const Job *job)
{
    const uint8_t *restrict from = job->from;
    uint8_t *restrict to = job->to;
    for (Py_ssize_t i = 0, count = job->count; i < count; i++)
        to[i] = (uint8_t)((19595 * from[3 * i] + 38470 * from[3 * i + 1] + 7471 * from[3 * i + 2] + 32768) >> 16);
}

/* Pillow's filter SMOOTH; the outermost pixels are copied. */
VECTORS static void run_smooth(const Job *job)
{
    const Py_ssize_t row = 3 * job->width;
    memcpy(job->to, job->from, (size_t)(3 * job->count));
    for (Py_ssize_t start = row; start < 3 * job->count - row; start += row) {
        const uint8_t *restrict at = job->from + start, *restrict above = at - row, *restrict below = at + row;
        uint8_t *restrict to = job->to + start;
        for (Py_ssize_t i = 3; i < row - 3; i++) {
            uint16_t sum = (uint16_t)(above[i - 3] + above[i] + above[i + 3] + at[i - 3] + 5 * at[i] + at[i + 3]
                                      + below[i - 3] + below[i] + below[i + 3]);
            to[i] = (uint8_t)((uint16_t)(sum + 6) / 13);
        }
    }
}

#if defined(__x86_64__) || defined(_M_X64)
/* Elsewhere, compilers may contract sums of products, and OpenCV's own result is not known to the bit. */
#define HAS_EQUALISE

/* The index of a pixel beyond the end of a row or a column, where the border is reflected. */
static Py_ssize_t reflected(Py_ssize_t at, Py_ssize_t side)
{
    while (at >= side || at < 0)
        at = side == 1 ? 0 : at < 0 ? -at : 2 * (side - 1) - at;
    return at;
}

/* The table of a tile: its cumulative histogram, with what is above the limit spread over all values. */
static void tile_table(const uint8_t *plane, Py_ssize_t width, Py_ssize_t height, Py_ssize_t left, Py_ssize_t top,
                       Py_ssize_t wide, Py_ssize_t high, double clip_limit, uint8_t *table)
{
    int32_t counts[4][256] = {{0}}, *count = counts[0]; /* equal neighbours are not counted in the same place */
    for (Py_ssize_t y = top; y < top + high; y++) {
        const uint8_t *row = plane + reflected(y, height) * width;
        Py_ssize_t end = left + wide, x = left;
        for (; x + 4 <= (end < width ? end : width); x += 4)
            for (int k = 0; k < 4; k++)
                counts[k][row[x + k]]++;
        for (; x < end; x++)
            count[row[reflected(x, width)]]++;
    }
    int32_t total = (int32_t)(wide * high), above = 0, sum = 0;
    int32_t limit = (int32_t)(clip_limit * total / 256);
    limit = limit < 1 ? 1 : limit;
    for (int i = 0; i < 256; i++) {
        count[i] += counts[1][i] + counts[2][i] + counts[3][i];
        if (clip_limit > 0 && count[i] > limit) {
            above += count[i] - limit;
            count[i] = limit;
        }
    }
    int32_t rest = above % 256, step = rest ? 256 / rest : 256;
    for (int i = 0; i < 256; i++)
        count[i] += above / 256;
    for (int i = 0; i < 256 && rest > 0; i += step, rest--)
        count[i]++;
    float scale = 255.0f / (float)total;
    for (int i = 0; i < 256; i++) {
        sum += count[i];
        long v = lrintf((float)sum * scale);
        table[i] = (uint8_t)(v < 255 ? v : 255);
    }
}

/* One row: each value's four neighbouring tables, weighted by the distance from the middles of their tiles. */
VECTORS static void weigh(const uint32_t *restrict four, const float *restrict across, float down, uint8_t *restrict row,
                          Py_ssize_t width)
{
    for (Py_ssize_t x = 0; x < width; x++) {
        float a = (float)(int32_t)(four[x] & 255), b = (float)(int32_t)(four[x] >> 8 & 255);
        float c = (float)(int32_t)(four[x] >> 16 & 255), d = (float)(int32_t)(four[x] >> 24);
        float right = across[x], left = 1.0f - right;
        union { float value; uint32_t bits; } sum;
        sum.value = (a * left + b * right) * (1.0f - down) + (c * left + d * right) * down;
        sum.value += 8388608.0f; /* 2^23: the lowest bits are the rounded number */
        row[x] = (uint8_t)sum.bits;
    }
}

static int equalise_plane(uint8_t *plane, Py_ssize_t width, Py_ssize_t height, Py_ssize_t columns, Py_ssize_t rows,
                          double clip_limit)
{
    int even = width % columns == 0 && height % rows == 0;
    Py_ssize_t wide = even ? width / columns : width / columns + 1, high = even ? height / rows : height / rows + 1;
    uint8_t *tables = malloc((size_t)(columns * rows * 256));
    uint32_t *fours = malloc((size_t)((columns + 1) * 256) * sizeof *fours), *four = malloc((size_t)width * sizeof *four);
    float *across = malloc((size_t)width * sizeof *across);
    int32_t *first = malloc((size_t)width * sizeof *first);
    int done = tables && fours && four && across && first;
    for (Py_ssize_t x = 0; done && x < width; x++) {
        float at = (float)x * (1.0f / (float)wide) - 0.5f, tile = floorf(at);
        across[x] = at - tile;
        first[x] = ((int32_t)tile + 1) * 256;
    }
    for (Py_ssize_t tile = 0; done && tile < columns * rows; tile++)
        tile_table(plane, width, height, tile % columns * wide, tile / columns * high, wide, high, clip_limit,
                   tables + tile * 256);
    Py_ssize_t band = -2;
    for (Py_ssize_t y = 0; done && y < height; y++) {
        float at = (float)y * (1.0f / (float)high) - 0.5f;
        Py_ssize_t above = (Py_ssize_t)floorf(at);
        const uint8_t *upper = tables + (above < 0 ? 0 : above) * columns * 256;
        const uint8_t *lower = tables + (above + 1 < rows ? above + 1 : rows - 1) * columns * 256;
        for (Py_ssize_t k = 0; above != band && k <= columns; k++) {
            Py_ssize_t left = (k < 1 ? 0 : k - 1) * 256, right = (k < columns ? k : columns - 1) * 256;
            for (int v = 0; v < 256; v++)
                fours[k * 256 + v] = upper[left + v] | (uint32_t)upper[right + v] << 8
                                     | (uint32_t)lower[left + v] << 16 | (uint32_t)lower[right + v] << 24;
        }
        band = above;
        uint8_t *row = plane + y * width;
        for (Py_ssize_t x = 0; x < width; x++)
            four[x] = fours[first[x] + row[x]];
        weigh(four, across, at - (float)above, row, width);
    }
    free(tables), free(fours), free(four), free(across), free(first);
    return done;
}

static PyObject *equalise(PyObject *module, PyObject *args)
{
    Py_buffer plane;
    Py_ssize_t width, columns, rows;
    double clip_limit;
    if (!PyArg_ParseTuple(args, "w*ndnn", &plane, &width, &clip_limit, &columns, &rows))
        return NULL;
    int done = 0, fits = width > 0 && plane.len % width == 0 && plane.len > 0 && columns > 0 && rows > 0;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        done = equalise_plane(plane.buf, width, plane.len / width, columns, rows, clip_limit);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&plane);
    if (!fits)
        return PyErr_Format(PyExc_ValueError, "a plane of %zd bytes does not have rows of %zd", plane.len, width);
    if (!done)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}
#endif

/* Run an operation on two contiguous arrays that do not overlap; the second one has `channels` bytes for each pixel. */
static PyObject *apply(PyObject *args, void (*run)(const Job *), Py_ssize_t channels)
{
    Py_buffer from, to;
    Job job = {NULL, NULL, 0, 1};
    if (!PyArg_ParseTuple(args, "y*w*|n", &from, &to, &job.width))
        return NULL;
    job.from = from.buf, job.to = to.buf, job.count = from.len / 3;
    int fits = from.len == 3 * job.count && to.len == channels * job.count && job.width > 0
               && job.count % job.width == 0;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        run(&job);
        Py_END_ALLOW_THREADS
    } else
        PyErr_Format(PyExc_ValueError, "%zd bytes of pixels do not fit a result of %zd bytes", from.len, to.len);
    PyBuffer_Release(&from);
    PyBuffer_Release(&to);
    if (!fits)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *to_lab(PyObject *module, PyObject *args) { return apply(args, run_to_lab, 3); }
static PyObject *from_lab(PyObject *module, PyObject *args) { return apply(args, run_from_lab, 3); }
static PyObject *grey(PyObject *module, PyObject *args) { return apply(args, run_grey, 1); }
static PyObject *smooth(PyObject *module, PyObject *args) { return apply(args, run_smooth, 3); }

static PyMethodDef methods[] = {
    {"to_lab", to_lab, METH_VARARGS, "to_lab(rgb, planes): RGB [h, w, 3] as the planes of Lab [3, h, w]."},
    {"from_lab", from_lab, METH_VARARGS, "from_lab(planes, rgb): the planes of Lab [3, h, w] as RGB [h, w, 3]."},
    {"grey", grey, METH_VARARGS, "grey(rgb, result): RGB [h, w, 3] as Pillow's mode L [h, w]."},
#ifdef HAS_EQUALISE
    {"equalise", equalise, METH_VARARGS, "equalise(plane, width, clip_limit, columns, rows): CLAHE, in place."},
#endif
    {"smooth", smooth, METH_VARARGS, "smooth(rgb, result, width): RGB [h, w, 3] after Pillow's filter SMOOTH."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_pixels", "Operations on 8-bit RGB pixels.", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__pixels(void)
{
    make_tables();
    return PyModule_Create(&definition);
}
