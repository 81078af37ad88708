// Makes the widgets of a deck alive, each when its slide is first shown. Its script and its state
// are those that the notebook has kept. Of what a host owes it by anywidget's specification
// (https://anywidget.dev/en/afm/), here is what a widget without a kernel needs: `render`, and a
// model. Its picture stays for the printer, and where it does not start.

(() => {
  "use strict";

  const KIND = "application/vnd.jupyter.widget-";
  const LARGEST = 1.3; // times the size that a widget has on a page
  const GAIN = 1.1; // for which a second column is worth its break
  const WIDTHS = [800, 900, 1000, 1100, 1200, 1300, 1400]; // pixels, before it is scaled

  class Model extends window.EventTarget {
    constructor(state) {
      super();
      this.state = state;
    }

    get(name) {
      return this.state[name];
    }

    // Takes a name and a value, or an object of them.
    set(names, value) {
      const values = typeof names === "object" ? names : { [names]: value };
      const changed = Object.keys(values).filter((name) => values[name] !== this.state[name]);
      Object.assign(this.state, values);
      for (const name of changed) this.dispatchEvent(new window.Event(`change:${name}`));
    }

    on(names, act) {
      for (const name of names.split(" ")) this.addEventListener(name, act);
    }

    off(names, act) {
      for (const name of names.split(" ")) this.removeEventListener(name, act);
    }

    save_changes() {} // there is no kernel to be told

    send() {}
  }

  function stateOf(view) {
    const { model_id: id } = JSON.parse(view.textContent);
    const kept = document.querySelector(`script[type="${KIND}state+json"]`);
    return JSON.parse(kept.textContent).state[id].state;
  }

  async function load(source) {
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const { default: widget } = await import(address);
    URL.revokeObjectURL(address);
    return widget;
  }

  function place(widget, columns, width) {
    widget.style.setProperty("--columns", columns);
    widget.style.setProperty("--width", `${width}px`);
  }

  // A widget is made for a column of text, and a slide is wide. So it stands in one column or in
  // two, and as wide, as lets it be largest.
  function layOut(stage, widget) {
    const parts = [...widget.firstElementChild.children];
    for (const part of parts) part.style.breakBefore = "";
    let best = { columns: 1, scale: 0 };
    for (const columns of [1, 2]) {
      for (const width of WIDTHS) {
        place(widget, columns, width);
        const scale = Math.min(LARGEST, stage.clientWidth / width, roomFor(stage, widget));
        if (scale > best.scale * (columns > best.columns ? GAIN : 1)) {
          best = { columns, width, scale };
        }
      }
    }
    place(widget, best.columns, best.width);
    widget.style.setProperty("--scale", best.scale);
    holdColumns(parts, widget);
    shrink(stage, widget); // a margin is kept behind the break
  }

  // How much it may be scaled before it is too high.
  function roomFor(stage, widget) {
    return stage.clientHeight / widget.offsetHeight;
  }

  // Nothing goes over to the other column when what stands above it grows.
  function holdColumns(parts, widget) {
    const { left, width } = widget.getBoundingClientRect();
    const second = parts.find((part) => part.getBoundingClientRect().left > left + width / 2);
    if (second) second.style.breakBefore = "column";
  }

  // Until it is played with, it is laid out anew for what it computes; then it must not jump under
  // a finger, and only shrinks if it grows too high.
  function keepFit(stage, widget) {
    let fit = layOut;
    for (const kind of ["pointerdown", "keydown"]) {
      widget.addEventListener(kind, () => { fit = shrink; }, { once: true });
    }
    fit(stage, widget);
    const observer = new ResizeObserver(() => fit(stage, widget));
    for (const part of [widget, ...widget.firstElementChild.children]) observer.observe(part);
  }

  function shrink(stage, widget) {
    const scale = Number(widget.style.getPropertyValue("--scale"));
    widget.style.setProperty("--scale", Math.min(scale, roomFor(stage, widget)));
  }

  async function wake(figure, view) {
    const stage = document.createElement("div");
    const widget = document.createElement("div");
    const look = document.createElement("style");
    stage.className = "stage";
    stage.append(look, widget);
    try {
      const model = new Model(stateOf(view));
      const { render } = await load(model.get("_esm"));
      look.textContent = model.get("_css") ?? "";
      figure.prepend(stage);
      figure.classList.add("alive");
      await render({ model, el: widget });
      keepFit(stage, widget);
    } catch (error) {
      figure.classList.remove("alive");
      stage.remove();
      console.error(error);
    }
  }

  document.addEventListener("shown", ({ target: slide }) => {
    const view = slide.querySelector(`script[type="${KIND}view+json"]`);
    if (!view) return;
    wake(slide.querySelector("figure"), view);
    view.remove();
  });
})();
