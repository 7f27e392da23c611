"use strict";
// Below each red case: its losses, what the witness says, and the tensors at the peak. Drawn when it is opened.
(function () {
  /** Lines by step: this run's and the baseline's, told apart by dashes and symbols too. */
  function lossPlot(losses, width) {
    const rows = [];
    for (const [side, label] of [["obtained", "this run"], ["expected", "baseline"]])
      (losses[side] || []).forEach((loss, at) => rows.push({ side: label, step: at + 1, loss }));
    return Plot.plot({
      width: Math.min(width, 520), height: 220, style: plotStyle, marginLeft: 50,
      x: { label: "step", ticks: 6 }, y: { label: "training loss", grid: true, zero: false },
      color: { domain: ["this run", "baseline"], range: [COLOURS[5], COLOURS[0]], legend: true },
      marks: [
        Plot.line(rows.filter((row) => row.side === "baseline"), { x: "step", y: "loss", stroke: "side", strokeWidth: 2, strokeDasharray: "5 3" }),
        Plot.line(rows.filter((row) => row.side === "this run"), { x: "step", y: "loss", stroke: "side", strokeWidth: 1.5 }),
        Plot.tip(rows, Plot.pointer({ x: "step", y: "loss", title: (row) => `${row.side}, step ${row.step}: ${row.loss}`, fill: GROUND })),
      ],
      ariaLabel: "training losses of this run and of the baseline",
    });
  }

  function witnessTable(witness) {
    const moved = witness.deviations.filter(([, size]) => size === null || size > witness.bound);
    const rows = (moved.length ? moved : witness.deviations.slice(0, 5)).slice(0, 12);
    return el("div", { class: "scroll" }, el("table", { class: "plain" },
      el("caption", {}, `${moved.length} of ${witness.deviations.length} quantities of the witness are beyond its bound ${witness.bound.toExponential(1)}, in the order of coming`),
      el("tr", {}, el("th", { scope: "col" }, "quantity"), el("th", { scope: "col", class: "number" }, "deviation of its size")),
      ...rows.map(([name, size]) => el("tr", {}, el("td", {}, name), el("td", { class: "number" }, size === null ? "no number" : size.toExponential(1))))));
  }

  /** Open where the peak is what moved: else it only stands in the way. */
  function tensorTable(item) {
    const table = el("div", { class: "scroll" }, el("table", { class: "plain" },
      el("tr", {}, ...["tensor @ owner", "count", "bytes"].map((name, at) => el("th", { scope: "col", class: at ? "number" : "" }, name))),
      ...item.tensors.map(([name, count, bytes]) => el("tr", {}, el("td", {}, name), el("td", { class: "number" }, count.toLocaleString("en")),
        el("td", { class: "number" }, scaled(bytes, 1024, BYTES))))));
    return el("details", { class: "peak", open: /peak_bytes/.test(item.shifts) }, el("summary", {}, "What is alive at the peak of a training step, the largest first"), table);
  }

  /** What explains a case's figures, as far as the result holds it. */
  window.evidence = function (item, width) {
    const parts = [];
    if (item.losses && item.losses.obtained) parts.push(el("figure", {}, el("figcaption", {}, "Losses of the first steps"), lossPlot(item.losses, width)));
    if (item.witness) parts.push(witnessTable(item.witness));
    if (item.tensors) parts.push(tensorTable(item));
    return parts;
  };

  for (const element of document.querySelectorAll("details.red")) {
    const item = byId.get(element.dataset.case);
    const draw = () => {
      const place = element.querySelector(".evidence");
      if (element.open && !place.childElementCount) place.append(...evidence(item, widthOf(place)), el("p", {}, el("a", { href: link(item) }, "all figures of this case")));
    };
    element.addEventListener("toggle", draw);
    draw();
  }
})();
