// Make your method win: radio buttons for every choice of a measurement, all methods with their
// intervals, and who comes first.

const CHOICES = "change:method change:choice change:tried";
const ROW_HEIGHT = 38; // pixels, as in widgets.css
const ROOM = 0.04; // of the axis, left and right of all that is drawn

// -------------------------------------------------------------------------------------- counting

/** Mean, ends and p-value of every method in one way of asking. */
function rowsOf({ numbers, smaller }, fork) {
  const [, methods, parts] = numbers.shape;
  const sign = smaller[fork] ? 1 : -1;
  const rows = Array.from({ length: methods }, (_, method) => {
    const start = (fork * methods + method) * parts;
    const [mean, low, high, p] = numbers.subarray(start, start + parts);
    return { method, mean, low, high, p };
  });
  return rows.sort((a, b) => sign * (a.mean - b.mean) || a.method - b.method);
}

/** In how many ways each method is first, and in how many surely. */
function winsOf(data) {
  const [forks, methods] = data.numbers.shape;
  const counts = Array.from({ length: methods }, () => ({ wins: 0, surely: 0 }));
  for (let fork = 0; fork < forks; fork += 1) {
    const [first] = rowsOf(data, fork);
    counts[first.method].wins += 1;
    if (first.p < data.sure) counts[first.method].surely += 1;
  }
  return counts;
}

/** A way in which a method is first, the surest; null if there is none. */
function bestWay(data, method) {
  let best = null;
  for (let fork = 0; fork < data.numbers.shape[0]; fork += 1) {
    const [first] = rowsOf(data, fork);
    if (first.method !== method) continue;
    if (best === null || first.p < best.p) best = { fork, p: first.p };
  }
  return best && best.fork;
}

function forkOf(choice, counts) {
  return choice.reduce((fork, answer, question) => fork * counts[question] + answer, 0);
}

function choiceOf(fork, counts) {
  const choice = [];
  for (const count of [...counts].reverse()) {
    choice.unshift(fork % count);
    fork = Math.floor(fork / count);
  }
  return choice;
}

// ----------------------------------------------------------------------------------------- words

function ordinal(number) {
  const teen = number % 100 > 10 && number % 100 < 14;
  return `${number}${(!teen && ["", "st", "nd", "rd"][number % 10]) || "th"}`;
}

/** The place of a method, and how sure the first place is. */
function verdict(rows, method, names, sure) {
  const place = rows.findIndex((row) => row.method === method);
  const rank = `${names[method]} is ${ordinal(place + 1)} of ${rows.length}`;
  if (place === 0 && rows[0].p < sure) return `${rank}, surely.`;
  if (place === 0) return `${rank}, but not surely.`;
  const first = names[rows[0].method];
  if (rows[place].p < sure) return `${rank}, surely behind ${first}.`;
  return `${rank}, but not surely behind ${first}.`;
}

// ------------------------------------------------------------------------------------- the widget

class MethodWinsView {
  constructor(model, root) {
    this.model = model;
    this.setup = model.get("setup");
    const { numbers, smaller, sure } = this.setup;
    this.data = { numbers: unpack(numbers), smaller: unpack(smaller), sure };
    this.counts = this.setup.questions.map(({ options }) => options.length);
    this.make(root);
    this.onChange = () => this.show();
    model.on(CHOICES, this.onChange);
    this.show();
  }

  make(root) {
    const { questions, methods } = this.setup;
    this.mine = radioChips("Your method", methods, (method) => this.set({ method }));
    this.answers = questions.map(({ label, options }, question) =>
      radioChips(label, options, (answer) => this.answer(question, answer)),
    );
    this.said = element("p", { class: "xai-verdict" });
    this.tried = element("p", { class: "xai-label" });
    this.table = element("div", { class: "xai-scroll" });
    this.makePlot(methods);
    const buttons = element(
      "div",
      { class: "xai-row" },
      button("Find a way to win", () => this.cheat()),
      (this.counter = button("Count all ways", () => this.count(), { "aria-expanded": "false" })),
    );
    const { node, status } = frame(
      "Make your method win",
      this.mine.node,
      ...this.answers.map((one) => one.node),
      this.said,
      this.plot,
      this.axis,
      this.tried,
      buttons,
      this.table,
    );
    node.classList.add("xai-method-wins");
    this.status = status;
    root.append(node);
  }

  makePlot(methods) {
    this.rows = methods.map((name) => {
      const whisker = element("span", { class: "xai-whisker" });
      const dot = element("span", { class: "xai-dot" });
      const text = element("span", { class: "xai-name" }, name);
      const track = element("span", { class: "xai-track" }, whisker, dot);
      return { node: element("div", { class: "xai-contestant" }, text, track), whisker, dot };
    });
    const height = `height: ${ROW_HEIGHT * methods.length}px`;
    const nodes = this.rows.map(({ node }) => node);
    this.plot = element("div", { class: "xai-contest", role: "img", style: height }, ...nodes);
    this.ends = [element("span"), element("span", { class: "xai-measure" }), element("span")];
    this.axis = element("div", { class: "xai-axis", "aria-hidden": true }, ...this.ends);
  }

  // ------------------------------------------------------------------------ what the reader does

  set(changes) {
    this.model.set(changes);
    this.model.save_changes();
  }

  answer(question, answer) {
    this.go(this.model.get("choice").map((old, k) => (k === question ? answer : old)));
  }

  go(choice) {
    const fork = forkOf(choice, this.counts);
    const tried = this.model.get("tried");
    this.set({ choice, tried: tried.includes(fork) ? tried : [...tried, fork] });
  }

  cheat() {
    const method = this.model.get("method");
    const fork = bestWay(this.data, method);
    if (fork !== null) this.go(choiceOf(fork, this.counts));
    const none = `${this.setup.methods[method]} wins in none of all ways.`;
    if (fork === null) this.said.textContent = none;
    announce(this.status, this.said.textContent);
  }

  count() {
    const open = this.counter.getAttribute("aria-expanded") === "true";
    this.counter.setAttribute("aria-expanded", String(!open));
    this.table.replaceChildren(...(open ? [] : [this.countTable()]));
  }

  countTable() {
    const order = winsOf(this.data).map((counts, method) => ({ ...counts, method }));
    order.sort((a, b) => b.wins - a.wins || a.method - b.method);
    const rows = order.map(({ method, wins, surely }) => {
      const row = tableRow(this.setup.methods[method], [String(wins), String(surely)]);
      row.classList.toggle("xai-chosen", method === this.model.get("method"));
      return row;
    });
    const titles = ["method", "first", "surely"].map((t) => element("th", { scope: "col" }, t));
    const caption = `Of all ${this.data.numbers.shape[0]} ways`;
    return element(
      "table",
      { class: "xai-account" },
      element("caption", {}, caption),
      element("thead", {}, element("tr", {}, ...titles)),
      element("tbody", {}, ...rows),
    );
  }

  // ---------------------------------------------------------------------------------- the drawing

  show() {
    const [method, choice] = [this.model.get("method"), this.model.get("choice")];
    const fork = forkOf(choice, this.counts);
    const rows = rowsOf(this.data, fork);
    this.mine.set(method);
    this.answers.forEach((one, question) => one.set(choice[question]));
    this.drawRows(rows, method);
    this.drawAxis(rows, choice, this.data.smaller[fork]);
    this.said.textContent = verdict(rows, method, this.setup.methods, this.data.sure);
    this.said.classList.toggle("xai-won", rows[0].method === method);
    const [tried, all] = [this.model.get("tried").length, this.data.numbers.shape[0]];
    this.tried.textContent = `Ways tried: ${tried} of ${all}`;
    if (this.counter.getAttribute("aria-expanded") === "true") {
      this.table.replaceChildren(this.countTable());
    }
    announce(this.status, this.said.textContent);
  }

  drawRows(rows, mine) {
    const [least, most] = rangeOf(rows);
    const place = (value) => (100 * (value - least)) / (most - least);
    rows.forEach(({ method, mean, low, high }, rank) => {
      const { node, whisker, dot } = this.rows[method];
      node.style.transform = `translateY(${ROW_HEIGHT * rank}px)`;
      node.classList.toggle("xai-chosen", method === mine);
      whisker.style.left = `${place(low)}%`;
      whisker.style.width = `${place(high) - place(low)}%`;
      dot.style.left = `${place(mean)}%`;
    });
    const names = this.setup.methods;
    const listed = rows.map(({ method, mean }) => `${names[method]} ${shortNumber(mean)}`);
    this.plot.setAttribute("aria-label", `From the best: ${listed.join(", ")}`);
  }

  drawAxis(rows, choice, smaller) {
    const words = this.setup.questions.flatMap(({ options, axis }, question) =>
      axis ? [options[choice[question]]] : [],
    );
    const [least, most] = rangeOf(rows);
    const way = smaller ? "small is good" : "large is good";
    [this.ends[0].textContent, this.ends[2].textContent] = [least, most].map(shortNumber);
    this.ends[1].textContent = [...words, way].join(", ");
  }

  remove() {
    this.model.off(CHOICES, this.onChange);
  }
}

/** A row of radio buttons that look like chips; arrow keys go from one to the next. */
function radioChips(label, options, onChoose) {
  const group = `xai-chips-${(radioChips.count = (radioChips.count ?? 0) + 1)}`;
  const inputs = options.map((_, number) =>
    element("input", { type: "radio", name: group, onchange: () => onChoose(number) }),
  );
  const chips = inputs.map((input, number) =>
    element("label", { class: "xai-chip" }, input, options[number]),
  );
  const legend = element("legend", { class: "xai-label" }, label);
  const node = element("fieldset", { class: "xai-chips" }, legend, ...chips);
  const set = (chosen) => {
    inputs.forEach((input, number) => {
      input.checked = number === chosen;
      chips[number].classList.toggle("xai-chosen", input.checked);
    });
  };
  return { node, set };
}

/** The ends of the axis: all intervals and a margin. */
function rangeOf(rows) {
  const least = Math.min(...rows.map(({ low }) => low));
  const most = Math.max(...rows.map(({ high }) => high));
  const room = ROOM * (most - least) || 1;
  return [least - room, most + room];
}

function shortNumber(value) {
  return (Math.abs(value) < 1 ? value.toFixed(2) : value.toFixed(1)).replace("-", "\u2212");
}

function render({ model, el }) {
  const view = new MethodWinsView(model, el);
  return () => view.remove();
}

export default { render };
