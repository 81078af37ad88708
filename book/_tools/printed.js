// Puts the pages of the built book into one document to print, for printed.py. Chromium reads
// HTML faster than Python does, and MathJax sets the formulas here anyway.

(() => {
  "use strict";

  // What answers to a reader on screen has a still picture or a table beside it.
  const GONE = `script, noscript, style, canvas, input, select, button:not(:has(img)), .headerlink,
    .widget-subarea, [class*='-live'], .fd-buttons, .fd-lens, .rx-controls, .cell_output label`;
  // Every element with text becomes an object of the PDF, of which a book has too many anyway.
  const NEEDLESS = "span.pre, .sig span span, .sig em span";
  const coloured = []; // pieces of code
  const COLOURED = { c: "comment", k: "keyword", s: "string" }; // by the first letter of a class
  const FINDABLE = ".proof[id]:has(> .admonition-title > .caption-number)";

  const SPLITS = 14; // lines of code: what has more may go on on the next page

  const stem = (name) => name.split("/").pop();
  const anchor = (name, id) => (id ? `${stem(name)}--${id}` : stem(name));
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  function make(tag, className, ...children) {
    const element = document.createElement(tag);
    element.className = className;
    element.append(...children);
    return element;
  }

  /** A page of the book, with its anchors, links and pictures made good for one document. */
  function chapter({ name, part, html, captions }, names) {
    const page = new window.DOMParser().parseFromString(html, "text/html");
    const article = page.querySelector("article.bd-article");
    makeStill(article);
    for (const link of all("a[href]", article)) lead(link, name, names);
    for (const named of all("[id]", article)) named.id = anchor(name, named.id);
    for (const picture of all("img", article)) place(picture, name);
    for (const heading of all("h1, h2, h3, h4, h5", article)) lower(heading);
    if (name.startsWith("notebooks/")) numberFigures(article, stem(name).slice(0, 2), captions);
    const section = make("section", "printed-chapter", ...article.childNodes);
    if (part) section.prepend(make("h1", "printed-part", part));
    section.id = anchor(name);
    section.style.page = `page-${stem(name)}`;
    return section;
  }

  /** Take out what paper cannot do, open what is folded, and say which code stays in one piece. */
  function makeStill(article) {
    for (const stack of all(".panes", article)) namePanes(stack);
    for (const gone of all(GONE, article)) gone.remove();
    for (const folded of all("details", article)) folded.open = true;
    for (const span of all(NEEDLESS, article)) span.replaceWith(...span.childNodes);
    article.normalize();
    for (const code of all("pre", article)) {
      flatten(code);
      if (code.textContent.split("\n").length <= SPLITS) code.classList.add("printed-whole");
    }
  }

  /** Make code one text; what had a colour is remembered, and coloured later without elements. */
  function flatten(code) {
    const walker = code.ownerDocument.createTreeWalker(code, window.NodeFilter.SHOW_TEXT);
    const words = [];
    let end = 0;
    while (walker.nextNode()) {
      const start = end;
      end += walker.currentNode.length;
      words.push([COLOURED[walker.currentNode.parentElement.className[0]], start, end]);
    }
    code.replaceChildren(code.textContent);
    for (const [kind, from, to] of words) {
      if (kind) coloured.push({ kind, text: code.firstChild, start: from, end: to });
    }
  }

  function colour() {
    for (const { kind, text, start, end } of coloured) {
      const { highlights } = window.CSS;
      const range = { startContainer: text, startOffset: start };
      Object.assign(range, { endContainer: text, endOffset: end });
      if (!highlights.has(kind)) highlights.set(kind, new window.Highlight());
      highlights.get(kind).add(new window.StaticRange(range));
    }
  }

  /** Let a link lead to its place in this document; one to a file of the site leads nowhere. */
  function lead(link, name, names) {
    const address = link.getAttribute("href");
    if (/^[a-z]+:/.test(address)) return;
    const [path, id] = address.split("#");
    const target = path ? new URL(path, `book:/${name}`).pathname.slice(1) : `${name}.html`;
    const page = target.replace(/\.html$/, "");
    if (names.includes(page)) link.setAttribute("href", `#${anchor(page, id)}`);
    else link.removeAttribute("href");
  }

  function place(picture, name) {
    const built = new URL(`../html/${name}`, document.baseURI);
    picture.src = new URL(picture.getAttribute("src"), built).href;
    picture.loading = "eager";
  }

  /** On screen one of a stack of pictures is chosen; on paper all are there, and say which. */
  function namePanes(stack) {
    const labels = all("label", stack.parentElement);
    all("img", stack).forEach((picture, position) => {
      picture.dataset.name = labels[position].textContent;
    });
  }

  /** A heading one level down: the parts of the book have the first. */
  function lower(heading) {
    const level = Number(heading.tagName[1]) + 1;
    heading.replaceWith(make(`h${level}`, heading.className, ...heading.childNodes));
  }

  /** Number and caption below each figure; a stack of pictures is one figure. */
  function numberFigures(article, number, captions) {
    const figures = all(".cell_output :is(.panes, img:not(.panes img))", article);
    figures.forEach((figure, position) => {
      for (const picture of figure.matches("img") ? [figure] : all("img", figure)) {
        const words = picture.dataset.name || captions[picture.alt] || "";
        const caption = make("figcaption", "", `Figure ${number}.${position + 1}. ${words}`);
        if (picture.matches(".static-twin")) caption.append(" On screen it can be played with.");
        const framed = make("figure", "printed-figure");
        picture.replaceWith(framed);
        framed.append(picture, caption);
      }
    });
  }

  /** A line of a list: words that lead to a place, and room for the number of its page. */
  function line(tag, className, id, ...words) {
    const link = make("a", "", ...words);
    link.href = `#${id}`;
    const number = make("span", "printed-number");
    number.dataset.pageOf = id;
    return make(tag, `printed-line ${className}`, link, number);
  }

  function listContents(sections) {
    const list = document.querySelector("#contents");
    for (const section of sections) {
      const [part, title] = [".printed-part", "h2"].map((name) => section.querySelector(name));
      if (part) list.append(make("p", "printed-caption", part.textContent));
      list.append(line("p", "", section.id, title.textContent));
    }
    list.append(line("p", "printed-apart", "index-of-statements", "Definitions and theorems"));
  }

  /** Definitions, theorems and the like by their titles. */
  function listStatements() {
    const statements = all(FINDABLE).map((box) => {
      const title = box.querySelector(".admonition-title").cloneNode(true);
      const number = title.querySelector(".caption-number");
      number.remove();
      title.normalize();
      const named = title.textContent.trim().replace(/^\(|\)$/g, "");
      return { id: box.id, name: named, number: number.textContent.trim() };
    });
    statements.sort((a, b) => a.name.localeCompare(b.name, "en"));
    for (const { id, name, number } of statements) {
      const words = name ? [name, ", ", make("small", "", number)] : [number];
      document.querySelector("#statements").append(line("li", "", id, ...words));
    }
  }

  /** The name of each chapter at the head of its pages. */
  function styleHeads(sections) {
    const rules = sections.map((section) => {
      const title = JSON.stringify(section.querySelector("h2").textContent);
      return `@page ${section.style.page} { @top-right { content: ${title}; } }`;
    });
    document.head.append(make("style", "", rules.join("\n")));
  }

  /** All pages, in order, with contents before them and an index behind. */
  function assemble(pages) {
    const names = pages.map((page) => page.name);
    const sections = pages.map((page) => chapter(page, names));
    document.querySelector("#book").append(...sections);
    listContents(sections);
    listStatements();
    styleHeads(sections);
  }

  /** Set all formulas. Their second copy, for screen readers, does not reach the paper. */
  async function setFormulas() {
    await window.MathJax.startup.promise;
    for (const copy of all("mjx-assistive-mml")) copy.remove();
  }

  /** Wait for pictures, colour the code, and make what is too wide as small as it must be. */
  async function settle() {
    await Promise.all(all("img").map((picture) => picture.decode().catch(() => {})));
    await document.fonts.ready;
    colour();
    const wide = all("mjx-container[display=true], table, dl.py > dt");
    const excess = wide.map((e) => Math.max(e.scrollWidth, e.offsetWidth) / room(e));
    wide.forEach((e, i) => {
      if (excess[i] > 1) e.style.zoom = (0.98 / excess[i]).toFixed(3);
    });
  }

  /** How wide an element may be; a formula has made room for its number by itself. */
  function room(element) {
    if (element.matches("mjx-container")) return element.clientWidth;
    const { paddingLeft, paddingRight } = window.getComputedStyle(element.parentElement);
    return element.parentElement.clientWidth - parseFloat(paddingLeft) - parseFloat(paddingRight);
  }

  function fillNumbers(pages) {
    for (const number of all("[data-page-of]")) number.textContent = pages[number.dataset.pageOf];
  }

  /** What must be found again in the PDF. */
  function facts() {
    return {
      outline: all("h1, h2").map((heading) => heading.textContent.trim()),
      pictures: new Set(all("img:not([src$='.svg'])").map((picture) => picture.src)).size,
      formulas: all(".math").length,
      figures: all(".printed-figure").length,
      links: all("a[href^='#']").length,
      height: document.querySelector("#book").scrollHeight,
    };
  }

  /** What would be lost on paper. */
  function complaints() {
    const ids = new Set(all("[id]").map((named) => named.id));
    const right = document.querySelector("#book").getBoundingClientRect().right;
    const dead = all("a[href^='#']").filter((link) => !ids.has(decodeURI(link.hash.slice(1))));
    const raw = all(".math").filter((formula) => !formula.querySelector("mjx-container"));
    const empty = all("img").filter((picture) => !picture.naturalWidth);
    const cut = all("pre, table, img, dt, mjx-container[display=true]").filter(
      (e) => e.getBoundingClientRect().right > right + 2 || e.scrollWidth > e.clientWidth + 2,
    );
    return [
      ...dead.map((link) => `a link leads nowhere: ${link.hash}`),
      ...raw.map((formula) => `a formula is not set: ${formula.textContent.slice(0, 60)}`),
      ...all("mjx-merror").map((error) => `a formula is wrong: ${error.textContent}`),
      ...empty.map((picture) => `a picture is missing: ${picture.src}`),
      ...cut.map((e) => `cut off at the right: ${e.outerHTML.slice(0, 120)}`),
    ];
  }

  window.printed = { assemble, setFormulas, settle, fillNumbers, facts, complaints };
})();
