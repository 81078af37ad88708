// Leads through a deck: keys, touch, an overview, the speaker's notes in a window, a dark look.
// Letters shrink until a slide fits, so that what is set on another machine fits too.

(() => {
  "use strict";

  const LEAST = 18; // pixels, of a slide of 1280 by 720
  const WIDTH = 1280;
  const HEIGHT = 720;
  const SWIPE = 50; // pixels that a finger has to travel
  const NOTES = "body { font: 20px/1.5 sans-serif; margin: 2rem; max-width: 50rem; }";
  let slides = [];
  let place = 0;
  let speaker = null;

  function isFull(body) {
    return body.scrollHeight > body.clientHeight || body.scrollWidth > body.clientWidth;
  }

  function fit(slide) {
    const body = slide.querySelector(".body");
    let size = parseFloat(getComputedStyle(slide).getPropertyValue("--size"));
    while (isFull(body) && size > LEAST) {
      size -= 1;
      slide.style.setProperty("--size", `${size}px`);
    }
  }

  function scale() {
    const factor = Math.min(window.innerWidth / WIDTH, window.innerHeight / HEIGHT);
    const left = (window.innerWidth - WIDTH * factor) / 2;
    const top = (window.innerHeight - HEIGHT * factor) / 2;
    const move = `translate(${left}px, ${top}px) scale(${factor})`;
    document.querySelector(".deck").style.transform = move;
  }

  function show(number) {
    slides[place].classList.remove("current");
    place = Math.max(0, Math.min(slides.length - 1, number));
    slides[place].classList.add("current");
    window.history.replaceState(null, "", `#${place + 1}`);
    slides[place].focus({ preventScroll: true });
    slides[place].dispatchEvent(new CustomEvent("shown", { bubbles: true }));
    tell();
  }

  // The notes are set when they are asked for: they hold most of a deck's formulas.
  async function tell() {
    if (!speaker || speaker.closed) return;
    const here = place;
    const notes = slides[here].querySelector(".notes");
    if (notes.classList.contains("mathjax_ignore")) {
      notes.classList.remove("mathjax_ignore");
      await window.MathJax.typesetPromise?.([notes]);
    }
    if (here !== place) return; // the speaker has gone on meanwhile
    const title = slides[here].querySelector("h2").innerHTML;
    const next = slides[here + 1]?.querySelector("h2").innerHTML ?? "the end";
    speaker.document.title = "Notes";
    speaker.document.body.innerHTML =
      `<style>${NOTES}${formulaStyle()}</style><h2>${here + 1}. ${title}</h2>` +
      `${notes.innerHTML}<p><b>Next:</b> ${next}</p>`;
  }

  function formulaStyle() {
    const sheets = [...document.querySelectorAll("style[id^=MJX]")].map((style) => style.sheet);
    return sheets.flatMap((sheet) => [...sheet.cssRules]).map((rule) => rule.cssText).join("\n");
  }

  function openNotes() {
    speaker = window.open("", "notes", "width=900,height=700");
    tell();
  }

  function toggleOverview() {
    document.body.classList.toggle("overview");
    slides[place].scrollIntoView({ block: "center" });
  }

  function toggleTheme() {
    const root = document.documentElement;
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  }

  const actions = {
    previous: () => show(place - 1),
    next: () => show(place + 1),
    overview: toggleOverview,
    notes: openNotes,
    dark: toggleTheme,
    print: () => window.print(),
  };
  const keys = {
    ArrowRight: actions.next,
    ArrowDown: actions.next,
    PageDown: actions.next,
    " ": actions.next,
    ArrowLeft: actions.previous,
    ArrowUp: actions.previous,
    PageUp: actions.previous,
    Home: () => show(0),
    End: () => show(slides.length - 1),
    o: toggleOverview,
    Escape: () => document.body.classList.contains("overview") && toggleOverview(),
    Enter: () => document.body.classList.contains("overview") && toggleOverview(),
    n: openNotes,
    d: toggleTheme,
    f: () => document.documentElement.requestFullscreen?.(),
  };

  function addBar() {
    const bar = document.createElement("nav");
    bar.className = "bar";
    bar.setAttribute("aria-label", "Slides");
    for (const [name, act] of Object.entries(actions)) {
      const button = document.createElement("button");
      button.textContent = name;
      button.addEventListener("click", act);
      bar.append(button);
    }
    document.body.prepend(bar);
    let waiting;
    document.addEventListener("pointermove", () => {
      document.body.classList.add("pointer");
      clearTimeout(waiting);
      waiting = setTimeout(() => document.body.classList.remove("pointer"), 2000);
    });
  }

  // Keys and fingers in a widget are its own.
  function isPlayed(event) {
    return event.target.closest(".stage") !== null;
  }

  function listen() {
    document.addEventListener("keydown", (event) => {
      if (isPlayed(event)) {
        if (event.key === "Escape" && !event.defaultPrevented) slides[place].focus();
        return;
      }
      const act = keys[event.key];
      const onButton = event.target.tagName === "BUTTON" && ["Enter", " "].includes(event.key);
      if (!act || onButton || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      act();
    });
    slides.forEach((slide, number) => slide.addEventListener("click", () => {
      if (!document.body.classList.contains("overview")) return;
      show(number);
      toggleOverview();
    }));
    let start = null;
    document.addEventListener("touchstart", (event) => { start = event.touches[0].clientX; });
    document.addEventListener("touchend", (event) => {
      if (isPlayed(event)) return;
      const way = event.changedTouches[0].clientX - start;
      if (Math.abs(way) > SWIPE) show(place + (way < 0 ? 1 : -1));
    });
    window.addEventListener("resize", scale);
    window.addEventListener("hashchange", () => show(Number(window.location.hash.slice(1)) - 1));
  }

  // Called when the formulas are set, or when it is plain that they never will be.
  function begin() {
    if (document.body.classList.contains("ready")) return;
    slides.forEach(fit);
    document.body.classList.add("ready");
  }

  window.MathJax = {
    options: { enableMenu: false },
    chtml: { matchFontHeight: false, scale: 1.12 },
    startup: {
      pageReady: async () => {
        await window.MathJax.startup.defaultPageReady();
        await document.fonts.ready;
        begin();
      },
    },
  };
  document.addEventListener("DOMContentLoaded", () => {
    slides = [...document.querySelectorAll(".slide")];
    document.body.classList.add("js");
    addBar();
    listen();
    scale();
    show(Math.max(1, Number(window.location.hash.slice(1))) - 1);
    document.querySelector("script[src]").addEventListener("error", begin);
  });
})();
