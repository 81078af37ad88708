// Helpers that all widgets share. The files of a widget are joined to one module: nothing here is
// exported, and nothing touches the document before it is called.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. Attributes: `onclick` and its like listen; true sets, false and null omit. */
function element(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

/** An SVG element, in the same way. */
function svgElement(tag, attributes = {}, ...children) {
  return furnish(document.createElementNS(SVG, tag), attributes, children);
}

function furnish(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) {
      node.setAttribute(name, value === true ? "" : value);
    }
  }
  node.append(...children);
  return node;
}

/** The frame of a widget: named for screen readers, with a line that they read out. */
function frame(name, ...children) {
  const status = element("p", { class: "xai-status", role: "status", "aria-live": "polite" });
  // JupyterLab would take the arrow keys for itself.
  const node = element(
    "section",
    { class: "xai-widget", "aria-label": name, "data-lm-suppress-shortcuts": true },
    ...children,
    status,
  );
  return { node, status };
}

function button(text, onclick, attributes = {}) {
  return element("button", { type: "button", class: "xai-button", onclick, ...attributes }, text);
}

/**
 * A labelled slider with its value in words beside it.
 * @param {{min: number, max: number, step?: number, value: number,
 *          onInput: (value: number) => void, format?: (value: number) => string}} options
 * @returns {{node: HTMLElement, input: HTMLInputElement, set: (value: number) => void,
 *            setRange: (min: number, max: number) => void}} `set` tells nobody.
 */
function slider(label, { min, max, step = 1, value, onInput, format = String }) {
  const shown = element("output", { class: "xai-value" });
  const input = element("input", { type: "range", min, max, step });
  const describe = () => {
    shown.textContent = format(Number(input.value));
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  const set = (next) => {
    input.value = next;
    describe();
  };
  input.addEventListener("input", () => {
    describe();
    onInput(Number(input.value));
  });
  set(value);
  const setRange = (low, high) => {
    Object.assign(input, { min: low, max: high });
    describe();
  };
  const words = element("span", { class: "xai-label" }, label);
  const node = element("label", { class: "xai-control xai-slider" }, words, input, shown);
  return { node, input, set, setRange };
}

/**
 * A labelled list of which one is chosen.
 * @param {(string | [string, string])[]} options values, or pairs of value and text
 * @returns {{node: HTMLElement, input: HTMLSelectElement, set: (value: string) => void}}
 */
function choice(label, options, value, onChange) {
  const input = element("select", { onchange: () => onChange(input.value) });
  for (const option of options) {
    const [key, text] = Array.isArray(option) ? option : [option, option];
    input.append(element("option", { value: key }, text));
  }
  const set = (next) => {
    input.value = next;
  };
  set(value);
  const words = element("span", { class: "xai-label" }, label);
  return { node: element("label", { class: "xai-control" }, words, input), input, set };
}

/** A row of a table: its name, and what stands beside it. */
function tableRow(name, cells) {
  const head = element("th", { scope: "row" }, name);
  return element("tr", {}, head, ...cells.map((cell) => element("td", {}, cell)));
}

/** Let a screen reader say a text; of many in a short time only the last. */
function announce(node, text, delay = 400) {
  clearTimeout(announce.waiting?.get(node));
  announce.waiting ??= new WeakMap();
  announce.waiting.set(
    node,
    setTimeout(() => {
      node.textContent = text;
    }, delay),
  );
}

/** Whether the reader asked for less movement. */
function wantsStillness() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

/** Read an array that Python packed: a typed array with its `shape`. */
function unpack({ shape, dtype, data }) {
  const bytes = bytesOf(data);
  const values = {
    uint8: () => bytes,
    float32: () => new Float32Array(bytes.buffer),
    float16: () => new Float32Array(new Uint16Array(bytes.buffer)).map(halfToNumber),
  }[dtype]();
  return Object.assign(values, { shape });
}

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length); // a loop, because weights are long and `from` is slow
  for (let k = 0; k < bytes.length; k += 1) bytes[k] = text.charCodeAt(k);
  return bytes;
}

/** The number that 16 bits stand for: sign, five bits of exponent, ten of fraction. */
function halfToNumber(bits) {
  const exponent = (bits >> 10) & 31;
  const fraction = (bits & 1023) / 1024;
  const size = exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction;
  return bits & 0x8000 ? -size : size;
}

/**
 * Draw one value a pixel on a canvas of the map's own size; CSS makes it larger.
 * @param {Float32Array} values row by row, as many as the canvas has pixels
 * @param {number} limit where the colours saturate; zero is the middle of the signed ones
 */
function drawHeatmap(canvas, values, limit, signed = true) {
  const context = canvas.getContext("2d");
  const picture = context.createImageData(canvas.width, canvas.height);
  const levels = colourLevels(signed);
  values.forEach((value, pixel) => {
    const level = 3 * colourLevel(value, limit, signed);
    picture.data.set(levels.subarray(level, level + 3), 4 * pixel);
    picture.data[4 * pixel + 3] = 255;
  });
  context.putImageData(picture, 0, 0);
}

/** Which of the 256 colours a value has, just as matplotlib chooses it. */
function colourLevel(value, limit, signed) {
  const share = signed ? (value / limit + 1) / 2 : value / limit;
  return Math.max(0, Math.min(255, Math.floor(share * 256)));
}

function colourLevels(signed) {
  colourLevels.kept ??= { true: bytesOf(SIGNED_COLOURS), false: bytesOf(MAGNITUDE_COLOURS) };
  return colourLevels.kept[signed];
}
