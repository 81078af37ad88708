// A stand-in for the network in the page: small, quick, and the same answers every time. The first
// nine classes are the brightness of the ninths of the picture, so that erasing changes them.

(() => {
  "use strict";

  const SIDE = 224;
  const EACH = 5; // of so many pixels one is looked at
  const METHODS = {
    gradient: "Gradient", lrp_epsilon_plus: "LRP ε⁺", lrp_z_plus: "LRP z⁺",
    grad_cam: "Grad-CAM", occlusion: "Occlusion",
  };
  const third = (place) => Math.min(2, Math.floor((3 * place) / SIDE));
  const ninthOf = (pixel) => 3 * third(Math.floor(pixel / SIDE)) + third(pixel % SIDE);
  const wait = () => new Promise((resolve) => {
    setTimeout(resolve, window.fakeWait ?? 5);
  });

  function brightness(pixels) {
    const sums = new Float64Array(9);
    for (let pixel = 0; pixel < SIDE * SIDE; pixel += EACH) sums[ninthOf(pixel)] += pixels[pixel];
    return sums.map((sum) => (9 * EACH * sum) / SIDE ** 2);
  }

  class FakeClient {
    constructor() {
      this.categories = Array.from({ length: 1000 }, (_, index) => `class ${index}`);
      this.methods = Object.entries(METHODS).map(([name, title]) => ({ name, title }));
      this.asked = { logits: 0, explain: [] };
    }

    async pixels(canvas) {
      const part = document.createElement("canvas");
      part.width = part.height = SIDE;
      const pen = part.getContext("2d");
      const seen = (canvas.width * SIDE) / 256;
      const start = (canvas.width - seen) / 2;
      pen.drawImage(canvas, start, start, seen, seen, 0, 0, SIDE, SIDE);
      const { data } = pen.getImageData(0, 0, SIDE, SIDE);
      const plane = SIDE * SIDE;
      return Float32Array.from({ length: 3 * plane }, (_, place) => {
        return data[4 * (place % plane) + Math.floor(place / plane)] / 127.5 - 1;
      });
    }

    async logits(pixels) {
      this.asked.logits += 1;
      await wait();
      const logits = new Float32Array(1000).fill(-6);
      brightness(pixels).forEach((value, ninth) => (logits[ninth] = 4 * value));
      return logits;
    }

    async explain(pixels, method, weights, onProgress) {
      this.asked.explain.push({ method, weights });
      this.stopped = false;
      for (let step = 1; step <= (method === "occlusion" ? 16 : 1); step += 1) {
        await wait();
        onProgress?.(step, 16);
        if (this.stopped) throw Object.assign(new Error("stopped"), { name: "AbortError" });
      }
      return Float32Array.from({ length: SIDE * SIDE }, (_, pixel) => {
        return ((weights[ninthOf(pixel)] ?? 0) + 0.1) * (pixels[pixel] + 0.2);
      });
    }

    cancel() {
      this.stopped = true;
    }
  }

  window.LiteNetwork = {
    bytes: 9_600_000,
    async load(onProgress) {
      for (let part = 1; part <= 4; part += 1) {
        await wait();
        onProgress((part * this.bytes) / 4, this.bytes);
      }
      window.fakeClient = new FakeClient();
      return window.fakeClient;
    },
  };
})();
