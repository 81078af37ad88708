// Steps through relevance propagation in a small network. All numbers come from Python; the script
// shows them: one unit after the other hands its relevance on to the units that it reads.

const WIDTH = 360; // in the drawing's units, which are about pixels on a phone
const UNIT_RADIUS = 25;
const ROW = 92;

/** Every step as the layer and the unit that hands on, from the output down; the first is none. */
function stepsOf(relevance) {
  const steps = [null];
  for (let layer = relevance.length - 1; layer > 0; layer -= 1) {
    relevance[layer].forEach((_, unit) => steps.push({ layer, unit }));
  }
  return steps;
}

/** What stands on each layer after the first `count` steps; null where nothing arrived yet. */
function relevanceAfter(found, steps, count) {
  const top = found.relevance.length - 1;
  const held = found.relevance.map((units, layer) => units.map((r) => (layer === top ? r : null)));
  for (const { layer, unit } of steps.slice(1, count + 1)) {
    found.messages[layer - 1][unit].forEach((message, i) => {
      held[layer - 1][i] = (held[layer - 1][i] ?? 0) + message;
    });
  }
  return held;
}

/** What was absorbed above each layer after the first `count` steps, by cause. */
function absorbedAfter(found, steps, count) {
  const absorbed = found.relevance.map(() => ({ bias: 0, stabiliser: 0, dead: 0 }));
  for (const { layer, unit } of steps.slice(1, count + 1)) {
    for (let below = layer - 1; below >= 0; below -= 1) {
      for (const cause of ["bias", "stabiliser", "dead"]) {
        absorbed[below][cause] += found[cause][layer - 1][unit];
      }
    }
  }
  return absorbed;
}

function twoDigits(value) {
  const text = Math.abs(value).toFixed(2);
  return value < 0 && Number(text) !== 0 ? `\u2212${text}` : text;
}

function layerName(layer, top) {
  if (layer === 0) return "inputs";
  if (layer === top) return "output";
  return top === 2 ? "hidden" : `hidden ${layer}`;
}

function unitName(layer, unit, top) {
  const name = layer === 0 ? "input" : layer === top ? "output" : `${layerName(layer, top)} unit`;
  return `${name} ${unit + 1}`;
}

function describeStep(found, step) {
  const top = found.relevance.length - 1;
  if (!step) return "The output holds all relevance: its own value. Step, and it is handed back.";
  const { layer, unit } = step;
  const parts = found.messages[layer - 1][unit].map(
    (message, i) => `${twoDigits(message)} to ${unitName(layer - 1, i, top)}`,
  );
  const lost = ["bias", "stabiliser", "dead"]
    .filter((cause) => Math.abs(found[cause][layer - 1][unit]) >= 0.005)
    .map((cause) => `${twoDigits(found[cause][layer - 1][unit])} ${LOST_TO[cause]}`);
  const name = unitName(layer, unit, top);
  const given = `${name} hands on its ${twoDigits(found.relevance[layer][unit])}`;
  return `${given[0].toUpperCase()}${given.slice(1)}: ${[...parts, ...lost].join(", ")}.`;
}

const LOST_TO = {
  bias: "to its bias",
  stabiliser: "to the stabiliser",
  dead: "to nobody",
};

// ---------------------------------------------------------------------------------- the drawing

function placesOf(layers, height) {
  const columns = layers.length - 1;
  return layers.map((units, layer) =>
    units.map((_, unit) => ({
      x: 40 + (layer * (WIDTH - 80)) / columns,
      y: height / 2 + 8 + (unit - (units.length - 1) / 2) * ROW,
    })),
  );
}

/** The line of one message, from the unit above to the edge of the unit below. */
function arrow(from, to, message, widest, kind, arrowhead) {
  const length = Math.hypot(to.x - from.x, to.y - from.y);
  const end = 1 - (UNIT_RADIUS + 9) / length;
  const sign = message < 0 ? "negative" : "positive";
  return svgElement("line", {
    class: `xai-message xai-${kind} xai-${sign}`,
    x1: from.x,
    y1: from.y,
    x2: from.x + (to.x - from.x) * end,
    y2: from.y + (to.y - from.y) * end,
    "stroke-width": kind === "weight" ? 1 : 1.5 + (5 * Math.abs(message)) / widest,
    "marker-end": kind === "now" ? `url(#${arrowhead}-${sign})` : null,
  });
}

/** The number of a message, beside the unit that gets it. */
function messageLabel(from, to, message) {
  const along = 0.56;
  const place = { x: from.x + (to.x - from.x) * along, y: from.y + (to.y - from.y) * along + 4 };
  const text = `${message > 0 ? "+" : ""}${twoDigits(message)}`;
  return svgElement("text", { class: "xai-message-label", ...place }, text);
}

function unitNode({ x, y }, activation, relevance, isNow) {
  const classes = `xai-unit${isNow ? " xai-now" : ""}${relevance === null ? " xai-empty" : ""}`;
  const read = `a = ${twoDigits(activation)}`;
  const shown = relevance === null ? "\u00b7" : twoDigits(relevance);
  return svgElement(
    "g",
    { class: classes },
    svgElement("circle", { cx: x, cy: y, r: UNIT_RADIUS }),
    svgElement("text", { x, y: y + 4.5, class: "xai-relevance" }, shown),
    svgElement("text", { x, y: y + UNIT_RADIUS + 13, class: "xai-activation" }, read),
  );
}

function arrowheads(name) {
  const size = { markerWidth: 11, markerHeight: 11, markerUnits: "userSpaceOnUse" };
  const box = { viewBox: "0 0 10 10", refX: 2, refY: 5, orient: "auto", ...size };
  const markers = ["positive", "negative"].map((sign) =>
    svgElement(
      "marker",
      { id: `${name}-${sign}`, class: `xai-${sign}`, ...box },
      svgElement("path", { d: "M 0 0 L 10 5 L 0 10 z" }),
    ),
  );
  return svgElement("defs", {}, ...markers);
}

/** The whole picture after some steps. */
function drawNetwork(svg, activations, found, steps, count, arrowhead) {
  const height = Math.max(...activations.map((units) => units.length)) * ROW + 24;
  const places = placesOf(activations, height);
  const held = relevanceAfter(found, steps, count);
  const top = activations.length - 1;
  const widest = Math.max(1e-12, ...found.messages.flat(2).map(Math.abs));
  const lines = [];
  const labels = [];
  steps.slice(1).forEach(({ layer, unit }, index) => {
    const kind = index + 1 === count ? "now" : index + 1 < count ? "past" : "weight";
    found.messages[layer - 1][unit].forEach((message, i) => {
      const ends = [places[layer][unit], places[layer - 1][i]];
      lines.push(arrow(...ends, message, widest, kind, arrowhead));
      if (kind === "now") labels.push(messageLabel(...ends, message));
    });
  });
  const now = steps[count];
  const units = activations.flatMap((values, layer) =>
    values.map((a, unit) => {
      const isNow = now?.layer === layer && now.unit === unit;
      return unitNode(places[layer][unit], a, held[layer][unit], isNow);
    }),
  );
  const names = places.map(([{ x }], layer) =>
    svgElement("text", { x, y: 12, class: "xai-column" }, layerName(layer, top)),
  );
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${height}`);
  svg.replaceChildren(arrowheads(arrowhead), ...names, ...lines, ...units, ...labels);
}

// ---------------------------------------------------------------------------------- the account

/** A table with one row a layer: what it holds, what was absorbed above it, and the total. */
function accountTable(found, steps, count) {
  const top = found.relevance.length - 1;
  const held = relevanceAfter(found, steps, count);
  const absorbed = absorbedAfter(found, steps, count);
  const head = ["layer", "sum of R", "bias", "\u03b5", "dead", "total"];
  const rows = held.map((units, layer) => {
    const isWhole = !steps.slice(count + 1).some((step) => step.layer === layer + 1);
    if (!isWhole) return tableRow(layerName(layer, top), head.slice(1).map(() => "\u2026"));
    const sum = units.reduce((total, r) => total + r, 0);
    const { bias, stabiliser, dead } = absorbed[layer];
    const lost = [bias, stabiliser, dead];
    const total = lost.reduce((soFar, part) => soFar + part, sum);
    return tableRow(layerName(layer, top), [sum, ...lost, total].map(twoDigits));
  });
  const titles = head.map((title) => element("th", { scope: "col" }, title));
  return element(
    "table",
    { class: "xai-account" },
    element("caption", {}, "The account: the total is the output, in every layer"),
    element("thead", {}, element("tr", {}, ...titles)),
    element("tbody", {}, ...rows.reverse()),
  );
}

// ----------------------------------------------------------------------------------- the widget

function render({ model, el }) {
  const arrowhead = `xai-arrow-${Math.random().toString(36).slice(2)}`;
  const svg = svgElement("svg", { class: "xai-network", role: "img" });
  const account = element("div", { class: "xai-scroll" });
  const { activations } = model.get("network");
  const steps = stepsOf(activations);
  const last = steps.length - 1;

  const go = (step) => {
    model.set("step", Math.max(0, Math.min(last, step)));
    model.save_changes();
  };
  const names = model.get("passes").map(({ name }) => name);
  const rules = choice("rule", names, model.get("rule"), (rule) => {
    model.set("rule", rule);
    model.save_changes();
  });
  const back = button("Back", () => go(model.get("step") - 1));
  const next = button("Step", () => go(model.get("step") + 1));
  const all = button("To the inputs", () => go(last));
  const again = button("Start over", () => go(0));
  const buttons = element("div", { class: "xai-row" }, rules.node, back, next, all, again);
  const { node, status } = frame("Relevance, step by step", buttons, svg, account);
  svg.after(status);

  const draw = () => {
    const found = model.get("passes").find(({ name }) => name === model.get("rule"));
    const count = Math.max(0, Math.min(last, model.get("step")));
    rules.set(model.get("rule"));
    drawNetwork(svg, activations, found, steps, count, arrowhead);
    svg.setAttribute("aria-label", `The network after step ${count} of ${last}`);
    account.replaceChildren(accountTable(found, steps, count));
    status.textContent = `${count}/${last}. ${describeStep(found, steps[count])}`;
    setOff(back, count === 0);
    setOff(again, count === 0);
    setOff(next, count === last);
    setOff(all, count === last);
  };
  const byKey = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
  node.addEventListener("keydown", (event) => {
    if (!(event.key in byKey) || event.target.matches("select")) return;
    event.preventDefault();
    go(model.get("step") + byKey[event.key]);
  });
  model.on("change:step", draw);
  model.on("change:rule", draw);
  draw();
  el.append(node);
  return () => {
    model.off("change:step", draw);
    model.off("change:rule", draw);
  };
}

/** A button that does nothing now, but keeps the focus of who has just pressed it. */
function setOff(node, isOff) {
  node.setAttribute("aria-disabled", String(isOff));
}

export default { render };
