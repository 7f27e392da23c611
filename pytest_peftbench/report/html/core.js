"use strict";
// What all sections share: the data, elements made of text alone, figures in words, and which case is shown.
const data = JSON.parse(document.getElementById("data").textContent);
const GREEN = new Set(data.counts.filter((item) => item.green).map((item) => item.verdict));

// Elements ------------------------------------------------------------------------------------------------------------

/** An element; a child that is no node becomes text, so that nothing of a file is ever read as HTML. */
function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const section = (name) => document.getElementById(name);

/** Say why a section is empty, and leave it out of the navigation. */
function nothing(name, why) {
  section(name).append(el("p", { class: "note" }, why));
  section(name).dataset.empty = "";
}

/** A labelled choice. options: [value, label]. */
function choice(label, options, chosen, onchange) {
  const select = el("select", { "aria-label": label, onchange: () => onchange(select.value) });
  for (const [value, text] of options) select.append(el("option", { value, selected: String(value) === String(chosen) }, text));
  const field = el("label", { class: "field" }, el("span", {}, label), select);
  field.select = select;
  return field;
}

function checkbox(label, checked, onchange, title = null) {
  const box = el("input", { type: "checkbox", "aria-label": label, checked, onchange: () => onchange(box.checked) });
  return el("label", { class: "check", title }, box, " ", label);
}

/** Put other fields in place of some; who chose in one by the keyboard stays in it. */
function refill(controls, ...fields) {
  const label = controls.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
  controls.replaceChildren(...fields);
  const same = [...controls.querySelectorAll("[aria-label]")].find((each) => each.getAttribute("aria-label") === label);
  if (same) same.focus();
}

// Figures -------------------------------------------------------------------------------------------------------------

const BYTES = ["bytes", "KiB", "MiB", "GiB", "TiB"];
const COUNTS = new Set(["parameters", "calls", "tensors", "graphs", "breaks", "blocks"]);

function scaled(value, base, names) {
  const power = value ? Math.min(Math.max(Math.floor(Math.log(Math.abs(value)) / Math.log(base)), 0), names.length - 1) : 0;
  const number = value / base ** power;
  return `${power ? number.toFixed(Math.abs(number) < 100 ? 2 : 1) : number.toFixed(0)} ${names[power]}`;
}

/** A figure as a reader sees it, with its unit. */
function shown(metric, value) {
  if (value === undefined || value === null) return "–";
  if (metric.unit === "bytes") return scaled(value, 1024, BYTES);
  if (metric.unit === "FLOP") return scaled(value, 1000, ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"]);
  if (COUNTS.has(metric.unit)) return value.toLocaleString("en");
  if (metric.unit === "fraction") return `${(100 * value).toFixed(1)} %`;
  if (metric.unit === "ratio") return `${value.toFixed(2)}×`;
  if (metric.unit === "s") return `${value < 10 ? value.toPrecision(3) : value.toFixed(0)} s`;
  return Math.abs(value) >= 1000 ? value.toLocaleString("en", { maximumFractionDigits: 1 }) : value.toFixed(3);
}

/** The unit where the figure itself does not say it. */
const unitOf = (metric) => (["bytes", "FLOP", "fraction", "ratio", "s"].includes(metric.unit) ? "" : metric.unit);

const withUnit = (metric, name) => (unitOf(metric) && !name.includes(unitOf(metric)) ? `${name} (${unitOf(metric)})` : name);

const PLUS_MINUS = "±: the smallest regression that is caught nine times out of ten.";

/** A case's figure, with what can be told from it behind it. */
function withPlus(item, metric) {
  const [value, plus] = [item.values[metric], item.plus_minus[metric]];
  return [shown(data.metrics[metric], value), value !== undefined && plus !== undefined ? el("span", { class: "plus" }, ` ±${shown(data.metrics[metric], plus)}`) : null];
}

/** Whether a difference is smaller than what the seeds of either case can tell; false where nobody knows that. */
function tooClose(a, b, metric) {
  const least = Math.max(a.plus_minus[metric] ?? 0, b.plus_minus[metric] ?? 0);
  return Math.abs(a.values[metric] - b.values[metric]) < least;
}

function better(metric) {
  return { lower: "lower is better", higher: "higher is better", equal: "" }[metric.direction];
}

/** What a figure is called everywhere: in short where some table does so, else by its name in the catalogue. */
function headerOf(group, place) {
  const short = [group, ...data.groups].find((each) => each && each.headers[place]);
  return short ? short.headers[place] : data.metrics[place].name;
}

/** Which of some cases lack a figure, by method: `61 of 64 have a peak; without: cpt, frod`. */
function having(all, held, what) {
  const kept = new Set(held);
  const without = [...new Set(all.filter((item) => !kept.has(item)).map(methodName))].sort();
  return `${held.length} of ${all.length} have ${what}${without.length ? `; without: ${without.join(", ")}` : ""}.`;
}

// Cases ---------------------------------------------------------------------------------------------------------------

const byId = new Map(data.cases.map((item) => [item.id, item]));
const casesOf = (group) => (group === "" ? data.cases : data.cases.filter((item) => item.group === Number(group)));
const methodName = (item) => `${item.method}/${item.name}`;
const link = (item) => `#case=${encodeURIComponent(item.id)}`;
/** A method's name that may break behind its slash. */
const breaking = (item) => [item.method, "/", el("wbr"), item.name];
/** LoRA as it is, without a variant's name behind its own; undefined for none. */
const plainLora = (cases) => cases.filter((item) => item.method === "lora").sort((a, b) => a.name.length - b.name.length || a.name.localeCompare(b.name, "en"))[0];

// A shape beside each colour: no verdict is told by colour alone.
const MARKS = {
  identical: "✓", "environment drift": "✓", "within noise": "✓", "same to rounding": "✓", recorded: "●",
  "not compared": "–", improved: "▲", "not recorded yet": "○", "cannot tell": "?", "numerics changed": "≠",
  "not comparable": "⊘", "no baseline": "○", "missing metric": "✗", "unknown metric": "✗", regressed: "▼", failed: "✗",
};
function tone(item) {
  if (item.red) return "bad";
  if (item.verdict === "improved") return "better";
  return GREEN.has(item.verdict) ? "good" : "open";
}
const verdictMark = (item) =>
  el("span", { class: `verdict ${tone(item)}` }, el("span", { "aria-hidden": "true" }, MARKS[item.verdict] || "?"), ` ${item.verdict}`);

/** The groups that hold cases, those that are trained first, each with how many. */
function groupOptions(accepts = () => true) {
  const counted = data.groups.map((group, place) => [place, group, casesOf(place).filter(accepts).length]);
  return counted
    .filter(([, , count]) => count)
    .sort((a, b) => Boolean(a[1].kind) - Boolean(b[1].kind) || b[2] - a[2] || a[1].label.localeCompare(b[1].label))
    .map(([place, group, count]) => [place, `${group.label} (${count})`]);
}

/** Metrics that some of the cases hold, in the catalogue's order, as places. */
function metricsOf(cases) {
  const found = new Set();
  for (const item of cases) for (const place of Object.keys(item.values)) found.add(Number(place));
  return [...found].sort((a, b) => a - b);
}

// Colours of Okabe and Ito, which nobody mistakes for each other.
const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442"];
// of the page, which is light or dark
const GROUND = "var(--ground)";
const plotStyle = { background: "transparent", color: "currentColor", fontFamily: "inherit", fontSize: "12px", overflow: "visible" };
const widthOf = (element, most = 960) => Math.max(280, Math.min(most, element.clientWidth || most));
