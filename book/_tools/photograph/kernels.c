// The arithmetic of EfficientNet-Lite0 in the page, in WebAssembly with SIMD: see kernels.py.
//
// Maps are stored pixel by pixel, all channels of a pixel side by side, so that four channels are
// one vector. Channels are multiples of eight, those of depthwise convolutions of sixteen. Only
// the picture, which has three, is stored channel by channel.
//
// A convolution runs forwards or `transposed`, which sends a signal from its outputs back to its
// inputs. What a weight w makes of a value x depends on the kind of pass: the rules of relevance
// propagation need sums of some contributions only.

#include <wasm_simd128.h>

#define EXPORT(name) __attribute__((export_name(#name))) void name
#define INLINE static inline __attribute__((always_inline))

enum { PLAIN, ABSOLUTE, AGREEING, POSITIVE }; // w x, |w| x, max(w x, 0), max(w, 0) x
enum { CHANNELS = 8, ROWS = 6, BLOCK = 48, DEEP = 16, COLOURS = 3, STEM = 32, LARGEST = 5 };

static const float CEILING = 6;

INLINE v128_t term(int kind, v128_t w, v128_t x) {
  const v128_t zero = wasm_f32x4_splat(0);
  if (kind == ABSOLUTE) w = wasm_f32x4_abs(w);
  if (kind == POSITIVE) w = wasm_f32x4_pmax(zero, w);
  const v128_t product = wasm_f32x4_mul(w, x);
  return kind == AGREEING ? wasm_f32x4_pmax(zero, product) : product;
}

/** Where four sums start: at the bias, as far as it takes part, or at 0. */
INLINE v128_t start(int kind, const float *bias, int channel) {
  if (!bias) return wasm_f32x4_splat(0);
  const v128_t b = wasm_v128_load(bias + channel);
  return kind == PLAIN ? b : wasm_f32x4_pmax(wasm_f32x4_splat(0), b);
}

/** Store four sums, between 0 and 6 if they are `clamped`. */
INLINE void store(float *y, v128_t sum, int clamped) {
  if (clamped) {
    sum = wasm_f32x4_pmax(wasm_f32x4_splat(0), sum);
    sum = wasm_f32x4_pmin(wasm_f32x4_splat(CEILING), sum);
  }
  wasm_v128_store(y, sum);
}

// ------------------------------------------------------------------------------ 1x1 convolutions
//
// A product of matrices. The weight lies in panels of eight outputs, (outputs / 8, inputs, 8), so
// that it is read from one end to the other.

typedef struct {
  float *y;
  const float *x, *panel, *bias;
  int from, to, kind, clamped;
} Pointwise;

/** Eight outputs of some pixels at once: their sums stay in registers. */
INLINE void tile(Pointwise p, int kind, int rows, int pixel, int output) {
  v128_t sums[ROWS][2];
  const float *x = p.x + pixel * p.from;
  for (int r = 0; r < rows; r++) {
    sums[r][0] = start(kind, p.bias, output);
    sums[r][1] = start(kind, p.bias, output + 4);
  }
  for (int k = 0; k < p.from; k++) {
    const v128_t w0 = wasm_v128_load(p.panel + k * CHANNELS);
    const v128_t w1 = wasm_v128_load(p.panel + k * CHANNELS + 4);
#pragma clang loop unroll(full)
    for (int r = 0; r < rows; r++) {
      const v128_t value = wasm_v128_load32_splat(x + r * p.from + k);
      sums[r][0] = wasm_f32x4_add(sums[r][0], term(kind, w0, value));
      sums[r][1] = wasm_f32x4_add(sums[r][1], term(kind, w1, value));
    }
  }
  for (int r = 0; r < rows; r++) {
    float *y = p.y + (pixel + r) * p.to + output;
    store(y, sums[r][0], p.clamped);
    store(y + 4, sums[r][1], p.clamped);
  }
}

INLINE void tiles(Pointwise p, int kind, int first, int end, int output) {
  int pixel = first;
  for (; pixel + ROWS <= end; pixel += ROWS) tile(p, kind, ROWS, pixel, output);
  for (; pixel < end; pixel++) tile(p, kind, 1, pixel, output);
}

EXPORT(pointwise)(float *y, const float *x, const float *panels, const float *bias, int pixels,
                  int from, int to, int kind, int clamped) {
  for (int first = 0; first < pixels; first += BLOCK) { // a block of pixels stays in the cache
    const int end = first + BLOCK < pixels ? first + BLOCK : pixels;
    for (int output = 0; output < to; output += CHANNELS) {
      const Pointwise p = {y, x, panels + output * from, bias, from, to, kind, clamped};
      if (kind == ABSOLUTE) {
        tiles(p, ABSOLUTE, first, end, output);
      } else if (kind == AGREEING) {
        tiles(p, AGREEING, first, end, output);
      } else {
        tiles(p, PLAIN, first, end, output);
      }
    }
  }
}

// ---------------------------------------------------------------- convolutions with larger kernels

/** Along one side: which taps of the kernel a place is connected by, and with which places. */
typedef struct {
  int count, tap[LARGEST], place[LARGEST];
} Taps;

typedef struct {
  int kernel, stride, padding, transposed;
} Geometry;

INLINE Taps taps_of(Geometry g, int place, int length) {
  Taps found = {0};
  for (int tap = 0; tap < g.kernel; tap++) {
    const int outer = place + g.padding - tap;
    const int other = g.transposed ? outer / g.stride : place * g.stride - g.padding + tap;
    const int connected = !g.transposed || (outer >= 0 && outer % g.stride == 0);
    if (connected && other >= 0 && other < length) {
      found.tap[found.count] = tap;
      found.place[found.count++] = other;
    }
  }
  return found;
}

/** Sixteen channels of one pixel; the weight is (rows, columns, channels). */
INLINE void deep_pixel(float *y, const float *x, const float *weight, const float *bias, int kind,
                       int clamped, int kernel, int side, int channels, const Taps *rows,
                       const Taps *columns) {
  for (int c = 0; c < channels; c += DEEP) {
    v128_t sums[4];
    for (int v = 0; v < 4; v++) sums[v] = start(kind, bias, c + 4 * v);
    for (int i = 0; i < rows->count; i++) {
      for (int j = 0; j < columns->count; j++) {
        const float *w = weight + (rows->tap[i] * kernel + columns->tap[j]) * channels + c;
        const float *a = x + (rows->place[i] * side + columns->place[j]) * channels + c;
        for (int v = 0; v < 4; v++) {
          const v128_t product = term(kind, wasm_v128_load(w + 4 * v), wasm_v128_load(a + 4 * v));
          sums[v] = wasm_f32x4_add(sums[v], product);
        }
      }
    }
    for (int v = 0; v < 4; v++) store(y + c + 4 * v, sums[v], clamped);
  }
}

/** From maps of `source` x `source` pixels to maps of `side` x `side`. */
EXPORT(depthwise)(float *y, const float *x, const float *weight, const float *bias, int source,
                  int side, int channels, int kernel, int stride, int padding, int transposed,
                  int kind, int clamped) {
  const Geometry g = {kernel, stride, padding, transposed};
  for (int row = 0; row < side; row++) {
    const Taps rows = taps_of(g, row, source);
    for (int column = 0; column < side; column++, y += channels) {
      const Taps columns = taps_of(g, column, source);
      if (kind == POSITIVE) {
        deep_pixel(y, x, weight, bias, POSITIVE, clamped, kernel, source, channels, &rows,
                   &columns);
      } else {
        deep_pixel(y, x, weight, bias, PLAIN, clamped, kernel, source, channels, &rows, &columns);
      }
    }
  }
}

/** The first convolution, of the picture; the weight is (rows, columns, colours, 32). */
INLINE void stem_pixel(float *y, const float *x, const float *weight, const float *bias, int kind,
                       int clamped, Geometry g, int side, const Taps *rows, const Taps *columns) {
  v128_t sums[STEM / 4];
  for (int v = 0; v < STEM / 4; v++) sums[v] = start(kind, bias, 4 * v);
  for (int i = 0; i < rows->count; i++) {
    for (int j = 0; j < columns->count; j++) {
      const float *w = weight + (rows->tap[i] * g.kernel + columns->tap[j]) * COLOURS * STEM;
      const float *a = x + rows->place[i] * side + columns->place[j];
      for (int colour = 0; colour < COLOURS; colour++, w += STEM, a += side * side) {
        const v128_t value = wasm_v128_load32_splat(a);
        for (int v = 0; v < STEM / 4; v++) {
          sums[v] = wasm_f32x4_add(sums[v], term(kind, wasm_v128_load(w + 4 * v), value));
        }
      }
    }
  }
  for (int v = 0; v < STEM / 4; v++) store(y + 4 * v, sums[v], clamped);
}

EXPORT(stem)(float *y, const float *x, const float *weight, const float *bias, int source,
             int side, int kernel, int stride, int padding, int kind, int clamped) {
  const Geometry g = {kernel, stride, padding, 0};
  for (int row = 0; row < side; row++) {
    const Taps rows = taps_of(g, row, source);
    for (int column = 0; column < side; column++, y += STEM) {
      const Taps columns = taps_of(g, column, source);
      if (kind == AGREEING) {
        stem_pixel(y, x, weight, bias, AGREEING, clamped, g, source, &rows, &columns);
      } else {
        stem_pixel(y, x, weight, bias, PLAIN, clamped, g, source, &rows, &columns);
      }
    }
  }
}

INLINE float sum_of(v128_t v) {
  return wasm_f32x4_extract_lane(v, 0) + wasm_f32x4_extract_lane(v, 1) +
         wasm_f32x4_extract_lane(v, 2) + wasm_f32x4_extract_lane(v, 3);
}

/** What a signal over 32 maps makes of one pixel of one colour. */
INLINE float stem_back(const float *signal, const float *weight, int kind, int kernel, int side,
                       const Taps *rows, const Taps *columns) {
  v128_t sum = wasm_f32x4_splat(0);
  for (int i = 0; i < rows->count; i++) {
    for (int j = 0; j < columns->count; j++) {
      const float *w = weight + (rows->tap[i] * kernel + columns->tap[j]) * COLOURS * STEM;
      const float *s = signal + (rows->place[i] * side + columns->place[j]) * STEM;
      for (int c = 0; c < STEM; c += 4) {
        sum = wasm_f32x4_add(sum, term(kind, wasm_v128_load(w + c), wasm_v128_load(s + c)));
      }
    }
  }
  return sum_of(sum);
}

EXPORT(stem_transposed)(float *y, const float *signal, const float *weight, int source, int side,
                        int kernel, int stride, int padding, int kind) {
  const Geometry g = {kernel, stride, padding, 1};
  for (int row = 0; row < side; row++) {
    const Taps rows = taps_of(g, row, source);
    for (int column = 0; column < side; column++) {
      const Taps columns = taps_of(g, column, source);
      for (int colour = 0; colour < COLOURS; colour++) {
        const float *w = weight + colour * STEM;
        y[(colour * side + row) * side + column] =
            kind == ABSOLUTE ? stem_back(signal, w, ABSOLUTE, kernel, source, &rows, &columns)
                             : stem_back(signal, w, PLAIN, kernel, source, &rows, &columns);
      }
    }
  }
}

// ------------------------------------------------------------------------------ number by number

EXPORT(add)(float *restrict y, const float *restrict x, int n) {
  for (int i = 0; i < n; i++) y[i] += x[i];
}

EXPORT(multiply)(float *restrict y, const float *restrict x, int n) {
  for (int i = 0; i < n; i++) y[i] *= x[i];
}

/** Stop the signal where the value was cut off at 0 or 6. */
EXPORT(gate)(float *restrict signal, const float *restrict value, int n) {
  for (int i = 0; i < n; i++) {
    signal[i] = value[i] > 0 && value[i] < CEILING ? signal[i] : 0;
  }
}

/** Relevance per unit of what it is shared among; none where there is nothing. */
INLINE float share(float relevance, float total) {
  return total == 0 ? 0 : relevance / total;
}

/** Of outputs that are positive wherever relevance arrives: among what makes them so. */
EXPORT(shares)(float *restrict relevance, const float *restrict positive, int n) {
  for (int i = 0; i < n; i++) relevance[i] = share(relevance[i], positive[i]);
}

/** Of outputs of both signs: among what agrees with each; `sized` is the share times the sign. */
EXPORT(signed_shares)(float *restrict relevance, float *restrict sized,
                      const float *restrict positive, const float *restrict output, int n) {
  for (int i = 0; i < n; i++) {
    const float total = output[i] < 0 ? output[i] - positive[i] : positive[i];
    relevance[i] = share(relevance[i], total);
    sized[i] = output[i] < 0 ? -relevance[i] : relevance[i];
  }
}

/** The half sum: what agrees is left, as contributions and their sizes differ in sign elsewhere. */
EXPORT(agreeing)(float *restrict back, const float *restrict back_of_sizes,
                 const float *restrict value, int n) {
  for (int i = 0; i < n; i++) {
    const float size = value[i] < 0 ? -value[i] : value[i];
    back[i] = (back[i] * value[i] + back_of_sizes[i] * size) / 2;
  }
}

/** At an addition relevance goes to the terms that agree with their sum. */
EXPORT(split)(float *restrict relevance, float *restrict other, const float *restrict value,
              const float *restrict other_value, int n) {
  for (int i = 0; i < n; i++) {
    const float a = value[i], b = other_value[i];
    const float sign = a + b < 0 ? -1 : 1;
    const float own = a * sign > 0 ? a : 0, its = b * sign > 0 ? b : 0;
    const float unit = share(relevance[i], own + its);
    relevance[i] = own * unit;
    other[i] = its * unit;
  }
}
