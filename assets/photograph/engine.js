// EfficientNet-Lite0 in the page: forwards, and backwards as the package does it.
//
// The kernels (book/_tools/photograph/kernels.c) do the arithmetic; the plan that export.py wrote
// says what follows what. All of it stands in one function without ties to the page, because the
// page hands its text to a worker (client.js).
//
// Maps are stored pixel by pixel, with the channels of a pixel side by side; the picture alone is
// stored colour by colour.

/* global WebAssembly */

function liteEngine() {
  "use strict";

  const [PLAIN, ABSOLUTE, AGREEING, POSITIVE] = [0, 1, 2, 3]; // kinds of terms, as in kernels.c
  const PANEL = 8; // outputs whose weights lie together, for the kernel of 1x1 convolutions
  const COLOURS = 3;
  const EPSILON = 1e-6; // the stabiliser of the package's rule
  const REGIONS = 8; // in a row, for occlusion
  const SLOTS = 5; // signals that are under way at once on the way back

  /**
   * @param {{wasm: Uint8Array, plan: object[], side: number, weights: Uint8Array}} parts
   * @returns a network for pictures of 3 * side * side numbers, colour by colour
   */
  async function createNetwork({ wasm, plan, side, weights }) {
    const { instance } = await WebAssembly.instantiate(wasm, {}).catch(() => {
      throw new Error("the network needs WebAssembly with SIMD, which this browser does not have");
    });
    const memory = makeMemory(instance.exports);
    const layers = makeLayers(plan, side, memory, makeReader(weights));
    const largest = Math.max(...layers.map((layer) => layer.size));
    const free = Array.from({ length: SLOTS }, () => memory.allocate(largest));
    const network = { kernels: instance.exports, memory, layers, free, side, current: false };
    return {
      logits: (pixels) => run(network, pixels).slice(),
      explain: (...question) => explain(network, ...question),
      occlusion: (...question) => occlusion(network, ...question),
    };
  }

  // ------------------------------------------------------------------------------------ memory

  /** Places for numbers in the memory of the kernels; they are never given back. */
  function makeMemory({ memory, __heap_base: base }) {
    let end = base.value;
    const floats = ({ at, length }) => new Float32Array(memory.buffer, at, length);
    const allocate = (length) => {
      const at = Math.ceil(end / 16) * 16;
      end = at + 4 * length;
      const missing = end - memory.buffer.byteLength;
      if (missing > 0) memory.grow(Math.ceil(missing / 65536));
      return { at, length };
    };
    const store = (values) => {
      const place = allocate(values.length);
      floats(place).set(values);
      return place;
    };
    return { allocate, floats, store };
  }

  /** Hands out the weights in the order in which they were written. */
  function makeReader(weights) {
    let at = 0;
    return (Type, length) => {
      const bytes = weights.slice(at, at + length * Type.BYTES_PER_ELEMENT);
      if (bytes.length < length * Type.BYTES_PER_ELEMENT) {
        throw new RangeError("the weights end before the network does; load the page again");
      }
      at += bytes.length;
      return new Type(bytes.buffer);
    };
  }

  // ------------------------------------------------------------------------------------ layers

  /** Layer 0 is the picture, layer i the i-th operation of the plan. */
  function makeLayers(plan, side, memory, read) {
    const layers = [];
    for (const step of [{ kind: "picture", inputs: [], channels: COLOURS, side }, ...plan]) {
      const layer = { ...step, sources: step.inputs.map((k) => layers[k]) };
      layer.pixels = layer.side ** 2;
      layer.size = layer.channels * layer.pixels;
      layer.value = memory.allocate(layer.size);
      if (Object.hasOwn(WEIGHTED, layer.kind)) {
        Object.assign(layer, WEIGHTED[layer.kind](layer, layer.sources[0], memory.store, read));
      }
      layers.push(layer);
    }
    return layers;
  }

  /** How each kind reads its weights, and what its kernels are called with. */
  const WEIGHTED = {
    stem(layer, source, store, read) {
      const { side, channels, kernel, stride, padding } = layer;
      const weight = store(halves(read(Uint16Array, kernel * kernel * COLOURS * channels)));
      const bias = store(read(Float32Array, channels));
      return {
        along: [source.value.at, weight.at, bias.at, source.side, side, kernel, stride, padding],
        back: "stem_transposed",
        against: [weight.at, side, source.side, kernel, stride, padding],
      };
    },
    depthwise(layer, source, store, read) {
      const { side, channels, kernel, stride, padding } = layer;
      const weight = store(halves(read(Uint16Array, kernel * kernel * channels)));
      const bias = store(read(Float32Array, channels));
      const window = [channels, kernel, stride, padding];
      return {
        along: [source.value.at, weight.at, bias.at, source.side, side, ...window, 0],
        back: "depthwise",
        against: [weight.at, 0, side, source.side, ...window, 1],
      };
    },
    pointwise(layer, source, store, read) {
      const [rows, columns] = [layer.channels, source.channels];
      const matrix = readMatrix(rows, columns, layer.bits, read);
      const bias = store(read(Float32Array, rows));
      const weight = store(panels(matrix, rows, columns, columns, 1));
      const transposed = store(panels(matrix, columns, rows, 1, columns));
      return {
        along: [source.value.at, weight.at, bias.at, layer.pixels, columns, rows],
        back: "pointwise",
        against: [transposed.at, 0, layer.pixels, rows, columns],
      };
    },
    linear(layer, source, store, read) {
      const [rows, columns] = [layer.channels, source.channels];
      const matrix = readMatrix(rows, columns, layer.bits, read);
      const bias = store(read(Float32Array, rows));
      const weight = store(panels(matrix, rows, columns, columns, 1));
      const row = (k) => Float64Array.from(matrix.subarray(k * columns, (k + 1) * columns));
      return { along: [source.value.at, weight.at, bias.at, 1, columns, rows], row, bias };
    },
  };

  /** Read a matrix, in eight bits with a scale for each row, or in half precision. */
  function readMatrix(rows, columns, bits, read) {
    if (bits === 16) return halves(read(Uint16Array, rows * columns));
    const matrix = Float32Array.from(read(Int8Array, rows * columns));
    read(Float32Array, rows).forEach((scale, row) => {
      const end = (row + 1) * columns;
      for (let k = row * columns; k < end; k += 1) matrix[k] *= scale;
    });
    return matrix;
  }

  /** Numbers in half precision: as bits of single precision their exponents are 112 too small. */
  function halves(bits) {
    const words = Uint32Array.from(bits);
    for (let k = 0; k < words.length; k += 1) {
      words[k] = ((words[k] & 0x8000) << 16) | ((words[k] & 0x7fff) << 13);
    }
    return new Float32Array(words.buffer).map((x) => x * 2 ** 112);
  }

  /** A matrix whose rows and columns lie so many steps apart, in panels: (rows / 8, columns, 8) */
  function panels(matrix, rows, columns, rowStep, columnStep) {
    const found = new Float32Array(rows * columns);
    for (let row = 0; row < rows; row += 1) {
      const start = (row - (row % PANEL)) * columns + (row % PANEL);
      for (let k = 0; k < columns; k += 1) {
        found[start + k * PANEL] = matrix[row * rowStep + k * columnStep];
      }
    }
    return found;
  }

  // ---------------------------------------------------------------------------------- forwards

  /** The logits. If this was the last picture nothing is computed again. */
  function run(network, pixels) {
    const { memory, layers } = network;
    const picture = memory.floats(layers[0].value);
    checkPixels(pixels, picture.length);
    if (!network.current || pixels.some((value, k) => value !== picture[k])) {
      picture.set(pixels);
      for (const layer of layers.slice(1)) forward(network, layer);
      Object.assign(network, { current: true, summed: false });
    }
    return memory.floats(layers.at(-1).value);
  }

  function checkPixels(pixels, length) {
    if (pixels?.length !== length) {
      throw new RangeError(`expected a prepared picture of ${length} numbers: see client.pixels`);
    }
    if (!pixels.every(Number.isFinite)) throw new RangeError("the picture holds NaN or infinity");
  }

  function forward({ kernels, memory }, layer) {
    const { kind, sources, value } = layer;
    if (kind === "add") {
      memory.floats(value).set(memory.floats(sources[0].value));
      kernels.add(value.at, sources[1].value.at, value.length);
    } else if (kind === "mean") {
      memory.floats(value).set(means(memory.floats(sources[0].value), layer.channels));
    } else {
      sum(kernels, layer, value, PLAIN);
    }
  }

  /** Let a weighted layer sum terms of a kind. */
  function sum(kernels, layer, place, kind) {
    const clamped = kind === PLAIN && layer.clamped;
    const kernel = layer.kind === "linear" ? "pointwise" : layer.kind;
    kernels[kernel](place.at, ...layer.along, kind, Number(clamped));
  }

  /** The mean of each channel over all pixels. */
  function means(maps, channels) {
    const found = new Float64Array(channels);
    maps.forEach((value, k) => (found[k % channels] += value));
    return found.map((total) => (total * channels) / maps.length);
  }

  // --------------------------------------------------------------------------------- backwards

  const METHODS = {
    gradient: (network, asked) => {
      const signal = spread(network, slopesOfMeans(network, asked));
      return onPicture(network, signal, passSlopes);
    },
    lrp_epsilon_plus: (network, asked) => relevance(network, asked, amongAll),
    lrp_z_plus: (network, asked) => relevance(network, asked, amongAgreeing),
    grad_cam: gradCam,
  };

  /**
   * A map of side * side numbers, of the picture for which `pixels` were prepared.
   *
   * @param {Record<number, number>} weights of the logits whose sum is explained
   */
  function explain(network, pixels, method, weights) {
    if (!Object.hasOwn(METHODS, method)) throw new RangeError(`no method is named ${method}`);
    const logits = run(network, pixels);
    return METHODS[method](network, checkedWeights(weights, logits.length));
  }

  /** Pairs of a class and its weight. */
  function checkedWeights(weights, classes) {
    const pairs = Object.entries(weights ?? {}).map(([k, weight]) => [Number(k), weight]);
    const right = ([k, weight]) =>
      Number.isInteger(k) && k >= 0 && k < classes && Number.isFinite(weight);
    if (!pairs.length || !pairs.every(right)) {
      throw new RangeError(`weights must be like {285: 1}, of classes from 0 to ${classes - 1}`);
    }
    return pairs;
  }

  /** The slope of the explained number at the mean of each of the last maps. */
  function slopesOfMeans({ layers }, asked) {
    const found = new Float64Array(layers.at(-2).channels);
    for (const [k, weight] of asked) {
      layers.at(-1).row(k).forEach((slope, channel) => (found[channel] += weight * slope));
    }
    return found;
  }

  const lastMaps = ({ layers }) => layers.at(-3); // before the mean and the classifier

  /** Numbers for the means of the last maps, as a signal: spread evenly over the pixels. */
  function spread(network, numbers) {
    const { memory, free } = network;
    const maps = lastMaps(network);
    const signal = free.pop();
    const values = memory.floats(signal);
    for (let k = 0; k < maps.size; k += 1) values[k] = numbers[k % maps.channels] / maps.pixels;
    return signal;
  }

  /**
   * Send a signal from the last maps to the picture, and add up what arrives at its colours.
   *
   * @param pass `(network, layer, signal)` gives the signals at the sources of a layer
   */
  function onPicture(network, start, pass) {
    const { layers, kernels, free, memory, side } = network;
    const arrived = new Map([[lastMaps(network), start]]);
    for (const layer of layers.slice(1, -2).reverse()) {
      pass(network, layer, arrived.get(layer)).forEach((part, k) => {
        const present = arrived.get(layer.sources[k]);
        if (present) kernels.add(present.at, part.at, layer.sources[k].size);
        if (present) free.push(part);
        else arrived.set(layer.sources[k], part);
      });
    }
    const found = memory.floats(arrived.get(layers[0]));
    const pixels = side * side;
    const map = new Float32Array(pixels);
    found.subarray(0, COLOURS * pixels).forEach((value, k) => (map[k % pixels] += value));
    free.push(arrived.get(layers[0]));
    return map;
  }

  function against({ kernels, free }, layer, signal, kind) {
    const found = free.pop();
    kernels[layer.back](found.at, signal.at, ...layer.against, kind, 0);
    return found;
  }

  function passSlopes(network, layer, signal) {
    const { kernels, memory, free } = network;
    if (layer.kind === "add") {
      const copy = free.pop();
      memory.floats(copy).set(memory.floats(signal).subarray(0, layer.size));
      return [signal, copy];
    }
    if (layer.clamped) kernels.gate(signal.at, layer.value.at, layer.size);
    const found = against(network, layer, signal, PLAIN);
    free.push(signal);
    return [found];
  }

  // --------------------------------------------------------------------------------- relevance
  //
  // The rule z+ of xaiutils.attribution: relevance goes to the contributions that agree in sign
  // with the output, the bias among them, which keeps its share. Behind a ReLU6 relevance only
  // arrives at positive outputs.

  function relevance(network, asked, rule) {
    sumAgreeing(network);
    const signal = spread(network, shareLogits(network, asked, rule));
    const maps = lastMaps(network);
    network.kernels.multiply(signal.at, maps.value.at, maps.size);
    return onPicture(network, signal, passRelevance);
  }

  /** Sum up the positive contributions to the outputs of all convolutions, once for a picture. */
  function sumAgreeing(network) {
    if (network.summed) return;
    for (const layer of network.layers.filter(({ against: weights }) => weights)) {
      layer.positive ??= network.memory.allocate(layer.size);
      sum(network.kernels, layer, layer.positive, layer.kind === "depthwise" ? POSITIVE : AGREEING);
    }
    network.summed = true;
  }

  /** The relevance of the mean of each of the last maps, in units of the mean. */
  function shareLogits({ layers, memory }, asked, rule) {
    const [inputs, logits] = layers.slice(-2).map(({ value }) => memory.floats(value));
    const { row, bias } = layers.at(-1);
    const found = new Float64Array(inputs.length);
    for (const [k, weight] of asked) {
      const shares = rule(row(k), inputs, memory.floats(bias)[k], logits[k]);
      shares.forEach((share, channel) => (found[channel] += weight * logits[k] * share));
    }
    return found;
  }

  const signOf = (x) => (x < 0 ? -1 : 1);

  /** Weights per unit of the logit: the rule epsilon. */
  const amongAll = (row, inputs, bias, logit) =>
    row.map((weight) => weight / (logit + EPSILON * signOf(logit)));

  /** The weights of contributions that agree with the logit, per unit of their sum: z+. */
  function amongAgreeing(row, inputs, bias, logit) {
    const sign = signOf(logit);
    const agreeing = row.map((weight, k) => (weight * inputs[k] * sign > 0 ? weight : 0));
    let total = bias * sign > 0 ? bias : 0;
    agreeing.forEach((weight, k) => (total += weight * inputs[k]));
    return agreeing.map((weight) => (total === 0 ? 0 : weight / total));
  }

  const passRelevance = (network, layer, signal) => SHARES[layer.kind](network, layer, signal);

  const SHARES = {
    add: split,
    depthwise: sharePositive,
    pointwise: shareSigned,
    stem: shareSigned,
  };

  function split({ kernels, free }, { sources: [first, second], size }, signal) {
    const other = free.pop();
    kernels.split(signal.at, other.at, first.value.at, second.value.at, size);
    return [signal, other];
  }

  /** Where inputs, which a ReLU6 puts out, and outputs are positive: by the sign of the weight. */
  function sharePositive(network, layer, signal) {
    const { kernels, free } = network;
    const [source] = layer.sources;
    kernels.shares(signal.at, layer.positive.at, layer.size);
    const found = against(network, layer, signal, POSITIVE);
    kernels.multiply(found.at, source.value.at, source.size);
    free.push(signal);
    return [found];
  }

  /** Whatever the signs: half the contributions and half their sizes, where these agree. */
  function shareSigned(network, layer, signal) {
    const { kernels, free } = network;
    const { sources: [source], value, positive, size, clamped } = layer;
    const sized = clamped ? signal : free.pop();
    if (clamped) kernels.shares(signal.at, positive.at, size);
    else kernels.signed_shares(signal.at, sized.at, positive.at, value.at, size);
    const found = against(network, layer, signal, PLAIN);
    const ofSizes = against(network, layer, sized, ABSOLUTE);
    kernels.agreeing(found.at, ofSizes.at, source.value.at, source.size);
    free.push(...new Set([signal, sized, ofSizes]));
    return [found];
  }

  // ---------------------------------------------------------------------- other ways to explain

  /** The last maps, weighted by the mean slope of each, where their sum is positive. */
  function gradCam(network, asked) {
    const { memory, side } = network;
    const maps = lastMaps(network);
    const slopes = slopesOfMeans(network, asked);
    const cam = new Float64Array(maps.pixels);
    memory.floats(maps.value).forEach((value, k) => {
      cam[Math.floor(k / maps.channels)] += (value * slopes[k % maps.channels]) / maps.pixels;
    });
    return enlarged(cam.map((value) => Math.max(value, 0)), maps.side, side);
  }

  /** A square map at another size, bilinearly. */
  function enlarged(map, from, side) {
    const places = Array.from({ length: side }, (_, k) => {
      const place = Math.max(0, ((k + 0.5) * from) / side - 0.5);
      const low = Math.floor(place);
      return { low, high: Math.min(low + 1, from - 1), share: place - low };
    });
    const across = (row, { low, high, share }) =>
      map[row * from + low] * (1 - share) + map[row * from + high] * share;
    return Float32Array.from({ length: side * side }, (_, k) => {
      const [row, column] = [places[Math.floor(k / side)], places[k % side]];
      return across(row.low, column) * (1 - row.share) + across(row.high, column) * row.share;
    });
  }

  /**
   * How far the explained number falls when a square around each pixel is covered with mean grey.
   *
   * @param {(done: number, all: number) => void} report
   * @param {() => boolean} stopped is asked before each square
   */
  async function occlusion(network, pixels, weights, report, stopped) {
    const { side } = network;
    const asked = checkedWeights(weights, network.layers.at(-1).channels);
    const value = (picture) => {
      const logits = run(network, picture);
      return asked.reduce((total, [k, weight]) => total + weight * logits[k], 0);
    };
    const whole = value(pixels);
    const map = new Float32Array(side * side);
    for (let region = 0; region < REGIONS ** 2; region += 1) {
      report(region, REGIONS ** 2);
      await new Promise((resolve) => { setTimeout(resolve); }); // so that a stop can be heard
      if (stopped()) throw Object.assign(new Error("stopped"), { name: "AbortError" });
      const covered = pixels.slice();
      fillRegion(covered, region, side, 0);
      fillRegion(map, region, side, whole - value(covered));
    }
    report(REGIONS ** 2, REGIONS ** 2);
    return map;
  }

  /** Fill a region of one or more planes of side * side numbers. */
  function fillRegion(planes, region, side, value) {
    const size = side / REGIONS;
    const left = (region % REGIONS) * size;
    const top = Math.floor(region / REGIONS) * size;
    for (let plane = 0; plane < planes.length; plane += side * side) {
      for (let row = top; row < top + size; row += 1) {
        const start = plane + row * side + left;
        planes.fill(value, start, start + size);
      }
    }
  }

  return { createNetwork };
}
