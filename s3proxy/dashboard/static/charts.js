/** Curves by uPlot, and small ones in SVG. */

import { make, say } from "./dom.js";
import * as format from "./format.js";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const alive = new Set();

/** Draw all anew, because the colours have changed. */
export function recolour() {
  for (const chart of alive) chart.clear();
}

const SHORTEST = 120;

/** A minute of data is not drawn as wide as an hour, nor a single point as a year. Who zooms in sees what he chose. */
function span(plot, low, high) {
  const times = plot.data[0];
  if (low !== null && low > times[0]) return [low, high];
  // Of a single point uPlot would make years.
  const end = times.length > 1 ? high : times[0] ?? Date.now() / 1000;
  return [Math.min(times[0] ?? end, end - SHORTEST), end];
}

function lastOf(column) {
  for (let at = column.length - 1; at >= 0; at -= 1) if (column[at] !== null) return column[at];
  return null;
}

function alone(column) {
  const found = [];
  column.forEach((value, at) => {
    if (value !== null && (column[at - 1] ?? null) === null && (column[at + 1] ?? null) === null) found.push(at);
  });
  return found.length ? found : null;
}

/** Times along the axis, with the date where a day begins. */
function times(plot, ticks, axis, space, step) {
  let day = "";
  return ticks.map((tick) => {
    const whole = format.clock(tick, true);
    const [date, time] = whole.split(" ");
    const shown = step >= 86400 ? date.slice(5) : time.slice(0, step >= 60 ? 5 : 8);
    const line = step < 86400 && date !== day ? `${shown}\n${date}` : shown;
    day = date;
    return line;
  });
}

/**
 * One chart: `curves` are {name, label, colour, fill?, dash?}. Stacked curves are drawn one upon the other and told as
 * they are. The scale goes up to `top`, or else as far as the values, but at least to `least`.
 */
export class Chart {
  constructor({ label, curves, show, stacked = false, log = false, top = null, least = 1, height = 210 }) {
    Object.assign(this, { label, curves, show, stacked, log, top, least, height });
    this.element = make("div", { class: "chart", role: "img", "aria-label": label });
    this.words = make("p", { class: "muted", text: "No data yet." });
    this.table = make("div", { class: "scroll small", tabindex: "0", role: "group", "aria-label": `${label}, as a table` });
    this.details = make("details", { ontoggle: () => this.fillTable() }, make("summary", { text: "View as table" }), this.table);
    this.whole = make("div", {}, this.element, this.words, this.details);
    this.data = null;
    this.plot = null;
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.element);
    alive.add(this);
  }

  resize() {
    const width = Math.floor(this.element.clientWidth);
    if (this.plot && width > 50 && width !== this.plot.width) this.plot.setSize({ width, height: this.height });
    else if (!this.plot && width > 50 && this.data) this.build();
  }

  /** Forget what is drawn: it is drawn anew at once if it can be seen, else when it is shown. */
  clear() {
    if (this.plot) this.plot.destroy();
    this.plot = null;
    this.build();
  }

  /** @param series {t: [...], name: [...]} */
  update(series) {
    this.series = series;
    const columns = this.curves.map((curve) => series[curve.name] || series.t.map(() => null));
    this.real = columns;
    let drawn = columns;
    if (this.stacked) {
      const sum = new Float64Array(series.t.length);
      drawn = columns.map((column) => column.map((value, at) => (value === null ? null : (sum[at] += value))));
    }
    if (this.log) drawn = drawn.map((column) => column.map((value) => (value > 0 ? value : null)));
    this.data = [series.t, ...drawn];
    if (this.plot) this.plot.setData(this.data);
    else this.build();
    this.tell();
  }

  build() {
    const width = Math.floor(this.element.clientWidth);
    if (!this.data || width <= 50 || this.element.offsetParent === null) return;
    if (this.plot) this.plot.destroy();
    const axis = {
      stroke: colour("muted"), grid: { stroke: colour("grid"), width: 1 }, ticks: { stroke: colour("grid"), width: 1 },
      font: "12px system-ui, sans-serif",
    };
    const series = this.curves.map((curve, at) => ({
      label: curve.label,
      stroke: colour(curve.colour),
      width: this.stacked ? 1 : 1.7,
      dash: curve.dash,
      fill: this.stacked || curve.fill ? `${colour(curve.colour)}${this.stacked ? "cc" : "33"}` : undefined,
      // A value between two gaps would not be seen as a line.
      points: { show: false, size: 5, filter: (plot, which) => alone(plot.data[which]) },
      spanGaps: false,
      value: (plot, value, series, index) => {
        const column = this.real[at];
        const real = index === null || index === undefined ? lastOf(column) : column[index];
        return real === null || real === undefined ? "–" : this.show(real);
      },
    }));
    const bands = this.stacked ? this.curves.slice(1).map((_, at) => ({ series: [at + 2, at + 1] })) : undefined;
    this.plot = new uPlot({
      width,
      height: this.height,
      padding: [10, 30, 0, 0],
      cursor: { sync: { key: "time" }, focus: { prox: 30 } },
      scales: {
        x: { time: true, range: span },
        y: this.log
          ? { distr: 3, range: (plot, low, high) => [Math.min(low || 0.001, 0.001), Math.max(high || 1, 0.1)] }
          : { range: (plot, low, high) => [0, this.top ?? Math.max(this.least, (high ?? 0) * 1.05)] },
      },
      legend: { live: true },
      series: [{ label: "Time", value: (plot, value) => (value === null || value === undefined ? "latest" : format.clock(value, true)) }, ...series],
      bands,
      axes: [{ ...axis, values: times, space: 70 }, { ...axis, size: 78, values: (plot, ticks) => ticks.map((tick) => (tick === null ? null : this.show(tick))) }],
    }, this.data, this.element);
  }

  tell() {
    const parts = this.curves.map((curve, at) => [curve.label, lastOf(this.real[at])]).filter(([, value]) => value !== null);
    const text = parts.length ? `Now: ${parts.map(([label, value]) => `${label} ${this.show(value)}`).join(", ")}` : "No data yet.";
    this.element.setAttribute("aria-label", `${this.label}. ${text}`);
    say(this.words, parts.length ? "" : text);
    this.words.hidden = parts.length > 0;
    if (this.details.open) this.fillTable();
  }

  fillTable() {
    if (!this.details.open || !this.series) return;
    const table = make("table", { class: "data", "aria-label": this.label });
    const head = make("tr", {}, make("th", { scope: "col", text: "Time" }));
    for (const curve of this.curves) head.append(make("th", { scope: "col", class: "num", text: curve.label }));
    const body = make("tbody");
    const rows = this.series.t.length;
    const step = Math.max(1, Math.ceil(rows / 60));
    for (let at = rows - 1; at >= 0; at -= step) {
      const row = make("tr", {}, make("td", { text: format.clock(this.series.t[at], true), "data-label": "Time" }));
      this.real.forEach((column, which) => {
        row.append(make("td", { class: "num", "data-label": this.curves[which].label, text: column[at] === null ? "–" : this.show(column[at]) }));
      });
      body.append(row);
    }
    table.append(make("thead", {}, head), body);
    this.table.replaceChildren(table);
  }
}

export function spark() {
  const path = make("path", { d: "" });
  const element = make("svg", { class: "spark", viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" }, path);
  element.draw = (values, top = null) => {
    const known = values.filter((value) => value !== null);
    const high = top ?? Math.max(...known, 1e-9);
    let line = "", pen = "M";
    values.forEach((value, at) => {
      if (value === null) { pen = "M"; return; }
      const x = values.length > 1 ? (100 * at) / (values.length - 1) : 100;
      line += `${pen}${x.toFixed(1)} ${(23 - (22 * Math.min(value, high)) / high).toFixed(1)}`;
      pen = "L";
    });
    path.setAttribute("d", line);
  };
  return element;
}

/** Which bytes of an object are there: a bar. */
export function extents(size, held) {
  const bar = make("svg", { class: "extents", viewBox: "0 0 1000 22", preserveAspectRatio: "none", role: "img", "aria-label": `${held.length} stored range(s)` });
  bar.append(make("rect", { x: 0, y: 0, width: 1000, height: 22, fill: colour("track") }));
  for (const { start, stop } of held) {
    bar.append(make("rect", { x: (1000 * start) / size, y: 0, width: Math.max(1, (1000 * (stop - start)) / size), height: 22, fill: colour("hit") }));
  }
  return bar;
}
