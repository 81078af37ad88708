// A pad to draw a digit on, and what MNIST does to a digit: fit it into a square of 20 pixels and
// put its centre of mass into the middle of 28 by 28.

const PAD = 280; // pixels of the pad
const DIGIT = 28;
const BOX = 20;
const PEN = 20; // width of a stroke on the pad
const STEP = 10; // of the pen, for an arrow key

/**
 * @param {{starts: [string, () => Uint8Array][], onChange: (levels: Uint8Array) => void}} options
 *     named digits to start from, and who is told the 28 x 28 levels after each stroke
 */
function drawingPad({ starts, onChange }) {
  const canvas = element("canvas", {
    class: "xai-pad",
    width: PAD,
    height: PAD,
    tabindex: 0,
    role: "application",
    "aria-label":
      "Drawing pad. Arrow keys move the pen, the space bar lowers or lifts it, Delete clears.",
  });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  Object.assign(context, { lineWidth: PEN, lineCap: "round", lineJoin: "round" });
  const pen = { x: PAD / 2, y: PAD / 4, down: false };
  const cursor = element("span", { class: "xai-pen", "aria-hidden": "true" });

  const ink = () => {
    const { data } = context.getImageData(0, 0, PAD, PAD);
    return Float32Array.from({ length: PAD * PAD }, (_, k) => data[4 * k] / 255);
  };
  const tell = () => onChange(asMnist(ink(), PAD));
  const clear = () => {
    context.fillStyle = "#000";
    context.fillRect(0, 0, PAD, PAD);
    tell();
  };
  const lineTo = (x, y) => {
    context.strokeStyle = "#fff";
    context.beginPath();
    context.moveTo(pen.x, pen.y);
    context.lineTo(x, y);
    context.stroke();
  };
  const moveTo = (x, y) => {
    if (pen.down) lineTo(x, y);
    Object.assign(pen, { x, y });
    cursor.style.left = `${(100 * x) / PAD}%`;
    cursor.style.top = `${(100 * y) / PAD}%`;
    cursor.classList.toggle("xai-pen-down", pen.down);
  };
  const start = (levels) => {
    const source = element("canvas", { width: DIGIT, height: DIGIT });
    drawLevels(source, levels, { channels: 1, height: DIGIT, width: DIGIT });
    context.drawImage(source, 0, 0, PAD, PAD);
    tell();
  };

  const place = (event) => {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    return [((event.clientX - left) * PAD) / width, ((event.clientY - top) * PAD) / height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    canvas.focus();
    canvas.setPointerCapture(event.pointerId);
    pen.down = false;
    moveTo(...place(event));
    pen.down = true;
    moveTo(...place(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons && pen.down) moveTo(...place(event));
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, () => {
      pen.down = false;
      moveTo(pen.x, pen.y);
      tell();
    });
  }
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (!move && ![" ", "Delete"].includes(event.key)) return;
    event.preventDefault();
    if (event.key === "Delete") clear();
    if (event.key === " ") pen.down = !pen.down;
    const within = (value) => Math.max(0, Math.min(PAD, value));
    const [right, down] = move ?? [0, 0];
    moveTo(within(pen.x + STEP * right), within(pen.y + STEP * down));
    tell();
  });

  const from = choice("Start from", ["", ...starts.map(([name]) => name)], "", (name) => {
    if (name) start(starts.find(([other]) => other === name)[1]());
    from.set("");
  });
  const node = element(
    "div",
    { class: "xai-drawing" },
    element("div", { class: "xai-stage" }, canvas, cursor),
    element("div", { class: "xai-row" }, from.node, button("Clear the pad", clear)),
  );
  moveTo(pen.x, pen.y);
  context.fillRect(0, 0, PAD, PAD);
  return { node, clear };
}

/** Fit ink (side x side, 0 to 1) into MNIST's frame: 28 x 28 levels; an empty pad stays empty. */
function asMnist(ink, side) {
  const extent = extentOf(ink, side);
  const levels = new Uint8Array(DIGIT * DIGIT);
  if (!extent) return levels;
  const scale = extent.longer / BOX; // pixels of the pad for one of the digit's
  levels.forEach((_, place) => {
    const left = extent.x + ((place % DIGIT) - DIGIT / 2) * scale;
    const top = extent.y + (Math.floor(place / DIGIT) - DIGIT / 2) * scale;
    levels[place] = Math.round(255 * meanInk(ink, side, left, top, scale));
  });
  return levels;
}

/** The longer side of the ink's box, and its centre of mass. */
function extentOf(ink, side) {
  const box = { left: side, right: -1, top: side, bottom: -1 };
  let [total, x, y] = [0, 0, 0];
  ink.forEach((strength, place) => {
    if (strength === 0) return;
    const [column, row] = [place % side, Math.floor(place / side)];
    box.left = Math.min(box.left, column);
    box.right = Math.max(box.right, column);
    box.top = Math.min(box.top, row);
    box.bottom = Math.max(box.bottom, row);
    total += strength;
    x += strength * (column + 0.5);
    y += strength * (row + 0.5);
  });
  if (total === 0) return null;
  const longer = Math.max(box.right - box.left, box.bottom - box.top) + 1;
  return { longer, x: x / total, y: y / total };
}

/** The mean ink in a square, pixels at its edge in part; outside the pad there is none. */
function meanInk(ink, side, left, top, size) {
  const overlap = (pixel, start) => Math.min(pixel + 1, start + size) - Math.max(pixel, start);
  let sum = 0;
  for (let row = Math.floor(top); row < top + size; row += 1) {
    if (row < 0 || row >= side) continue;
    for (let column = Math.floor(left); column < left + size; column += 1) {
      if (column < 0 || column >= side) continue;
      sum += ink[row * side + column] * overlap(row, top) * overlap(column, left);
    }
  }
  return sum / size ** 2;
}
