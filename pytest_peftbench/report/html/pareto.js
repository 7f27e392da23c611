"use strict";
// Any two figures against each other, and the methods that no other beats in both.
(function () {
  const numeric = (group) => metricsOf(casesOf(group)).filter((metric) => data.metrics[metric].direction !== "equal");
  const options = groupOptions().filter(([group]) => numeric(group).length > 1 && casesOf(group).length > 1);
  if (!options.length) return nothing("pareto", "No two cases hold two figures to set against each other.");
  const state = { group: options[0][0], x: null, y: null, log: false };
  const plotPlace = el("div", { class: "plot" });
  const told = el("p", { class: "note", role: "status" });
  const front = el("ol", { class: "front" });
  const controls = el("div", { class: "controls" });
  section("pareto").append(controls, plotPlace, told, front);

  function start() {
    const group = data.groups[state.group];
    const known = numeric(state.group);
    const usual = [...group.columns, ...known].filter((metric) => known.includes(metric));
    state.y = group.gain !== null ? group.gain : usual[0];
    state.x = group.loss !== null && group.loss !== state.y ? group.loss : usual.find((metric) => metric !== state.y);
    state.log = false;
  }

  function draw() {
    const group = data.groups[state.group];
    const names = numeric(state.group).map((metric) => [metric, headerOf(group, metric)]);
    const boxes = [checkbox("logarithmic", state.log, (on) => { state.log = on; draw(); })];
    refill(controls,
      choice("cases of", options, state.group, (value) => { state.group = Number(value); start(); draw(); }),
      choice("up", names, state.y, (value) => { state.y = Number(value); draw(); }),
      choice("right", names, state.x, (value) => { state.x = Number(value); draw(); }), ...boxes);
    const points = casesOf(state.group).filter((item) => item.values[state.x] !== undefined && item.values[state.y] !== undefined)
      .map((item) => ({ item, x: item.values[state.x], y: item.values[state.y] }));
    const best = onFront(points);
    const [xMetric, yMetric] = [data.metrics[state.x], data.metrics[state.y]];
    plotPlace.replaceChildren(...(points.length ? [marks(points), plot(points, best, xMetric, yMetric, group)] : [el("p", {}, "No case holds both.")]));
    told.textContent = `${points.length} of ${casesOf(state.group).length} cases hold both. ${best.length} of them no other beats in both:`;
    front.replaceChildren(...best.map((point) => el("li", {}, el("a", { href: link(point.item) }, methodName(point.item)),
      `: ${headerOf(group, state.y)} ${shown(yMetric, point.y)}, ${headerOf(group, state.x)} ${shown(xMetric, point.x)}`)));
  }

  /** The points that no other is as good as in both figures and better in one, the best of x first. */
  function onFront(points) {
    const sign = (metric) => (data.metrics[metric].direction === "higher" ? -1 : 1);
    const [sx, sy] = [sign(state.x), sign(state.y)];
    const sorted = [...points].sort((a, b) => sx * (a.x - b.x) || sy * (a.y - b.y));
    let least = Infinity;
    let at = null;
    return sorted.filter((point) => {
      const same = at !== null && point.x === at.x && point.y === at.y;
      if (sy * point.y >= least && !same) return false;
      least = sy * point.y;
      at = point;
      return true;
    });
  }

  const worse = (item) => ["failed", "regressed"].includes(item.look);

  /** What the marks mean, those alone that are drawn. */
  function marks(points) {
    const has = (told) => points.some((point) => told(point.item));
    const MARKED = [["◆", COLOURS[0], "no other beats it in both", () => true], ["○", "var(--link)", "some other does", () => true],
      ["□", COLOURS[1], "LoRA", (item) => item.method === "lora"], ["×", COLOURS[5], "failed or regressed", worse]];
    return el("ul", { class: "legend" }, ...MARKED.filter(([, , , told]) => has(told)).map(([mark, colour, words]) => el("li", {}, el("span", { style: `color: ${colour}`, "aria-hidden": "true" }, mark), ` ${words}`)));
  }

  function axis(metric, name, log, numbers) {
    const unit = unitOf(metric) === name ? "" : unitOf(metric);
    const scale = log && numbers.every((value) => value > 0) ? { type: "log" } : {};
    return { ...scale, labelArrow: null, label: `${name}${unit ? ` (${unit})` : ""}, ${better(metric)}`, grid: true, nice: true, tickFormat: (value) => shown(metric, value), ticks: 5, zero: false };
  }

  function plot(points, best, xMetric, yMetric, group) {
    const width = widthOf(plotPlace);
    const chosen = new Set(best);
    const others = points.filter((point) => !chosen.has(point));
    const title = (point) => `${methodName(point.item)}\n${headerOf(group, state.y)} ${shown(yMetric, point.y)}\n${headerOf(group, state.x)} ${shown(xMetric, point.x)}\n${point.item.verdict}`;
    const shared = { x: "x", y: "y", href: (point) => link(point.item), ariaLabel: title };
    const few = best.length > 12 ? best.filter((_, at) => at % Math.ceil(best.length / 12) === 0) : best;
    const plain = plainLora(points.map((point) => point.item));
    const lora = points.find((point) => point.item === plain);
    const named = lora && !few.includes(lora) ? [...few, lora] : few;
    return Plot.plot({
      width, height: Math.min(520, Math.max(320, width * 0.55)), style: plotStyle, marginLeft: 70, marginTop: 36, marginBottom: 56, marginRight: 60, insetTop: 18,
      x: { ...axis(xMetric, headerOf(group, state.x), state.log, points.map((point) => point.x)), labelOffset: 42 },
      y: axis(yMetric, headerOf(group, state.y), state.log, points.map((point) => point.y)),
      marks: [
        Plot.line(best, { x: "x", y: "y", stroke: COLOURS[0], strokeWidth: 1.5, strokeOpacity: 0.7, curve: "step-after" }),
        // below the points: no name hides one
        Plot.text(named, { x: "x", y: "y", text: (point) => methodName(point.item), dy: -10, fontSize: 11, fill: "currentColor", stroke: GROUND, strokeWidth: 3, lineAnchor: "bottom" }),
        Plot.dot(others, { ...shared, r: 4.5, stroke: "currentColor", fill: "currentColor", fillOpacity: 0.15, strokeOpacity: 0.7 }),
        Plot.dot(best, { ...shared, r: 5.5, symbol: "diamond2", fill: COLOURS[0], stroke: GROUND }),
        Plot.dot(lora ? [lora] : [], { ...shared, r: 7, symbol: "square", stroke: COLOURS[1], strokeWidth: 2 }),
        Plot.dot(points.filter((point) => worse(point.item)), { ...shared, r: 6, symbol: "times", stroke: COLOURS[5], strokeWidth: 2 }),
        Plot.tip(points, Plot.pointer({ x: "x", y: "y", title, fill: GROUND, fontSize: 12 })),
      ],
      ariaLabel: `${headerOf(group, state.y)} against ${headerOf(group, state.x)}`,
    });
  }

  start();
  draw();
  window.addEventListener("resize", draw);
})();
