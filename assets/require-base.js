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
