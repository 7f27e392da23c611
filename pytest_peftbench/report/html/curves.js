"use strict";
// The best of n trials over n: all methods faint, two of them in colour, with their intervals.
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const COLOURS = ["#0072B2", "#D55E00"]; // of Okabe and Ito, which nobody mistakes for each other
  const style = { background: "transparent", color: "currentColor", fontFamily: "inherit", fontSize: "12px", overflow: "visible" };

  /** A labelled choice of a method; its options are made of text alone. */
  function choice(label, names, chosen, onchange) {
    const [field, words, select] = ["label", "span", "select"].map((tag) => document.createElement(tag));
    field.className = "field";
    select.setAttribute("aria-label", label);
    words.textContent = label;
    select.append(...names.map((name) => new Option(name, name, name === chosen, name === chosen)));
    select.addEventListener("change", () => onchange(select.value));
    field.append(words, select);
    return field;
  }

  function show(section, field) {
    const [controls, place] = [section.querySelector(".controls"), section.querySelector(".plot")];
    const order = field.standings[field.budgets[field.budgets.length - 1]].map((item) => item.name);
    const rows = field.curves.flatMap((curve) => curve.score.map((item, at) => ({ ...item, name: curve.name, n: field.budgets[at] })));
    const lora = order.find((name) => name.startsWith("lora/") && name !== order[0]);
    const shown = [order[0], lora || order[1] || order[0]];

    function draw() {
      const colour = (row) => COLOURS[shown.indexOf(row.name)];
      const marked = rows.filter((row) => shown.includes(row.name));
      const title = (row) => `${row.name}\nbest of ${row.n}: ${row.value.toFixed(3)}\n${row.low.toFixed(3)} to ${row.high.toFixed(3)}`;
      const line = { x: "n", y: "value", z: "name" };
      place.replaceChildren(Plot.plot({
        width: Math.max(280, Math.min(960, place.clientWidth || 960)), height: 380, style, marginLeft: 60, marginRight: 150, marginBottom: 45,
        x: { type: "log", base: 2, ticks: field.budgets, tickFormat: String, label: "n, trials", labelArrow: null },
        y: { grid: true, label: field.metric, labelArrow: null },
        marks: [
          Plot.line(rows, { ...line, stroke: "currentColor", strokeOpacity: 0.18 }),
          Plot.areaY(marked, { x: "n", y1: "low", y2: "high", z: "name", fill: colour, fillOpacity: 0.15 }),
          Plot.line(marked, { ...line, stroke: colour, strokeWidth: 2.5 }),
          Plot.text(marked, Plot.selectLast({ ...line, text: "name", dx: 8, textAnchor: "start", fill: colour })),
          Plot.tip(rows, Plot.pointer({ x: "n", y: "value", title, fill: "var(--ground)" })),
        ],
        ariaLabel: `${field.metric} of the best of n trials`,
      }));
    }
    controls.replaceChildren(...shown.map((name, at) => choice(at ? "against" : "method", order, name, (value) => { shown[at] = value; draw(); })));
    draw();
    window.addEventListener("resize", draw);
  }

  document.querySelectorAll("main > section").forEach((section, at) => show(section, data.fields[at]));
  document.documentElement.dataset.ready = "";
})();
