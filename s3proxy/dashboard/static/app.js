/** The frame of the page: views, keys, theme. */

import { recolour } from "./charts.js";
import { make, say } from "./dom.js";
import { connect, feed, loadSeries, state } from "./feed.js";
import * as format from "./format.js";
import { cache } from "./view_cache.js";
import { logs } from "./view_logs.js";
import { overview } from "./view_overview.js";
import { instances, rules, upstream } from "./view_parts.js";
import { requests, traffic } from "./view_traffic.js";

const views = { overview, traffic, requests, cache, upstream, instances, rules, logs };
const main = document.getElementById("main");
const dialog = document.getElementById("dialog");
const byId = (id) => document.getElementById(id);
let current = null;

for (const [name, view] of Object.entries(views)) {
  view.element = make("div", { id: `view-${name}`, hidden: true });
  view.build(view.element);
  main.append(view.element);
}

export function openDialog(title, ...content) {
  byId("dialog-title").textContent = title;
  byId("dialog-body").replaceChildren(...content);
  if (!dialog.open) dialog.showModal();
}

feed.addEventListener("dialog", (event) => openDialog(event.detail.title, ...event.detail.content));
feed.addEventListener("dialog-close", () => dialog.close());

function route() {
  const [name, query] = location.hash.replace(/^#\/?/, "").split("?");
  const view = Object.hasOwn(views, name) ? views[name] : views.overview;
  if (current !== view) {
    current?.leave?.();
    for (const each of Object.values(views)) each.element.hidden = each !== view;
    for (const link of document.querySelectorAll("nav a")) {
      if (views[link.hash.slice(2)] === view) {
        link.setAttribute("aria-current", "page");
        link.scrollIntoView({ block: "nearest", inline: "center" });
      } else link.removeAttribute("aria-current");
    }
    current = view;
    window.scrollTo(0, 0);
  }
  view.enter?.(new URLSearchParams(query || ""));
  if (state.series) view.series?.(state.series);
  if (state.tick) view.tick?.(state.tick);
}

feed.addEventListener("tick", (event) => {
  header(event.detail);
  current?.tick?.(event.detail);
});
feed.addEventListener("series", (event) => current?.series?.(event.detail));
feed.addEventListener("log", (event) => views.logs.lines(event.detail));
feed.addEventListener("hello", (event) => {
  const hello = event.detail;
  say(byId("host"), `${hello.hostname} · ${hello.mode}`);
  say(byId("version"), `S3 Proxy ${hello.version} · instance ${hello.instance_id}`);
  document.title = `S3 Proxy · ${hello.hostname}`;
  const range = byId("range");
  if (!range.options.length) {
    for (const name of hello.ranges) range.append(make("option", { value: name, text: name.replace(/(\d+)/, "$1 ") }));
    range.value = state.range;
  }
  for (const view of Object.values(views)) view.hello?.(hello);
});
feed.addEventListener("live", (event) => {
  say(byId("live"), event.detail ? "live" : "connection lost, trying again");
  if (!event.detail) health("unknown", "not connected");
  const lost = byId("lost");
  lost.hidden = event.detail;
  say(lost, event.detail ? "" : `The proxy has not answered since ${format.clock(state.since)}.${state.tick ? " The numbers are those of then." : ""} Trying again.`);
});

function health(word, text) {
  const pill = byId("health");
  pill.dataset.state = word;
  say(pill.querySelector(".text"), text);
}

function header(tick) {
  health(tick.health, tick.draining ? `${tick.health}, draining` : tick.health);
  say(byId("uptime"), `up ${format.span(tick.uptime)}`);
}

// Theme

const themes = ["auto", "light", "dark"];

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  say(byId("theme"), `Theme: ${theme}`);
  try {
    localStorage.setItem("theme", theme);
  } catch { /* Private windows may refuse; the theme then lasts as long as the page. */ }
  recolour();
}

function theme() {
  return document.documentElement.dataset.theme || "auto";
}

function nextTheme() {
  setTheme(themes[(themes.indexOf(theme()) + 1) % themes.length]);
}

byId("theme").addEventListener("click", nextTheme);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);

// Range and pause

byId("range").addEventListener("change", (event) => {
  state.range = event.target.value;
  loadSeries();
});

function pause() {
  state.paused = !state.paused;
  byId("pause").setAttribute("aria-pressed", String(state.paused));
  say(byId("pause"), state.paused ? "Paused" : "Pause");
  if (!state.paused) {
    loadSeries();
    if (state.tick) feed.dispatchEvent(new CustomEvent("tick", { detail: state.tick }));
  }
}

byId("pause").addEventListener("click", pause);

// Keys

const LETTERS = { o: "overview", t: "traffic", r: "requests", c: "cache", u: "upstream", i: "instances", s: "rules", l: "logs" };
const KEYS = [
  ["g, then o t r c u i s l", "Overview, Traffic, Requests, Cache, Upstream, Instances, Rules, Logs"],
  ["/", "search"], ["t", "next time range"], ["p", "pause"], ["d", "light, dark, as the system"],
  ["j  k", "next, previous row"], ["Enter", "open the row"], ["Esc", "close"], ["?", "this list"],
];
const WORDS = [
  ["Hit rate", "reads of objects (GET and HEAD, answered with 2xx or 304) for which S3 sent no body, of all such reads that had a use for the cache"],
  ["Byte hit rate", "the share of the bytes sent for these reads that did not come from S3 for that request"],
  ["Saved", "requests that S3 was not asked for, and bytes that it did not have to send; dollars are an estimate at the prices that the overview ends with"],
  ["First byte", "from a request's head to the first byte of the answer"],
];

function help() {
  const table = make("dl", { class: "facts" });
  for (const [key, what] of KEYS) table.append(make("dt", {}, make("kbd", { text: key })), make("dd", { text: what }));
  const words = make("dl", { class: "facts" });
  for (const [word, what] of WORDS) words.append(make("dt", { text: word }), make("dd", { text: what }));
  openDialog("Keys and words", make("h3", { text: "Keys" }), table, make("h3", { text: "Words" }), words);
}

byId("help").addEventListener("click", help);

let awaiting = false;

function moveRow(step) {
  const rows = [...current.element.querySelectorAll("tbody tr")].map((row) => row.querySelector("button, a")).filter((each) => each && each.offsetParent !== null);
  if (!rows.length) return;
  const at = rows.indexOf(document.activeElement);
  rows[Math.min(rows.length - 1, Math.max(0, at < 0 ? 0 : at + step))].focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (dialog.open) return;
  if (awaiting) {
    awaiting = false;
    if (LETTERS[event.key]) {
      location.hash = LETTERS[event.key];
      event.preventDefault();
    }
    return;
  }
  const acts = {
    g: () => { awaiting = true; },
    "/": () => (current.element.querySelector("input[type=search]") || { focus() { location.hash = "cache"; } }).focus(),
    t: () => {
      const range = byId("range");
      range.selectedIndex = (range.selectedIndex + 1) % range.options.length;
      range.dispatchEvent(new Event("change"));
    },
    p: pause,
    d: nextTheme,
    j: () => moveRow(1),
    k: () => moveRow(-1),
    "?": help,
  };
  if (acts[event.key]) {
    acts[event.key]();
    event.preventDefault();
  }
});

let stored = "auto";
try {
  stored = localStorage.getItem("theme") || "auto";
} catch { /* As above. */ }
setTheme(themes.includes(stored) ? stored : "auto");
window.addEventListener("hashchange", route);
route();
connect();
