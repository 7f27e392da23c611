"use strict";
// What each method can do: works, is refused, or is broken, by operation or by structure.
(function () {
  const living = data.cases.filter((item) => item.laws.length);
  if (!living.length) return nothing("laws", "No life cycles: pytest benchmarks -k life-cycle asks what each method can do.");
  const structureOf = (item) => data.groups[item.group].base_model;
  const structures = [...new Set(living.map(structureOf))].sort();
  const state = { by: "operation", on: "" };
  const asked = () => living.filter((item) => state.by === "structure" || !state.on || structureOf(item) === state.on);
  const controls = el("div", { class: "controls" });
  const place = el("div", { class: "scroll high" });
  const cells = el("div", { class: "scroll", "aria-live": "polite" });
  const LEGEND = [["works", "✓", "works"], ["refused", "–", "refused in words"], ["both", "◐", "works or refused, by structure or setting"],
    ["design", "△", "broken as PEFT means it to be"], ["broken", "✗", "broken somewhere: how many laws hold, the paler the more"], ["unreached", "·", "not reached"]];
  section("laws").append(controls, el("ul", { class: "legend" }, ...LEGEND.map(([kind, mark, words]) => el("li", {}, el("span", { class: `mark ${kind}` }, mark), ` ${words}`))),
    place, cells);

  const standing = (row) => data.law_words[row[1]].standing;
  const byDesign = (row) => row[2] >= 0 && data.causes[row[2]].by_design;
  const columnOf = (item, row) => (state.by === "operation" ? data.laws[row[0]].group : structureOf(item));

  /** What the laws of a cell say together, the worst first. */
  function markOf(rows) {
    const has = (word) => rows.some((row) => standing(row) === word);
    if (rows.some((row) => standing(row) === "broken" && !byDesign(row))) return LEGEND[4];
    if (has("broken")) return LEGEND[3];
    if (has("refused") && has("holds")) return LEGEND[2];
    if (has("refused")) return LEGEND[1];
    return has("holds") ? LEGEND[0] : LEGEND[5];
  }

  /** What a column is about, in a sentence: what its first law says, and how many more there are. */
  function about(column) {
    if (state.by === "structure") return `What each method can do on the tiny model ${column}.`;
    const [first, ...more] = data.laws.filter((law) => law.group === column);
    return `${first.what || first.name}${more.length ? `; and ${more.length} more` : ""}.`;
  }

  function draw() {
    refill(controls, choice("columns", [["operation", "operations"], ["structure", "structures"]], state.by, (value) => { state.by = value; cells.replaceChildren(); draw(); }),
      ...(state.by === "operation" && structures.length > 1 ? [choice("on", [["", `all ${structures.length} structures`], ...structures.map((name) => [name, name])], state.on, (value) => { state.on = value; cells.replaceChildren(); draw(); })] : []));
    const grid = new Map();
    const columns = new Set();
    for (const item of asked())
      for (const row of item.laws) {
        const column = columnOf(item, row);
        columns.add(column);
        const key = `${item.method}\n${column}`;
        if (!grid.has(key)) grid.set(key, []);
        grid.get(key).push(row);
      }
    const methods = [...new Set(asked().map((item) => item.method))].sort();
    const names = state.by === "operation" ? [...columns] : [...columns].sort();
    const head = el("tr", {}, el("th", { scope: "col" }, "method"), ...names.map((name) => el("th", { scope: "col", class: "tall", title: about(name) }, el("span", {}, name))));
    const rows = methods.map((method) => el("tr", {}, el("th", { scope: "row" }, method), ...names.map((column) => {
      const found = grid.get(`${method}\n${column}`);
      if (!found) return el("td", {});
      const [kind, mark, legend] = markOf(found);
      const holds = found.filter((row) => standing(row) === "holds").length;
      const faults = found.filter((row) => standing(row) === "broken" && !byDesign(row)).length;
      const words = kind === "broken" ? `broken somewhere, ${holds} of ${found.length} laws hold` : legend;
      const style = kind === "broken" ? `--share: ${Math.round(15 + 85 * faults / found.length)}%` : null;
      return el("td", { class: "cell" }, el("button", { type: "button", class: `mark ${kind}`, style, title: `${method}, ${column}: ${words}`, "aria-label": `${method}, ${column}: ${words}`, onclick: () => detail(method, column) }, kind === "broken" ? `${holds}/${found.length}` : mark));
    })));
    place.replaceChildren(el("table", { class: "matrix" }, el("thead", {}, head), el("tbody", {}, ...rows)));
  }

  function detail(method, column) {
    const lines = [];
    for (const item of asked().filter((each) => each.method === method))
      for (const row of item.laws) if (columnOf(item, row) === column) lines.push([item, row]);
    const order = { broken: 0, refused: 1, "not reached": 2, holds: 3 };
    lines.sort((a, b) => order[standing(a[1])] - order[standing(b[1])]);
    const told = lines.filter(([, row]) => standing(row) !== "holds");
    const held = lines.length - told.length;
    cells.replaceChildren(el("table", { class: "plain" }, el("caption", {}, `${method}, ${column}: ${held} of ${lines.length} laws hold`),
      el("tr", {}, ...["structure", "setting", "law", "word", "why"].map((name) => el("th", { scope: "col" }, name))),
      ...told.slice(0, 200).map(([item, row]) => el("tr", {}, el("td", {}, el("a", { href: link(item) }, data.groups[item.group].base_model)), el("td", {}, item.name),
        el("td", { title: data.laws[row[0]].what }, data.laws[row[0]].name), el("td", {}, data.law_words[row[1]].word),
        el("td", {}, row[2] >= 0 ? `${data.causes[row[2]].why}${byDesign(row) ? " (by design)" : ""}` : "")))));
    cells.scrollIntoView({ block: "nearest" });
  }
  draw();
})();
