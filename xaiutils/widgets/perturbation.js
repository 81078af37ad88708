// The perturbation explorer: see _perturbation.py for what it is, sources.js for its answers.

const ORDER_NAMES = {
  morf: "most relevant first (MoRF)",
  lerf: "least relevant first (LeRF)",
  random: "by lot",
};
const EXPLAINED_NAMES = { class: "the class", margin: "its lead over the runner-up" };
const FILL_NAMES = { uniform: "noise", mean: "mean colour", black: "black", blur: "blur" };
const DRAWING = "drawing";
const DASHES = ["", "7 3", "7 3 2 3", "2 3"];
const BEAT = 350; // milliseconds a step when playing
const GRID = "#d5dae0";
const INK = "#1d232b"; // the chart has a white ground in dark mode too, as figures have

const spoken = (name) => name.replaceAll("_", " ");
const counted = (number) => `${number} ${number === 1 ? "region" : "regions"}`;

class PerturbationView {
  constructor(model, root) {
    this.model = model;
    this.setup = model.get("setup");
    const { images, methods, explained, fills, size, network } = this.setup;
    const [method, fill] = [methods[0], fills[0]];
    const order = "morf";
    this.state = { image: 0, method, explained: explained[0], order, fill, size, step: 0 };
    this.own = new Set(); // regions of the reader's own choice
    this.cursor = 0; // the region that the keyboard has reached
    this.things = new Map(); // what there is to perturb: by number, or the drawing
    this.known = new Map(); // answers on curves, by question
    this.asked = 0;
    this.page = network ? networkSource(this.setup, ({ image }) => this.things.get(image)) : null;
    this.kernel = kernelSource(model, (alive) => this.onLife(alive));
    const stored = storedSource(() => model.get("stored"));
    this.sources = [this.page, stored, this.kernel].filter(Boolean);
    this.names = new Map(images.map((image, number) => [String(number), image.name]));
    this.build(root);
  }

  async start() {
    const { images, shape, heatmaps, methods } = this.setup;
    const load = async ({ picture, target, rival }, number) => {
      const one = (maps) => readHeatmap(maps[number]);
      const read = mapValues(heatmaps, (byMethod) => mapValues(byMethod, one));
      const decoded = await decodePicture(picture, shape);
      this.things.set(number, { picture: decoded, target, rival, methods, heatmaps: read });
    };
    await load(images[0], 0);
    this.refresh();
    await Promise.all(images.slice(1).map((image, k) => load(image, k + 1)));
    this.node.dataset.ready = "all";
    this.kernel.greet();
  }

  // ------------------------------------------------------------------------------- the elements

  build(root) {
    const [, height, width] = this.setup.shape;
    this.picture = element("canvas", { width, height, class: "xai-picture" });
    this.marks = svgElement("svg", { viewBox: `0 0 ${width} ${height}`, class: "xai-marks" });
    this.stage = element(
      "div",
      { class: "xai-stage xai-touch", tabindex: 0, role: "application" },
      this.picture,
      this.marks,
    );
    this.heat = element("canvas", { role: "img", class: "xai-heat" });
    this.heatTitle = element("p", { class: "xai-pane-title" });
    this.top = element("ol", { class: "xai-top" });
    this.facts = element("p", { class: "xai-facts" });
    this.chart = svgElement("svg", { role: "img", class: "xai-chart" });
    this.legend = element("ul", { class: "xai-legend" });
    this.origin = element("p", { class: "xai-origin" });
    this.reset = button("Undo my regions", () => this.choose(new Set()), { disabled: true });
    this.stop = button("Stop the kernel's work", () => this.kernel.cancel(), { hidden: true });
    this.play = button("Play", () => this.togglePlay());
    this.stepper = this.makeStepper();
    const framed = frame(
      "Perturbation explorer",
      this.makeControls(),
      element("div", { class: "xai-row" }, this.play, this.stepper.node),
      element(
        "div",
        { class: "xai-panes" },
        element(
          "div",
          {},
          element("p", { class: "xai-pane-title" }, "Picture: click or drag"),
          this.stage,
          this.reset,
        ),
        element("div", {}, this.heatTitle, this.heat),
        element(
          "div",
          {},
          element("p", { class: "xai-pane-title" }, "Most probable classes"),
          this.top,
          this.facts,
        ),
      ),
      this.chart,
      this.legend,
      element("div", { class: "xai-row" }, this.origin, this.stop),
    );
    this.status = framed.status;
    this.node = framed.node;
    this.node.classList.add("xai-perturbation");
    if (this.page && String(this.setup.shape) === "1,28,28") framed.node.append(this.makePad());
    root.append(framed.node);
    this.listenToStage();
    this.resizing = new ResizeObserver(() => this.drawChart());
    this.resizing.observe(this.chart);
  }

  makeControls() {
    const { images, methods, explained, fills, sizes, size } = this.setup;
    const to = (name) => (value) => this.change({ [name]: value });
    const pairs = (names, texts) => names.map((name) => [name, texts[name] ?? spoken(name)]);
    const pixels = sizes.map((side) => [String(side), `${side} x ${side} pixels`]);
    this.controls = {
      image: choice(
        "Image",
        images.map(({ name }, number) => [String(number), name]),
        "0",
        (value) => this.change({ image: value === DRAWING ? value : Number(value) }),
      ),
      method: choice("Method", pairs(methods, {}), methods[0], to("method")),
      explained: choice(
        "Explained",
        pairs(explained, EXPLAINED_NAMES),
        explained[0],
        to("explained"),
      ),
      order: choice("Order", Object.entries(ORDER_NAMES), "morf", to("order")),
      fill: choice("Fill", pairs(fills, FILL_NAMES), fills[0], to("fill")),
      size: choice("Region", pixels, String(size), (value) => this.change({ size: Number(value) })),
    };
    this.controls.explained.node.hidden = explained.length < 2;
    return element("div", { class: "xai-row" }, ...Object.values(this.controls).map((c) => c.node));
  }

  makeStepper() {
    return slider("Step", {
      min: 0,
      max: this.setup.steps,
      value: 0,
      onInput: (step) => {
        this.own.clear();
        this.stopPlaying();
        this.goTo(step);
      },
      format: counted,
    });
  }

  makePad() {
    const starts = this.setup.images.map(({ name }, number) => [
      name,
      () => this.things.get(number).picture.levels,
    ]);
    const pad = drawingPad({ starts, onChange: (levels) => this.onDrawing(levels) });
    const title = element("p", { class: "xai-pane-title" }, "Draw a digit");
    return element("div", { class: "xai-draw" }, title, pad.node);
  }

  listenToStage() {
    const regionUnder = (event) => {
      const { left, top, width, height } = this.stage.getBoundingClientRect();
      const [, rows, columns] = this.setup.shape;
      const within = (share, side) => Math.max(0, Math.min(side - 1, Math.floor(share * side)));
      const row = within((event.clientY - top) / height, rows);
      return regionAt(this.grid(), row, within((event.clientX - left) / width, columns));
    };
    this.stage.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      this.stage.focus();
      this.stage.setPointerCapture(event.pointerId);
      this.add(regionUnder(event));
    });
    this.stage.addEventListener("pointermove", (event) => {
      if (event.buttons) this.add(regionUnder(event));
    });
    this.stage.addEventListener("keydown", (event) => this.onKey(event));
    for (const name of ["focus", "blur"]) {
      this.stage.addEventListener(name, () => this.drawMarks());
    }
  }

  // ------------------------------------------------------------------------ what the reader does

  change(what) {
    const cuts = "size" in what || "image" in what;
    Object.assign(this.state, what);
    if (cuts) this.own.clear();
    if (cuts) this.cursor = 0;
    this.refresh();
  }

  goTo(step) {
    this.state.step = step;
    this.draw();
    announce(this.status, this.facts.textContent);
  }

  onKey(event) {
    const { rows, columns } = this.grid();
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const move = moves[event.key];
    if (!move && ![" ", "Enter", "Escape"].includes(event.key)) return;
    event.preventDefault();
    if (event.key === "Escape") return void this.choose(new Set());
    if (!move) return void this.add(this.cursor);
    const row = Math.floor(this.cursor / columns) + move[0];
    const column = (this.cursor % columns) + move[1];
    if (row < 0 || column < 0 || row >= rows || column >= columns) return;
    this.cursor = row * columns + column;
    this.drawMarks();
    announce(this.status, `region in row ${row + 1}, column ${column + 1}`);
  }

  /** Replace one more region; alone, where nobody knows what several do. */
  add(region) {
    this.cursor = region;
    if (this.own.has(region)) return;
    const more = new Set([...this.own, region]);
    this.choose(this.sourceOf([...more]) ? more : new Set([region]));
  }

  async choose(regions) {
    this.own = regions;
    this.stopPlaying();
    this.ownAnswer = null;
    this.problem = "";
    this.draw();
    const source = this.sourceOf([...regions]);
    if (!regions.size || !source) return;
    try {
      const answer = await source.together(this.question(), [...regions]);
      if (this.own !== regions || !answer) return;
      this.ownAnswer = { ...answer, source };
      this.draw();
      announce(this.status, this.facts.textContent);
    } catch (error) {
      this.complain(error);
    }
  }

  togglePlay() {
    if (this.timer) return this.stopPlaying();
    this.own.clear();
    if (this.state.step >= this.length()) this.goTo(0);
    this.play.textContent = "Pause";
    const beat = wantsStillness() ? 3 * BEAT : BEAT;
    this.timer = setInterval(() => {
      if (this.state.step >= this.length()) this.stopPlaying();
      else this.goTo(this.state.step + 1);
    }, beat);
    return undefined;
  }

  stopPlaying() {
    clearInterval(this.timer);
    this.timer = null;
    this.play.textContent = "Play";
  }

  onDrawing(levels) {
    const picture = { levels, channels: 1, height: DIGIT, width: DIGIT };
    const { output } = this.page.net.forward(inputOf(picture, this.setup));
    const [target, rival] = Array.from(output.keys()).sort((a, b) => output[b] - output[a]);
    const methods = this.setup.methods.filter((method) => this.setup.rules[method]);
    this.things.set(DRAWING, { picture, target, rival, methods, heatmaps: {} });
    for (const key of this.known.keys()) if (key.startsWith(DRAWING)) this.known.delete(key);
    if (!this.names.has(DRAWING)) {
      this.names.set(DRAWING, "your drawing");
      this.controls.image.input.append(element("option", { value: DRAWING }, "your drawing"));
    }
    this.controls.image.set(DRAWING);
    this.change({ image: DRAWING, step: 0 });
  }

  // ---------------------------------------------------------------------- questions and answers

  question() {
    const { image, explained, order, fill, size } = this.state;
    return { image, explained, order, fill, size };
  }

  grid() {
    const [, height, width] = this.setup.shape;
    return gridOf({ height, width }, this.state.size);
  }

  sourceOf(regions) {
    return this.sources.find((source) => source.knowsTogether(this.question(), regions));
  }

  /** Show what is known, and ask for what is not. */
  async refresh() {
    const mine = (this.asked += 1);
    const isStale = () => mine !== this.asked;
    if (!this.things.has(this.state.image)) return;
    this.showProblem("");
    if (this.silent) this.kernel.greet(); // it may only have been busy
    this.markPossible();
    this.draw();
    if (this.own.size) this.choose(this.own);
    if (this.isMissing()) await this.makeMap(isStale);
    const questions = [this.question(), { ...this.question(), order: "random" }];
    for (const question of questions) {
      if (!isStale() && !this.problem) await this.learn(question, isStale);
    }
  }

  /** Have the chosen heatmap made, before the others and their curves. */
  async makeMap(isStale) {
    const { page, state } = this;
    try {
      const made = await page.heatmap(this.question(), this.thing(), state.method, isStale);
      if (made && !isStale()) this.draw();
    } catch (error) {
      if (!isStale()) this.complain(error);
    }
  }

  async learn(question, isStale) {
    const key = keyOf(question);
    if (this.known.has(key)) return;
    const source = this.sources.find((one) => one.knows(question));
    if (!source) return;
    const keep = (answer) => {
      if (question.image === DRAWING && isStale()) return;
      this.known.set(key, { answer, source });
      if (!isStale()) this.draw();
    };
    const curves = question.order === "random" ? 1 : this.setup.methods.length;
    const onProgress = (done) => {
      if (isStale()) return;
      this.stop.hidden = false;
      const all = 1 + curves * this.length();
      this.origin.textContent = `The kernel has scored ${done} of ${all} pictures.`;
    };
    const onPart = (answer) => {
      if (!isStale()) this.draw({ answer: { ...answer }, source, question });
    };
    try {
      const first = this.state.method;
      const answer = await source.curves(question, { isStale, onPart, onProgress, first });
      if (answer) keep(answer);
      else if (!isStale()) this.showProblem("Stopped before the curves were known.");
    } catch (error) {
      if (!isStale()) this.complain(error);
    }
    if (!isStale()) this.stop.hidden = true;
  }

  /** The kernel was heard of, or fell silent: then everything that is known stays in view. */
  onLife(alive) {
    this.silent = !alive;
    this.markPossible();
    if (alive) this.refresh();
    else this.showProblem("");
  }

  complain(error) {
    this.showProblem(`No answer: ${error.message}. You can go on with something else.`);
  }

  showProblem(text) {
    this.problem = text;
    this.drawOrigin();
    if (text) announce(this.status, text);
  }

  /** Disable what nobody can answer: in a page without a kernel, what was not stored. */
  markPossible() {
    for (const name of ["explained", "order", "fill", "size"]) {
      for (const option of this.controls[name].input.options) {
        const value = name === "size" ? Number(option.value) : option.value;
        const question = { ...this.question(), [name]: value };
        const answered = this.sources.some((source) => source.knows(question));
        option.disabled = !answered && !this.known.has(keyOf(question));
      }
    }
  }

  // -------------------------------------------------------------------------------- the drawing

  thing() {
    return this.things.get(this.state.image);
  }

  /** The curves in view, and who answered. */
  view() {
    return this.known.get(keyOf(this.question())) ?? this.partial ?? { answer: {}, source: null };
  }

  /** The curve of the chosen method, or of the lot. */
  curve() {
    const { answer } = this.view();
    return answer[this.state.order === "random" ? RANDOM : this.state.method];
  }

  length() {
    return Math.min(this.setup.steps, this.grid().count);
  }

  draw(part = null) {
    if (part && keyOf(part.question) === keyOf(this.question())) this.partial = part;
    else if (!part) this.partial = null;
    this.stepper.setRange(0, this.length());
    this.state.step = Math.min(this.state.step, this.length());
    this.stepper.set(this.state.step);
    this.reset.disabled = !this.own.size;
    this.drawPicture();
    this.drawHeat();
    this.drawTop();
    this.drawFacts();
    this.drawChart();
    this.drawLegend();
    this.drawOrigin();
    this.node.dataset.known = this.known.has(keyOf(this.question())); // all curves, not a part
  }

  replaced() {
    return this.own.size ? [...this.own] : (this.curve()?.order ?? []).slice(0, this.state.step);
  }

  drawPicture() {
    const { picture } = this.thing();
    const replacement = replacementOf(picture, this.state.fill, this.setup);
    const levels = replaceRegions(picture, replacement, this.grid(), this.replaced());
    drawLevels(this.picture, levels, picture);
    const name = this.names.get(String(this.state.image));
    const keys = "Arrow keys move, the space bar replaces a region, Escape undoes.";
    const state = `${name}, ${counted(this.replaced().length)} replaced`;
    this.stage.setAttribute("aria-label", `${state}. ${keys}`);
    this.drawMarks();
  }

  drawMarks() {
    this.marks.replaceChildren();
    if (document.activeElement !== this.stage) return;
    const { top, left, bottom, right } = boxOf(this.grid(), this.cursor);
    const box = { x: left, y: top, width: right - left, height: bottom - top };
    this.marks.append(svgElement("rect", { ...box, class: "xai-cursor" }));
  }

  /** The chosen heatmap, if the page carries it or has made it. */
  heatmap() {
    return this.thing().heatmaps[this.state.explained]?.[this.state.method];
  }

  /** Whether the page has yet to make it. */
  isMissing() {
    return !this.heatmap() && this.thing().methods.includes(this.state.method);
  }

  drawHeat() {
    const { method } = this.state;
    const map = this.heatmap();
    this.heat.hidden = !map && !this.isMissing();
    this.heat.classList.toggle("xai-unknown", !map);
    this.heatTitle.textContent = `Heatmap: ${spoken(method)}`;
    if (!map) {
      this.heatTitle.textContent += this.isMissing()
        ? ", being computed"
        : " cannot be computed in this page; choose another method";
      return;
    }
    const [height, width] = map.values.shape;
    Object.assign(this.heat, { height, width });
    drawHeatmap(this.heat, map.values, map.limit);
    const words = `Heatmap by ${spoken(method)}. Gold speaks for ${this.what()}, blue against it.`;
    this.heat.setAttribute("aria-label", words);
  }

  /** Score and classes of the picture as it is shown. */
  seen() {
    if (this.own.size) return this.ownAnswer;
    const curve = this.curve();
    if (!curve) return this.seenAtOnce();
    const { step } = this.state;
    return {
      score: curve.scores[step],
      classes: curve.classes[step],
      probabilities: curve.probabilities[step],
    };
  }

  /** Of the untouched picture, by the network in the page, before its curves are known. */
  seenAtOnce() {
    if (!this.page || this.replaced().length) return null;
    return this.page.look(this.thing().picture.levels, this.thing(), this.question());
  }

  drawTop() {
    const seen = this.seen();
    const { categories } = this.setup;
    const { target } = this.thing();
    const rows = (seen?.classes ?? []).map((category, k) => {
      const share = `${(100 * seen.probabilities[k]).toFixed(1)} %`;
      const width = `width: ${100 * seen.probabilities[k]}%`;
      const bar = element("span", { class: "xai-bar", style: width });
      const name = element("span", { class: "xai-name" }, categories[category]);
      const attributes = { class: category === target ? "xai-target" : "" };
      return element("li", attributes, name, element("span", { class: "xai-share" }, share), bar);
    });
    this.top.replaceChildren(...rows);
  }

  /** What is explained and watched, in words. */
  what() {
    const { categories, output } = this.setup;
    const { target, rival } = this.thing();
    const own = `${output} of “${categories[target]}”`;
    return this.state.explained === "margin" ? `${own} less that of “${categories[rival]}”` : own;
  }

  drawFacts() {
    const seen = this.seen();
    const what = this.what();
    const replaced = this.replaced();
    const { height, width } = this.grid();
    const share = ((100 * this.pixels(replaced)) / (height * width)).toFixed(1);
    const whose = this.own.size ? "of your own choice" : `of ${this.grid().count}`;
    const before = this.curve()?.scores[0];
    this.facts.textContent = seen
      ? `${counted(replaced.length)} ${whose} replaced (${share} % of the pixels): ${what} ` +
        `${seen.score.toFixed(2)}${before === undefined ? "" : `, untouched ${before.toFixed(2)}`}.`
      : `${what}: not known here`;
    this.facts.dataset.score = seen ? seen.score : "";
    this.facts.dataset.regions = replaced.join(" ");
  }

  pixels(regions) {
    const sizes = regions.map((region) => {
      const { top, left, bottom, right } = boxOf(this.grid(), region);
      return (bottom - top) * (right - left);
    });
    return sizes.reduce((sum, size) => sum + size, 0);
  }

  /** What stands in the chart: every method, and chance as a reference. */
  lines() {
    const { answer } = this.view();
    const chance = this.known.get(keyOf({ ...this.question(), order: "random" }))?.answer[RANDOM];
    const methods = this.setup.methods.filter((method) => answer[method]);
    const found = methods.map((method) => ({
      name: method,
      scores: answer[method].scores,
      number: this.setup.methods.indexOf(method),
    }));
    return chance ? [...found, { name: RANDOM, scores: chance.scores, number: -1 }] : found;
  }

  lineStyle({ name, number }) {
    const { palette } = this.setup;
    const chosen = name === (this.state.order === "random" ? RANDOM : this.state.method);
    return {
      stroke: number < 0 ? "#767f88" : palette[number % palette.length],
      "stroke-width": chosen ? 3.5 : 1.5,
      "stroke-dasharray": number < 0 ? "1 4" : DASHES[number % DASHES.length],
      fill: "none",
    };
  }

  drawChart() {
    if (!this.thing()) return;
    const lines = this.lines();
    const own = this.own.size && this.ownAnswer ? [this.own.size, this.ownAnswer.score] : null;
    const label = this.what();
    const drawn = lines.map((line) => ({ ...line, style: this.lineStyle(line) }));
    const curve = this.curve();
    const marker = curve && !own ? [this.state.step, curve.scores[this.state.step]] : null;
    drawCurves(this.chart, { lines: drawn, steps: this.length(), marker, own, label });
    const end = ({ name, scores }) => `${spoken(name)} ends at ${scores.at(-1).toFixed(2)}`;
    const ends = lines.map(end);
    this.chart.setAttribute("aria-label", `${label} against replaced regions: ${ends.join(", ")}`);
  }

  drawLegend() {
    const rows = this.lines().map((line) => {
      const sample = svgElement(
        "svg",
        { viewBox: "0 0 36 8", "aria-hidden": "true" },
        svgElement("line", { x1: 1, x2: 35, y1: 4, y2: 4, ...this.lineStyle(line) }),
      );
      const area = aopc(line.scores, this.state.step).toFixed(2);
      return element("li", {}, sample, `${spoken(line.name)}: AOPC so far ${area}`);
    });
    this.legend.replaceChildren(...rows);
  }

  drawOrigin() {
    const source = this.own.size ? this.ownAnswer?.source : this.view().source;
    const how = this.own.size && source?.isStored ? " (this region alone)" : "";
    const told = source ? `Scores: ${source.name}${how}.` : this.whoAnswers();
    const silence = "The kernel does not answer: it is busy or closed. What is known stays.";
    this.origin.textContent = `${this.problem || told} ${this.silent ? silence : ""}`;
    this.origin.classList.toggle("xai-error", Boolean(this.problem || this.silent));
    this.node.dataset.source = source?.name ?? "";
  }

  /** Who is asked, while no answer is there. */
  whoAnswers() {
    const source = this.own.size
      ? this.sourceOf([...this.own])
      : this.sources.find((one) => one.knows(this.question()));
    return source ? "Scores: being computed." : "Not stored in this page; it needs a kernel.";
  }

  remove() {
    this.stopPlaying();
    this.resizing.disconnect();
    this.kernel.stop();
  }
}

/** Under which name an answer is kept; _perturbation.py makes it too. */
function keyOf({ image, explained, order, fill, size }) {
  const key = `${image}|${order}|${fill}|${size}`;
  return explained === "class" ? key : `${key}|${explained}`;
}

function mapValues(object, change) {
  return Object.fromEntries(Object.entries(object).map(([key, value]) => [key, change(value)]));
}

/** The area over the curve so far: Samek et al. 2017, eq. 11, with the step in view as L. */
function aopc(scores, step) {
  const falls = scores.slice(0, step + 1).map((score) => scores[0] - score);
  return falls.reduce((sum, fall) => sum + fall, 0) / falls.length;
}

/** A heatmap as Python packed it: numbers, or levels around 127. */
function readHeatmap({ values, limit }) {
  const read = unpack(values);
  if (values.dtype !== "uint8") return { values: read, limit };
  const signed = Float32Array.from(read, (level) => ((level - 127) / 127) * limit);
  return { values: Object.assign(signed, { shape: read.shape }), limit };
}

/** Where the colours saturate: the 99.5th percentile of the sizes, as in xaiutils.plot. */
function limitOf(values) {
  const sizes = values.map(Math.abs).sort();
  const place = 0.995 * (sizes.length - 1);
  const below = Math.floor(place);
  const limit = sizes[below] + (place - below) * ((sizes[below + 1] ?? 0) - sizes[below]);
  return limit || sizes.at(-1) || 1;
}

// ------------------------------------------------------------------------------------- the chart

const MARGIN = { left: 46, right: 10, top: 10, bottom: 40 };
const CHART_HEIGHT = 240;

function drawCurves(svg, { lines, steps, marker, own, label }) {
  const width = Math.max(260, svg.clientWidth || 600);
  svg.setAttribute("viewBox", `0 0 ${width} ${CHART_HEIGHT}`);
  svg.replaceChildren();
  const values = lines.flatMap((line) => Array.from(line.scores));
  if (own) values.push(own[1]);
  if (!values.length) return;
  const ticks = roundTicks(Math.min(...values), Math.max(...values));
  const across = scale(0, Math.max(steps, own?.[0] ?? 0), MARGIN.left, width - MARGIN.right);
  const up = scale(ticks[0], ticks.at(-1), CHART_HEIGHT - MARGIN.bottom, MARGIN.top);
  svg.append(...axes(across, up, ticks, roundTicks(0, steps), { width, label }));
  for (const { scores, style } of lines) {
    const points = Array.from(scores, (score, step) => `${across(step)},${up(score)}`).join(" ");
    svg.append(svgElement("polyline", { points, ...style }));
  }
  if (marker) {
    const [x, y] = [across(marker[0]), up(marker[1])];
    const ends = { x1: x, x2: x, y1: MARGIN.top, y2: CHART_HEIGHT - MARGIN.bottom };
    svg.append(svgElement("line", { ...ends, stroke: INK, "stroke-width": 0.7 }));
    svg.append(svgElement("circle", { cx: x, cy: y, r: 5, fill: INK }));
  }
  if (own) {
    const [x, y] = [across(own[0]), up(own[1])];
    const diamond = `${x},${y - 7} ${x + 7},${y} ${x},${y + 7} ${x - 7},${y}`;
    svg.append(svgElement("polygon", { points: diamond, fill: INK, class: "xai-own" }));
  }
}

function axes(across, up, ticks, steps, { width, label }) {
  const text = (attributes, words) =>
    svgElement("text", { "font-size": 12, ...attributes }, words);
  const floor = CHART_HEIGHT - MARGIN.bottom;
  const [left, right] = [MARGIN.left, width - MARGIN.right];
  const level = (tick) => ({ x1: left, x2: right, y1: up(tick), y2: up(tick), stroke: GRID });
  const rows = ticks.flatMap((tick) => [
    svgElement("line", level(tick)),
    text({ x: left - 6, y: up(tick) + 4, "text-anchor": "end" }, tidy(tick)),
  ]);
  const columns = steps.map((step) =>
    text({ x: across(step), y: floor + 16, "text-anchor": "middle" }, tidy(step)),
  );
  const turn = `translate(12 ${(MARGIN.top + floor) / 2}) rotate(-90)`;
  const turned = { x: 0, y: 0, "text-anchor": "middle", transform: turn };
  const below = { x: (left + right) / 2, y: floor + 34, "text-anchor": "middle" };
  const short = label.length > 32 ? `${label.slice(0, 31)}…` : label;
  return [...rows, ...columns, text(turned, short), text(below, "regions replaced")];
}

function scale(low, high, from, to) {
  return (value) => from + ((value - low) / (high - low || 1)) * (to - from);
}

/** Round numbers, four or five of them, that enclose a range. */
function roundTicks(low, high) {
  const rough = (high - low || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const unit = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const first = Math.floor(low / unit);
  const number = Math.ceil(high / unit) - first;
  return Array.from({ length: number + 1 }, (_, k) => (first + k) * unit);
}

function tidy(value) {
  return String(Number(value.toPrecision(6)));
}

function render({ model, el }) {
  const view = new PerturbationView(model, el);
  view.start();
  return () => view.remove();
}

export default { render };
