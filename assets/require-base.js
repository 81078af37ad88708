// Loaded between require.js and the widget manager, on pages that show a widget.

// 1. Modules named by a widget (anywidget) lie beside require.js, not on a server elsewhere.
requirejs.config({ baseUrl: new URL("vendor/", document.currentScript.src).pathname });

// 2. The widget manager asks MathJax 2 to typeset labels; the page carries MathJax 3, whose own
//    deferred script has replaced window.MathJax by the time this runs.
document.addEventListener("DOMContentLoaded", function () {
  window.MathJax = window.MathJax || {};
  window.MathJax.Hub = {
    Queue: function (job) {
      if (window.MathJax.typesetPromise) {
        job[2].classList.add("mathjax_process"); // the page tells MathJax to skip what is unmarked
        window.MathJax.typesetPromise([job[2]]);
      }
    },
  };
});

// 3. FontAwesome replaces an icon's element by default; the Play widget still holds the old one
//    and stops. Nesting the drawing inside the element leaves it alive.
window.FontAwesomeConfig = Object.assign({}, window.FontAwesomeConfig, { autoReplaceSvg: "nest" });
if (window.FontAwesome && window.FontAwesome.config) {
  window.FontAwesome.config.autoReplaceSvg = "nest";
}

// 4. Widgets come first: a chapter full of formulas keeps MathJax busy for seconds.
window.MathJax = window.MathJax || {};
window.MathJax.startup = Object.assign({}, window.MathJax.startup, {
  pageReady: function () {
    return widgetsShown().then(() => window.MathJax.startup.defaultPageReady());
  },
});

/** Resolves when all widgets of the page are there, or after three seconds without. */
function widgetsShown() {
  const views = document.querySelectorAll(
    'script[type="application/vnd.jupyter.widget-view+json"]',
  ).length;
  return new Promise((resolve) => {
    const look = () => document.querySelectorAll(".widget-subarea > *").length >= views && resolve();
    new MutationObserver(look).observe(document.body, { childList: true, subtree: true });
    setTimeout(resolve, 3000);
    look();
  }).then(() => new Promise((resolve) => setTimeout(resolve, 50))); // time to be painted
}
