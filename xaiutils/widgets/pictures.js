// Pictures of 256 levels, their regions, and what replaces them: bit by bit as in _pictures.py.
//
// A picture is { levels: Uint8Array, channels, height, width }, channel by channel, row by row.

/** 32 bits that look random, for a whole number: Python's `mixed`. */
function mixedBits(number, seed) {
  let bits = (Math.imul(number, 0x9e3779b1) + Math.imul(seed, 0x85ebca6b)) | 0;
  bits ^= bits >>> 16;
  bits = Math.imul(bits, 0x7feb352d);
  bits ^= bits >>> 15;
  bits = Math.imul(bits, 0x846ca68b);
  bits ^= bits >>> 16;
  return bits >>> 0;
}

const ORDER_SEED = 0x5bd1e995;
const WEIGHT_BITS = 14;

/** What can replace a picture, by name; `settings` holds the seed and the weights of the blur. */
const PAGE_FILLS = {
  uniform: ({ levels }, { seed }) => levels.map((_, place) => mixedBits(place, seed) >>> 24),
  mean: meanColour,
  black: ({ levels }) => new Uint8Array(levels.length),
  blur: blurred,
};

/** What replaces a picture, computed once. */
function replacementOf(picture, fill, setup) {
  replacementOf.kept ??= new WeakMap();
  const kept = replacementOf.kept.get(picture) ?? {};
  replacementOf.kept.set(picture, kept);
  kept[fill] ??= PAGE_FILLS[fill](picture, setup);
  return kept[fill];
}

function meanColour({ levels, channels }) {
  const pixels = levels.length / channels;
  const result = new Uint8Array(levels.length);
  for (let start = 0; start < levels.length; start += pixels) {
    const total = levels.subarray(start, start + pixels).reduce((sum, level) => sum + level, 0);
    result.fill(Math.floor((2 * total + pixels) / (2 * pixels)), start, start + pixels);
  }
  return result;
}

function blurred({ levels, channels, height, width }, { blur }) {
  const along = { height, width, stride: 1, length: width };
  const across = { height, width, stride: width, length: height };
  const result = levels.slice();
  for (let channel = 0; channel < channels; channel += 1) {
    const plane = result.subarray(channel * height * width, (channel + 1) * height * width);
    for (const side of [along, across]) plane.set(blurredAlong(plane, side, blur));
  }
  return result;
}

/** One channel blurred in one direction; beyond the edge its outermost pixel goes on. */
function blurredAlong(plane, { stride, length }, weights) {
  const radius = (weights.length - 1) / 2;
  return plane.map((_, place) => {
    const position = Math.floor(place / stride) % length;
    let sum = 2 ** (WEIGHT_BITS - 1);
    weights.forEach((weight, k) => {
      const other = Math.max(0, Math.min(length - 1, position + k - radius));
      sum += weight * plane[place + (other - position) * stride];
    });
    return sum >> WEIGHT_BITS;
  });
}

/** Squares of `size` pixels, numbered row by row; the last ones may be narrower. */
function gridOf({ height, width }, size) {
  const [rows, columns] = [Math.ceil(height / size), Math.ceil(width / size)];
  return { height, width, size, rows, columns, count: rows * columns };
}

function regionAt({ size, columns }, row, column) {
  return Math.floor(row / size) * columns + Math.floor(column / size);
}

/** Where a region lies, in pixels. */
function boxOf({ height, width, size, columns }, region) {
  const [top, left] = [Math.floor(region / columns) * size, (region % columns) * size];
  return { top, left, bottom: Math.min(top + size, height), right: Math.min(left + size, width) };
}

function eachPixel(grid, region, visit) {
  const { top, left, bottom, right } = boxOf(grid, region);
  for (let row = top; row < bottom; row += 1) {
    for (let column = left; column < right; column += 1) visit(row * grid.width + column);
  }
}

/** The levels of a picture after some regions were replaced. */
function replaceRegions({ levels, channels }, replacement, grid, regions) {
  const result = levels.slice();
  for (const region of regions) {
    eachPixel(grid, region, (pixel) => {
      for (let channel = 0; channel < channels; channel += 1) {
        const place = channel * grid.height * grid.width + pixel;
        result[place] = replacement[place];
      }
    });
  }
  return result;
}

/**
 * Regions by the sum of a heatmap over them, the largest first, or the other way round. Where sums
 * are equal, as on an empty page, the lot decides: Python's `without_ties`.
 */
function orderByHeat(values, grid, order, seed) {
  const sums = new Float64Array(grid.count);
  for (let region = 0; region < grid.count; region += 1) {
    eachPixel(grid, region, (pixel) => (sums[region] += values[pixel]));
  }
  return sorted(sums, order, lotsOf(grid, seed));
}

function orderByLot(grid, seed) {
  return sorted(lotsOf(grid, seed), "morf");
}

/** A lot for each region; the highest goes first. */
function lotsOf({ count }, seed) {
  return Float64Array.from({ length: count }, (_, k) => mixedBits(k, seed ^ ORDER_SEED));
}

function sorted(scores, order, lots = scores) {
  const before = (a, b) => scores[b] - scores[a] || lots[b] - lots[a] || a - b;
  const regions = Array.from(scores.keys()).sort(before);
  return order === "lerf" ? regions.reverse() : regions;
}

/** The network's input for levels: brightness in [0, 1], normalised channel by channel. */
function inputOf({ levels, channels }, { mean, std }) {
  const pixels = levels.length / channels;
  return Float32Array.from(levels, (level, place) => {
    const channel = Math.floor(place / pixels);
    return (level / 255 - mean[channel]) / std[channel];
  });
}

/** Decode a PNG into a picture. */
async function decodePicture(base64, [channels, height, width]) {
  const image = new Image();
  image.src = `data:image/png;base64,${base64}`;
  await image.decode();
  const canvas = element("canvas", { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const pixels = height * width;
  const levels = new Uint8Array(channels * pixels);
  levels.forEach((_, place) => {
    levels[place] = data[4 * (place % pixels) + Math.floor(place / pixels)];
  });
  return { levels, channels, height, width };
}

/** Put levels on a canvas of the picture's own size; CSS makes it larger. */
function drawLevels(canvas, levels, { channels, height, width }) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const shown = context.createImageData(width, height);
  const pixels = height * width;
  for (let pixel = 0; pixel < pixels; pixel += 1) {
    for (let colour = 0; colour < 3; colour += 1) {
      shown.data[4 * pixel + colour] = levels[Math.min(colour, channels - 1) * pixels + pixel];
    }
    shown.data[4 * pixel + 3] = 255;
  }
  context.putImageData(shown, 0, 0);
}
