// What can be sent on: a picture of what was found, and the address of an embedded photograph.

const SHEET = 1200; // pixels of the picture's width
const PANEL = 400; // of the photograph and of the map in it
const EDGE = 40;
const LARGER = 1.5; // the chart, so that its numbers are as large as the text
const ON_PAPER = {
  ink: "#14181e", morf: "#a8380a", borrowed: "#8c2d62", lot: "#0b3a75", lerf: "#00795c",
};

/**
 * A picture of what was found.
 * @param {{book: string, title: string, caption: string, credit: string,
 *     panels: HTMLCanvasElement[][], classes: [string, number][],
 *     scores: Record<string, number[]> | null, label: string, learned: string,
 *     caveat: string}} found panels are layers, one over the other
 * @returns {Promise<Blob>} a PNG
 */
async function drawSheet(found) {
  const wide = SHEET - 2 * EDGE;
  const tall = LARGER * TALL;
  const tests = found.scores ? tall + 110 : 0;
  const height = 2 * EDGE + PANEL + 170 + tests;
  const sheet = element("canvas", { width: SHEET, height });
  const pen = sheet.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, SHEET, height);
  write(pen, found.title, { x: EDGE, y: 66, size: 36, weight: 700 });
  found.panels.forEach((layers, i) => {
    const left = EDGE + i * (PANEL + 20);
    for (const layer of layers) pen.drawImage(layer, left, 96, PANEL, PANEL);
  });
  drawClasses(pen, found.classes, { x: EDGE + 2 * (PANEL + 20), y: 96 });
  const under = { x: EDGE, size: 20, width: wide };
  let y = write(pen, found.caption, { ...under, y: 96 + PANEL + 32 });
  if (found.scores) {
    const look = { width: wide / LARGER, label: found.label, colours: ON_PAPER };
    pen.drawImage(await asImage(curvesOf(found.scores, look)), EDGE, y, wide, tall);
    y = write(pen, found.learned, { ...under, y: y + tall + 30, weight: 600 });
  }
  const small = { ...under, size: 16, colour: "#48566b" };
  y = write(pen, [found.caveat, found.credit].filter(Boolean).join(" "), { ...small, y: y + 4 });
  write(pen, found.book, { x: EDGE, y: height - 22, size: 20, weight: 700, colour: "#a8380a" });
  return new Promise((resolve) => {
    sheet.toBlob(resolve, "image/png");
  });
}

/** Write a text, broken into lines of a width at most; gives where the next line would stand. */
function write(pen, text, { x, y, size, weight = 400, width = SHEET - 2 * EDGE, colour }) {
  pen.font = `${weight} ${size}px system-ui, sans-serif`;
  pen.fillStyle = colour ?? ON_PAPER.ink;
  let [line, below] = ["", y];
  for (const word of text.split(" ")) {
    const longer = line ? `${line} ${word}` : word;
    if (line && pen.measureText(longer).width > width) {
      pen.fillText(line, x, below);
      [line, below] = [word, below + 1.3 * size];
    } else line = longer;
  }
  pen.fillText(line, x, below);
  return below + 1.3 * size;
}

function drawClasses(pen, classes, { x, y }) {
  const width = SHEET - EDGE - x;
  classes.forEach(([name, share], i) => {
    const top = y + i * 68;
    pen.fillStyle = "#e3e8ed";
    pen.fillRect(x, top + 32, width, 12);
    pen.fillStyle = ON_PAPER.morf;
    pen.fillRect(x, top + 32, width * share, 12);
    const short = name.length > 22 ? `${name.slice(0, 21)}…` : name;
    write(pen, `${short}, ${percent(share)}`, { x, y: top + 22, size: 20 });
  });
}

/** A drawing that needs no style of the page, as an image. */
async function asImage(svg) {
  const image = new Image();
  const text = new XMLSerializer().serializeToString(svg);
  image.src = `data:image/svg+xml,${encodeURIComponent(text)}`;
  await image.decode();
  return image;
}

/** Put a text on the clipboard; false where the browser lets no page do that. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

function saveAs(blob, name) {
  const href = URL.createObjectURL(blob);
  element("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 1000);
}

// ------------------------------------------------------------------ the address

/** What an address asks for: a photograph, a class or two, a method; what it lacks is null. */
function wishOf(hash) {
  const asked = new URLSearchParams(hash.slice(1));
  const number = (name) => {
    const text = asked.get(name);
    return text !== null && /^\d{1,3}$/.test(text) ? Number(text) : null;
  };
  return {
    photograph: asked.get("photograph"),
    own: number("class"),
    less: number("less"),
    method: asked.get("method"),
  };
}

/** The address that asks for it again. */
function hashOf({ photograph, own, less, method }) {
  const asked = new URLSearchParams({ photograph, class: own });
  if (less !== null) asked.set("less", less);
  asked.set("method", method);
  return `#${asked}`;
}
