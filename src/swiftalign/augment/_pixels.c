/* Operations on 8-bit RGB pixels in whole numbers: Lab exactly as OpenCV's cvtColor, grey and SMOOTH exactly as Pillow's.

conversions.py has the same with OpenCV. Look-ups and arithmetic are separate loops over blocks of pixels, since compilers
vectorise the arithmetic only. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) && defined(__x86_64__) && defined(__gnu_linux__)
#define VECTORS __attribute__((target_clones("avx2", "default")))
#else
#define VECTORS
#endif

enum { BLOCK = 256 };

/* OpenCV's fixed-point scales: 12 bits for matrices, 15 for the cube root, 14 for XYZ, 12 for linear RGB. */
enum { MATRIX_SHIFT = 12, ROOT_SHIFT = 15, XYZ_BASE = 1 << 14, LINEAR_SHIFT = 14, LINEAR_COUNT = 1 << 12 };

static const double WHITE[3] = {0.950456, 1.0, 1.088754};
static const double TO_XYZ[3][3] = {
    {0.412453, 0.357580, 0.180423}, {0.212671, 0.715160, 0.072169}, {0.019334, 0.119193, 0.950227}};
static const double FROM_XYZ[3][3] = {
    {3.240479, -1.53715, -0.498535}, {-0.969256, 1.875991, 0.041556}, {0.055648, -0.204043, 1.057311}};

static int32_t to_xyz[3][3], from_xyz[3][3];
static uint16_t linear[256];     /* a channel's value, in eighths of 255 */
static uint16_t root[3072];      /* f of CIE Lab for eighths of 255, up to 1.5 */
static uint16_t y_of[256], fy_of[256];
static uint8_t channel[LINEAR_COUNT];

static void make_tables(void)
{
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            to_xyz[i][j] = (int32_t)lrint((1 << MATRIX_SHIFT) * TO_XYZ[i][j] / WHITE[i]);
            from_xyz[i][j] = (int32_t)lrint((1 << MATRIX_SHIFT) * FROM_XYZ[i][j] * WHITE[j]);
        }
    for (int i = 0; i < 256; i++) {
        double v = i / 255.0;
        linear[i] = (uint16_t)lrint(2040 * (v <= 0.04045 ? v / 12.92 : pow((v + 0.055) / 1.055, 2.4)));
        /* The lightness of 8 / 100 is that of the end of the straight part of f. */
        double f = i <= 20 ? 16.0 / 116 + i * 5 / 1479.0 : (i * 100 / 255.0 + 16) / 116;
        fy_of[i] = (uint16_t)lrint(XYZ_BASE * f);
        y_of[i] = (uint16_t)lrint(XYZ_BASE * (i <= 20 ? i * 180 / 414613.0 : f * f * f));
    }
    for (int i = 0; i < 3072; i++) {
        double v = i / 2040.0;
        root[i] = (uint16_t)lrint((1 << ROOT_SHIFT) * (v < 216 / 24389.0 ? v * 841 / 108 + 16.0 / 116 : cbrt(v)));
    }
    /* OpenCV computes in single precision, in which these are halves and are rounded to the even number. */
    root[49] = 9454, root[628] = 22126;
    for (int i = 0; i < LINEAR_COUNT; i++) {
        double v = (double)i / LINEAR_COUNT;
        channel[i] = (uint8_t)lrint(255 * (v <= 0.0031308 ? v * 12.92 : 1.055 * pow(v, 1 / 2.4) - 0.055));
    }
}

VECTORS static void block_to_lab(const uint8_t *rgb, uint8_t *lightness, uint8_t *a, uint8_t *b, int count)
{
    uint16_t red[BLOCK], green[BLOCK], blue[BLOCK], f[3][BLOCK];
    for (int i = 0; i < count; i++) {
        red[i] = linear[rgb[3 * i]];
        green[i] = linear[rgb[3 * i + 1]];
        blue[i] = linear[rgb[3 * i + 2]];
    }
    for (int k = 0; k < 3; k++) {
        int32_t from_red = to_xyz[k][0], from_green = to_xyz[k][1], from_blue = to_xyz[k][2];
        for (int i = 0; i < count; i++)
            f[k][i] = (uint16_t)((red[i] * from_red + green[i] * from_green + blue[i] * from_blue
                                  + (1 << (MATRIX_SHIFT - 1))) >> MATRIX_SHIFT);
        for (int i = 0; i < count; i++)
            f[k][i] = root[f[k][i]];
    }
    const int32_t half = 1 << (ROOT_SHIFT - 1), middle = (128 << ROOT_SHIFT) + half;
    for (int i = 0; i < count; i++) {
        int32_t x = f[0][i], y = f[1][i], z = f[2][i];
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

VECTORS static void block_from_lab(const uint8_t *lightness, const uint8_t *a, const uint8_t *b, uint8_t *rgb, int count)
{
    uint16_t y_at[BLOCK], fy_at[BLOCK], found[3][BLOCK];
    int32_t x_at[BLOCK], z_at[BLOCK];
    for (int i = 0; i < count; i++) {
        y_at[i] = y_of[lightness[i]];
        fy_at[i] = fy_of[lightness[i]];
    }
    for (int i = 0; i < count; i++) {
        x_at[i] = cubed(fy_at[i] + ((5 * a[i] * 53687 + 128) >> 13) - 4194);
        z_at[i] = cubed(fy_at[i] - ((b[i] * 41943 + 16) >> 9) + 10484);
    }
    for (int k = 0; k < 3; k++) {
        int32_t of_x = from_xyz[k][0], of_y = from_xyz[k][1], of_z = from_xyz[k][2];
        for (int i = 0; i < count; i++) {
            int32_t v = (of_x * x_at[i] + of_y * y_at[i] + of_z * z_at[i] + (1 << (LINEAR_SHIFT - 1))) >> LINEAR_SHIFT;
            v = v < 0 ? 0 : v;
            found[k][i] = (uint16_t)(v < LINEAR_COUNT ? v : LINEAR_COUNT - 1);
        }
    }
    for (int i = 0; i < count; i++) {
        rgb[3 * i] = channel[found[0][i]];
        rgb[3 * i + 1] = channel[found[1][i]];
        rgb[3 * i + 2] = channel[found[2][i]];
    }
}

/* The bytes of an image and of the result, and the number of pixels in the image and in a row of it. */
typedef struct {
    const uint8_t *from;
    uint8_t *to;
    Py_ssize_t count, width;
} Job;

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

static void run_to_lab(const Job *job)
{
    for (Py_ssize_t i = 0, n = job->count; i < n; i += BLOCK)
        block_to_lab(job->from + 3 * i, job->to + i, job->to + n + i, job->to + 2 * n + i,
                     n - i < BLOCK ? (int)(n - i) : BLOCK);
}

static void run_from_lab(const Job *job)
{
    for (Py_ssize_t i = 0, n = job->count; i < n; i += BLOCK)
        block_from_lab(job->from + i, job->from + n + i, job->from + 2 * n + i, job->to + 3 * i,
                       n - i < BLOCK ? (int)(n - i) : BLOCK);
}

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
    {"smooth", smooth, METH_VARARGS, "smooth(rgb, result, width): RGB [h, w, 3] after Pillow's filter SMOOTH."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_pixels", "Operations on 8-bit RGB pixels.", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__pixels(void)
{
    make_tables();
    return PyModule_Create(&definition);
}
