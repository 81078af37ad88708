// A photograph as the network takes it: the very numbers that torchvision and Pillow make of it.
//
// The shorter side is resized, the middle cut out, and brightness normalised. Pillow resamples in
// whole numbers: first along rows, then along columns, with weights of 22 bits, and rounds to
// levels from 0 to 255 in between. Where a picture is made smaller the filter grows with the step,
// so that every pixel counts. Transparency is left out, as it is in Python.
//
// All in one function without ties to the page, because it runs in the worker (client.js).

function liteResizing() {
  "use strict";

  const ONE = 2 ** 22; // a weight of 1
  const REACH = 2; // of the bicubic filter, in steps
  const SHARPNESS = -0.5; // its parameter, in Pillow
  const COLOURS = 3;
  const BYTES = 4; // of a pixel as canvases give it

  /**
   * @param {{data: Uint8ClampedArray, width: number, height: number}} image red, green, blue, alpha
   * @param {{resize: number, crop: number, mean: number[], std: number[]}} preprocess
   * @returns {Float32Array} 3 * crop * crop numbers, colour by colour
   */
  function prepare({ data, width, height }, { resize, crop, mean, std }) {
    if (!(width > 0 && height > 0 && data?.length === width * height * BYTES)) {
      throw new RangeError("a picture must have width, height, and four bytes for each pixel");
    }
    const [columns, rows] = [width, height].map((length) => {
      const resized = Math.trunc((resize * length) / Math.min(width, height));
      return windows(length, resized, roundHalfEven((resized - crop) / 2), crop);
    });
    const top = rows[0].first;
    const lines = alongRows(data, width, columns, top, rows.at(-1).end);
    const found = new Float32Array(COLOURS * crop * crop);
    rows.forEach(({ first, weights }, row) => {
      for (let k = 0; k < crop * COLOURS; k += 1) {
        let sum = ONE / 2;
        weights.forEach((weight, i) => (sum += weight * lines[first - top + i][k]));
        const colour = k % COLOURS;
        const place = (colour * crop + row) * crop + Math.floor(k / COLOURS);
        const brightness = Math.fround(level(sum) * Math.fround(1 / 255));
        found[place] = Math.fround(brightness - mean[colour]) / std[colour];
      }
    });
    return found;
  }

  /** The lines from `top` to `bottom`, each resized and cut: levels, three for each pixel. */
  function alongRows(data, width, columns, top, bottom) {
    return Array.from({ length: bottom - top }, (_, line) => {
      const start = (top + line) * width;
      const found = new Uint8Array(columns.length * COLOURS);
      columns.forEach(({ first, weights }, column) => {
        for (let colour = 0; colour < COLOURS; colour += 1) {
          let sum = ONE / 2;
          for (let i = 0; i < weights.length; i += 1) {
            sum += weights[i] * data[(start + first + i) * BYTES + colour];
          }
          found[column * COLOURS + colour] = level(sum);
        }
      });
      return found;
    });
  }

  function level(sum) {
    return Math.min(Math.max(Math.floor(sum / ONE), 0), 255);
  }

  /** For `count` pixels of a side that is resized: which pixels each reads, with their weights. */
  function windows(from, to, start, count) {
    const step = from / to;
    const stretch = Math.max(step, 1);
    return Array.from({ length: count }, (_, k) => {
      const centre = (start + k + 0.5) * step;
      const first = Math.max(0, Math.trunc(centre - REACH * stretch + 0.5));
      const end = Math.min(from, Math.trunc(centre + REACH * stretch + 0.5));
      const heights = Array.from({ length: end - first }, (__, i) =>
        bicubic((first + i - centre + 0.5) / stretch),
      );
      const total = heights.reduce((sum, height) => sum + height, 0);
      const weights = heights.map((height) => roundAway((height / total) * ONE));
      return { first, end, weights };
    });
  }

  function bicubic(distance) {
    const x = Math.abs(distance);
    if (x < 1) return ((SHARPNESS + 2) * x - (SHARPNESS + 3)) * x * x + 1;
    return x < REACH ? SHARPNESS * (((x - 5) * x + 8) * x - 4) : 0;
  }

  function roundAway(x) {
    return Math.trunc(x + (x < 0 ? -0.5 : 0.5));
  }

  /** As Python rounds: a half to the even neighbour. */
  function roundHalfEven(x) {
    const rounded = Math.round(x);
    return rounded - x === 0.5 && rounded % 2 ? rounded - 1 : rounded;
  }

  return { prepare };
}
