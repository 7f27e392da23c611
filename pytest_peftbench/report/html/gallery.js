"use strict";
// For each prompt: the concept's own pictures, the base model's and each method's; large on click, arrows go on.
(function () {
  const drawing = (item) => item.pictures.length > 0;
  const options = groupOptions(drawing);
  if (!options.length) return nothing("gallery", "No pictures: a run of image generation writes them beside its results with --peft-json, and into this page with --peft-html.");
  const GROUPS = { concept: "The concept", unrelated: "Unrelated prompts" };
  const state = { group: options[0][0], kind: "concept", text: "", by: "name" };
  const place = el("div", {});
  const search = el("input", { type: "search", "aria-label": "method", placeholder: "method …", oninput: () => { state.text = search.value; draw(); } });
  const controls = el("div", { class: "controls" });
  section("gallery").append(controls, place);

  const image = (source, name) => el("img", { src: data.images[source], alt: name, loading: "lazy" });

  /** What one prompt and seed has: the base model's pictures that differ, then each method's. */
  function tiles(prompt, cases) {
    const found = [];
    const bases = new Set();
    for (const item of cases)
      for (const picture of item.pictures)
        if (picture.group === state.kind && keyOf(picture) === prompt) {
          if (!bases.has(picture.images[0])) {
            bases.add(picture.images[0]);
            found.unshift({ name: "base model", source: picture.images[0], base: true });
          }
          if (!state.text || methodName(item).toLowerCase().includes(state.text.toLowerCase())) found.push({ name: methodName(item), source: picture.images[1], item });
        }
    return found;
  }
  const keyOf = (picture) => `${picture.prompt} — seed ${picture.seed}`;

  function references(cases) {
    const seen = new Map();
    for (const item of cases) for (const picture of item.pictures) if (picture.group === "reference") seen.set(picture.images[0], picture.prompt);
    return [...seen].map(([source, prompt]) => ({ name: prompt, source }));
  }

  /** What the case's pictures came to, over all of its prompts. */
  function figures(tile) {
    if (!tile.item) return [];
    const group = data.groups[tile.item.group];
    return [group.gain, group.loss].filter((metric) => metric !== null && tile.item.values[metric] !== undefined)
      .map((metric) => el("small", { title: `${data.metrics[metric].name}, of the whole case` }, `${headerOf(group, metric)} ${shown(data.metrics[metric], tile.item.values[metric])}`));
  }

  function strip(title, shownTiles, prompt) {
    const buttons = shownTiles.map((tile, at) => el("button", { type: "button", class: tile.base ? "tile base" : "tile", onclick: () => enlarge(shownTiles, at, prompt) },
      image(tile.source, `${tile.name}: ${prompt}`), el("span", {}, ...(tile.item ? breaking(tile.item) : [tile.name])), ...figures(tile)));
    return el("section", { class: "prompt" }, el("h4", {}, title), el("div", { class: "tiles" }, ...buttons));
  }

  /** By name, or the best first by what is won or lost. */
  function orders() {
    const group = data.groups[state.group];
    return [["name", "by name"], ...["gain", "loss"].filter((side) => group[side] !== null).map((side) => [side, `${headerOf(group, group[side])}, the best first`])];
  }

  function order(a, b) {
    const metric = data.groups[state.group][state.by] ?? null;
    const named = methodName(a).localeCompare(methodName(b), "en", { numeric: true });
    if (metric === null) return named;
    const worst = state.by === "gain" ? -Infinity : Infinity;
    const [x, y] = [a, b].map((item) => item.values[metric] ?? worst);
    return (x === y ? 0 : state.by === "gain" ? y - x : x - y) || named;
  }

  function draw() {
    const cases = casesOf(state.group).filter(drawing).sort(order);
    const kinds = [...new Set(cases.flatMap((item) => item.pictures.map((picture) => picture.group)))].filter((kind) => kind !== "reference").sort();
    if (!kinds.includes(state.kind)) state.kind = kinds[0];
    refill(controls, choice("cases of", options, state.group, (value) => { state.group = Number(value); draw(); }),
      choice("prompts", kinds.map((kind) => [kind, GROUPS[kind] || kind]), state.kind, (value) => { state.kind = value; draw(); }),
      choice("order", orders(), state.by, (value) => { state.by = value; draw(); }), el("label", { class: "field" }, el("span", {}, "method"), search));
    const prompts = [...new Set(cases.flatMap((item) => item.pictures.filter((picture) => picture.group === state.kind).map(keyOf)))];
    const concept = references(cases);
    place.replaceChildren(
      ...(concept.length && state.kind === "concept" ? [strip("What it should look like: pictures of the concept that were held out", concept, "held out")] : []),
      ...prompts.map((prompt) => strip(prompt, tiles(prompt, cases), prompt)));
  }

  // One picture, large, beside the base model's of the same noise.
  const dialog = el("dialog", { "aria-label": "picture" });
  document.body.append(dialog);
  let move = () => {};
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") move(1);
    if (event.key === "ArrowLeft") move(-1);
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

  function enlarge(shownTiles, first, prompt) {
    let at = first;
    const base = shownTiles.find((tile) => tile.base);
    move = (step) => { at = (at + step + shownTiles.length) % shownTiles.length; show(); };
    function show() {
      const tile = shownTiles[at];
      const sides = [...(base && tile !== base ? [base] : []), tile];
      dialog.replaceChildren(
        el("p", {}, prompt),
        el("div", { class: "sides" }, ...sides.map((side) => el("figure", {}, image(side.source, side.name), el("figcaption", {}, side.name)))),
        el("div", { class: "controls" }, el("button", { type: "button", onclick: () => move(-1) }, "← previous"), el("button", { type: "button", onclick: () => move(1) }, "next →"),
          tile.item ? el("a", { href: link(tile.item), onclick: () => dialog.close() }, "figures") : null,
          el("button", { type: "button", autofocus: true, onclick: () => dialog.close() }, "close")));
    }
    show();
    dialog.showModal();
  }
  draw();
})();
