// Heatmaps that the network in the page makes, as xaiutils.attribution makes them by default.
//
// What is asked for is { net, input, target, setup, breathe }: `target` is the number of an output,
// or [own, rival] for the one less the other; `breathe` is asked between two passes and says
// whether to go on. Each gives one number for each number of the input, or null if it was stopped.

const EXPLAINERS = {
  gradient: ({ net, record, target }) => net.gradient(record, target),
  input_x_gradient: ({ net, input, record, target }) =>
    times(input, net.gradient(record, target)),
  deeplift: ({ net, input, record, target }) => {
    const blank = net.forward(new Float32Array(input.length));
    return times(input, net.multipliers(record, blank.record, target));
  },
  integrated_gradients: integratedGradients,
  occlusion: occlusionMap,
};

/** A heatmap by one of `EXPLAINERS`, or by a rule of LRP. */
async function explain(rule, asked) {
  const { record } = asked.net.forward(asked.input);
  if (!Object.hasOwn(EXPLAINERS, rule)) return asked.net.lrp(record, asked.target, rule);
  return EXPLAINERS[rule]({ ...asked, record });
}

/** The gradient, averaged on the way from zero to the input, times the input. */
async function integratedGradients({ net, input, target, setup, breathe }) {
  const [places, weights] = setup.path;
  const mean = new Float64Array(input.length);
  for (const [k, place] of places.entries()) {
    const { record } = net.forward(input.map((value) => place * value));
    net.gradient(record, target).forEach((slope, i) => (mean[i] += weights[k] * slope));
    if (!(await breathe())) return null;
  }
  return times(input, mean);
}

/** How far the output falls when a square is zero; a square that is zero already has 0. */
async function occlusionMap({ net, input, record, target, setup, breathe }) {
  const [channels, height, width] = setup.shape;
  const grid = gridOf({ height, width }, setup.square);
  const whole = valueOf(record.at(-1).value, target);
  const map = new Float32Array(input.length);
  for (let square = 0; square < grid.count; square += 1) {
    const places = placesOfRegion(grid, square, channels);
    if (places.every((place) => input[place] === 0)) continue;
    const covered = input.slice();
    for (const place of places) covered[place] = 0;
    const fall = whole - valueOf(net.forward(covered).record.at(-1).value, target);
    for (const place of places) map[place] = fall / channels; // the map is their sum
    if (!(await breathe())) return null;
  }
  return map;
}

function placesOfRegion(grid, region, channels) {
  const places = [];
  eachPixel(grid, region, (pixel) => {
    for (let c = 0; c < channels; c += 1) places.push(c * grid.height * grid.width + pixel);
  });
  return places;
}

/** An output, or one less another. */
function valueOf(outputs, target) {
  const [own, rival] = [target].flat();
  return outputs[own] - (rival === undefined ? 0 : outputs[rival]);
}

function times(input, factors) {
  return Float32Array.from(input, (value, i) => value * factors[i]);
}
