"use strict";
// How a figure of a case went over the commits of the baselines: a slow creep shows here, and in no single comparison.
(function () {
  const past = data.history;
  if (!past) return nothing("history", "No history: peftbench report --baselines DIR --history reads it from the baselines' git repository.");
  const place = section("history");
  for (const note of past.notes) place.append(el("p", { class: "note" }, note));
  if (!past.series.length) {
    place.append(el("p", {}, `No figure of these cases moved over ${past.commits.length} commits.`));
    return;
  }
  const state = { at: 0 };
  const plotPlace = el("div", { class: "plot" });
  const controls = el("div", { class: "controls" });
  const names = past.series.map((series, at) => [at, `${series.case}: ${series.metric.name} (${series.change})`]);

  function draw() {
    const series = past.series[state.at];
    const rows = series.points.map(([commit, value]) => ({ ...past.commits[commit], commit, value }));
    const label = (row) => `${row.short} ${row.date}`;
    controls.replaceChildren(choice("figure, the largest moves first", names, state.at, (value) => { state.at = Number(value); draw(); }));
    plotPlace.replaceChildren(Plot.plot({
      width: widthOf(plotPlace), height: 300, style: plotStyle, marginLeft: 80, marginBottom: 50,
      x: { type: "point", domain: past.commits.map((_, at) => at), label: "commit, oldest first", tickFormat: (at) => past.commits[at].short, tickRotate: past.commits.length > 8 ? -40 : 0 },
      y: { label: series.metric.name, grid: true, zero: false, tickFormat: (value) => shown(series.metric, value) },
      marks: [
        Plot.line(rows, { x: "commit", y: "value", stroke: COLOURS[0], curve: "step-after", strokeWidth: 2 }),
        Plot.dot(rows, { x: "commit", y: "value", fill: COLOURS[0], r: 4 }),
        Plot.text(rows, Plot.selectLast({ x: "commit", y: "value", text: (row) => shown(series.metric, row.value), dy: -10, fill: "currentColor" })),
        Plot.tip(rows, Plot.pointerX({ x: "commit", y: "value", fill: "Canvas", title: (row) => `${label(row)}\n${row.subject}\nPEFT ${row.peft}\n${shown(series.metric, row.value)}` })),
      ],
      ariaLabel: `${series.metric.name} of ${series.case} over commits`,
    }));
  }
  place.append(controls, plotPlace);
  draw();
  window.addEventListener("resize", draw);
})();
