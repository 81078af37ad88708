// The latent explorer: see _latent.py for what it is. Both halves of the autoencoder run here.

const PANES = {
  image: "the picture",
  reconstruction: "its reconstruction",
  change: "what you changed",
  map: "map of the latent",
  all: "all latents",
};
const READ = { image: "the picture", reconstruction: "the reconstruction" };
const SLOPES = { pooled: "averaged over the picture", each: "of each place" };
const CHANGES = "change:image change:latent change:code";
const LARGE_CHANGE = 0.5; // of brightness: where the colours of a change saturate
const PAUSE = 40; // milliseconds of rest before the maps follow the slider

// ------------------------------------------------------------------------------------- Grad-LAM

/** The map of every latent: feature maps times the slopes of the latent. */
function latentMaps(encoder, picture, layer, pooled) {
  const { output, record } = encoder.forward(picture);
  const features = record[layer].value;
  const [channels, height, width] = encoder.shapes[layer];
  const pixels = height * width;
  const maps = Array.from(output, (_, latent) => {
    const slopes = encoder.backward(record, oneOf(output.length, latent), layer);
    if (pooled) averageChannels(slopes, channels);
    const map = new Float32Array(pixels);
    slopes.forEach((slope, place) => (map[place % pixels] += slope * features[place]));
    return map;
  });
  return { code: output, maps, size: [height, width] };
}

/** Put the mean of each channel in the place of its values. */
function averageChannels(values, channels) {
  const pixels = values.length / channels;
  for (let channel = 0; channel < channels; channel += 1) {
    const own = values.subarray(channel * pixels, (channel + 1) * pixels);
    own.fill(own.reduce((a, b) => a + b, 0) / pixels);
  }
}

/** How far the reconstruction moves with each latent: the columns of the decoder's Jacobian. */
function decoderNorms(decoder, code) {
  const { record } = decoder.forward(code);
  return Array.from(code, (_, latent) => {
    const column = decoder.tangent(record, oneOf(code.length, latent));
    return Math.sqrt(column.reduce((sum, change) => sum + change * change, 0));
  });
}

/** The sum of the sizes of all maps, each times its weight. */
function aggregateOf(maps, weights) {
  return maps[0].map((_, place) =>
    maps.reduce((sum, map, latent) => sum + weights[latent] * Math.abs(map[place]), 0),
  );
}

function oneOf(length, place) {
  const vector = new Float32Array(length);
  vector[place] = 1;
  return vector;
}

/** A map at another size, by linear interpolation between the centres of its pixels. */
function enlarge(map, [height, width], [rows, columns]) {
  const down = Array.from({ length: rows }, (_, row) => between(row, rows, height));
  const along = Array.from({ length: columns }, (_, column) => between(column, columns, width));
  return Float32Array.from({ length: rows * columns }, (_, place) => {
    const [top, bottom, v] = down[Math.floor(place / columns)];
    const [left, right, h] = along[place % columns];
    const upper = map[top * width + left] * (1 - h) + map[top * width + right] * h;
    const lower = map[bottom * width + left] * (1 - h) + map[bottom * width + right] * h;
    return upper * (1 - v) + lower * v;
  });
}

/** The two neighbours of a place on the smaller side, and how near the second one is. */
function between(place, large, small) {
  const exact = Math.max(0, ((place + 0.5) * small) / large - 0.5);
  const first = Math.floor(exact);
  return [first, Math.min(first + 1, small - 1), exact - first];
}

// ------------------------------------------------------------------------------------- the view

class LatentView {
  constructor(model, root) {
    this.model = model;
    const setup = model.get("setup");
    this.setup = setup;
    this.encoder = loadNetwork(setup.encoder);
    this.decoder = loadNetwork(setup.decoder);
    this.shape = setup.encoder.input;
    this.pictures = unpackPictures(setup.images);
    this.read = "image";
    this.slopes = "pooled";
    this.build(root);
    this.onChange = () => this.show();
    model.on(CHANGES, this.onChange);
    this.show();
  }

  get code() {
    return Float32Array.from(this.model.get("code"));
  }

  get latent() {
    return this.model.get("latent");
  }

  get picture() {
    return this.pictures[this.model.get("image")];
  }

  /** Tell the model, and so a kernel if there is one; the view follows by its change. */
  set(values) {
    this.model.set(values);
    this.model.save_changes();
  }

  // ------------------------------------------------------------------------------- the elements

  build(root) {
    const { names, limit } = this.setup;
    const pairs = (texts) => Object.entries(texts);
    const numbered = names.map((name, number) => [String(number), name]);
    this.imageChoice = choice("Picture", numbered, "0", (value) => this.chooseImage(Number(value)));
    const controls = [
      this.imageChoice,
      choice("Maps of", pairs(READ), this.read, (value) => this.readFrom(value)),
      choice("Slopes", pairs(SLOPES), this.slopes, (value) => this.useSlopes(value)),
    ];
    this.slider = slider("", {
      min: -limit,
      max: limit,
      step: "any",
      value: 0,
      onInput: (value) => this.move(value),
      format: signedNumber,
    });
    this.slider.label = this.slider.node.querySelector(".xai-label");
    const back = button("Back to the picture's latents", () => this.reset());
    const { node, status } = frame(
      "Latent explorer",
      element("div", { class: "xai-row" }, ...controls.map((control) => control.node)),
      this.makePanes(),
      this.makeLatents(),
      element("div", { class: "xai-row" }, this.slider.node, back),
    );
    node.classList.add("xai-latents");
    this.node = node;
    this.status = status;
    root.append(node);
  }

  makePanes() {
    const [, height, width] = this.shape;
    this.canvases = {};
    this.titles = {};
    const panes = Object.entries(PANES).map(([name, title]) => {
      this.canvases[name] = element("canvas", { width, height, role: "img" });
      this.titles[name] = element("p", { class: "xai-pane-title" }, title);
      return element("div", {}, this.titles[name], this.canvases[name]);
    });
    return element("div", { class: "xai-latent-panes" }, ...panes);
  }

  /** One radio button for each latent, so that arrow keys go from one to the next. */
  makeLatents() {
    const group = `xai-latent-${(LatentView.count = (LatentView.count ?? 0) + 1)}`;
    this.latents = Array.from(this.model.get("code"), (_, latent) => {
      const onchange = () => this.set({ latent });
      const input = element("input", { type: "radio", name: group, onchange });
      const bar = element("span", { class: "xai-latent-bar" });
      const label = element("label", { class: "xai-latent" }, input, String(latent + 1), bar);
      return { input, bar, label };
    });
    const legend = element("legend", { class: "xai-label" }, "Choose a latent, then move it");
    const labels = this.latents.map(({ label }) => label);
    return element("fieldset", { class: "xai-latent-choice" }, legend, ...labels);
  }

  // ------------------------------------------------------------------------ what the reader does

  chooseImage(image) {
    const { output } = this.encoder.forward(this.pictures[image]);
    this.set({ image, code: [...output] });
  }

  move(value) {
    const code = [...this.code];
    code[this.latent] = value;
    this.set({ code });
  }

  reset() {
    this.chooseImage(this.model.get("image"));
    announce(this.status, "All latents stand as the encoder read them.");
  }

  readFrom(read) {
    this.read = read;
    this.drawMaps();
  }

  useSlopes(slopes) {
    this.slopes = slopes;
    this.drawMaps();
  }

  // ---------------------------------------------------------------------------------- the drawing

  show() {
    const { code, latent } = this;
    this.imageChoice.set(String(this.model.get("image")));
    this.slider.label.textContent = `Latent ${latent + 1}`;
    this.slider.set(code[latent]);
    this.latents.forEach((parts, number) => this.showLatent(parts, code[number], number));
    this.drawPictures();
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.drawMaps(), PAUSE);
  }

  showLatent({ input, bar, label }, value, number) {
    const share = Math.min(1, Math.abs(value) / this.setup.limit) / 2;
    input.checked = number === this.latent;
    input.setAttribute("aria-label", `latent ${number + 1}, ${signedNumber(value)}`);
    bar.style.width = `${100 * share}%`;
    bar.style.left = `${100 * (value < 0 ? 0.5 - share : 0.5)}%`;
    label.classList.toggle("xai-chosen", input.checked);
  }

  drawPictures() {
    const { output: code } = this.encoder.forward(this.picture);
    const untouched = this.decoder.forward(code).output;
    this.reconstruction = this.decoder.forward(this.code).output;
    this.drawPicture("image", this.picture);
    this.drawPicture("reconstruction", this.reconstruction);
    const change = this.reconstruction.map((value, place) => value - untouched[place]);
    this.drawMap("change", sumColours(change, this.shape), LARGE_CHANGE);
  }

  /** Maps and weights, which take longer than the pictures do. */
  drawMaps() {
    const from = this.read === "image" ? this.picture : this.reconstruction;
    const pooled = this.slopes === "pooled";
    const { code, maps, size } = latentMaps(this.encoder, from, this.setup.layer, pooled);
    const whole = aggregateOf(maps, decoderNorms(this.decoder, code));
    const [one, all] = [maps[this.latent], whole].map((m) => enlarge(m, size, this.shape.slice(1)));
    this.titles.map.textContent = `map of latent ${this.latent + 1}`;
    this.drawMap("map", one, largest(one));
    this.drawMap("all", all, largest(all), false);
    this.maps = { one, all };
    this.node.dataset.ready = "maps";
    this.say(code[this.latent]);
  }

  drawPicture(name, values) {
    const [channels, height, width] = this.shape;
    const levels = Uint8ClampedArray.from(values, (value) => 255 * value);
    drawLevels(this.canvases[name], levels, { channels, height, width });
    this.canvases[name].setAttribute("aria-label", this.titles[name].textContent);
  }

  drawMap(name, values, limit, signed = true) {
    drawHeatmap(this.canvases[name], values, limit, signed);
    const place = strongestPlace(values, this.canvases[name]);
    const text = `${this.titles[name].textContent}, ${place}`;
    this.canvases[name].setAttribute("aria-label", text);
  }

  say(read) {
    const value = signedNumber(this.code[this.latent]);
    const text = `Latent ${this.latent + 1} stands at ${value}. `;
    announce(this.status, `${text}The encoder reads ${signedNumber(read)} in ${READ[this.read]}.`);
  }

  remove() {
    clearTimeout(this.waiting);
    this.model.off(CHANGES, this.onChange);
  }
}

function unpackPictures(packed) {
  const levels = unpack(packed);
  const size = levels.length / packed.shape[0];
  return Array.from({ length: packed.shape[0] }, (_, number) =>
    Float32Array.from(levels.subarray(number * size, (number + 1) * size), (level) => level / 255),
  );
}

/** One number for each pixel, as xaiutils.plot draws maps with several channels. */
function sumColours(values, [, height, width]) {
  const sums = new Float32Array(height * width);
  values.forEach((value, place) => (sums[place % sums.length] += value));
  return sums;
}

/** Where the colours saturate; 1 for a map that is zero everywhere. */
function largest(values) {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;
}

/** The ninth of a map that holds most of it, in words. */
function strongestPlace(values, { width, height }) {
  const shares = new Float64Array(9);
  values.forEach((value, place) => {
    const row = Math.floor((3 * Math.floor(place / width)) / height);
    shares[3 * row + Math.floor((3 * (place % width)) / width)] += Math.abs(value);
  });
  const most = shares.indexOf(Math.max(...shares));
  if (shares[most] === 0) return "zero everywhere";
  const rows = ["top", "middle", "bottom"];
  return `strongest at the ${rows[Math.floor(most / 3)]} ${["left", "centre", "right"][most % 3]}`;
}

function signedNumber(value) {
  const text = Math.abs(value).toFixed(2);
  return Number(text) === 0 ? text : `${value < 0 ? "\u2212" : "+"}${text}`;
}

function render({ model, el }) {
  const view = new LatentView(model, el);
  return () => view.remove();
}

export default { render };
