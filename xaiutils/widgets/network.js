// A small network that runs in the page: forwards, backwards, and with relevance shared out.
//
// Python exports a chain of layers (_network.py). Arithmetic is in double precision; what is
// returned is in single precision. `unpack` comes from dom.js.

/**
 * @param {{layers: object[], input: number[]}} description from `export_network`
 * @returns a network; its records hold the output of every layer, that of the input first
 */
function loadNetwork({ layers, input }) {
  const shapes = [input, ...layers.map((layer) => layer.shape)];
  const steps = layers.map((layer, k) => makeStep(layer, shapes[k]));
  const sizes = shapes.map(product);

  const forward = (x) => {
    checkLength(x, sizes[0], `an input of shape ${input.join(" x ")}`);
    const record = [{ value: Float64Array.from(x) }];
    for (const step of steps) record.push(step.forward(record.at(-1).value));
    return { output: Float32Array.from(record.at(-1).value), record };
  };

  /** Pass a signal from the output back to the output of layer `until`; 0 is the input. */
  const pull = (record, signal, until, name, rule) => {
    checkLength(signal, sizes.at(-1), "a signal for each output");
    for (let k = steps.length; k > until; k -= 1) {
      signal = steps[k - 1][name](signal, record[k - 1], record[k], rule, k);
    }
    return Float32Array.from(signal);
  };

  /** The derivative of an output, or of [own, rival], the one output less the other. */
  const signalOf = (target) => {
    const signal = new Float64Array(sizes.at(-1));
    for (const [k, output] of [target].flat().entries()) {
      if (!(Number.isInteger(output) && output >= 0 && output < sizes.at(-1))) {
        throw new RangeError(`target must be from 0 to ${sizes.at(-1) - 1}, not ${output}`);
      }
      signal[output] = k === 0 ? 1 : -1;
    }
    return signal;
  };

  return {
    layers,
    shapes,
    forward,
    /** The product of `signal` and the Jacobian of the output: at layer `until`, or the input. */
    backward: (record, signal, until = 0) => pull(record, signal, until, "backward"),
    /** The product of the Jacobian of the output and `direction`: how fast the output changes. */
    tangent: (record, direction) => {
      checkLength(direction, sizes[0], "a direction for each input");
      const through = (change, step, k) => step.tangent(change, record[k], record[k + 1]);
      return Float32Array.from(steps.reduce(through, Float64Array.from(direction)));
    },
    gradient: (record, target) => pull(record, signalOf(target), 0, "backward"),
    /** DeepLIFT's multipliers, by the rescale rule, between the records of an input and a blank. */
    multipliers: (record, blank, target) => pull(record, signalOf(target), 0, "rescaled", blank),
    /** Relevance of each input for the target: "epsilon", "z_plus" or "alpha2_beta1". */
    lrp: (record, target, rule) => {
      if (!Object.hasOwn(COMPOSITES, rule)) throw new RangeError(`no rule is named ${rule}`);
      const start = signalOf(target).map((signal, k) => signal * record.at(-1).value[k]);
      return pull(record, start, 0, "relevance", COMPOSITES[rule]);
    },
  };
}

/** Probabilities of the classes; the largest logit is taken off first, so that none overflows. */
function softmax(logits) {
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const powers = Float64Array.from(logits, (logit) => Math.exp(logit - largest));
  const total = powers.reduce((a, b) => a + b);
  return Float32Array.from(powers, (power) => power / total);
}

function checkLength(values, length, what) {
  if (values.length !== length) {
    throw new RangeError(`expected ${what}: ${length} numbers, not ${values.length}`);
  }
}

function product(numbers) {
  return numbers.reduce((a, b) => a * b, 1);
}

// ------------------------------------------------------------------------- the kinds of layers
//
// A step runs forwards, and passes signals back (`backward`), changes on (`tangent`) and relevance
// back (`relevance`), given the records of its input and its output. `rescaled` passes a signal
// back by the quotients of differences from a blank, given the records of both runs, and the place
// of the step.

const GATES = {
  relu: () => ({ value: (x) => Math.max(x, 0), slope: (y) => (y > 0 ? 1 : 0) }),
  clamp: ({ low, high }) => {
    const [least, most] = [low ?? -Infinity, high ?? Infinity];
    return {
      value: (x) => Math.min(Math.max(x, least), most),
      slope: (y) => (y > least && y < most ? 1 : 0),
    };
  },
  leaky_relu: ({ slope }) => ({
    value: (x) => (x > 0 ? x : slope * x),
    slope: (y) => (y > 0 ? 1 : slope),
  }),
};

function makeStep(layer, from) {
  if (layer.kind === "reshape") return COPY;
  if (layer.kind === "max_pool2d") return maxPoolStep(layer, from);
  if (Object.hasOwn(GATES, layer.kind)) return gateStep(GATES[layer.kind](layer));
  if (Object.hasOwn(SLIDING, layer.kind)) return weightedStep(layer, from);
  throw new RangeError(`this script knows no layer of the kind ${layer.kind}`);
}

/** Flat numbers have no shape of their own, so reshaping them leaves them as they are. */
const COPY = {
  forward: (x) => ({ value: x }),
  backward: (signal) => signal,
  tangent: (change) => change,
  relevance: (relevance) => relevance,
  rescaled: (signal) => signal,
};

function gateStep({ value, slope }) {
  const scaled = (signal, _, { value: output }) => signal.map((s, k) => s * slope(output[k]));
  return {
    forward: (x) => ({ value: x.map(value) }),
    backward: scaled,
    tangent: scaled,
    relevance: (relevance) => relevance,
    rescaled: (signal, { value: x }, { value: y }, blank, k) =>
      signal.map((s, i) => {
        const change = x[i] - blank[k - 1].value[i];
        return s * (change === 0 ? slope(y[i]) : (y[i] - blank[k].value[i]) / change);
      }),
  };
}

/** Signals and relevance go to the winner of each window, which is the first one in a tie. */
function maxPoolStep(layer, from) {
  const toWinners = (signal, { value: input }, { winners }) => {
    const result = new Float64Array(input.length);
    signal.forEach((s, k) => (result[winners[k]] += s));
    return result;
  };
  return {
    forward: (x) => {
      const winners = findWinners(layer, from, x);
      return { value: Float64Array.from(winners, (place) => x[place]), winners };
    },
    backward: toWinners,
    tangent: (change, _, { winners }) => Float64Array.from(winners, (place) => change[place]),
    relevance: toWinners,
    rescaled: maximaRescaled,
  };
}

/** Where a maximum has grown, to its winner; where it has fallen, to the winner in the blank. */
function maximaRescaled(signal, { value: x }, { value: y, winners }, blank, k) {
  const [{ value: before }, { value: maxima, winners: others }] = [blank[k - 1], blank[k]];
  const result = new Float64Array(x.length);
  signal.forEach((s, i) => {
    const rise = y[i] - maxima[i];
    const winner = rise >= 0 ? winners[i] : others[i];
    const change = x[winner] - before[winner];
    result[winner] += s * (change === 0 ? 1 : rise / change);
  });
  return result;
}

function findWinners(layer, [, height, width], x) {
  const [channels, rows, columns] = layer.shape;
  const winners = new Int32Array(channels * rows * columns);
  for (let out = 0; out < winners.length; out += 1) {
    const channel = Math.floor(out / (rows * columns));
    const top = (Math.floor(out / columns) % rows) * layer.stride[0] - layer.padding[0];
    const left = (out % columns) * layer.stride[1] - layer.padding[1];
    let best = -1;
    for (let i = 0; i < layer.kernel[0]; i += 1) {
      const row = top + i * layer.dilation[0];
      if (row < 0 || row >= height) continue;
      for (let j = 0; j < layer.kernel[1]; j += 1) {
        const column = left + j * layer.dilation[1];
        const place = (channel * height + row) * width + column;
        if (column >= 0 && column < width && (best < 0 || x[place] > x[best])) best = place;
      }
    }
    winners[out] = best;
  }
  return winners;
}

// ------------------------------------------------------------------------------ weighted layers
//
// Each is a convolution or one the other way round. It connects two stacks of maps: `outer`, over
// which the windows slide, and `inner`, which has one place for each window. The weight has the
// shape (inner channels, outer channels of one group, rows, columns), as in PyTorch.

const SLIDING = {
  conv2d: (layer, from) => ({
    ...layer, outer: from, inner: layer.shape, weight: unpack(layer.weight),
    kernel: layer.weight.shape.slice(2),
  }),
  conv_transpose2d: (layer, from) => ({
    ...SLIDING.conv2d(layer, from), outer: layer.shape, inner: from, transposed: true,
  }),
  linear: (layer, from) => ({
    ...asMaps(layer, from), weight: unpack(layer.weight), groups: 1, kernel: [1, 1],
  }),
  affine: (layer, from) => ({
    ...asMaps(layer, from), weight: unpack(layer.weight), groups: from[0], kernel: [1, 1],
  }),
  avg_pool2d: (layer, from) => ({
    ...layer, outer: from, inner: maps(layer.shape), groups: from[0], dilation: [1, 1],
    weight: new Float32Array(from[0] * product(layer.kernel)).fill(1 / layer.divisor),
  }),
  upsample: (layer, from) => ({
    ...layer, outer: layer.shape, inner: from, groups: from[0], transposed: true,
    kernel: layer.factor, stride: layer.factor, padding: [0, 0], dilation: [1, 1],
    weight: new Float32Array(from[0] * product(layer.factor)).fill(1),
  }),
};

/** Numbers that have no place are maps of one pixel. */
function maps(shape) {
  return [...shape, 1, 1].slice(0, 3);
}

/** A layer that mixes channels, place by place. */
function asMaps(layer, from) {
  return {
    ...layer, outer: maps(from), inner: maps(layer.shape),
    stride: [1, 1], padding: [0, 0], dilation: [1, 1],
  };
}

function weightedStep(layer, from) {
  const sliding = SLIDING[layer.kind](layer, from);
  const [sum, spread] = sliding.transposed ? [spreadOut, sumUp] : [sumUp, spreadOut];
  const linear = {
    kind: layer.kind,
    weight: sliding.weight,
    get absolute() {
      return (sliding.absolute ??= sliding.weight.map(Math.abs)); // only relevance needs it
    },
    bias: layer.bias ? unpack(layer.bias) : null,
    along: (x, weight) => sum(sliding, x, weight),
    against: (signal, weight) => spread(sliding, signal, weight),
  };
  return {
    forward: (x) => ({ value: withBias(linear.along(x, linear.weight), linear.bias) }),
    backward: (signal) => linear.against(signal, linear.weight),
    tangent: (change) => linear.along(change, linear.weight),
    rescaled: (signal) => linear.against(signal, linear.weight),
    relevance: (relevance, { value: input }, { value: output }, rule) =>
      rule({ linear, input, output, relevance }),
  };
}

/** Add a number to all of each channel, in place. */
function withBias(values, bias) {
  if (!bias) return values;
  const pixels = values.length / bias.length;
  bias.forEach((b, channel) => {
    for (let k = channel * pixels; k < (channel + 1) * pixels; k += 1) values[k] += b;
  });
  return values;
}

function sumUp(sliding, outer, weight) {
  const inner = new Float64Array(product(sliding.inner));
  slide(sliding, weight, inner, outer, true);
  return inner;
}

function spreadOut(sliding, inner, weight) {
  const outer = new Float64Array(product(sliding.outer));
  slide(sliding, weight, inner, outer, false);
  return outer;
}

/** Add what is seen through each window to its inner place (`up`), or the other way round. */
function slide({ inner, outer, groups, kernel, ...sides }, weight, inners, outers, up) {
  const places = product(kernel);
  const perGroup = outer[0] / groups;
  const [channels, height, width] = inner;
  const [, outerHeight, outerWidth] = outer;
  const [rowStride, step] = sides.stride;
  for (let place = 0; place < places; place += 1) {
    const rows = reach(sides, 0, Math.floor(place / kernel[1]), height, outerHeight);
    const columns = reach(sides, 1, place % kernel[1], width, outerWidth);
    const count = columns.end - columns.start;
    const outerStart = columns.start * step + columns.offset;
    for (let channel = 0; channel < channels; channel += 1) {
      const first = Math.floor((channel * groups) / channels) * perGroup;
      for (let other = 0; other < perGroup; other += 1) {
        const factor = weight[(channel * perGroup + other) * places + place];
        for (let row = rows.start; row < rows.end; row += 1) {
          const seen = (first + other) * outerHeight + row * rowStride + rows.offset;
          const i = (channel * height + row) * width + columns.start;
          const o = seen * outerWidth + outerStart;
          if (up) {
            for (let k = 0; k < count; k += 1) inners[i + k] += factor * outers[o + k * step];
          } else {
            for (let k = 0; k < count; k += 1) outers[o + k * step] += factor * inners[i + k];
          }
        }
      }
    }
  }
}

/** Along one side: which windows see something at a place of the kernel, and how far off it is. */
function reach({ stride, padding, dilation }, side, place, windows, length) {
  const offset = place * dilation[side] - padding[side];
  const start = Math.max(0, Math.ceil(-offset / stride[side]));
  const end = Math.min(windows, Math.floor((length - 1 - offset) / stride[side]) + 1);
  return { offset, start, end };
}

// ------------------------------------------------------------------------------------ relevance
//
// The rules of xaiutils.attribution, biases absorbing their shares. A contribution is z = w a; it
// agrees with an output if it has its sign, and opposes it otherwise. One pass with w and a, and
// one with their absolute values, give the sums and the shares of both kinds.

const EPSILON = 1e-6;
const EMPTY = 64 * 2 ** -23; // of the sum of the sizes: less than single precision can resolve

const WEIGHTED = ["conv2d", "conv_transpose2d", "linear"];

const COMPOSITES = {
  epsilon: epsilonRule,
  z_plus: zPlusRule,
  alpha2_beta1: (step) => (WEIGHTED.includes(step.linear.kind) ? alphaBetaRule : zPlusRule)(step),
};

/** In proportion to the contributions: z / (sum + EPSILON sign(sum)). */
function epsilonRule({ linear, input, output, relevance }) {
  const signal = output.map((sum, j) => share(relevance[j], sum + EPSILON * signOf(sum)));
  const parts = linear.against(signal, linear.weight);
  return parts.map((part, i) => part * input[i]);
}

/** Among the contributions that agree with the output. */
function zPlusRule(step) {
  const sizes = sumOfSizes(step);
  const agreeing = step.output.map((sum, j) => (sum + signOf(sum) * sizes[j]) / 2);
  const signal = agreeing.map((sum, j) => share(step.relevance[j], sum));
  const positive = signal.map((s, j) => (step.output[j] < 0 ? 0 : s));
  const negative = signal.map((s, j) => (step.output[j] < 0 ? -s : 0));
  return bySign(step, positive, negative);
}

/** Twice among those that agree, minus once among those that oppose. */
function alphaBetaRule(step) {
  const sizes = sumOfSizes(step);
  const part = (sum, relevance, size) => (sum <= EMPTY * size ? 0 : share(relevance, sum));
  const signals = [1, -1].map((sign) =>
    step.output.map((sum, j) => {
      const times = signOf(sum) === sign ? 2 : -1;
      return part((sizes[j] + sign * sum) / 2, times * step.relevance[j], sizes[j]);
    }),
  );
  return bySign(step, ...signals);
}

/** Sum of |z| at each output, the bias's included. */
function sumOfSizes({ linear, input }) {
  const sizes = linear.along(input.map(Math.abs), linear.absolute);
  return withBias(sizes, linear.bias?.map(Math.abs));
}

/** Every positive |z| times one signal of its output, every negative |z| times the other. */
function bySign({ linear, input }, positive, negative) {
  const half = positive.map((p, j) => (p - negative[j]) / 2);
  const other = positive.map((p, j) => (p + negative[j]) / 2);
  const signed = linear.against(half, linear.weight);
  const unsigned = linear.against(other, linear.absolute);
  return signed.map((part, i) => part * input[i] + unsigned[i] * Math.abs(input[i]));
}

/** Relevance per unit; at an output to which nothing contributed it is lost. */
function share(relevance, sum) {
  const quotient = Math.fround(relevance / sum);
  return Number.isFinite(quotient) ? quotient : 0;
}

function signOf(x) {
  return x < 0 ? -1 : 1;
}
