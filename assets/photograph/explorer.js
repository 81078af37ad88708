// "Your own photograph": what a reader does, and what is then asked of the network (client.js).
// photograph_page.py joins the parts to one plain script, so that the page also runs from a file.

const BRUSH = 15; // its radius, in pixels of the network's picture
const USUAL = "lrp_epsilon_plus"; // the method that the page opens with
const NARROW_SCREEN = "(max-width: 720px)"; // as in explorer.css

class Explorer {
  constructor(root) {
    this.root = root;
    this.data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
    this.stage = new Stage(this.find("stage"), { brush: BRUSH, onErase: () => this.erased() });
    const ask = this.attempt((question) => this.ask(question));
    this.classes = new ClassList(this.find("classes"), ask);
    this.race = new Race(root);
    this.rescore = this.attempt(newestOnly((levels) => this.showErasedShares(levels)));
    this.thumbs = [...root.querySelectorAll(".ph-thumb")];
    Object.assign(this, { client: null, photograph: null, method: USUAL, fill: "uniform" });
    this.turn = 0; // counts photographs, so that late answers about an earlier one are dropped
    listenToControls(this);
  }

  find(name) {
    return this.root.querySelector(`.ph-${name}`);
  }

  thumb(name) {
    return this.thumbs.find((one) => one.dataset.name === name);
  }

  // ------------------------------------------------------------------ a photograph comes in

  /** @param {() => File} give the file, or an Error that the reader is told */
  async take(give) {
    this.complain("");
    const file = give();
    const own = { name: null, title: file.name || "your photograph" };
    await this.showNewest(readPhotograph(file).then((read) => ({ ...read, ...own })));
  }

  async open(thumb, wish = {}) {
    await this.showNewest(embeddedPhotograph(thumb), wish);
  }

  /** Of the photographs that are being read, the one that was asked for last is shown. */
  async showNewest(reading, wish) {
    this.reading = reading;
    const photograph = await reading;
    if (reading === this.reading) await this.show(photograph, wish);
  }

  /** Show a photograph, and have it answered for if the network is there. */
  async show(photograph, wish = {}) {
    this.turn += 1;
    this.forget();
    Object.assign(this, { photograph, wish });
    for (const thumb of this.thumbs) {
      thumb.setAttribute("aria-pressed", String(thumb.dataset.name === photograph.name));
    }
    const { preprocess } = this.data;
    this.stage.show(seenPart(photograph.canvas, preprocess, SHARP), preprocess.crop);
    this.find("credit").textContent = photograph.credit ?? "";
    this.find("note").textContent = photograph.notes.join(" ");
    this.caption(`Photograph: ${photograph.title}.`);
    if (this.client) await this.answer();
  }

  /** What was found for another photograph. */
  forget() {
    this.client?.cancel();
    this.race.stop();
    Object.assign(this, { picture: null, map: null, maps: new Map() });
    this.find("answer").hidden = true;
    this.complain("");
    enableControls(this);
  }

  async load() {
    const [button, progress, loaded] = ["load", "progress", "loaded"].map((n) => this.find(n));
    button.disabled = true;
    progress.hidden = false;
    this.complain("");
    try {
      this.client = await window.LiteNetwork.load((done, total) => {
        progress.value = done / total;
        loaded.textContent = `${megabytes(done)} of ${megabytes(total)} MB`;
      });
    } catch (error) {
      progress.hidden = true;
      loaded.textContent = "";
      button.disabled = false;
      throw new Error(`The network could not be loaded (${error.message}). Try again.`);
    }
    this.find("loading").hidden = true;
    const { methods } = this.client;
    fillMethods(this, methods);
    this.chooseMethod(methods.some(({ name }) => name === USUAL) ? USUAL : methods[0].name);
    await this.answer();
  }

  // ------------------------------------------------------------------ its classes and maps

  async answer() {
    const { client, turn, photograph, wish } = this;
    const pixels = await client.pixels(photograph.canvas);
    const picture = pictureOf(pixels, this.data.preprocess);
    const shares = softmax(await client.logits(this.inputOf(picture.levels)));
    if (turn !== this.turn) return;
    Object.assign(this, { picture, shares, now: shares });
    if (client.methods.some(({ name }) => name === wish.method)) this.chooseMethod(wish.method);
    const question = questionOf(wish, shares);
    this.classes.fill(client.categories, shares, question);
    this.find("answer").hidden = false;
    this.stage.setReplacement(this.replacement());
    this.say(this.verdict());
    this.bring();
    await this.ask(question);
  }

  inputOf(levels) {
    return networkInput(levels, this.data.preprocess);
  }

  /** Explain a class, or one less another. */
  async ask(question) {
    this.race.stop();
    Object.assign(this, { question, map: null });
    this.address();
    enableControls(this);
    this.caption("The map is being made …");
    const asked = this.asked();
    const map = await this.mapOf(this.picture, `own ${asked}`);
    if (asked !== this.asked()) return;
    if (!map) {
      this.caption("The map was stopped. Choose its method again to have it made.");
      return;
    }
    this.map = map;
    this.stage.setMap(map);
    this.caption(this.legend());
    enableControls(this);
  }

  /** What is asked of which photograph, as a text. */
  asked() {
    return JSON.stringify([this.turn, this.method, this.question]);
  }

  /** A map of a picture for what is asked, kept while the photograph stays; null if stopped. */
  async mapOf(picture, key) {
    const { maps, method, question, client } = this;
    client.cancel();
    if (maps.has(key)) return maps.get(key);
    this.busy(0);
    try {
      const weights = { [question.own]: 1 };
      if (question.less !== null) weights[question.less] = -1;
      const told = (done, total = 1) => this.busy(done / total);
      const map = await client.explain(this.inputOf(picture.levels), method, weights, told);
      maps.set(key, map);
      return map;
    } catch (error) {
      if (error.name === "AbortError") return null;
      throw new Error(`The map could not be made: ${error.message}`);
    } finally {
      this.busy(null);
    }
  }

  /** How far a map is: a share of it, or null where none is being made. */
  busy(share) {
    const bar = this.find("working");
    bar.hidden = share === null;
    if (share) bar.value = share;
    else bar.removeAttribute("value");
  }

  // ------------------------------------------------------------------ what is said

  names() {
    const { own, less } = this.question;
    return [own, less].map((index) => this.client.categories[index]);
  }

  title() {
    return titleOf(...this.names());
  }

  legend() {
    return legendOf(...this.names(), this.methodTitle(), this.map, this.data.preprocess.crop);
  }

  verdict() {
    const { shares, now, stage, client } = this;
    return verdictOf(shares, now, stage.share, client.categories);
  }

  methodTitle() {
    return this.client.methods.find(({ name }) => name === this.method).title;
  }

  caption(text) {
    this.find("caption").textContent = text;
    const keys = this.stage.tool === "brush"
      ? "Arrow keys move the brush, the space bar erases."
      : "Arrow keys move a lens that looks through the map.";
    const label = `Photograph: ${this.photograph.title}. ${text} ${keys}`;
    this.find("stage").setAttribute("aria-label", label);
  }

  /** Shown at once, and read out when the brush has come to rest. */
  say(text) {
    this.find("says").textContent = text;
    announce(this.find("spoken"), text);
  }

  complain(text) {
    this.find("problem").textContent = text;
  }

  /** On a phone: picture and answer to the top of the screen. */
  bring() {
    if (!matchMedia(NARROW_SCREEN).matches) return;
    this.find("desk").scrollIntoView({ behavior: scrolling() });
  }

  // ------------------------------------------------------------------ erasing

  replacement() {
    return PAGE_FILLS[this.fill](this.picture, { seed: 0, blur: this.data.blur });
  }

  /** The brush erased, or gave back. */
  erased() {
    if (!this.find("working").hidden) this.client.cancel(); // a long map would hold up the answer
    enableControls(this);
    const { mask, replacement } = this.stage;
    this.rescore(this.picture.levels.map((level, place) => {
      return mask[place % mask.length] ? replacement[place] : level;
    }));
  }

  async showErasedShares(levels) {
    const { turn, client } = this;
    const shares = softmax(await client.logits(this.inputOf(levels)));
    if (turn !== this.turn) return;
    this.now = shares;
    this.classes.showShares(shares);
    this.say(this.verdict());
  }

  async letTheMapErase() {
    this.stage.restore();
    const { client, question, fill, picture, map } = this;
    const asked = this.asked();
    const at = this.thumbs.indexOf(this.thumb(this.photograph.name));
    const lender = this.thumbs[(at + 1) % this.thumbs.length];
    const { name } = lender.dataset;
    await this.race.start({
      picture,
      own: map,
      borrow: async () => {
        const { canvas } = await embeddedPhotograph(lender);
        const other = pictureOf(await client.pixels(canvas), this.data.preprocess);
        return asked === this.asked() ? this.mapOf(other, `${name} ${asked}`) : null;
      },
      fill,
      blur: this.data.blur,
      score: async (levels) => weighed(await client.logits(this.inputOf(levels)), question),
      label: this.scoreLabel(),
      map: this.methodTitle(),
      lender: name,
    });
  }

  scoreLabel() {
    return this.question.less === null ? "score (logit)" : "difference of the two scores (logits)";
  }

  // ------------------------------------------------------------------ sharing

  /** The address of an embedded photograph restores what is shown; any other has none. */
  address() {
    const { name } = this.photograph;
    const hash = name && hashOf({ photograph: name, ...this.question, method: this.method });
    const bare = window.location.pathname + window.location.search;
    window.history.replaceState(null, "", hash || bare);
    this.find("link-why").hidden = Boolean(name);
  }

  async save() {
    const { photograph, grey, erased, map, share } = this.stage;
    const layers = (below, ...above) => [below, erased, ...above].filter(Boolean);
    const caveat = this.find("caveat").textContent.replace(/\s+/g, " ").trim();
    const blob = await drawSheet({
      book: this.data.book,
      title: this.title(),
      caption: share ? `${this.legend()} ${this.verdict()}` : this.legend(),
      credit: this.photograph.credit ?? "",
      panels: [layers(photograph), layers(grey, map.over)],
      classes: this.classes.sharesOf(this.now),
      scores: this.race.scores,
      label: this.scoreLabel(),
      learned: this.find("learned").textContent,
      caveat: this.race.scores ? caveat : "",
    });
    saveAs(blob, `heatmap-${this.photograph.name ?? "photograph"}.png`);
    this.find("shared").textContent = "The picture is saved.";
  }

  async copyLink() {
    const copied = await copy(window.location.href);
    this.find("shared").textContent = copied
      ? "The link is copied."
      : "The address of this page is the link: copy it from there.";
  }

  // ------------------------------------------------------------------ controls

  chooseMethod(name) {
    this.method = name;
    press(this.find("methods"), "method", name);
  }

  /** One of the buttons of a kind is pressed: tool, view or fill. */
  pick(kind, value) {
    press(this.find("tools"), kind, value);
    if (kind === "tool") {
      this.stage.setTool(value);
      this.find("brush").hidden = value !== "brush";
      this.caption(this.find("caption").textContent);
      this.bring();
    }
    if (kind === "view") this.stage.setView(value);
    if (kind === "fill") {
      this.fill = value;
      this.stage.setReplacement(this.replacement());
      if (this.stage.share) this.erased();
    }
  }

  /** What a listener does, with its errors told to the reader. */
  attempt(act) {
    return async (...given) => {
      try {
        await act(...given);
      } catch (error) {
        this.complain(error.message);
      }
    };
  }

  /** Open what the address asks for; without a wish, and with nothing to see yet, the first one. */
  async start() {
    const wish = wishOf(window.location.hash);
    const asked = this.thumb(wish.photograph);
    if (asked) await this.open(asked, wish);
    else if (!this.photograph) await this.open(this.thumb(this.data.first));
  }
}

function scrolling() {
  return wantsStillness() ? "auto" : "smooth";
}

/** Ask about the newest only: while an answer is on its way, all but the last wait in vain. */
function newestOnly(ask) {
  let [waiting, busy] = [null, false];
  return async (asked) => {
    waiting = [asked];
    if (busy) return;
    busy = true;
    try {
      while (waiting) {
        const [next] = waiting;
        waiting = null;
        await ask(next);
      }
    } finally {
      busy = false;
    }
  };
}

for (const root of document.querySelectorAll("[data-photograph-explorer]")) {
  const explorer = new Explorer(root);
  const size = window.LiteNetwork && `\u00a0(${megabytes(window.LiteNetwork.bytes)}\u00a0MB)`;
  explorer.find("size").textContent = size ?? "";
  explorer.attempt(() => explorer.start())();
}
