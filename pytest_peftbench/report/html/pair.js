"use strict";
// One method against another: the figures of two cases, how far apart they are, and which case is better.
(function () {
  const options = groupOptions().filter(([group]) => casesOf(group).length > 1);
  if (!options.length) return nothing("pair", "No two cases of one task and base model are here to set side by side.");
  const state = { group: options[0][0], one: null, other: null, all: false };
  const controls = el("div", { class: "controls" });
  const place = el("div", { class: "scroll" });
  const told = el("p", { class: "note", role: "status" });
  section("pair").append(controls, place, told);
  // Units of what is told in per cent of the other case's figure; all else is told as it is.
  const SHARES = new Set(["bytes", "FLOP", "ratio", "s", ...COUNTS]);

  /** Against LoRA as it is, where there is one; the first other case that has figures. */
  function start() {
    const cases = sorted();
    const held = cases.filter((item) => Object.keys(item.values).length || item.laws.length);
    state.other = plainLora(cases) || held[0] || cases[0];
    state.one = held.find((item) => item !== state.other) || cases.find((item) => item !== state.other);
  }

  const sorted = () => [...casesOf(state.group)].sort((a, b) => methodName(a).localeCompare(methodName(b), "en", { numeric: true }));

  function draw() {
    const names = sorted().map((item) => [item.id, methodName(item)]);
    const pick = (label, side) => choice(label, names, state[side].id, (id) => { state[side] = byId.get(id); draw(); });
    refill(controls,
      choice("cases of", options, state.group, (value) => { state.group = Number(value); start(); draw(); }), pick("method", "one"), pick("against", "other"),
      checkbox("all figures", state.all, (on) => { state.all = on; draw(); }));
    const head = ["figure", state.one, state.other, "difference"].map((cell, at) => el("th", { scope: "col", class: at ? "number" : "" },
      typeof cell === "string" ? cell : el("a", { href: link(cell) }, ...breaking(cell))));
    place.replaceChildren(el("table", { class: "plain pair", "aria-label": `${methodName(state.one)} against ${methodName(state.other)}` },
      el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, verdicts(), ...figures().map(figure), ...words())));
    told.textContent = note();
  }

  const verdicts = () => el("tr", {}, el("th", { scope: "row" }, "verdict"), ...[state.one, state.other].map((item) => el("td", { class: "number" }, verdictMark(item))), el("td"));

  /** The columns of the group's table that either holds, then all else where it is asked for. */
  function figures() {
    const known = metricsOf([state.one, state.other]);
    const usual = data.groups[state.group].columns.filter((metric) => known.includes(metric));
    return state.all || !usual.length ? [...usual, ...known.filter((metric) => !usual.includes(metric))] : usual;
  }

  function figure(place) {
    const [metric, group] = [data.metrics[place], data.groups[state.group]];
    const [size, word] = difference(metric, place);
    return el("tr", {}, el("th", { scope: "row", title: `${metric.name}: ${metric.what}` }, withUnit(metric, headerOf(group, place)), better(metric) ? el("small", {}, better(metric)) : null),
      ...[state.one, state.other].map((item) => el("td", { class: "number" }, ...withPlus(item, place))),
      el("td", { class: "number" }, size, el("small", { class: { better: "good", worse: "bad" }[word] }, word)));
  }

  /** How far the one is from the other, and what that means for the one. */
  function difference(metric, place) {
    const [a, b] = [state.one.values[place], state.other.values[place]];
    if (a === undefined || b === undefined) return ["–", ""];
    const size = a - b;
    if (size === 0) return ["0", "the same"];
    const share = SHARES.has(metric.unit) && b !== 0;
    const number = share ? `${(100 * size / Math.abs(b)).toFixed(1)} %` : shown(metric, size).replace(" %", " points");
    const sized = `${size > 0 ? "+" : ""}${number}`;
    if (metric.direction === "equal") return [sized, ""];
    if (tooClose(state.one, state.other, place)) return [sized, "too close to call"];
    const told = [state.one, state.other].some((item) => item.plus_minus[place] !== undefined);
    const [absolute, relative] = metric.margin || [0, 0];
    if (!told && Math.abs(size) < Math.max(absolute, relative * Math.abs(b))) return [sized, "within the margin"];
    return [sized, size > 0 === (metric.direction === "higher") ? "better" : "worse"];
  }

  /** Checks and laws by name, each case's word for it. */
  const wordsOf = (item) => new Map([...Object.entries(item.words), ...item.laws.map(([law, word]) => [data.laws[law].name, data.law_words[word].word])]);
  const sides = () => [wordsOf(state.one), wordsOf(state.other)];

  /** Checks and laws on which the two do not say the same. */
  function words() {
    const [one, other] = sides();
    const names = [...new Set([...one.keys(), ...other.keys()])].filter((name) => one.get(name) !== other.get(name));
    return names.map((name) => el("tr", {}, el("th", { scope: "row" }, name), ...[one, other].map((side) => el("td", { class: "number" }, side.get(name) ?? "–")), el("td", { class: "number" }, el("small", {}, "not alike"))));
  }

  function note() {
    const [one, other] = sides();
    const alike = [...one].filter(([name, word]) => other.get(name) === word).length;
    const judged = [state.one, state.other].some((item) => Object.keys(item.plus_minus).length);
    return [`Better and worse are said of ${methodName(state.one)}.`, judged ? `${PLUS_MINUS} A difference below it is too close to call.` : "",
      alike ? `${alike} ${alike === 1 ? "check or law says" : "checks and laws say"} the same of both.` : ""].filter(Boolean).join(" ");
  }

  /** Set a case against another of its group: against LoRA, unless it is LoRA. */
  window.compareWith = function (item) {
    if (!options.some(([group]) => group === item.group)) return;
    state.group = item.group;
    start();
    if (item === state.other) state.other = state.one;
    state.one = item;
    draw();
    section("pair").scrollIntoView();
    controls.querySelector("[aria-label=against]").focus({ preventScroll: true });
  };

  start();
  draw();
})();
