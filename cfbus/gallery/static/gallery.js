// Keys, and what changes while a run goes on. Every text is set as text, never as HTML.
"use strict";

const cards = () => Array.from(document.querySelectorAll(".card"));

function move(by) {
  const all = cards();
  if (!all.length) return;
  const at = all.indexOf(document.activeElement);
  const to = all[Math.min(Math.max(at < 0 ? 0 : at + by, 0), all.length - 1)];
  to.focus();
  to.scrollIntoView({ block: "nearest" });
}

function across() {
  const all = cards();
  return all.filter((card) => card.offsetTop === all[0].offsetTop).length || 1;
}

const KEYS = {
  j: () => move(1), ArrowRight: () => move(1), k: () => move(-1), ArrowLeft: () => move(-1),
  ArrowDown: () => move(across()), ArrowUp: () => move(-across()),
  "/": () => document.querySelector("input[name=q]")?.focus(),
  n: () => document.getElementById("next")?.click(),
  Escape: () => { if (document.getElementById("back")) history.length > 1 ? history.back() : location.assign("./"); },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (typing) { if (event.key === "Escape") event.target.blur(); return; }
  const act = KEYS[event.key];
  if (!act || (event.key.startsWith("Arrow") && !cards().length)) return;
  event.preventDefault();
  act();
});

document.querySelectorAll(".filters select").forEach((one) => one.addEventListener("change", () => one.form.requestSubmit()));

const shown = Number(document.body.dataset.position);

async function look() {
  if (document.hidden) return;
  try {
    const answer = await fetch("live.json");
    if (!answer.ok) return;
    const now = await answer.json();
    const put = (id, text) => { const at = document.getElementById(id); if (at) at.textContent = text; };
    put("captions", now.captions.toLocaleString("en"));
    put("failures", now.failures.toLocaleString("en"));
    document.getElementById("spark")?.setAttribute("points", now.spark);
    const leaders = document.getElementById("leaders");
    leaders?.replaceChildren(...now.leaders.map(([name, count]) => {
      const line = document.createElement("li"), who = document.createElement("bdi"), many = document.createElement("span");
      who.textContent = name;
      many.textContent = count.toLocaleString("en");
      line.append(who, " ", many);
      return line;
    }));
    document.getElementById("newer").hidden = now.position === shown;
  } catch { /* the server is away; the next look tells */ }
}

setInterval(look, 3000);
