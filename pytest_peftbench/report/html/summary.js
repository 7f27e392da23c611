"use strict";
// Two questions that people come with, answered for any method and any card.
(function () {
  const answers = [];

  function leastLoss(place) {
    const group = data.groups[place];
    const [gain, loss] = [data.metrics[group.gain], data.metrics[group.loss]];
    const held = casesOf(place).filter((item) => item.values[group.gain] !== undefined && item.values[group.loss] !== undefined);
    if (held.length < 2) return;
    const names = [headerOf(group, group.gain), headerOf(group, group.loss)];
    const plain = plainLora(held);
    const sign = gain.direction === "higher" ? 1 : -1;
    let than = plain || [...held].sort((a, b) => sign * (b.values[group.gain] - a.values[group.gain]))[0];
    const list = el("tbody", {});
    const against = el("th", { scope: "col", class: "number" });
    const table = el("table", { class: "plain answer" }, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "method"),
      el("th", { scope: "col", class: "number", title: loss.name }, withUnit(loss, names[1])), against, el("th", { scope: "col", class: "number", title: gain.name }, names[0]))), list);
    const told = el("p", { class: "note" });
    const behind = held.some((item) => item.plus_minus[group.loss] !== undefined);

    /** The difference to the reference, and whether it is smaller than what either case's seeds can tell. */
    function difference(item) {
      const size = item.values[group.loss] - than.values[group.loss];
      return el("td", { class: "number" }, `${size > 0 ? "+" : ""}${shown(loss, size)}`, tooClose(item, than, group.loss) ? el("small", {}, "too close to call") : null);
    }

    function line(item, reference) {
      return el("tr", { class: reference ? "reference" : "" }, el("th", { scope: "row" }, el("a", { href: link(item) }, methodName(item)), reference ? el("small", {}, "the reference") : null),
        el("td", { class: "number" }, ...withPlus(item, group.loss)), reference ? el("td", { class: "number" }, "–") : difference(item), el("td", { class: "number" }, ...withPlus(item, group.gain)));
    }

    function answer() {
      const wanted = than.values[group.gain];
      const margin = Math.max(gain.margin[0], gain.margin[1] * Math.abs(wanted));
      const enough = held.filter((item) => sign * (item.values[group.gain] - wanted) >= -margin - 1e-12);
      enough.sort((a, b) => a.values[group.loss] - b.values[group.loss] || a.id.localeCompare(b.id));
      const best = enough.slice(0, 5);
      against.textContent = `to ${than === plain ? "LoRA" : methodName(than)}`;
      list.replaceChildren(...best.map((item) => line(item, item === than)), ...(best.includes(than) ? [] : [line(than, true)]));
      const allowed = margin ? `, or at most ${shown(gain, margin).replace(" %", " points")} worse, a difference that nobody cares about` : "";
      const negative = best.some((item) => item.values[group.loss] < 0) && loss.name.endsWith("forgetting") ? " Negative: better than before training." : "";
      const uncertain = behind ? ` ${PLUS_MINUS} A difference below it is too close to call.` : " Without a baseline nobody knows how far seeds scatter, so no ± is shown.";
      told.textContent = `${enough.length} of ${held.length} methods have ${names[0]} ${shown(gain, wanted)}${allowed}. Least ${names[1]} first; lower is better.${negative}${uncertain} ${having(casesOf(place), held, "both figures")}`;
    }

    const options = [...held].sort((a, b) => methodName(a).localeCompare(methodName(b))).map((item) => [item.id, methodName(item)]);
    const picker = choice("as good as", options, than.id, (id) => { than = byId.get(id); title(); answer(); });
    const heading = el("h3", {});
    const title = () => { heading.textContent = `Which method has the least ${names[1]} at ${than === plain ? "LoRA" : methodName(than)}'s ${names[0]}?`; };
    title();
    answer();
    answers.push(el("article", { class: "card" }, heading, el("p", { class: "where" }, group.label), picker, el("div", { class: "scroll" }, table), told));
  }

  const PEAK = data.metrics.findIndex((metric) => metric.name === "train_step.peak_bytes");
  const PUBLISHED = data.metrics.findIndex((metric) => metric.name === "published.memory_max_bytes");

  /** Footprints are of real models; so is what PEFT publishes. A tiny model fits everywhere. */
  function needs(place) {
    const group = data.groups[place];
    if (group.kind === "footprint") return [PEAK, "peak of the tensors of a training step; runtime and allocator take more"];
    if (casesOf(place).some((item) => item.values[PUBLISHED] !== undefined)) return [PUBLISHED, "memory that PEFT's own run reserved at most"];
    return null;
  }

  function fits(place, [metric, what]) {
    const group = data.groups[place];
    const held = casesOf(place).filter((item) => item.values[metric] !== undefined).sort((a, b) => a.values[metric] - b.values[metric] || a.id.localeCompare(b.id));
    if (!held.length) return;
    const heading = el("h3", {});
    const told = el("p", {});
    const names = el("p", { class: "names" });
    function answer(gib) {
      const inside = held.filter((item) => item.values[metric] <= gib * 2 ** 30);
      heading.textContent = `What fits ${gib} GiB?`;
      const range = inside.length ? `, from ${shown(data.metrics[metric], inside[0].values[metric])} (${methodName(inside[0])}) to ${shown(data.metrics[metric], inside.at(-1).values[metric])} (${methodName(inside.at(-1))})` : "";
      told.replaceChildren(el("strong", {}, `${inside.length} of ${held.length} methods`), range);
      names.replaceChildren(...inside.flatMap((item, at) => [at ? ", " : "", el("a", { href: link(item) }, methodName(item))]));
    }
    answer(16);
    const picker = choice("card", data.cards.map((gib) => [gib, `${gib} GiB`]), 16, (value) => answer(Number(value)));
    const all = el("details", {}, el("summary", {}, "all of them, the smallest first"), names);
    answers.push(el("article", { class: "card" }, heading, el("p", { class: "where" }, group.label), picker, told, all, el("p", { class: "note" }, `By the ${what}. ${having(casesOf(place), held, "it")}`)));
  }

  for (const [place] of groupOptions()) if (data.groups[place].gain !== null && data.groups[place].loss !== null) leastLoss(place);
  for (const [place] of groupOptions()) if (needs(place)) fits(place, needs(place));
  if (answers.length) section("summary").append(el("div", { class: "cards" }, ...answers));
  else nothing("summary", "These cases hold neither two figures of quality nor footprints, so there is nothing to answer with.");
})();
