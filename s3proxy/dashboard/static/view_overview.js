/** The whole at one glance. */

import { Chart, spark } from "./charts.js";
import { Table, make, name, panel, say, tag } from "./dom.js";
import * as format from "./format.js";

export const SOURCES = ["hit", "coalesced", "revalidated", "stale", "partial", "miss", "bypass", "error"];

/** Seconds. */
const RECENT = 300;

const PRICES = { request: 0.0004, byte: 0 };

function price(name) {
  try {
    const value = Number.parseFloat(localStorage.getItem(`price.${name}`));
    return Number.isFinite(value) ? value : PRICES[name];
  } catch {
    return PRICES[name];
  }
}

function tile(label, title) {
  const big = make("dd", { class: "big", text: "–" });
  const sub = make("dd", { class: "sub" });
  const line = spark();
  const element = make("dl", { class: "tile", title }, make("dt", { text: label }), big, sub);
  element.append(make("dd", {}, line));
  return { element, line, set: (main, second = "") => { say(big, main); say(sub, second); } };
}

function meter(label) {
  const fill = make("div", { class: "fill" });
  const track = make("div", { class: "track", role: "meter", "aria-label": label, "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": "0" }, fill);
  const text = make("span", { class: "num" });
  return {
    element: make("div", { class: "meter" }, make("span", { text: label }), track, text),
    set: (used, limit) => {
      const share = limit > 0 ? Math.min(1, used / limit) : 0;
      fill.style.width = `${100 * share}%`;
      track.setAttribute("aria-valuenow", String(Math.round(100 * share)));
      say(text, limit > 0 ? `${format.bytes(used)} of ${format.bytes(limit)}` : `${format.bytes(used)}, no limit`);
    },
  };
}

function progress(sent, expected) {
  if (!expected) return make("span", { text: format.bytes(sent) });
  const bar = make("progress", { max: String(expected), value: String(sent), "aria-label": `${format.percent(sent / expected)} sent` });
  return make("span", { class: "progress" }, bar, make("span", { class: "nowrap", text: `${format.bytes(sent)} of ${format.bytes(expected)}` }));
}

export const inflightColumns = [
  { label: "Age", number: true, show: (row) => format.span(row.seconds) },
  { label: "Client", show: (row) => row.client },
  { label: "Operation", show: (row) => row.operation },
  { label: "Object", class: "key", show: (row) => name(row.bucket ? `${row.bucket}/${row.key}` : row.key) },
  { label: "From", show: (row) => (row.source ? tag(row.source) : "waiting") },
  { label: "Sent", show: (row) => progress(row.sent, row.expected) },
  { label: "Rate", number: true, show: (row) => format.rate(row.rate) },
  { label: "S3 address", show: (row) => row.upstream || "–" },
];

export const overview = {
  build(root) {
    const t = (this.tiles = {
      hit: tile("Hit rate, 5 min", "Object reads for which S3 sent no body, of all that had a use for the cache"),
      byte: tile("Byte hit rate, 5 min", "Bytes sent for object reads that did not come from S3"),
      requests: tile("Requests/s", "Requests that ended, over the last five seconds"),
      sent: tile("To clients", "Body bytes written to clients"),
      s3: tile("From S3", "Body bytes received from S3"),
      first: tile("First byte, p50", "From a request's head to the first byte of its answer, in the last minutes: from the cache; if there was nothing from there, from S3"),
      errors: tile("Server errors/s", "Answers of a status from 500 on, and of those requests that were turned away, over the last five seconds"),
      saved: tile("Saved, estimate", "What S3 was not asked for since the start"),
    });
    const tiles = make("div", { class: "tiles" }, ...Object.values(t).map((each) => each.element));

    this.sources = new Chart({
      label: "Requests per second by source",
      stacked: true,
      show: format.perSecond,
      curves: SOURCES.map((name) => ({ name, label: name, colour: name })),
    });
    this.throughput = new Chart({
      label: "Throughput",
      show: format.rate,
      least: 1000,
      curves: [
        { name: "sent", label: "to clients", colour: "hit", fill: true },
        { name: "from_s3", label: "from S3", colour: "s3", fill: true, dash: [6, 3] },
        { name: "received", label: "uploads", colour: "revalidated", dash: [2, 3] },
      ],
    });
    this.rates = new Chart({
      label: "Hit rate",
      show: format.percent,
      top: 1,
      curves: [
        { name: "hit_rate", label: "requests", colour: "hit" },
        { name: "byte_hit_rate", label: "bytes", colour: "revalidated", dash: [6, 3] },
      ],
    });
    this.latency = new Chart({
      label: "Time to the first byte",
      log: true,
      show: format.seconds,
      curves: [
        { name: "first_byte_cache_p50", label: "cache p50", colour: "hit" },
        { name: "first_byte_cache_p99", label: "cache p99", colour: "hit", dash: [3, 3] },
        { name: "first_byte_s3_p50", label: "S3 p50", colour: "s3" },
        { name: "first_byte_s3_p90", label: "S3 p90", colour: "p90", dash: [6, 3] },
        { name: "first_byte_s3_p99", label: "S3 p99", colour: "p99", dash: [3, 3] },
      ],
    });

    this.disk = meter("Disk");
    this.ram = meter("RAM");
    this.permits = make("p", { class: "muted" });
    this.evicting = make("p", { class: "muted" });
    this.bar = make("div", { class: "track", "aria-hidden": "true" });
    this.shares = make("ul", { class: "shares" });
    for (const name of SOURCES) {
      const fill = make("div", { class: "fill" });
      fill.style.background = `var(--${name})`;
      this.bar.append(fill);
      const mark = make("span", { class: "mark", "aria-hidden": "true" });
      mark.style.background = `var(--${name})`;
      this.shares.append(make("li", {}, mark, make("span")));
    }
    this.attention = make("ul", { class: "attention" });

    this.inflight = new Table("Requests in flight", inflightColumns, { empty: "No request is being served.", small: true });
    this.fills = new Table("Bodies on their way from S3 into the cache", [
      { label: "Object", class: "key", show: (row) => name(`${row.bucket}/${row.key}`) },
      { label: "Fetched", show: (row) => progress(row.have - row.start, row.stop - row.start) },
      { label: "Readers", number: true, show: (row) => format.exact(row.readers) },
    ], { empty: "Nothing is being fetched.", small: true });
    this.buckets = new Table("Busiest buckets", [
      { label: "Bucket", class: "key", show: (row) => name(row.bucket) },
      { label: "Requests", number: true, show: (row) => format.count(row.requests) },
      { label: "Sent", number: true, show: (row) => format.bytes(row.sent) },
      { label: "Hit rate", number: true, show: (row) => format.percent(row.hit_rate) },
    ], { empty: "No bucket has been read yet.", small: true });

    const input = (name, step) => make("input", {
      type: "number", min: "0", step, value: String(price(name)),
      onchange: (event) => {
        try {
          localStorage.setItem(`price.${name}`, event.target.value);
        } catch { /* It lasts as long as the page. */ }
        this.money = null;
      },
    });
    const prices = make("details", {}, make("summary", { text: "Prices for the estimate" }),
      make("div", { class: "tools" },
        make("label", {}, "Dollars per 1,000 GET or HEAD requests", (this.perRequest = input("request", "0.0001"))),
        make("label", {}, "Dollars per GB from S3 (0 within a region; 0.02 to another; 0.09 to the internet)", (this.perByte = input("byte", "0.001"))),
      ));

    root.append(
      tiles,
      make("div", { class: "grid" },
        panel("s6", "Requests per second by source", this.sources.whole),
        panel("s6", "Throughput", this.throughput.whole),
        panel("s6", "Hit rate", this.rates.whole),
        panel("s6", "Time to the first byte", this.latency.whole),
        panel("s4", "Where answers came from", this.bar, this.shares),
        panel("s4", "Tiers", this.disk.element, this.ram.element, this.evicting, this.permits),
        panel("s4", "Attention", this.attention),
        panel("s12", "In flight", this.inflight.element),
        panel("s8", "On its way into the cache", this.fills.element),
        panel("s4", "Busiest buckets", this.buckets.element),
        panel("s12", "Estimate", prices),
      ),
    );
  },

  tick(tick) {
    const t = this.tiles, rates = tick.rates;
    t.hit.set(format.percent(tick.reads ? tick.hit_rate_5m : null), tick.reads ? `${format.percent(tick.hit_rate)} since the start` : "no reads yet");
    t.byte.set(format.percent(tick.reads ? tick.byte_hit_rate_5m : null), tick.reads ? `${format.percent(tick.byte_hit_rate)} since the start` : "");
    t.requests.set(format.perSecond(rates.requests), `${format.count(tick.requests_total)} in all`);
    t.requests.element.dataset.total = String(tick.requests_total);
    t.sent.set(format.rate(rates.sent), `${format.bytes(tick.sent)} in all`);
    t.s3.set(format.rate(rates.from_s3), `${format.bytes(tick.from_s3)} in all`);
    t.errors.set(format.perSecond(rates.status_5xx), `${format.count(tick.status_5xx)} in all, ${format.count(tick.status_4xx)} of 4xx`);
    t.errors.element.dataset.state = rates.status_5xx > 0 ? "bad" : "";
    const perRequest = Number.parseFloat(this.perRequest.value) || 0, perByte = Number.parseFloat(this.perByte.value) || 0;
    const money = (tick.saved_requests / 1000) * perRequest + (tick.saved_bytes / 1e9) * perByte;
    t.saved.set(format.dollars(money), `${format.bytes(tick.saved_bytes)}, ${format.count(tick.saved_requests)} request${tick.saved_requests === 1 ? "" : "s"}`);

    this.disk.set(tick.disk_bytes, tick.disk_limit);
    this.ram.set(tick.ram_bytes, tick.ram_limit);
    say(this.evicting, `Evicted: ${format.count(tick.evictions)} entries, ${format.bytes(tick.evicted_bytes)}; now ${format.rate(rates.evicted_bytes)}`);
    say(this.permits, `In flight: ${tick.in_flight} of ${tick.permits} permits, ${tick.connections} connections; event loop ${format.seconds(tick.lag)} late at most`);

    const total = tick.requests_total || 1;
    SOURCES.forEach((name, at) => {
      const share = tick.requests[name] / total;
      this.bar.children[at].style.width = `${100 * share}%`;
      this.shares.children[at].hidden = !tick.requests[name];
      say(this.shares.children[at].lastChild, `${name} ${format.percent(share)} (${format.count(tick.requests[name])})`);
    });

    const words = tick.attention.map((each) => `${each.level}\n${each.what}\n${each.text}\n${each.view}`).join("\n");
    if (words !== this.words) {
      this.words = words;
      this.attention.replaceChildren(...(tick.attention.length
        ? tick.attention.map((each) => make("li", { "data-state": each.level }, make("span", { class: "dot" }),
          make("span", {}, make("a", { href: `#${each.view}`, text: each.what }), ` (${each.level}): ${each.text}`)))
        : [make("li", { "data-state": "healthy" }, make("span", { class: "dot" }), "Nothing needs attention.")]));
    }
    this.inflight.fill(tick.inflight.requests);
    this.fills.fill(tick.inflight.fills);
    this.buckets.fill(tick.buckets);
  },

  series(series) {
    for (const chart of [this.sources, this.throughput, this.rates, this.latency]) chart.update(series);
    // As far as five minutes go back: what was before says nothing of now.
    const latest = (column) => {
      const end = series.t.at(-1);
      for (let at = series.t.length - 1; at >= 0 && end - series.t[at] <= Math.max(RECENT, series.step); at -= 1) {
        if (series[column][at] !== null) return series[column][at];
      }
      return null;
    };
    const last = (name) => series[name].slice(-60);
    const sum = last("t").map((_, at) => {
      const values = SOURCES.map((name) => last(name)[at]);
      return values[0] === null ? null : values.reduce((a, b) => a + b, 0);
    });
    this.tiles.hit.line.draw(last("hit_rate"), 1);
    this.tiles.byte.line.draw(last("byte_hit_rate"), 1);
    this.tiles.requests.line.draw(sum);
    this.tiles.sent.line.draw(last("sent"));
    this.tiles.s3.line.draw(last("from_s3"));
    const cached = latest("first_byte_cache_p50") !== null;
    this.tiles.first.line.draw(last(cached ? "first_byte_cache_p50" : "first_byte_s3_p50"));
    this.tiles.errors.line.draw(last("status_5xx"));
    this.tiles.saved.line.draw(last("saved"));
    this.tiles.first.set(
      format.seconds(latest(cached ? "first_byte_cache_p50" : "first_byte_s3_p50")),
      `p99: cache ${format.seconds(latest("first_byte_cache_p99"))}, S3 ${format.seconds(latest("first_byte_s3_p99"))}`,
    );
  },
};
