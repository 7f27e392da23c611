"use strict";
// Methods side by side: sorted, filtered, with the columns that the reader chooses; a row opens on all of its figures.
(function () {
  if (!data.cases.length) return nothing("methods", "No case has figures.");
  const options = [...groupOptions(), ["", `everything (${data.cases.length})`]];
  const state = { group: String(options[0][0]), method: "", verdict: "", text: "", sort: null, falling: false, columns: null };
  const place = section("methods");
  const count = el("p", { class: "note", role: "status" });
  const head = el("thead");
  const body = el("tbody");
  const table = el("table", { class: "cases", tabindex: "-1", "aria-label": "cases" }, head, body);
  const columnsPlace = el("div", { class: "columns" });

  const groupField = choice("cases of", options, state.group, (value) => { Object.assign(state, { group: value, method: "", columns: null, sort: null }); fill(); });
  const methodField = choice("method", [], "", (value) => { state.method = value; rows(); });
  const verdictField = choice("verdict", [], "", (value) => { state.verdict = value; rows(); });
  const search = el("input", { type: "search", placeholder: "name, what moved …", oninput: () => { state.text = search.value; rows(); } });
  const picker = el("details", { class: "picker" }, el("summary", {}, "Columns"), columnsPlace);
  place.append(
    el("div", { class: "controls" }, groupField, methodField, verdictField, el("label", { class: "field" }, el("span", {}, "text"), search)),
    picker, count, el("div", { class: "scroll high" }, table),
  );

  const group = () => (state.group === "" ? null : data.groups[state.group]);

  function setOptions(field, label, values) {
    field.select.replaceChildren(el("option", { value: "" }, label), ...values.map((value) => el("option", { value }, value)));
  }

  function fill() {
    const cases = casesOf(state.group);
    setOptions(methodField, "all", [...new Set(cases.map((item) => item.method))].sort());
    setOptions(verdictField, "all", data.counts.map((item) => item.verdict).filter((name) => cases.some((item) => item.verdict === name)));
    methodField.select.value = state.method;
    if (![...verdictField.select.options].some((option) => option.value === state.verdict)) state.verdict = "";
    verdictField.select.value = state.verdict;
    search.value = state.text;
    const known = metricsOf(cases);
    const usual = group() ? group().columns : data.groups.flatMap((each) => each.columns);
    state.columns = state.columns || known.filter((metric) => usual.includes(metric));
    if (group() && !state.chosen) state.columns.sort((a, b) => usual.indexOf(a) - usual.indexOf(b));
    columnsPlace.replaceChildren(...known.map((metric) => checkbox(headerOf(group(), metric), state.columns.includes(metric), (on) => {
      state.columns = on ? [...state.columns, metric] : state.columns.filter((other) => other !== metric);
      rows();
    }, data.metrics[metric].name)));
    rows();
  }

  function matches(item) {
    const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
    const text = `${item.id} ${methodName(item)} ${item.verdict} ${item.moved} ${item.shifts}`.toLowerCase();
    return (!state.method || item.method === state.method) && (!state.verdict || item.verdict === state.verdict) && words.every((word) => text.includes(word));
  }

  /** Whether the text is the whole name, as it is shown or as its id ends. */
  function named(item) {
    const text = state.text.trim().toLowerCase();
    return [item.id, methodName(item), `${item.method}-${item.name}`].some((name) => name.toLowerCase() === text);
  }

  /** Missing figures come last, whichever way is sorted. */
  function compare(a, b) {
    if (state.sort === null) return 0;
    const key = (item) => (state.sort === "case" ? item.id : state.sort === "verdict" ? data.counts.findIndex((each) => each.verdict === item.verdict) : item.values[state.sort]);
    const [x, y] = [key(a), key(b)];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    const order = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
    return state.falling ? -order : order;
  }

  function header(key, name, detail, numeric) {
    const sorted = state.sort === key ? (state.falling ? "descending" : "ascending") : "none";
    const sort = () => {
      // the best first, then the other way round
      const falls = typeof key === "number" && data.metrics[key].direction === "higher";
      state.falling = state.sort === key ? !state.falling : falls;
      state.sort = key;
      rows();
      head.querySelector(`[data-key="${key}"]`).focus();
    };
    const arrow = { ascending: " ▲", descending: " ▼", none: "" }[sorted];
    return el("th", { scope: "col", "aria-sort": sorted, class: numeric ? "number" : "" },
      el("button", { type: "button", onclick: sort, "data-key": key, title: detail }, name, el("span", { "aria-hidden": "true" }, arrow)),
      numeric ? el("small", {}, unitOf(data.metrics[key])) : null);
  }

  function cell(item, metric) {
    const spread = item.spread[metric];
    const range = spread ? `${shown(data.metrics[metric], spread[0])} to ${shown(data.metrics[metric], spread[1])} over ${spread[2]} seeds` : null;
    return el("td", { class: "number", title: range }, ...withPlus(item, metric));
  }

  function row(item, moved) {
    const name = state.group === "" ? [item.id] : breaking(item);
    const open = el("button", { type: "button", "aria-expanded": "false", class: "open", onclick: () => toggle(item, line) }, ...name);
    const line = el("tr", { "data-case": item.id }, el("th", { scope: "row" }, open), el("td", {}, el("span", { title: item.cause }, verdictMark(item))),
      ...state.columns.map((metric) => cell(item, metric)), moved ? el("td", { class: "moved" }, item.shifts) : null);
    return line;
  }

  function rows() {
    const all = casesOf(state.group);
    const found = all.filter(matches).sort((a, b) => named(b) - named(a) || compare(a, b));
    const moved = found.some((item) => item.shifts);
    head.replaceChildren(el("tr", {}, header("case", state.group === "" ? "case" : "method", "", false), header("verdict", "verdict", "", false),
      ...state.columns.map((metric) => header(metric, headerOf(group(), metric), [`${data.metrics[metric].name}: ${data.metrics[metric].what}`, better(data.metrics[metric])].filter(Boolean).join("; "), true)),
      moved ? el("th", { scope: "col", class: "moved" }, "what moved") : null));
    body.replaceChildren(...found.map((item) => row(item, moved)));
    const judged = found.some((item) => Object.keys(item.plus_minus).length) ? ` ${PLUS_MINUS}` : "";
    count.textContent = `${found.length} of ${all.length} shown.${judged}`;
  }

  function toggle(item, line) {
    const button = line.querySelector("button.open");
    const there = line.nextElementSibling;
    const opened = there && there.classList.contains("detail");
    if (opened) there.remove();
    else {
      const box = el("td", { colspan: line.childElementCount });
      line.after(el("tr", { class: "detail" }, box));
      box.append(el("div", { class: "inside" }, ...caseDetail(item, Math.min(640, document.documentElement.clientWidth - 60))));
    }
    button.setAttribute("aria-expanded", String(!opened));
  }

  /** All that is known of a case. */
  function caseDetail(item, width) {
    const parts = [el("h3", {}, item.id)];
    if (casesOf(item.group).length > 1) parts.push(el("button", { type: "button", onclick: () => compareWith(item) }, "compare with another method"));
    for (const note of item.notes || []) parts.push(el("p", { class: "note" }, note));
    if (item.findings.length) parts.push(el("pre", {}, item.findings.join("\n")));
    if (item.baseline) parts.push(el("p", { class: "note" }, `baseline: ${item.baseline}${item.against ? ` (${item.against})` : ""}`));
    const places = Object.keys(item.values).map(Number).sort((a, b) => a - b);
    const figures = places.map((metric) => el("tr", {}, el("th", { scope: "row", title: `${data.metrics[metric].name}: ${data.metrics[metric].what}` }, headerOf(data.groups[item.group], metric)),
      el("td", { class: "number" }, shown(data.metrics[metric], item.values[metric])), el("td", {}, unitOf(data.metrics[metric]))));
    const words = Object.entries(item.words).map(([name, word]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "number" }, word), el("td")));
    parts.push(el("details", { open: item.verdict !== "failed" }, el("summary", {}, `${places.length + words.length} figures`), el("table", { class: "plain" }, ...figures, ...words)));
    if (item.course && item.course.length > 1 && !(item.losses && item.losses.obtained)) parts.push(coursePlot(item.course, width));
    parts.push(...evidence(item, width));
    const environment = item.environment === null ? {} : data.environments[item.environment];
    const names = Object.entries(environment);
    if (names.length) parts.push(el("p", { class: "note" }, names.map(([name, value]) => `${name} ${value}`).join(", ")));
    if (item.nodeid) parts.push(el("p", { class: "note" }, item.nodeid));
    return parts;
  }

  function coursePlot(course, width) {
    const rows = course.map(([step, loss]) => ({ step, loss }));
    return el("figure", {}, el("figcaption", {}, "Training loss"), Plot.plot({
      width, height: 200, style: plotStyle, x: { label: "step" }, y: { label: "training loss", grid: true, zero: false },
      marks: [Plot.line(rows, { x: "step", y: "loss", stroke: COLOURS[0], marker: "circle", tip: true })],
    }));
  }

  /** Go to a case's row, whatever is shown now. */
  window.goTo = function (id) {
    const item = byId.get(id);
    if (!item) return;
    Object.assign(state, { group: String(item.group), method: "", verdict: "", text: "", columns: null });
    groupField.select.value = state.group;
    fill();
    const line = [...body.children].find((each) => each.dataset.case === id);
    toggle(item, line);
    line.classList.add("here");
    line.scrollIntoView({ block: "center" });
    line.querySelector("button.open").focus({ preventScroll: true });
  };

  /** Show the cases of one verdict, of all groups. */
  window.showVerdict = function (verdict) {
    Object.assign(state, { group: "", method: "", verdict, text: "", columns: null });
    groupField.select.value = "";
    fill();
    place.scrollIntoView();
    table.focus({ preventScroll: true });
  };
  fill();
})();
