// Where a perturbation explorer's answers come from: the network in the page, what is stored in
// it, or the kernel. All three give the same thing.
//
// A question is { image, order, fill, size, explained }; what is explained is "class" or "margin".
// `curves(question)` gives, by method, { order, scores, classes, probabilities }: the numbers of
// the regions, and for each step from 0 on the score and the most probable classes.
// `together(question, regions)` gives { score, classes, probabilities } after some regions were
// replaced at once. A source that cannot answer gives null at once.

const MOST_SHOWN = 5;
const RANDOM = "random order";
const SLICE = 12; // milliseconds of work between two looks at the reader's wishes
const PATIENCE = 4000; // milliseconds until the kernel counts as gone or busy
const PULSE = 5000; // milliseconds between two looks whether a kernel that was there still is

/** The most probable classes of some logits. */
function topClasses(logits) {
  const probabilities = softmax(logits);
  const classes = Array.from(probabilities.keys())
    .sort((a, b) => probabilities[b] - probabilities[a])
    .slice(0, MOST_SHOWN);
  return { classes, probabilities: classes.map((k) => probabilities[k]) };
}

// ------------------------------------------------------------------------ the network in the page

/**
 * @param setup what Python told about the widget
 * @param subject gives the subject of a question: its picture, its target and rival, and its
 *     heatmaps by what is explained and by method; those that are missing are made and kept there
 */
function networkSource(setup, subject) {
  const net = loadNetwork(setup.network);
  const look = (levels, thing, { explained }) => {
    const { output } = net.forward(inputOf({ ...thing.picture, levels }, setup));
    const values = setup.output === "probability" ? softmax(output) : output;
    return { score: valueOf(values, targetOf(thing, explained)), ...topClasses(output) };
  };

  /** A heatmap, made if the page does not carry it; null if the reader moved on. */
  const heatmap = async ({ explained }, thing, method, isStale) => {
    const maps = (thing.heatmaps[explained] ??= {});
    if (maps[method]) return maps[method];
    const input = inputOf(thing.picture, setup);
    const target = targetOf(thing, explained);
    const asked = { net, input, target, setup, breathe: breather(isStale) };
    const parts = await explain(setup.rules[method], asked);
    if (!parts) return null;
    const values = overColours(parts, thing.picture);
    return (maps[method] = { values, limit: limitOf(values) });
  };

  /** One curve, in slices, so that the page stays alive; null if the reader moved on. */
  const curve = async (question, thing, regions, isStale) => {
    const grid = gridOf(thing.picture, question.size);
    const replacement = replacementOf(thing.picture, question.fill, setup);
    const found = { order: regions, scores: [], classes: [], probabilities: [] };
    const breathe = breather(isStale);
    for (let step = 0; step <= regions.length; step += 1) {
      const levels = replaceRegions(thing.picture, replacement, grid, regions.slice(0, step));
      const seen = look(levels, thing, question);
      found.scores.push(seen.score);
      found.classes.push(seen.classes);
      found.probabilities.push(seen.probabilities);
      if (!(await breathe())) return null;
    }
    return found;
  };

  return {
    name: "the network, run in this page",
    net,
    knows: () => true,
    knowsTogether: () => true,
    async curves(question, { onPart, isStale, first }) {
      const thing = subject(question);
      const grid = gridOf(thing.picture, question.size);
      const steps = Math.min(setup.steps, grid.count);
      const answer = {};
      const random = question.order === "random";
      const methods = random ? [RANDOM] : firstOf(first, thing.methods);
      for (const method of methods) {
        const map = random ? null : await heatmap(question, thing, method, isStale);
        if (!random && !map) return null;
        const order = random
          ? orderByLot(grid, setup.seed)
          : orderByHeat(map.values, grid, question.order, setup.seed);
        const found = await curve(question, thing, order.slice(0, steps), isStale);
        if (!found) return null;
        answer[method] = found;
        onPart(answer);
      }
      return answer;
    },
    async together(question, regions) {
      const thing = subject(question);
      const grid = gridOf(thing.picture, question.size);
      const replacement = replacementOf(thing.picture, question.fill, setup);
      return look(replaceRegions(thing.picture, replacement, grid, regions), thing, question);
    },
    look,
    heatmap,
  };
}

/** What is explained of a picture: an output, or one less another. */
function targetOf({ target, rival }, explained) {
  return explained === "margin" ? [target, rival] : target;
}

/** Asked between two passes: lets the page draw when it is time to, and says whether to go on. */
function breather(isStale) {
  let resumed = performance.now();
  return async () => {
    if (performance.now() - resumed < SLICE) return true;
    await pause();
    resumed = performance.now();
    return !isStale();
  };
}

/** One number for each pixel, from one for each number of the input. */
function overColours(parts, { channels, height, width }) {
  const values = new Float32Array(height * width);
  for (let channel = 0; channel < channels; channel += 1) {
    const start = channel * values.length;
    for (let pixel = 0; pixel < values.length; pixel += 1) values[pixel] += parts[start + pixel];
  }
  return Object.assign(values, { shape: [height, width] });
}

function firstOf(first, names) {
  return names.includes(first) ? [first, ...names.filter((name) => name !== first)] : names;
}

/** Let the page draw and answer the reader before the work goes on. */
function pause() {
  return new Promise((resolve) => setTimeout(resolve));
}

// ------------------------------------------------------------------------- what the page carries

function storedSource(stored) {
  const key = (order, question) => keyOf({ ...question, order });
  const alone = (question) => stored()[key("alone", question)];
  return {
    name: "stored in this page",
    isStored: true,
    knows: (question) => Object.hasOwn(stored(), key(question.order, question)),
    knowsTogether: (question, regions) => regions.length === 1 && Boolean(alone(question)),
    async curves(question) {
      return readCurves(stored()[key(question.order, question)]);
    },
    async together(question, [region]) {
      return readOne(alone(question), region);
    },
  };
}

/** Python's answer on curves, by method. */
function readCurves({ methods, order, scores, classes, probabilities }) {
  const [orders, rows, names, shares] = [order, scores, classes, probabilities].map(unpack);
  const steps = orders.shape[1];
  const wide = names.shape[2];
  const tops = (values, k) =>
    chunks(values.slice(k * (steps + 1) * wide, (k + 1) * (steps + 1) * wide), wide);
  const read = (k) => ({
    order: Array.from(orders.slice(k * steps, (k + 1) * steps)),
    scores: Array.from(rows.slice(k * (steps + 1), (k + 1) * (steps + 1))),
    classes: tops(names, k),
    probabilities: tops(shares, k),
  });
  return Object.fromEntries(methods.map((method, k) => [method, read(k)]));
}

/** One of the pictures in Python's answer on pictures. */
function readOne({ scores, classes, probabilities }, place = 0) {
  const wide = classes.shape[1];
  const part = (packed) => Array.from(unpack(packed).slice(place * wide, (place + 1) * wide));
  return {
    score: unpack(scores)[place],
    classes: part(classes),
    probabilities: part(probabilities),
  };
}

function chunks(values, size) {
  const number = values.length / size;
  const chunk = (_, k) => Array.from(values.slice(k * size, (k + 1) * size));
  return Array.from({ length: number }, chunk);
}

// ------------------------------------------------------------------------------------ the kernel

/**
 * @param model the widget's model, through which messages go
 * @param {(alive: boolean) => void} onLife told when the kernel is first heard of, or falls silent
 */
function kernelSource(model, onLife) {
  const waiting = new Map();
  let last = 0;
  let alive = false;
  let greeting = null;

  const heard = (life) => {
    if (life !== alive) onLife((alive = life));
  };
  const settle = (id, how, value) => {
    const question = waiting.get(id);
    clearTimeout(question?.timer);
    waiting.delete(id);
    question?.[how](value);
  };
  const receive = (message) => {
    clearTimeout(greeting);
    greeting = setTimeout(greet, PULSE);
    heard(true);
    const { kind, id } = message;
    clearTimeout(waiting.get(id)?.timer); // it is at work: from now on it may take its time
    if (kind === "progress") waiting.get(id)?.onProgress(message.done);
    if (kind === "answer") settle(id, "resolve", message.answer);
    if (kind === "cancelled") settle(id, "resolve", null);
    if (kind === "error") settle(id, "reject", new Error(message.text));
  };
  const send = (message) => {
    try {
      model.send(message);
    } catch {
      heard(false); // the way to the kernel is closed
    }
  };
  const ask = (question, onProgress = () => {}) =>
    new Promise((resolve, reject) => {
      const id = (last += 1);
      const silent = () => {
        heard(false);
        settle(id, "reject", new Error("the kernel does not answer: it is busy or closed"));
      };
      waiting.set(id, { resolve, reject, onProgress, timer: setTimeout(silent, PATIENCE) });
      send({ ...question, id });
    });

  /** Ask whether anybody is there; the answer comes at once, unless the kernel is busy. */
  const greet = () => {
    clearTimeout(greeting);
    greeting = setTimeout(() => heard(false), PATIENCE);
    send({ kind: "hello" });
  };

  model.on("msg:custom", receive);
  return {
    name: "the kernel",
    greet,
    cancel: () => send({ kind: "cancel" }),
    stop: () => {
      clearTimeout(greeting);
      model.off("msg:custom", receive);
    },
    knows: (question) => alive && question.image !== "drawing",
    knowsTogether: (question) => alive && question.image !== "drawing",
    async curves(question, { onProgress }) {
      const answer = await ask({ kind: "curves", ...question }, onProgress);
      return answer && readCurves(answer);
    },
    async together(question, regions) {
      const answer = await ask({ kind: "together", ...question, regions });
      return answer && readOne(answer);
    },
  };
}
