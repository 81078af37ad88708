// "Place your bet", the game of the first page. All of it was measured before, by
// front_door_data.py; the page replays it. A plain script, so that it also runs from a file.

(() => {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";
  const STEP_MS = 75;
  const LABEL_GAP = 14;
  const NARROW = "(max-width: 640px)"; // as in front_door.css
  const PLACES = ["first", "second", "third", "fourth", "last"];
  const ORDERS = { morf: "most important first", lerf: "least important first" };

  function start(root) {
    const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
    const find = (name) => root.querySelector(`.fd-${name}`);
    const tiles = [...root.querySelectorAll(".fd-tile")];
    const slider = find("scrub").querySelector("input");
    const still = matchMedia("(prefers-reduced-motion: reduce)");
    const game = { photo: 0, bet: null, order: "morf", step: 0, timer: 0 };

    const photo = () => data.photographs[game.photo];
    const scores = (tile) => photo().tiles[tile][game.order];

    // ------------------------------------------------------------------ what is on the page

    function showPhotograph() {
      const shown = photo();
      root.classList.remove("fd-shown");
      for (const name of root.querySelectorAll(".fd-class")) name.textContent = shown.label;
      const picture = find("picture");
      picture.src = address(shown.name);
      picture.alt = `Photograph: ${shown.name}`;
      find("probability").textContent = percent(shown.probability);
      find("credit").textContent = `Photograph: ${shown.author} (${shown.licence})`;
      tiles.forEach((tile, i) => {
        const map = shown.tiles[i];
        const image = tile.querySelector("img");
        image.src = address(`${shown.name}-${map.method}`);
        image.alt = map.says;
        tile.setAttribute("aria-pressed", "false");
        tile.querySelector(".fd-name").textContent = data.names[map.method];
        tile.querySelector(".fd-score").textContent = "";
      });
      find("verdict").textContent = "Nothing is erased yet. Your bet?";
      find("caveat").hidden = true;
      find("turn").disabled = find("again").disabled = slider.disabled = true;
    }

    const address = (name) => `${data.pictures}/${name}.webp`;

    function showStep() {
      slider.value = String(game.step);
      slider.setAttribute("aria-valuetext", `${game.step} of ${data.regions} regions`);
      find("count").textContent = `${game.step} of ${data.regions} regions`;
      if (game.bet !== null) tiles.forEach(showErased);
      drawChart();
    }

    function showErased(tile, i) {
      erase(tile.querySelector("canvas"), regionsOf(i).slice(0, game.step));
      tile.querySelector(".fd-score").textContent = `score ${scores(i)[game.step].toFixed(1)}`;
    }

    const regionsOf = (tile) => {
      const { order } = photo().tiles[tile];
      return game.order === "morf" ? order : [...order].reverse();
    };

    /** The photograph, with noise where regions are gone: a likeness of what was measured. */
    function erase(canvas, regions) {
      const pen = canvas.getContext("2d");
      const side = canvas.width;
      const columns = Math.sqrt(data.regions);
      const cell = side / columns;
      const picture = find("picture");
      if (picture.complete && picture.naturalWidth) pen.drawImage(picture, 0, 0, side, side);
      for (const region of regions) {
        const x = (region % columns) * cell;
        const y = Math.floor(region / columns) * cell;
        pen.drawImage(noise(), x, y, cell, cell, x, y, cell, cell);
      }
    }

    let grain = null;

    function noise() {
      if (grain) return grain;
      grain = Object.assign(document.createElement("canvas"), { width: 224, height: 224 });
      const pixels = new ImageData(224, 224);
      let state = 1;
      pixels.data.forEach((_, i) => {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        pixels.data[i] = i % 4 === 3 ? 255 : state >>> 24;
      });
      grain.getContext("2d").putImageData(pixels, 0, 0);
      return grain;
    }

    // ------------------------------------------------------------------ the race

    function drawChart() {
      const width = Math.max(find("chart").clientWidth, 260);
      const height = 210;
      const room = { left: 28, right: 146, top: 20, bottom: 22 };
      const curves = photo().tiles.flatMap(({ morf, lerf }) => [...morf, ...lerf]);
      const every = [...photo().lot, ...curves];
      const [low, high] = [Math.min(...every), Math.max(...every)];
      const x = (k) => room.left + (k / data.steps) * (width - room.left - room.right);
      const y = (score) =>
        room.top + ((high - score) / (high - low)) * (height - room.top - room.bottom);
      const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
      for (const tick of ticks(low, high)) {
        svg.append(
          make("path", { class: "fd-axis", d: `M${room.left} ${y(tick)}H${x(data.steps)}` }),
          make("text", { x: room.left - 6, y: y(tick) + 4, "text-anchor": "end" }, tick),
        );
      }
      svg.append(
        make("text", { x: 0, y: 11 }, `score of “${photo().label}”`),
        make("text", { x: room.left, y: height - 4 }, `regions erased, ${ORDERS[game.order]} →`),
      );
      drawLines(svg, x, y, height - room.bottom);
      find("chart").replaceChildren(svg);
    }

    function drawLines(svg, x, y, bottom) {
      const lines = [{ values: photo().lot, name: "by lot", kind: "fd-lot", until: data.steps }];
      if (game.bet !== null) {
        photo().tiles.forEach(({ method }, i) => {
          const kind = i === game.bet ? "fd-chosen" : `fd-${i + 1}`;
          const name = `${letter(i)} ${data.short[method]}`;
          lines.push({ values: scores(i), name, kind, until: game.step });
        });
      }
      lines.sort((a, b) => (a.kind === "fd-chosen") - (b.kind === "fd-chosen"));
      for (const { values, kind, until } of lines) {
        const points = values.slice(0, until + 1).map((score, k) => `${x(k)} ${y(score)}`);
        svg.append(make("path", { class: kind, d: `M${points.join("L")}` }));
      }
      const ends = lines.map((line) => ({ ...line, at: y(line.values[line.until]) }));
      spread(ends, bottom);
      for (const { name, kind, until, at } of ends) {
        const chosen = kind === "fd-chosen" ? "fd-chosen" : "";
        const place = { x: x(until) + 19, y: at + 4, class: chosen };
        const mark = `M${x(until) + 5} ${at}h10`;
        svg.append(make("path", { class: kind, d: mark }), make("text", place, name));
      }
    }

    /** Push labels apart, downwards, and up again where they would leave the chart. */
    function spread(ends, bottom) {
      ends.sort((a, b) => a.at - b.at);
      const besides = (a, b) => Math.abs(a.until - b.until) < data.steps * 0.4;
      ends.forEach((end, i) => {
        const above = ends.slice(0, i).filter((other) => besides(other, end));
        if (above.length) end.at = Math.max(end.at, above.at(-1).at + LABEL_GAP);
      });
      for (let i = ends.length - 1, limit = bottom; i >= 0; i -= 1, limit -= LABEL_GAP) {
        ends[i].at = Math.min(ends[i].at, limit);
      }
    }

    /** A phone shows a part of the game at a time. */
    function bring(part) {
      if (!matchMedia(NARROW).matches) return;
      part.scrollIntoView({ behavior: still.matches ? "auto" : "smooth" });
    }

    function run() {
      clearInterval(game.timer);
      bring(find("tiles"));
      if (still.matches) {
        game.step = data.steps;
        finish();
        return;
      }
      game.step = 0;
      showStep();
      find("caveat").hidden = true;
      find("verdict").textContent = `Each map erases its regions, ${ORDERS[game.order]} …`;
      game.timer = setInterval(() => {
        game.step += 1;
        if (game.step < data.steps) showStep();
        else finish();
      }, STEP_MS);
    }

    function finish() {
      clearInterval(game.timer);
      showStep();
      showVerdict();
    }

    // ------------------------------------------------------------------ the verdict

    /** The mean fall over the curve (AOPC) of each map, best first. */
    function ranking(order) {
      const fall = (values) => values.reduce((sum, score) => sum + values[0] - score, 0);
      const sign = order === "morf" ? 1 : -1;
      const good = (values) => (sign * fall(values)) / values.length;
      const maps = photo().tiles.map((tile, i) => {
        return { i, method: tile.method, good: good(tile[order]) };
      });
      maps.sort((a, b) => b.good - a.good);
      return { maps, lot: good(photo().lot) };
    }

    function showVerdict() {
      const { maps, lot } = ranking(game.order);
      const place = maps.findIndex(({ i }) => i === game.bet);
      const { method, good } = maps[place];
      const ends = [scores(game.bet)[0], scores(game.bet)[data.steps]];
      const [from, to] = ends.map((score) => score.toFixed(1));
      const parts = [
        "You bet on ",
        strong(data.names[method]),
        `: ${PLACES[place]} of five. `,
        place ? `The first is ${data.names[maps[0].method]}. ` : "",
        `The score of “${photo().label}” goes from ${from} to ${to}. `,
        good < lot ? strong(byLot()) : "",
        trap(method, place, maps),
        game.order === "lerf" ? turned(maps) : "",
      ];
      find("verdict").replaceChildren(...parts.filter(Boolean));
      find("caveat").hidden = false;
    }

    const byLot = () =>
      game.order === "morf"
        ? "Erasing by lot does more harm. "
        : "It does more harm than erasing by lot. ";

    function trap(method, place, maps) {
      const of = maps.findIndex((map) => map.method === data.trap);
      if (method === data.trap) return "That was the trap: the map knows nothing of this picture. ";
      const name = `Map ${letter(maps[of].i)} was the trap, ${data.names[data.trap]}: `;
      return `${name}it came ${PLACES[of]}${of < place ? ", ahead of yours" : ""}. `;
    }

    function turned(maps) {
      const before = ranking("morf").maps[0].method;
      const now = maps[0].method;
      if (before === now) return "Turned round, the test has the same winner.";
      const names = `${data.names[now]}, no longer ${data.names[before]}`;
      return `Turned round, the test has another winner: ${names}.`;
    }

    // ------------------------------------------------------------------ what the reader does

    function bet(i) {
      game.bet = i;
      tiles.forEach((tile, j) => {
        tile.setAttribute("aria-pressed", String(i === j));
      });
      root.classList.add("fd-shown");
      find("turn").disabled = find("again").disabled = slider.disabled = false;
      run();
    }

    function turn() {
      game.order = game.order === "morf" ? "lerf" : "morf";
      find("turn").setAttribute("aria-pressed", String(game.order === "lerf"));
      run();
    }

    function another() {
      clearInterval(game.timer);
      const photograph = (game.photo + 1) % data.photographs.length;
      Object.assign(game, { photo: photograph, bet: null, step: 0, order: "morf" });
      find("turn").setAttribute("aria-pressed", "false");
      showPhotograph();
      showStep();
      bring(root);
    }

    function look(i) {
      const lens = find("lens");
      if (i !== null) lens.src = tiles[i].querySelector("img").src;
      find("frame").classList.toggle("fd-looking", i !== null);
    }

    tiles.forEach((tile, i) => {
      tile.disabled = false;
      tile.addEventListener("click", () => bet(i));
      tile.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && look(i));
      tile.addEventListener("pointerleave", () => look(null));
      tile.addEventListener("focus", () => tile.matches(":focus-visible") && look(i));
      tile.addEventListener("blur", () => look(null));
    });
    find("turn").addEventListener("click", turn);
    find("again").addEventListener("click", run);
    find("another").addEventListener("click", another);
    slider.addEventListener("input", () => {
      clearInterval(game.timer);
      game.step = Number(slider.value);
      showStep();
      if (game.step === data.steps) showVerdict();
    });
    find("picture").addEventListener("load", showStep);
    new ResizeObserver(drawChart).observe(find("chart"));

    showPhotograph();
    showStep();
  }

  const letter = (i) => "ABCDE"[i];
  const percent = (share) => `${(100 * share).toFixed(0)}\u00a0%`;

  function strong(text) {
    return Object.assign(document.createElement("strong"), { textContent: text });
  }

  function make(tag, attributes, text) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return element;
  }

  /** Whole numbers for the axis, four at most. */
  function ticks(low, high) {
    const gap = [1, 2, 5, 10].find((size) => (high - low) / size <= 4) ?? 20;
    const first = Math.ceil(low / gap);
    const number = Math.floor(high / gap) - first + 1;
    return Array.from({ length: number }, (_, i) => (first + i) * gap);
  }

  for (const root of document.querySelectorAll("[data-front-door]")) start(root);
})();
