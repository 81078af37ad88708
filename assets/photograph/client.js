// The network of photographs as the page asks it: `window.LiteNetwork`.
//
// A page includes vendor/photograph/about.js, which the build writes (export.py), and this script.
// On demand they load the rest, as scripts, so that it works from a file too, and start a worker,
// so that the page never stands still.

(() => {
  "use strict";

  const HERE = document.currentScript.src;
  const PARTS = ["kernels.js", "engine.js", "resizing.js"];
  const WEIGHTS = "../vendor/photograph/";
  const METHODS = [
    { name: "gradient", title: "Gradient" },
    { name: "lrp_epsilon_plus", title: "LRP (epsilon-plus)" },
    { name: "lrp_z_plus", title: "LRP (z-plus)" },
    { name: "grad_cam", title: "Grad-CAM" },
    { name: "occlusion", title: "Occlusion" },
  ];
  const about = window.LiteNetworkAbout;
  const received = new Map(); // the chunks of the weights, by name

  // ----------------------------------------------------------------------------------- loading

  let loading = null;

  /** @param {(loadedBytes: number, totalBytes: number) => void} onProgress */
  function load(onProgress = () => {}) {
    loading ??= start(onProgress).catch((error) => {
      loading = null; // another try may succeed
      throw error;
    });
    return loading;
  }

  async function start(onProgress) {
    if (!about) throw new Error("the network's weights are not in this book: build it again");
    await Promise.all(PARTS.map((name) => loadScript(name)));
    onProgress(0, about.bytes);
    await Promise.all(about.chunks.map((name) => loadChunk(name, onProgress)));
    const weights = joined(about.chunks.map((name) => received.get(name)));
    const worker = startWorker();
    const { plan, side } = about;
    await worker.ask("start", { wasm: bytesOf(LITE_KERNELS.wasm), plan, side, weights });
    received.clear();
    return clientOf(worker);
  }

  function loadScript(address) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = new URL(address, HERE).href;
      script.onload = resolve;
      script.onerror = () => reject(new Error(`could not load ${script.src}`));
      document.head.append(script);
    });
  }

  async function loadChunk(name, onProgress) {
    if (!received.has(name)) await loadScript(WEIGHTS + name);
    const loaded = [...received.values()].reduce((total, chunk) => total + chunk.length, 0);
    onProgress(loaded, about.bytes);
  }

  function bytesOf(base64) {
    const text = atob(base64);
    const bytes = new Uint8Array(text.length);
    for (let k = 0; k < bytes.length; k += 1) bytes[k] = text.charCodeAt(k);
    return bytes;
  }

  function joined(chunks) {
    const all = new Uint8Array(about.bytes);
    chunks.reduce((at, chunk) => {
      all.set(chunk, at);
      return at + chunk.length;
    }, 0);
    return all;
  }

  // -------------------------------------------------------------------------------- the worker

  /** What runs in the worker: it answers questions one after the other. */
  function answerQuestions({ createNetwork }, { prepare }) {
    let network = null;
    let cancelled = 0; // questions up to this one are to be given up
    let last = Promise.resolve();
    const answers = {
      async start(parts) {
        network = await createNetwork(parts);
      },
      pixels: ({ image, preprocess }) => prepare(image, preprocess),
      logits: ({ pixels }) => network.logits(pixels),
      explain: ({ pixels, method, weights }, id) => {
        if (method !== "occlusion") return network.explain(pixels, method, weights);
        const report = (done, all) => globalThis.postMessage({ id, done, all });
        return network.occlusion(pixels, weights, report, () => id <= cancelled);
      },
    };
    const answer = async ({ id, kind, question }) => {
      try {
        globalThis.postMessage({ id, answer: await answers[kind](question, id) });
      } catch ({ name, message }) {
        globalThis.postMessage({ id, error: { name, message } });
      }
    };
    globalThis.onmessage = ({ data }) => {
      if (data.kind === "cancel") cancelled = data.id;
      else last = last.then(() => answer(data));
    };
  }

  function startWorker() {
    const source = `(${answerQuestions})((${liteEngine})(), (${liteResizing})());`;
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const worker = new Worker(address);
    const asked = new Map();
    let id = 0;
    worker.onmessage = ({ data }) => {
      const question = asked.get(data.id);
      if ("done" in data) {
        question.onProgress(data.done, data.all);
        return;
      }
      asked.delete(data.id);
      if (data.error) question.reject(Object.assign(new Error(data.error.message), data.error));
      else question.resolve(data.answer);
    };
    worker.onerror = ({ message }) => {
      for (const { reject } of asked.values()) reject(new Error(`the network failed: ${message}`));
      asked.clear();
    };
    const ask = (kind, question, onProgress = () => {}, transfer = []) =>
      new Promise((resolve, reject) => {
        id += 1;
        asked.set(id, { resolve, reject, onProgress });
        worker.postMessage({ id, kind, question }, transfer);
      });
    return { ask, cancel: () => worker.postMessage({ kind: "cancel", id }) };
  }

  // -------------------------------------------------------------------------------- the client

  function clientOf({ ask, cancel }) {
    return {
      categories: about.categories,
      methods: METHODS,
      async pixels(picture) {
        const image = picture.data ? picture : imageDataOf(picture);
        const { data, width, height } = image;
        const own = image === picture ? [] : [data.buffer];
        const question = { image: { data, width, height }, preprocess: about.preprocess };
        return ask("pixels", question, undefined, own);
      },
      logits: (pixels) => ask("logits", { pixels }),
      explain: (pixels, method, weights, onProgress) =>
        ask("explain", { pixels, method, weights }, onProgress),
      cancel,
    };
  }

  function imageDataOf(picture) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [picture.width, picture.height];
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.drawImage(picture, 0, 0);
    return pen.getImageData(0, 0, canvas.width, canvas.height);
  }

  window.LiteNetwork = {
    load,
    bytes: about?.bytes ?? 0,
    receive: (name, base64) => received.set(name, bytesOf(base64)),
  };
})();
