// The results explorer: what book/_tools/results_page.py put into the page, chosen and drawn. A
// plain script without a library, so that it also runs from a file.

(() => {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";
  const NARROW = 560; // as wide as the plot has to be for names beside it
  const LETTER = 6.4; // the mean width of a letter, in pixels
  const SURE = 0.05;
  const KINDS = ["network", "fill", "measure", "control"]; // then the table, with its setting
  const PART = { network: 0, fill: 1, measure: 2, control: 3, file: 4, setting: 5 };

  function start(root) {
    const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
    const find = (name) => root.querySelector(`.rx-${name}`);
    const groups = data.groups.map(([keys, facts, commands, rows]) => {
      const [unit, better, against, n, of] = facts;
      return { keys, unit, better, against, n, of, commands, rows };
    });
    const lines = data.lines.map((word) => data.words.method.indexOf(word));
    let chosen = null;

    const named = (kind, group) => data.names[kind][group.keys[PART[kind]]];
    const word = (kind, group) => data.words[kind][group.keys[PART[kind]]];
    const isLine = (row) => lines.includes(row[0]);
    const tested = (row) => typeof row[5] === "number";

    // ------------------------------------------------------------------ what is chosen

    /** The group that agrees with the wish as far as there is one, kind by kind. */
    function closest(wish) {
      let left = groups;
      for (const kind of [...KINDS, "file", "setting"]) {
        const fits = left.filter((group) => group.keys[PART[kind]] === wish[PART[kind]]);
        if (fits.length) left = fits;
        else if (kind !== "file" && kind !== "setting") left = withLeast(left, PART[kind]);
      }
      return largest(left);
    }

    function withLeast(left, part) {
      const least = Math.min(...left.map((group) => group.keys[part]));
      return left.filter((group) => group.keys[part] === least);
    }

    /** What a table rests on; of two that are equal one with p-values comes first. */
    function size(group) {
      const methods = new Set(group.rows.map(([method]) => method)).size;
      return group.n * methods + (group.rows.some(tested) ? 0.5 : 0);
    }

    const largest = (left) => left.reduce((one, two) => (size(two) > size(one) ? two : one));

    function choose(group) {
      chosen = group;
      fillForm();
      showAll();
    }

    function fillForm() {
      let left = groups;
      for (const kind of KINDS) {
        const part = PART[kind];
        const there = new Set(left.map((group) => group.keys[part]));
        const options = [...there].sort((a, b) => a - b);
        setOptions(find(kind), options.map((key) => [key, capital(data.names[kind][key])]));
        find(kind).value = String(chosen.keys[part]);
        left = left.filter((group) => group.keys[part] === chosen.keys[part]);
      }
      left = [...left].sort((one, two) => size(two) - size(one));
      setOptions(find("run"), left.map((group) => [groups.indexOf(group), described(group)]));
      find("run").value = String(groups.indexOf(chosen));
    }

    function described(group) {
      const file = word("file", group).replace(".csv", "");
      const setting = word("setting", group);
      return `${group.n} ${group.of}: ${file}${setting ? `; ${setting}` : ""}`;
    }

    for (const kind of KINDS) {
      find(kind).addEventListener("change", () => {
        const wish = [...chosen.keys];
        wish[PART[kind]] = Number(find(kind).value);
        choose(closest(wish));
      });
    }
    find("run").addEventListener("change", () => choose(groups[Number(find("run").value)]));

    // ------------------------------------------------------------------ what is shown

    function showAll() {
      find("title").textContent = title();
      const rows = sorted();
      draw(rows);
      showKey(rows);
      showTable(rows);
      showCeiling();
      showSource();
      const address = new window.URLSearchParams();
      for (const kind of Object.keys(PART)) address.set(kind, word(kind, chosen));
      window.history.replaceState(null, "", `#${address}`);
    }

    function title() {
      const less = isDifference() ? `, less ${named("control", chosen)}` : "";
      const fill = word("fill", chosen) !== data.none ? `; fill: ${named("fill", chosen)}` : "";
      const [measure, network] = ["measure", "network"].map((kind) => capital(named(kind, chosen)));
      const setting = word("setting", chosen) && `; ${word("setting", chosen)}`;
      return `${measure}${less}. ${network}${fill}${setting}; ${chosen.n} ${chosen.of}.`;
    }

    const isDifference = () => word("control", chosen) !== data.none;

    /** Methods, the best first, each with its maps together; then what they are held to. */
    function sorted() {
      const sign = chosen.better === "less" ? 1 : -1;
      const first = new Map();
      for (const row of [...chosen.rows].sort((a, b) => a[1] - b[1])) {
        if (!first.has(row[0])) first.set(row[0], row[2]);
      }
      const place = (row) => (isLine(row) ? Infinity : sign * first.get(row[0]));
      const order = (a, b) => place(a) - place(b) || a[0] - b[0] || a[1] - b[1];
      return [...chosen.rows].sort((a, b) => (isLine(a) && isLine(b) ? a[0] - b[0] : order(a, b)));
    }

    /** The kinds of maps in rows, in the order of their marks. */
    function mapsOf(rows) {
      const maps = new Set(rows.filter((row) => !isLine(row)).map((row) => row[1]));
      return [...maps].sort((a, b) => a - b);
    }

    function draw(rows) {
      const width = Math.max(find("plot").clientWidth, 240);
      const dots = rows.filter((row) => !isLine(row));
      const maps = mapsOf(rows);
      const methods = [...new Set(dots.map((row) => row[0]))];
      const held = references(rows);
      const longest = Math.max(...methods.map((method) => data.names.method[method].length));
      const narrow = width < NARROW;
      const left = narrow ? 8 : Math.min(longest * LETTER + 14, width / 2);
      const step = Math.max(12 * maps.length, 14) + (narrow ? 22 : 10);
      const top = 18 * held.length + 10;
      const bottom = top + step * methods.length;
      const [low, high] = span(rows, held);
      const x = (value) => left + ((value - low) / (high - low)) * (width - left - 14);
      const svg = make("svg", { viewBox: `0 0 ${width} ${bottom + 42}`, role: "img" });
      svg.setAttribute("aria-label", `${title()} Its numbers are in the table below.`);
      drawAxis(svg, { x, low, high, left, width, bottom });
      drawReferences(svg, held, { x, width, top, bottom });
      methods.forEach((method, i) => {
        const y = top + i * step;
        const place = narrow ? { x: left, y: y + 14 } : { x: left - 10, y: y + step / 2 + 4 };
        const anchor = narrow ? "start" : "end";
        const label = { ...place, "text-anchor": anchor, class: "rx-name" };
        svg.append(make("text", label, data.names.method[method]));
        const own = dots.filter((row) => row[0] === method);
        const middle = narrow ? y + 18 + (step - 22) / 2 : y + step / 2;
        for (const row of own) drawDot(svg, row, maps, { x, middle });
      });
      find("plot").replaceChildren(svg);
    }

    /** What the maps are held to: nothing left of the control, chance, orders by lot, the best. */
    function references(rows) {
      const held = rows.filter(isLine).map((row) => {
        const kind = data.words.method[row[0]] === "(searched)" ? "ceiling" : "lot";
        return { name: data.names.method[row[0]], mean: row[2], ends: [row[3], row[4]], kind };
      });
      if (isDifference() && chosen.against === 50) held.push(mark(50, "half of the ceiling"));
      else if (isDifference()) held.push(mark(0, "no better than the control"));
      else if (chosen.against !== null) held.push(mark(chosen.against, "chance"));
      return held;
    }

    const mark = (mean, name) => ({ name, mean, ends: [mean, mean], kind: "control" });

    function span(rows, held) {
      const ends = [...rows.flatMap((row) => row.slice(2, 5)), ...held.map(({ mean }) => mean)];
      const [low, high] = [Math.min(...ends), Math.max(...ends)];
      const room = (high - low || Math.abs(high) || 1) * 0.04;
      return [low - room, high + room];
    }

    function drawAxis(svg, { x, low, high, left, width, bottom }) {
      const marks = ticks(low, high, Math.max(2, Math.floor((width - left) / 90)));
      for (const tick of marks) {
        svg.append(
          make("path", { class: "rx-grid", d: `M${x(tick)} ${bottom}v6` }),
          make("text", { x: x(tick), y: bottom + 19, "text-anchor": "middle" }, tick),
        );
      }
      const better = { more: "more is better →", less: "← less is better" }[chosen.better] ?? "";
      const middle = (left + width - 14) / 2;
      const unit = [chosen.unit, better].filter(Boolean).join(", ");
      svg.append(
        make("path", { class: "rx-grid", d: `M${left} ${bottom}H${width - 14}` }),
        make("text", { x: middle, y: bottom + 37, "text-anchor": "middle" }, unit),
      );
    }

    function drawReferences(svg, held, { x, width, top, bottom }) {
      held.forEach(({ name, mean, ends, kind }, i) => {
        const y = 13 + 18 * i;
        const [from, to] = ends.map(x);
        const ending = x(mean) > width / 2;
        const anchor = ending ? "end" : "start";
        const label = { x: x(mean) + (ending ? -5 : 5), y, "text-anchor": anchor };
        if (to > from) {
          const box = { x: from, y: top, width: to - from, height: bottom - top };
          svg.append(make("rect", { class: `rx-band rx-${kind}`, ...box }));
        }
        svg.append(
          make("path", { class: `rx-line rx-${kind}`, d: `M${x(mean)} ${y - 9}V${bottom}` }),
          make("text", label, name),
        );
      });
    }

    function drawDot(svg, row, maps, { x, middle }) {
      const [method, map, mean, low, high] = row;
      const i = maps.indexOf(map);
      const y = middle + (i - (maps.length - 1) / 2) * 12;
      const group = make("g", { class: `rx-${(i % 5) + 1}` });
      const open = isOpen(row) ? " rx-open" : "";
      group.append(
        make("title", {}, `${data.names.method[method]}, ${data.names.map[map]}: ${told(row)}`),
        make("path", { class: "rx-whisker", d: `M${x(low)} ${y}H${x(high)}` }),
        make("path", { class: `rx-dot${open}`, d: shape(i, x(mean), y) }),
      );
      svg.append(group);
    }

    const isOpen = (row) => tested(row) && row[5] >= SURE;
    const told = (row) => `${row[2]} [${row[3]}, ${row[4]}], ${row[6] ?? chosen.n} ${chosen.of}`;

    function showKey(rows) {
      const name = (map) => data.names.map[map] || "the network";
      const items = mapsOf(rows).map((map, i) => entry(i, "", name(map)));
      if (rows.some(tested)) {
        const filled = `filled: p below ${SURE} after Holm's correction`;
        items.push(entry(0, "", filled), entry(0, " rx-open", "hollow: open"));
      }
      find("key").replaceChildren(...items);
    }

    function entry(i, open, text) {
      const item = document.createElement("li");
      const box = { viewBox: "0 0 28 14", "aria-hidden": "true" };
      const svg = make("svg", { ...box, class: `rx-${(i % 5) + 1}` });
      svg.append(
        make("path", { class: "rx-whisker", d: "M1 7H27" }),
        make("path", { class: `rx-dot${open}`, d: shape(i, 14, 7) }),
      );
      item.append(svg, text);
      return item;
    }

    function showTable(rows) {
      const body = root.querySelector(".rx-table tbody");
      find("table").classList.toggle("rx-untested", !rows.some(tested));
      body.replaceChildren(...rows.map((row) => {
        const line = document.createElement("tr");
        const head = Object.assign(document.createElement("th"), { scope: "row" });
        head.textContent = data.names.method[row[0]];
        const [, map, mean, low, high, p, n] = row;
        const texts = [data.names.map[map], mean, `[${low}, ${high}]`, n ?? chosen.n, p ?? ""];
        const cells = texts.map((text) => {
          const cell = document.createElement("td");
          cell.textContent = text;
          return cell;
        });
        line.append(head, ...cells);
        return line;
      }));
    }

    /** How good an order can be, where it was searched for; in a run of its own. */
    function showCeiling() {
      const searched = data.words.method.indexOf("(searched)");
      const same = (group) => KINDS.every((kind) => {
        return group.keys[PART[kind]] === chosen.keys[PART[kind]];
      });
      const found = groups.filter((group) => {
        return same(group) && group.rows.some(([method]) => method === searched);
      });
      find("best").hidden = !found.length || found.includes(chosen);
      if (find("best").hidden) return;
      const other = found.find((group) => word("setting", group) === "draws=other");
      const best = other ?? found[0];
      const row = best.rows.find(([method]) => method === searched);
      const button = document.createElement("button");
      Object.assign(button, { type: "button", className: "rx-button", textContent: "Show it" });
      button.addEventListener("click", () => {
        choose(best);
        find("run").focus();
      });
      const said = `The ceiling, in a run with regions of its own (${best.n} ${best.of}): the best `
        + `order that a search found has ${row[2]} [${row[3]}, ${row[4]}]. `;
      find("best").replaceChildren(said, button);
    }

    function showSource() {
      const file = word("file", chosen);
      find("file").textContent = `results/${file}`;
      find("file").href = data.files + file;
      const commands = chosen.commands.map((command) => data.words.command[command]);
      find("command").textContent = commands.join("\n");
    }

    // ------------------------------------------------------------------ start

    /** What an address asks for, or else what the page opens with. */
    function wished() {
      const asked = new window.URLSearchParams(window.location.hash.slice(1));
      return Object.keys(PART).map((kind) => {
        return data.words[kind].indexOf(asked.get(kind) ?? data.first[kind] ?? "");
      });
    }

    choose(closest(wished()));
    window.addEventListener("hashchange", () => choose(closest(wished())));
    let drawn = find("plot").clientWidth;
    new ResizeObserver(() => {
      if (find("plot").clientWidth === drawn) return;
      drawn = find("plot").clientWidth;
      draw(sorted());
    }).observe(find("plot"));
  }

  function setOptions(select, options) {
    select.replaceChildren(...options.map(([value, text]) => {
      return Object.assign(document.createElement("option"), { value: String(value), text });
    }));
  }

  const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

  /** A mark for each kind of map, so that colour is never alone. */
  function shape(i, x, y) {
    const outlines = [
      `M${x - 4.5} ${y}a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z`,
      `M${x} ${y - 5.5}l5.5 5.5l-5.5 5.5l-5.5 -5.5z`,
      `M${x - 4} ${y - 4}h8v8h-8z`,
      `M${x} ${y - 5}l5 9h-10z`,
      `M${x} ${y + 5}l5 -9h-10z`,
    ];
    return outlines[i % outlines.length];
  }

  function make(tag, attributes, text) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return element;
  }

  /** Round numbers for the axis. */
  function ticks(low, high, most) {
    const rough = (high - low) / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    const gap = [1, 2, 5, 10].map((size) => size * power).find((size) => size >= rough);
    const first = Math.ceil(low / gap);
    const number = Math.floor(high / gap) - first + 1;
    return Array.from({ length: number }, (_, i) => Number(((first + i) * gap).toPrecision(6)));
  }

  for (const root of document.querySelectorAll("[data-results-explorer]")) start(root);
})();
