"""Elementwise operators of ONNX as C expressions."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# C types of tensors. Whole numbers are `int`: actions and indices.
TYPES = {"float32": "float", "float64": "double", "bool": "unsigned char"}

Operator = Callable[..., str]


def _binary(sign: str) -> Operator:
    return lambda f, x, y: f"({x} {sign} {y})"


def _call(name: str) -> Operator:
    """Return a call of a function of libm; those of float end in f."""
    return lambda f, x: f"{name}{f}({x})"


def _helper(name: str) -> Operator:
    return lambda f, *x: f"{name}({', '.join(x)})"


ELEMENTWISE: dict[str, Operator] = {
    "Add": _binary("+"),
    "Sub": _binary("-"),
    "Mul": _binary("*"),
    "Div": _binary("/"),
    "Equal": _binary("=="),
    "Greater": _binary(">"),
    "GreaterOrEqual": _binary(">="),
    "Less": _binary("<"),
    "LessOrEqual": _binary("<="),
    "And": _binary("&&"),
    "Or": _binary("||"),
    "Pow": lambda f, x, y: f"pow{f}({x}, {y})",
    "Not": lambda f, x: f"(!{x})",
    "Neg": lambda f, x: f"(-{x})",
    "Where": lambda f, c, x, y: f"({c} ? {x} : {y})",
    "Exp": _call("exp"),
    "Log": _call("log"),
    "Sqrt": _call("sqrt"),
    "Tanh": lambda f, x: f"tangent({x})" if f else f"tanh({x})",
    "Erf": _call("erf"),
    "Abs": _call("fabs"),
    "Floor": _call("floor"),
    "Ceil": _call("ceil"),
    # Halves to even in the default rounding mode, as ONNX asks.
    "Round": _call("nearbyint"),
    "Sin": _call("sin"),
    "Cos": _call("cos"),
    "Reciprocal": lambda f, x: f"(1 / {x})",
    "Sigmoid": _helper("sigmoid"),
    "Softplus": _helper("softplus"),
    "Relu": _helper("relu"),
}

# Activations with settings: the attributes of the operator, with ONNX's defaults, after the operand.
SETTINGS: dict[str, tuple[str, dict[str, float]]] = {
    "Elu": ("elu", {"alpha": 1.0}),
    "LeakyRelu": ("leaky_relu", {"alpha": 0.01}),
    "Selu": ("selu", {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805}),
    "HardSigmoid": ("hard_sigmoid", {"alpha": 0.2, "beta": 0.5}),
}

# Bodies of the helpers, for float; written only where they are used.
HELPERS = {
    # NaN of the first operand stays, so that a broken sensor does not end as an action at its bound.
    "larger": "static inline float larger(float x, float y) { return x < y ? y : x; }",
    "smaller": "static inline float smaller(float x, float y) { return x > y ? y : x; }",
    "either": """\
/* c ? x : y without a branch */
static inline float either(int c, float x, float y) {
    const uint32_t mask = 0u - (uint32_t)(c != 0);
    uint32_t of_x, of_y;
    memcpy(&of_x, &x, sizeof of_x);
    memcpy(&of_y, &y, sizeof of_y);
    of_x = (of_x & mask) | (of_y & ~mask);
    memcpy(&x, &of_x, sizeof x);
    return x;
}""",
    # Bits bound x, and choose below: gcc 12 keeps loops with comparisons to constants scalar, 1.4x a minGRU.
    "exponential": """\
/* exp(x) to 1e-6 of its value for |x| <= 60, to which others are bounded; NaN stays. 2^f is a polynomial, the whole
   part of the exponent goes into the bits. No calls and no branches: loops become vector code. */
static inline float exponential(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const int32_t size = (int32_t)(bits & 0x7fffffffu), nan = -(size > 0x7f800000);
    bits = (bits & 0x80000000u) | (uint32_t)((size < 0x42700000 ? size : 0x42700000) | nan); /* 60 at most */
    memcpy(&x, &bits, sizeof x);
    const float power = x * 1.44269504f, shifted = power + 12582912.0f, f = power - (shifted - 12582912.0f);
    const float value = 1.0f + f * (0.693147206f + f * (0.240226469f + f * (0.0555032878f + f * (0.00961848896f
        + f * (0.00133999314f + f * 0.000153458118f)))));
    memcpy(&bits, &shifted, sizeof bits); /* its last bits are the whole part of power */
    bits = (bits + 127u) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return value * scale;
}""",
    "sigmoid": "static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }",
    "tangent": "static inline float tangent(float x) { return 1.0f - 2.0f / (1.0f + exponential(2.0f * x)); }",
    "share": """\
/* sigmoid(i) / (sigmoid(f) + sigmoid(i)); where both are closed, only their ratio counts. */
static inline float share(float i, float f) {
    const float least = smaller(i, f), excess = larger(least, -40.0f) - least;
    const float of_f = 1.0f + exponential(-f - excess), of_i = 1.0f + exponential(-i - excess);
    return of_f / (of_f + of_i);
}""",
    "softplus": "static inline float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }",
    "relu": "static inline float relu(float x) { return x < 0.0f ? 0.0f : x; }",
    "elu": "static inline float elu(float x, float a) { return x > 0.0f ? x : a * expm1f(x); }",
    "leaky_relu": "static inline float leaky_relu(float x, float a) { return x > 0.0f ? x : a * x; }",
    "selu": "static inline float selu(float x, float a, float g) { return g * (x > 0.0f ? x : a * expm1f(x)); }",
    "hard_sigmoid": """\
static inline float hard_sigmoid(float x, float a, float b) {
    const float y = a * x + b;
    return y < 0.0f ? 0.0f : y > 1.0f ? 1.0f : y;
}""",
    "larger_double": "static inline double larger_double(double x, double y) { return x < y ? y : x; }",
    "smaller_double": "static inline double smaller_double(double x, double y) { return x > y ? y : x; }",
    "larger_int": "static inline int larger_int(int x, int y) { return x < y ? y : x; }",
    "smaller_int": "static inline int smaller_int(int x, int y) { return x > y ? y : x; }",
    # Four inputs at a time, so that a sum is loaded and stored a fourth as often: 1.3x faster than one, and 6.5x than
    # sums of 16 rows in registers, which gcc 12 does not turn into vector code.
    "linear": """\
/* y = W x + b; w holds the columns of W one after another. */
static void linear(const float *restrict x, const float *restrict w, const float *restrict b, float *restrict y,
                   int in, int out) {
    int i = 0;
    for (int j = 0; j < out; j++) y[j] = b[j];
    for (; i + 4 <= in; i += 4, w += 4 * out) {
        const float *w1 = w + out, *w2 = w1 + out, *w3 = w2 + out;
        for (int j = 0; j < out; j++)
            y[j] += (x[i] * w[j] + x[i + 1] * w1[j]) + (x[i + 2] * w2[j] + x[i + 3] * w3[j]);
    }
    for (; i < in; i++, w += out)
        for (int j = 0; j < out; j++) y[j] += x[i] * w[j];
}""",
    # Four sums each, as a sum waits for the one before: 0.07 us less for 64 elements.
    "layer_norm": """\
static void layer_norm(const float *x, const float *scale, const float *bias, float *y, int rows, int n,
                       float epsilon) {
    for (int r = 0; r < rows; r++, x += n, y += n) {
        float a = 0.0f, b = 0.0f, c = 0.0f, d = 0.0f, mean;
        int i = 0;
        for (; i + 4 <= n; i += 4) a += x[i], b += x[i + 1], c += x[i + 2], d += x[i + 3];
        for (; i < n; i++) a += x[i];
        mean = ((a + b) + (c + d)) / (float)n;
        for (i = 0; i < n; i++) y[i] = x[i] - mean;
        a = b = c = d = 0.0f;
        for (i = 0; i + 4 <= n; i += 4) {
            a += y[i] * y[i], b += y[i + 1] * y[i + 1], c += y[i + 2] * y[i + 2], d += y[i + 3] * y[i + 3];
        }
        for (; i < n; i++) a += y[i] * y[i];
        const float inverse = 1.0f / sqrtf(((a + b) + (c + d)) / (float)n + epsilon);
        for (i = 0; i < n; i++) y[i] = y[i] * inverse * scale[i] + bias[i];
    }
}""",
    "argmax": """\
static int argmax(const float *x, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}""",
    "log_sum_exp": """\
static void log_sum_exp(const float *x, float *y, int rows, int n) {
    for (int r = 0; r < rows; r++, x += n) {
        float largest = x[0], sum = 0.0f;
        for (int i = 1; i < n; i++) if (x[i] > largest) largest = x[i];
        for (int i = 0; i < n; i++) sum += expf(x[i] - largest);
        y[r] = largest + logf(sum);
    }
}""",
    "softmax": """\
static void softmax(const float *x, float *y, int rows, int n) {
    for (int r = 0; r < rows; r++, x += n, y += n) {
        float largest = x[0], sum = 0.0f;
        for (int i = 1; i < n; i++) if (x[i] > largest) largest = x[i];
        for (int i = 0; i < n; i++) sum += (y[i] = expf(x[i] - largest));
        for (int i = 0; i < n; i++) y[i] /= sum;
    }
}""",
}


def c_type(example: Any) -> str:
    """Return the C type of a tensor's elements."""
    return TYPES.get(str(np.asarray(example).dtype), "int")


def number(value: Any) -> str:
    """Return a number as a C constant that is read back to the bit."""
    kind = np.asarray(value).dtype
    if kind == np.bool_ or np.issubdtype(kind, np.integer):
        return str(int(np.clip(int(value), -(2**31) + 1, 2**31 - 1)))
    suffix, digits = ("f", 9) if kind == np.float32 else ("", 17)
    if not np.isfinite(value):
        return "NAN" if np.isnan(value) else "INFINITY" if value > 0 else "-INFINITY"
    text = f"{float(value):.{digits}g}"
    return (text if any(c in text for c in ".e") else text + ".0") + suffix


def extreme(name: str, kind: str, operands: Sequence[str]) -> str:
    """Return the largest or smallest of several expressions: `name` is "larger" or "smaller"."""
    function = name if kind == "float" else f"{name}_{'double' if kind == 'double' else 'int'}"
    found = operands[0]
    for operand in operands[1:]:
        found = f"{function}({found}, {operand})"
    return found
