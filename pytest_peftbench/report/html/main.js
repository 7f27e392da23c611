"use strict";
// Navigation, light and dark, and links to cases.
(function () {
  const nav = document.querySelector("nav");
  for (const part of document.querySelectorAll("main > section")) {
    const title = part.querySelector("h2").textContent;
    nav.append(el("a", { href: `#${part.id}`, class: "empty" in part.dataset ? "empty" : "" }, title));
  }

  const root = document.documentElement;
  const button = section("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const name = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-pressed", String(isDark()));
  };
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; name(); });
  system.addEventListener("change", name);
  name();

  // counts are buttons: they show the cases of their verdict
  for (const item of document.querySelectorAll(".counts .verdict")) {
    const verdict = item.dataset.verdict;
    item.replaceChildren(el("button", { type: "button", onclick: () => window.showVerdict && showVerdict(verdict) },
      el("span", { "aria-hidden": "true" }, MARKS[verdict] || "?"), ` ${item.textContent}`));
  }

  function follow() {
    const id = location.hash.startsWith("#case=") ? decodeURIComponent(location.hash.slice(6)) : "";
    if (id && window.goTo) goTo(id);
  }
  window.addEventListener("hashchange", follow);
  // a link to the case that is shown already goes there, too
  document.addEventListener("click", (event) => {
    const target = event.target.closest("a");
    const href = target && (target.getAttribute("href") || target.getAttribute("xlink:href"));
    if (href && href === location.hash) follow();
  });
  follow();
  root.dataset.ready = "";
})();
