"use strict";
// The peak of a training step by its parts, a bar for each method, against the memory of cards.
(function () {
  const parts = data.parts.map((name) => data.metrics.findIndex((metric) => metric.name === name));
  const peak = data.metrics.findIndex((metric) => metric.name === "train_step.peak_bytes");
  const counted = (item) => peak >= 0 && item.values[peak] !== undefined && parts.some((part) => item.values[part] > 0);
  const options = groupOptions(counted).sort((a, b) => (data.groups[b[0]].kind === "footprint") - (data.groups[a[0]].kind === "footprint"));
  if (!options.length) return nothing("footprints", "No case holds the parts of its peak: footprints do, pytest benchmarks -k footprint.");
  const state = { group: options[0][0], method: "" };
  const plotPlace = el("div", { class: "plot" });
  const tablePlace = el("div", { class: "scroll" });
  const controls = el("div", { class: "controls" });
  const legend = el("ul", { class: "legend" });
  section("footprints").append(controls, legend, plotPlace, tablePlace, el("p", { class: "note" }, "The peak is that of tensors. What a device's runtime and its allocator take comes on top."));

  const NAMES = parts.map((_, at) => data.parts[at].replace("train_step.peak_", "").replace("_bytes", ""));
  // A pattern for each part beside its colour: stripes, dots, and none for the largest, the weights.
  const SVG = "http://www.w3.org/2000/svg";
  const svg = (tag, attributes, ...children) => {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const STROKES = ["", "M0,8 L8,0 M-2,2 L2,-2 M6,10 L10,6", "M0,0 L8,8 M-2,6 L2,10 M6,-2 L10,2", "M0,4 L8,4", "M4,0 L4,8"];
  const FILLS = parts.map((_, at) => `url(#part-${at})`);
  const patterns = parts.map((_, at) => svg("pattern", { id: `part-${at}`, width: 8, height: 8, patternUnits: "userSpaceOnUse" },
    svg("rect", { width: 8, height: 8, fill: COLOURS[at] }), svg("path", { d: STROKES[at] || "M0,0", stroke: "#fff", "stroke-width": 1.5, "stroke-opacity": 0.75 })));
  document.body.prepend(svg("svg", { width: 0, height: 0, "aria-hidden": "true", style: "position:absolute" }, svg("defs", {}, ...patterns)));

  const GIB = 2 ** 30;
  // Pixels for the figure behind each bar.
  const RIGHT = 70;

  function draw() {
    const group = data.groups[state.group];
    refill(controls, choice("cases of", options, state.group, (value) => { state.group = Number(value); draw(); }));
    const items = casesOf(state.group).filter(counted).sort((a, b) => a.values[peak] - b.values[peak] || a.id.localeCompare(b.id));
    const most = items.at(-1).values[peak];
    const unit = most >= GIB ? [GIB, "GiB"] : [2 ** 20, "MiB"];
    const segments = items.flatMap((item) => parts.map((part, at) => ({ item, method: methodName(item), at, bytes: item.values[part] || 0 })));
    const lines = unit[0] === GIB ? data.cards.filter((gib) => gib <= Math.max(most / GIB * 1.15, data.cards.find((each) => each * GIB >= most) || 80)) : [];
    const used = NAMES.map((_, at) => segments.some((segment) => segment.at === at && segment.bytes));
    legend.replaceChildren(...NAMES.flatMap((name, at) => used[at] ? [el("li", {}, svg("svg", { width: 18, height: 12, "aria-hidden": "true" }, svg("rect", { width: 18, height: 12, fill: FILLS[at] })), ` ${name}`)] : []), ...(lines.length ? [el("li", {}, "┆ memory of cards, GiB")] : []));
    const width = widthOf(plotPlace);
    const left = Math.min(width * 0.47, 12 + 6.6 * Math.max(...items.map((item) => methodName(item).length)));
    const parted = (item) => parts.map((part, at) => [NAMES[at], item.values[part] || 0]).filter(([, bytes]) => bytes).map(([name, bytes]) => `${name} ${scaled(bytes, 1024, BYTES)}`).join("\n");
    const end = Math.max(most / unit[0], ...lines) * 1.03;
    const pixels = (gib) => (gib / end) * (width - left - RIGHT);
    // the names of lines that lie too close for two are left to the table below
    const named = lines.filter((gib, at) => at === lines.length - 1 || pixels(lines[at + 1] - gib) > 17);
    plotPlace.replaceChildren(Plot.plot({
      width, height: 60 + 19 * items.length, style: plotStyle, marginLeft: left, marginTop: 34, marginRight: RIGHT,
      x: { label: null, axis: "top", tickFormat: (value) => (lines.length ? `${value}` : `${value} ${unit[1]}`), ticks: lines.length ? named : Math.max(3, Math.floor(width / 130)), domain: [0, end] },
      y: { label: null, domain: items.map(methodName), tickSize: 0 },
      marks: [
        Plot.barX(segments, { x: (segment) => segment.bytes / unit[0], y: "method", order: "at", fill: { value: (segment) => FILLS[segment.at], scale: null }, insetTop: 1, insetBottom: 1, href: (segment) => link(segment.item) }),
        Plot.ruleX(lines, { stroke: "currentColor", strokeWidth: 1.5, strokeDasharray: "4 3" }),
        Plot.text(named, { x: (gib) => gib, frameAnchor: "bottom", text: (gib) => `${gib}`, dy: 14, fill: "currentColor" }),
        Plot.text(items, { y: methodName, frameAnchor: "right", text: (item) => shown(data.metrics[peak], item.values[peak]), textAnchor: "start", dx: 8, fill: "currentColor" }),
        Plot.tip(items, Plot.pointerY({ x: (item) => item.values[peak] / unit[0], y: methodName, title: (item) => `${methodName(item)}\n${shown(data.metrics[peak], item.values[peak])}\n${parted(item)}`, fill: GROUND, fontSize: 12 })),
      ],
      ariaLabel: `peak memory of ${group.label}`,
    }));
    tablePlace.replaceChildren(...(unit[0] === GIB ? [cards(items)] : []));
  }

  function cards(items) {
    const row = (gib) => {
      const inside = items.filter((item) => item.values[peak] <= gib * GIB);
      const outside = items.filter((item) => item.values[peak] > gib * GIB);
      const names = (some) => some.flatMap((item, at) => [at ? ", " : "", el("a", { href: link(item) }, methodName(item))]);
      const short = inside.length <= outside.length ? ["only ", ...names(inside)] : ["all but ", ...names(outside)];
      return el("tr", {}, el("th", { scope: "row", class: "whole" }, `${gib} GiB`), el("td", { class: "number" }, `${inside.length} of ${items.length}`),
        el("td", {}, ...(inside.length === 0 ? ["none"] : outside.length === 0 ? ["all"] : short)));
    };
    return el("table", { class: "plain" }, el("tr", {}, ...["card", "fit", "which"].map((name) => el("th", { scope: "col" }, name))), ...data.cards.map(row));
  }

  draw();
  window.addEventListener("resize", draw);
})();
