// A photograph on its way in: from a file to the square that the network sees.

const LARGEST = 1024; // pixels of a side that are kept, so that a large photograph costs no memory
const SMALLEST = 64; // below this a photograph is too small to say much
const NARROW = 2; // longer sides than this many shorter ones are mentioned

/**
 * The middle square of a photograph.
 * @param {File | Blob} file what a reader dropped, pasted, chosen or taken
 * @returns {Promise<{canvas: HTMLCanvasElement, notes: string[]}>} with what a reader should know
 * @throws an Error that says what to do
 */
async function readPhotograph(file) {
  const name = file.name ? `“${file.name}”` : "What came";
  if (!file.size) throw new Error(`${name} is empty: it holds no picture. Choose another file.`);
  const address = URL.createObjectURL(file);
  try {
    const image = await loadImage(address, name);
    const { canvas, notes } = await middleSquare(image, name);
    if (await isGif(file)) notes.unshift("Of a GIF its first picture is taken.");
    return { canvas, notes };
  } finally {
    URL.revokeObjectURL(address);
  }
}

/** Read no more than the head of a picture: its pixels are decoded when they are drawn. */
function loadImage(address, name) {
  return new Promise((resolve, reject) => {
    const wrong = `${name} is not a picture that this browser can read. JPEG, PNG, WebP and GIF `
      + "work; a HEIC photograph has to be saved as JPEG first.";
    const image = new Image();
    image.onload = () => (image.naturalWidth ? resolve(image) : reject(new Error(wrong)));
    image.onerror = () => reject(new Error(wrong));
    image.src = address;
  });
}

/** Cut out and made smaller in one go, from an image, which lies as its file says (EXIF). */
async function middleSquare(image, name) {
  const { naturalWidth: width, naturalHeight: height } = image;
  const side = Math.min(width, height);
  const kept = Math.min(side, LARGEST);
  const [left, top] = [Math.floor((width - side) / 2), Math.floor((height - side) / 2)];
  const smaller = { resizeWidth: kept, resizeHeight: kept, resizeQuality: "high" };
  let bitmap;
  try {
    bitmap = await createImageBitmap(image, left, top, side, side, smaller);
  } catch {
    const size = ((width * height) / 1e6).toFixed(0);
    throw new Error(`${name} could not be decoded: it has ${width} × ${height} pixels, ${size} `
      + "megapixels. If it opens elsewhere, save it smaller and try again.");
  }
  const canvas = element("canvas", { width: kept, height: kept });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(bitmap, 0, 0);
  bitmap.close();
  const notes = [];
  if (layOnWhite(pen, kept)) notes.push("Where it is transparent, white was put behind it.");
  if (Math.max(width, height) > NARROW * side) {
    notes.push(`Of ${width} × ${height} pixels the network sees the middle square alone.`);
  }
  if (side < SMALLEST) notes.push(`It is only ${side} pixels wide, so it is enlarged and blurred.`);
  return { canvas, notes };
}

/** White behind a picture; true if any of it can be seen. */
function layOnWhite(pen, side) {
  const { data } = pen.getImageData(0, 0, side, side);
  let clear = false;
  for (let place = 3; place < data.length && !clear; place += 4) clear = data[place] < 255;
  pen.globalCompositeOperation = "destination-over";
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, side, side);
  return clear;
}

async function isGif(file) {
  return (await file.slice(0, 4).text()) === "GIF8";
}

/** The photograph among what was dropped or pasted, or an Error that says what is wanted. */
function photographAmong({ files }) {
  if (files.length) return files[0];
  throw new Error("No file came with that. Drop or paste a picture itself: an address or a text is "
    + "not enough, since this page fetches nothing.");
}

/** What the network sees of a photograph, as a picture of 256 levels (pictures.js). */
function pictureOf(pixels, { crop, mean, std }) {
  const plane = crop * crop;
  const levels = Uint8Array.from(pixels, (value, place) => {
    const channel = Math.floor(place / plane);
    return Math.max(0, Math.min(255, Math.round(255 * (value * std[channel] + mean[channel]))));
  });
  return { levels, channels: mean.length, height: crop, width: crop };
}

/** The network's input for levels: `inputOf` of pictures.js in a hundredth of its time. */
function networkInput(levels, { mean, std }) {
  const plane = levels.length / mean.length;
  const input = new Float32Array(levels.length);
  mean.forEach((middle, channel) => {
    for (let place = channel * plane; place < (channel + 1) * plane; place += 1) {
      input[place] = (levels[place] / 255 - middle) / std[channel];
    }
  });
  return input;
}

/** The part of a square photograph that the network sees, `side` pixels wide. */
function seenPart(canvas, { resize, crop }, side) {
  const seen = (canvas.width * crop) / resize;
  const start = (canvas.width - seen) / 2;
  const part = element("canvas", { width: side, height: side });
  const pen = part.getContext("2d", { willReadFrequently: true });
  pen.imageSmoothingQuality = "high";
  pen.drawImage(canvas, start, start, seen, seen, 0, 0, side, side);
  return part;
}

// ------------------------------------------------------------------ ways in

/**
 * A photograph may be chosen, taken, dropped anywhere on the page, or pasted.
 * @param {(give: () => File) => Promise<void>} take `give` throws an Error where there is no file
 */
function listenForPhotographs(root, take) {
  for (const input of root.querySelectorAll(".ph-file")) {
    input.addEventListener("change", async () => {
      if (input.files.length) await take(() => input.files[0]);
      input.value = ""; // so that the same file can be chosen again
    });
  }
  const writes = ({ target }) => target.matches?.("input, textarea");
  document.addEventListener("dragover", (event) => {
    if (writes(event)) return;
    event.preventDefault();
    root.classList.add("ph-dropping");
  });
  document.addEventListener("dragleave", () => root.classList.remove("ph-dropping"));
  document.addEventListener("drop", (event) => {
    root.classList.remove("ph-dropping");
    if (writes(event)) return;
    event.preventDefault();
    const { dataTransfer } = event;
    take(() => photographAmong(dataTransfer));
  });
  document.addEventListener("paste", (event) => {
    const { clipboardData } = event;
    if (!writes(event)) take(() => photographAmong(clipboardData));
  });
}

/** An embedded photograph: its thumbnail is all of it. */
async function embeddedPhotograph(thumb) {
  const image = thumb.querySelector("img");
  await image.decode();
  const { name, credit } = thumb.dataset;
  const { canvas } = await middleSquare(image, name);
  return { canvas, name, credit, title: name, notes: [] };
}
