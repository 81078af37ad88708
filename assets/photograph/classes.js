// The classes that a network names first, with their shares, and questions about them: why this one
// ({ own, less: null }), or why this one and not that one ({ own, less }).

const NAMED = 5;

class ClassList {
  /**
   * @param {HTMLElement} list an empty list
   * @param {(question: {own: number, less: number | null}) => void} onAsk who is told what a
   *     reader wants explained
   */
  constructor(list, onAsk) {
    Object.assign(this, { list, onAsk, rows: new Map(), question: null });
  }

  /** Name the five likeliest classes, and those asked about. */
  fill(categories, shares, question) {
    const order = Array.from(shares.keys()).sort((a, b) => shares[b] - shares[a]);
    const asked = [question.own, question.less].filter((index) => index !== null);
    const indices = new Set([...order.slice(0, NAMED), ...asked]);
    this.rows = new Map([...indices].map((index) => [index, this.row(index, categories[index])]));
    this.list.replaceChildren(...[...this.rows.values()].map(({ node }) => node));
    for (const [index, { mark }] of this.rows) mark.style.left = `${100 * shares[index]}%`;
    this.showShares(shares);
    this.showQuestion(question);
  }

  row(index, name) {
    const share = element("span", { class: "ph-share" });
    const bar = element("span", { class: "ph-bar-now" });
    const mark = element("span", { class: "ph-bar-first" });
    const bars = element("span", { class: "ph-bar", "aria-hidden": true }, bar, mark);
    const explain = element("button", { type: "button", class: "ph-class-name",
      onclick: () => this.ask({ own: index, less: null }) },
    element("span", {}, name), " ", share, bars);
    const less = element("button", { type: "button", class: "ph-class-less",
      onclick: () => this.takeAway(index) }, "and not?");
    const node = element("li", {}, explain, less);
    return { node, name, explain, less, share, bar, mark };
  }

  takeAway(index) {
    const less = this.question.less === index ? null : index;
    this.ask({ own: this.question.own, less });
  }

  ask(question) {
    this.showQuestion(question);
    this.onAsk(question);
  }

  /** What the network says now; the mark stays where a class was with nothing erased. */
  showShares(shares) {
    for (const [index, { share, bar }] of this.rows) {
      share.textContent = percent(shares[index]);
      bar.style.width = `${100 * shares[index]}%`;
    }
  }

  showQuestion(question) {
    this.question = question;
    const own = this.rows.get(question.own).name;
    for (const [index, { name, explain, less }] of this.rows) {
      explain.setAttribute("aria-pressed", String(index === question.own));
      less.setAttribute("aria-pressed", String(index === question.less));
      less.setAttribute("aria-label", `and not ${name}? Why ${own} rather than ${name}`);
      less.classList.toggle("ph-away", index === question.own);
      less.disabled = index === question.own;
    }
  }

  get names() {
    return [...this.rows.values()].map(({ name }) => name);
  }

  /** The classes in the list, with shares of one's own choice. */
  sharesOf(shares) {
    return [...this.rows].map(([index, { name }]) => [name, shares[index]]);
  }
}

/** Shares that sum to one. */
function softmax(logits) {
  const most = logits.reduce((one, two) => Math.max(one, two), -Infinity);
  const powers = logits.map((logit) => Math.exp(logit - most));
  const sum = powers.reduce((one, two) => one + two, 0);
  return powers.map((power) => power / sum);
}

/** What a wish asks for: a class, or one less another; if nothing, the likeliest class. */
function questionOf({ own, less }, shares) {
  const known = (index) => (index in shares ? index : null);
  const question = { own: known(own) ?? mostOf(shares), less: known(less) };
  if (question.less === question.own) question.less = null;
  return question;
}

/** What a question weighs of the scores: those of a class, or less those of another. */
function weighed(logits, { own, less }) {
  return logits[own] - (less === null ? 0 : logits[less]);
}

function mostOf(shares) {
  return shares.indexOf(shares.reduce((one, two) => Math.max(one, two)));
}
