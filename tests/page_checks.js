// Questions about a built page, each answered by a list of complaints.
window.pageChecks = {
  /** Parts that push the page sideways. */
  sideways() {
    const excess = document.documentElement.scrollWidth - window.innerWidth;
    if (excess <= 0) return [];
    const scrolls = (e) => ["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX);
    const inside = (e) => e && (scrolls(e) || inside(e.parentElement));
    const culprits = [...document.querySelectorAll("body *")].filter(
      (e) =>
        e.getBoundingClientRect().right > window.innerWidth + 1 &&
        e.checkVisibility() &&
        !inside(e.parentElement),
    );
    const names = culprits.slice(0, 5).map((e) => e.outerHTML.slice(0, 90));
    return [`${excess} px too wide: ${names.join(" | ")}`];
  },

  /** Text below WCAG's contrast of 4.5, or 3 where it is large. */
  faintText() {
    const faint = new Map();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const text = walker.currentNode.data.trim();
      const element = walker.currentNode.parentElement;
      if (!text || !isRead(element)) continue;
      const style = getComputedStyle(element);
      const size = parseFloat(style.fontSize);
      const isLarge = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
      const ratio = contrast(element);
      if (ratio < (isLarge ? 3 : 4.5)) {
        const place = element.outerHTML.slice(0, 90);
        faint.set(
          element.className + style.color,
          `contrast ${ratio.toFixed(2)} of "${text.slice(0, 40)}" in ${place}`,
        );
      }
    }
    return [...faint.values()];
  },

  /** Images that show nothing, or say nothing to who can't see them. */
  pictures() {
    return [...document.images].flatMap((image) => {
      const name = image.src.slice(0, 90);
      const isBroken = image.complete && image.naturalWidth === 0 && image.loading !== "lazy";
      return [
        ...(image.alt.trim() ? [] : [`no alternative text: ${name}`]),
        ...(isBroken ? [`not shown: ${name}`] : []),
      ];
    });
  },

  /** Formulas that MathJax marked as wrong, or passed over: unbalanced braces hide their end. */
  formulas() {
    const wrong = [...document.querySelectorAll("mjx-merror")];
    const raw = [...document.querySelectorAll(".math")].filter((e) => !e.querySelector("mjx-container"));
    return [
      ...wrong.map((e) => `formula: ${e.dataset.mjxError ?? e.textContent}`),
      ...raw.map((e) => `formula: not typeset: ${e.textContent}`),
    ];
  },

  /** Widgets that left only their place behind. */
  widgets() {
    const views = 'script[type="application/vnd.jupyter.widget-view+json"]';
    return [...document.querySelectorAll(views)]
      .filter((view) => !view.previousElementSibling?.matches(".widget-subarea"))
      .map((view) => `not shown: widget ${view.textContent.slice(0, 90)}`);
  },
};

function isRead(element) {
  const unread = ".headerlink, script, style, noscript, [disabled], [disabled] *";
  return (
    !element.matches(unread) &&
    element.checkVisibility({ opacityProperty: true, visibilityProperty: true }) &&
    element.getBoundingClientRect().width > 1 // else it is there for screen readers alone
  );
}

function contrast(element) {
  const backgrounds = [];
  for (let e = element; e; e = e.parentElement) {
    backgrounds.unshift(getComputedStyle(e).backgroundColor);
  }
  const text = luminance(flatten([...backgrounds, getComputedStyle(element).color]));
  const behind = luminance(flatten(backgrounds));
  return (Math.max(text, behind) + 0.05) / (Math.min(text, behind) + 0.05);
}

/** Paint layers over white and read the colour back: whatever notation CSS gave them in. */
function flatten(layers) {
  flatten.context ??= Object.assign(document.createElement("canvas"), {
    width: 1,
    height: 1,
  }).getContext("2d", { willReadFrequently: true });
  for (const layer of ["white", ...layers]) {
    flatten.context.fillStyle = layer;
    flatten.context.fillRect(0, 0, 1, 1);
  }
  return [...flatten.context.getImageData(0, 0, 1, 1).data].slice(0, 3);
}

function luminance(rgb) {
  const [r, g, b] = rgb
    .map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
