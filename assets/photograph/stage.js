// The photograph with its map, a lens that looks through the map, and a brush that erases.

const SHARP = 448; // pixels of the stage's side: more than the network sees, for the eye
const LENS = 62; // its radius, in pixels of the stage
const CLOSER = 2; // how much a lens enlarges
const HOLD_MS = 180; // after which a finger means the lens and not to scroll
const KEY_STEP = 8; // pixels of the network's picture that an arrow key moves by

class Stage {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {{brush: number, onErase: () => void}} options the brush's radius in the network's
   *     pixels, and who is told that it erased
   */
  constructor(canvas, { brush, onErase }) {
    Object.assign(this, { canvas, brush, onErase });
    canvas.width = canvas.height = SHARP;
    this.pen = canvas.getContext("2d");
    this.tool = "lens";
    this.view = "both";
    this.point = null; // where lens or brush is, in the network's pixels
    this.pressed = false;
    this.strokes = [];
    this.listen();
  }

  /** Show a photograph from which nothing is erased, without a map. */
  show(photograph, side) {
    this.side = side;
    this.photograph = photograph;
    this.grey = greyCopy(photograph);
    this.erased = null;
    this.mask = new Uint8Array(side * side);
    this.strokes = [];
    this.setMap(null);
  }

  /** Lay a map over the photograph, the more opaque the stronger, as `plot.heatmap` does. */
  setMap(values) {
    this.map = values && mapCanvases(values, this.side);
    this.paint();
  }

  /** @param {Uint8Array} replacement the levels that stand where the brush went */
  setReplacement(replacement) {
    this.replacement = replacement;
    this.showErased();
  }

  setTool(tool) {
    this.tool = tool;
    this.canvas.classList.toggle("ph-brushing", tool === "brush");
    this.point = null;
    this.paint();
  }

  setView(view) {
    this.view = view;
    this.paint();
  }

  // ---------------------------------------------------------------------------- painting

  paint() {
    if (!this.photograph) return;
    const { pen } = this;
    const shown = this.map ? this.view : "photograph";
    pen.imageSmoothingEnabled = true;
    pen.drawImage(shown === "both" ? this.grey : this.photograph, 0, 0, SHARP, SHARP);
    this.drawErased();
    if (shown === "both") pen.drawImage(this.map.over, 0, 0, SHARP, SHARP);
    if (shown === "map") pen.drawImage(this.map.alone, 0, 0, SHARP, SHARP);
    if (this.point && this.tool === "lens" && this.pressed) this.drawLens();
    if (this.point && this.tool === "brush") this.ring(this.at(this.point), this.brush * this.zoom);
  }

  get zoom() {
    return SHARP / this.side;
  }

  at({ x, y }) {
    return [x * this.zoom, y * this.zoom];
  }

  drawErased() {
    if (!this.erased) return;
    this.pen.imageSmoothingEnabled = false;
    this.pen.drawImage(this.erased, 0, 0, SHARP, SHARP);
    this.pen.imageSmoothingEnabled = true;
  }

  /** The photograph alone, enlarged around the point that the lens is over. */
  drawLens() {
    const { pen } = this;
    const [x, y] = this.at(this.point);
    pen.save();
    pen.beginPath();
    pen.arc(x, y, LENS, 0, 2 * Math.PI);
    pen.clip();
    pen.translate(x - CLOSER * x, y - CLOSER * y);
    pen.scale(CLOSER, CLOSER);
    pen.drawImage(this.photograph, 0, 0, SHARP, SHARP);
    this.drawErased();
    pen.restore();
    this.ring([x, y], LENS);
  }

  ring([x, y], radius) {
    for (const [colour, width] of [["#000", 4], ["#fff", 2]]) {
      Object.assign(this.pen, { strokeStyle: colour, lineWidth: width });
      this.pen.beginPath();
      this.pen.arc(x, y, radius, 0, 2 * Math.PI);
      this.pen.stroke();
    }
  }

  // ---------------------------------------------------------------------------- erasing

  /** Whether anything is erased, and how much of the picture. */
  get share() {
    return this.mask ? this.mask.reduce((sum, gone) => sum + gone, 0) / this.mask.length : 0;
  }

  beginStroke() {
    this.strokes.push(this.mask.slice());
  }

  undo() {
    this.mask = this.strokes.pop() ?? this.mask;
    this.showErased();
    this.onErase();
  }

  restore() {
    if (!this.share) return;
    this.beginStroke();
    this.mask = new Uint8Array(this.mask.length);
    this.showErased();
    this.onErase();
  }

  /** Erase along a line. */
  stroke(from, to) {
    const steps = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / 3));
    for (let step = 0; step <= steps; step += 1) {
      const part = step / steps;
      this.dab(from.x + part * (to.x - from.x), from.y + part * (to.y - from.y));
    }
    this.showErased();
    this.onErase();
  }

  dab(x, y) {
    const { side, brush, mask } = this;
    const within = (value) => Math.max(0, Math.min(side, Math.round(value)));
    for (let row = within(y - brush); row < within(y + brush); row += 1) {
      for (let column = within(x - brush); column < within(x + brush); column += 1) {
        const far = Math.hypot(column + 0.5 - x, row + 0.5 - y);
        if (far <= brush) mask[row * side + column] = 1;
      }
    }
  }

  showErased() {
    this.erased = this.share ? erasedCanvas(this.mask, this.replacement, this.side) : null;
    this.paint();
  }

  // ---------------------------------------------------------------------------- the reader

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel", "pointerleave"]) {
      canvas.addEventListener(end, () => this.release());
    }
    // A finger that rests wants the lens; one that moves at once scrolls the page.
    canvas.addEventListener("touchmove", (event) => {
      if (this.pressed && event.cancelable) event.preventDefault();
      else clearTimeout(this.holding);
    }, { passive: false });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => this.release());
  }

  place(event) {
    const { left, top, width } = this.canvas.getBoundingClientRect();
    const scale = this.side / width;
    return { x: (event.clientX - left) * scale, y: (event.clientY - top) * scale };
  }

  press(event) {
    if (!this.photograph || event.button > 0) return;
    this.point = this.place(event);
    if (event.pointerType === "touch" && this.tool === "lens") {
      this.holding = setTimeout(() => this.start(), HOLD_MS);
      return;
    }
    this.canvas.setPointerCapture(event.pointerId);
    this.start();
  }

  start() {
    this.pressed = true;
    if (this.tool === "brush") {
      this.beginStroke();
      this.stroke(this.point, this.point);
    }
    this.paint();
  }

  move(event) {
    if (!this.photograph) return;
    const before = this.point;
    this.point = this.place(event);
    if (this.pressed && this.tool === "brush") this.stroke(before ?? this.point, this.point);
    else this.paint();
  }

  release() {
    clearTimeout(this.holding);
    this.pressed = false;
    this.point = null;
    this.paint();
  }

  key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (!this.photograph || !(move || [" ", "Escape"].includes(event.key))) return;
    event.preventDefault();
    if (event.key === "Escape") {
      this.release();
      return;
    }
    const within = (value) => Math.max(0, Math.min(this.side, value));
    const { x, y } = this.point ?? { x: this.side / 2, y: this.side / 2 };
    const [right, down] = move ?? [0, 0];
    this.point = { x: within(x + KEY_STEP * right), y: within(y + KEY_STEP * down) };
    this.pressed = this.tool === "lens";
    if (event.key === " " && this.tool === "brush") {
      this.beginStroke();
      this.stroke(this.point, this.point);
    }
    this.paint();
  }
}

/** The mean of red, green and blue, as `plot.heatmap` has it. */
function greyCopy(canvas) {
  const copy = element("canvas", { width: canvas.width, height: canvas.height });
  const pen = copy.getContext("2d", { willReadFrequently: true });
  pen.drawImage(canvas, 0, 0);
  const shown = pen.getImageData(0, 0, copy.width, copy.height);
  for (let place = 0; place < shown.data.length; place += 4) {
    const [red, green, blue] = shown.data.subarray(place, place + 3);
    shown.data.fill((red + green + blue) / 3, place, place + 3);
  }
  pen.putImageData(shown, 0, 0);
  return copy;
}

/** A map in the colours of the book: alone, and see-through where it is weak. */
function mapCanvases(values, side) {
  const limit = saturation(values);
  const alone = element("canvas", { width: side, height: side });
  drawHeatmap(alone, values, limit);
  const over = element("canvas", { width: side, height: side });
  const shown = alone.getContext("2d").getImageData(0, 0, side, side);
  values.forEach((value, pixel) => {
    shown.data[4 * pixel + 3] = 255 * Math.sqrt(Math.min(1, Math.abs(value) / limit));
  });
  over.getContext("2d").putImageData(shown, 0, 0);
  return { alone, over };
}

/** Where the colours saturate: the 99.5th percentile of the sizes, as in `plot.colour_limit`. */
function saturation(values) {
  const sizes = Float32Array.from(values, Math.abs).sort();
  const place = 0.995 * (sizes.length - 1);
  const [low, high] = [sizes[Math.floor(place)], sizes[Math.ceil(place)]];
  return low + (place % 1) * (high - low) || sizes.at(-1) || 1;
}

/** What stands where the brush went, and nothing elsewhere. */
function erasedCanvas(mask, replacement, side) {
  const canvas = element("canvas", { width: side, height: side });
  const pen = canvas.getContext("2d");
  const shown = pen.createImageData(side, side);
  mask.forEach((gone, pixel) => {
    if (!gone) return;
    for (let colour = 0; colour < 3; colour += 1) {
      shown.data[4 * pixel + colour] = replacement[colour * mask.length + pixel];
    }
    shown.data[4 * pixel + 3] = 255;
  });
  pen.putImageData(shown, 0, 0);
  return canvas;
}
