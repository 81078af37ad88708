// The curves of a test, each with its name at its end; on the page, and in the picture to share.

const TALL = 230; // pixels of the chart
const APART = 15; // between two names at the ends of curves

const LINES = {
  morf: { name: "most first", colour: "var(--bet)", thick: 4 },
  borrowed: { name: "borrowed map", colour: "var(--map-4)", dashes: "9 4" },
  lot: { name: "by lot", colour: "var(--map-1)", dashes: "2 4" },
  lerf: { name: "least first", colour: "var(--map-3)", dashes: "12 3 2 3" },
};

/**
 * The curves as far as they are run.
 * @param {Record<string, number[]>} scores
 * @param {{width: number, label: string, colours?: Record<string, string>}} options colours of the
 *     lines and of the `ink`, where the page's own can't be had
 */
function curvesOf(scores, { width, label, colours = {} }) {
  const size = { viewBox: `0 0 ${width} ${TALL}`, width, height: TALL };
  const alt = `Curves of the ${label} while regions are erased.`;
  const svg = svgElement("svg", { ...size, role: "img", "aria-label": alt });
  const values = Object.values(scores).flat();
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const [left, right, top, bottom] = [38, width - 116, 22, TALL - 34];
  const across = (step) => left + (step / STEPS) * (right - left);
  const up = (score) => bottom - ((score - low) / (high - low || 1)) * (bottom - top);
  const ink = colours.ink ?? "var(--pst-color-text-base)";
  svg.append(...frameOf({ low, high, left, right, bottom, across, up, label, ink }));
  const ends = [];
  for (const [racer, line] of Object.entries(scores).reverse()) {
    const { name, colour, dashes = "none", thick = 2 } = LINES[racer];
    const style = `fill: none; stroke: ${colours[racer] ?? colour}; stroke-width: ${thick}; `
      + `stroke-dasharray: ${dashes}`;
    const points = line.map((score, step) => `${across(step)} ${up(score)}`);
    const d = `M${points.join("L")}`;
    svg.append(svgElement("path", { class: `ph-line-${racer}`, style, d }));
    ends.push({ name, style, at: up(line.at(-1)), x: across(line.length - 1) + 6 });
  }
  partLabels(ends, bottom);
  for (const { name, style, at, x } of ends) {
    const mark = svgElement("path", { style, d: `M${x} ${at}h16` });
    svg.append(mark, words(name, { x: x + 21, y: at + 4 }, ink));
  }
  return svg;
}

/** The axis with its numbers and their names. */
function frameOf({ low, high, left, right, bottom, across, up, label, ink }) {
  const axis = `fill: none; stroke: ${ink}; stroke-opacity: 0.45`;
  const parts = [svgElement("path", { style: axis, d: `M${left} ${bottom}H${right}` })];
  for (const score of [low, high]) {
    const place = { x: left - 6, y: up(score) + 4, "text-anchor": "end" };
    parts.push(words(decimals(score).slice(0, 5), place, ink));
  }
  for (const step of [0, STEPS / 2, STEPS]) {
    const place = { x: across(step), y: bottom + 16, "text-anchor": "middle" };
    parts.push(words(String(step * EACH), place, ink));
  }
  const below = { x: (left + right) / 2, y: bottom + 30, "text-anchor": "middle" };
  return [...parts, words("regions erased", below, ink), words(label, { x: 0, y: 11 }, ink)];
}

function words(text, place, ink) {
  const style = `fill: ${ink}; font: 12px system-ui, sans-serif`;
  return svgElement("text", { ...place, style }, text);
}

/** Push names apart, downwards, and up again where they would leave the chart. */
function partLabels(ends, bottom) {
  ends.sort((a, b) => a.at - b.at);
  ends.forEach((end, i) => {
    if (i) end.at = Math.max(end.at, ends[i - 1].at + APART);
  });
  for (let i = ends.length - 1, limit = bottom; i >= 0; i -= 1, limit -= APART) {
    ends[i].at = Math.min(ends[i].at, limit);
  }
}
