// "Let the map erase": a map's order of regions against its reverse, a lot and a borrowed map.

const REGION = 28; // pixels of a region's side: 8 x 8 regions, as on the first page
const STEPS = 16;
const EACH = 2; // regions that a step erases

/** Four pictures that are erased at the same pace, their curves, and what was learned. */
class Race {
  constructor(root) {
    this.root = root;
    this.run = 0;
    this.seed = 0; // of the noise and of the lots
    this.stop();
    new ResizeObserver(() => this.curves && this.drawCurves()).observe(this.find("test"));
  }

  find(name) {
    return this.root.querySelector(`.ph-${name}`);
  }

  /** End what runs, and take its results away. */
  stop() {
    this.run += 1;
    Object.assign(this, { scores: null, curves: null });
    this.find("race").hidden = this.find("caveat").hidden = true;
    this.tell("", "");
  }

  tell(learned, numbers = "") {
    this.find("learned").textContent = learned;
    this.find("numbers").textContent = numbers;
  }

  /**
   * @param {{picture: object, own: Float32Array, borrow: () => Promise<Float32Array | null>,
   *     fill: string, blur: number[], score: (levels: Uint8Array) => Promise<number>,
   *     label: string, map: string, lender: string}} test what is erased by which maps; `borrow`
   *     gives another photograph's, `label` names the score, `map` and `lender` the maps
   */
  async start(test) {
    this.stop();
    const { run } = this;
    const isStopped = () => run !== this.run;
    this.test = test;
    this.find("race").hidden = false;
    this.find("race").scrollIntoView({ block: "nearest", behavior: scrolling() });
    for (const place of this.root.querySelectorAll(".ph-lender")) place.textContent = test.lender;
    this.tell(`The map of “${test.lender}” is made …`);
    const borrowed = await test.borrow();
    if (isStopped()) return;
    if (!borrowed) {
      this.stop();
      return;
    }
    this.tell("Four orders erase, two regions a step …");
    const { picture, own, fill, blur, score } = test;
    const scores = await race({
      picture,
      replacement: PAGE_FILLS[fill](picture, { seed: this.seed, blur }),
      orders: ordersOf({ own, borrowed, picture, seed: this.seed }),
      score,
      onStep: (racer, levels, found) => this.showStep(racer, levels, found),
      isStopped,
    });
    if (scores) this.finish(scores);
  }

  showStep(racer, levels, scores) {
    const last = scores[racer].length === STEPS + 1;
    if (wantsStillness() && !last) return; // the end is enough
    const tile = this.root.querySelector(`[data-racer="${racer}"]`);
    drawLevels(tile.querySelector("canvas"), levels, this.test.picture);
    tile.querySelector(".ph-score").textContent = `score ${decimals(scores[racer].at(-1))}`;
    this.curves = scores;
    this.drawCurves();
  }

  drawCurves() {
    const width = Math.max(260, this.find("chart").clientWidth);
    this.find("chart").replaceChildren(curvesOf(this.curves, { width, label: this.test.label }));
  }

  finish(scores) {
    this.scores = scores;
    const { learned, numbers } = verdictOn(scores, this.test);
    this.tell(learned, numbers);
    this.find("caveat").hidden = false;
    this.seed += 2; // `ordersOf` takes two
  }
}

/** The orders in which the four erase; the lots are drawn anew with each seed. */
function ordersOf({ own, borrowed, picture, seed }) {
  const grid = gridOf(picture, REGION);
  return {
    morf: orderByHeat(own, grid, "morf", seed),
    borrowed: orderByHeat(borrowed, grid, "morf", seed),
    lot: orderByLot(grid, seed + 1), // not the lots that part regions of equal heat
    lerf: orderByHeat(own, grid, "lerf", seed),
  };
}

/**
 * Erase step by step, all four at the same pace.
 * @param {{picture: object, replacement: Uint8Array, orders: object,
 *     score: (levels: Uint8Array) => Promise<number>,
 *     onStep: (racer: string, levels: Uint8Array, scores: number[]) => void,
 *     isStopped: () => boolean}} options
 * @returns {Promise<Record<string, number[]> | null>} the scores of each, or null if stopped
 */
async function race({ picture, replacement, orders, score, onStep, isStopped }) {
  const grid = gridOf(picture, REGION);
  const first = await score(picture.levels);
  const scores = Object.fromEntries(Object.keys(orders).map((racer) => [racer, [first]]));
  for (let step = 1; step <= STEPS; step += 1) {
    for (const [racer, order] of Object.entries(orders)) {
      const gone = order.slice(0, step * EACH);
      const levels = replaceRegions(picture, replacement, grid, gone);
      const found = await score(levels);
      if (isStopped()) return null;
      scores[racer].push(found);
      onStep(racer, levels, scores);
    }
  }
  return scores;
}

/** The mean fall from the first score, over all steps and the start (AOPC). */
function meanFall(scores) {
  return scores.reduce((sum, one) => sum + scores[0] - one, 0) / scores.length;
}
