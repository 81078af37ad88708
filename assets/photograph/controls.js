// The buttons of the page: what each of them does, and when it can be pressed.

/** Listen to all that a reader can press, choose, drop or paste. */
function listenToControls(explorer) {
  for (const thumb of explorer.thumbs) {
    thumb.disabled = false;
    thumb.addEventListener("click", explorer.attempt(() => explorer.open(thumb)));
  }
  for (const kind of ["tool", "view", "fill"]) {
    for (const button of explorer.root.querySelectorAll(`[data-${kind}]`)) {
      button.addEventListener("click", () => explorer.pick(kind, button.dataset[kind]));
    }
  }
  const clicks = {
    load: () => explorer.load(),
    undo: () => explorer.stage.undo(),
    restore: () => explorer.stage.restore(),
    erase: () => explorer.letTheMapErase(),
    save: () => explorer.save(),
    link: () => explorer.copyLink(),
  };
  for (const [name, act] of Object.entries(clicks)) {
    explorer.find(name).addEventListener("click", explorer.attempt(act));
  }
  listenForPhotographs(explorer.root, explorer.attempt((give) => explorer.take(give)));
  window.addEventListener("hashchange", explorer.attempt(() => explorer.start()));
}

/** Let each button be pressed that has something to do. */
function enableControls(explorer) {
  const { stage, map, picture, photograph } = explorer;
  const can = {
    undo: stage.strokes.length,
    restore: stage.share,
    erase: map,
    save: map,
    link: map && photograph.name,
  };
  for (const pick of explorer.find("tools").querySelectorAll("[aria-pressed]")) {
    pick.disabled = !picture;
  }
  for (const [name, reason] of Object.entries(can)) {
    explorer.find(name).disabled = !(picture && reason);
  }
}

/** A button for each method that the network knows. */
function fillMethods(explorer, methods) {
  const buttons = methods.map(({ name, title }) => {
    const onclick = explorer.attempt(() => {
      explorer.chooseMethod(name);
      return explorer.ask(explorer.question);
    });
    const look = { type: "button", class: "ph-pick", "data-method": name };
    return element("button", { ...look, onclick }, title);
  });
  explorer.find("methods").replaceChildren(...buttons);
}

/** Of the buttons of a kind one is pressed. */
function press(group, kind, value) {
  for (const button of group.querySelectorAll(`[data-${kind}]`)) {
    button.setAttribute("aria-pressed", String(button.dataset[kind] === value));
  }
}
