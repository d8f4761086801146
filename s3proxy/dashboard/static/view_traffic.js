/** Buckets and prefixes; single requests, with the reason of every miss. */

import { Chart } from "./charts.js";
import { Table, field, make, name, panel, say, select, tag } from "./dom.js";
import { ask, feed, state } from "./feed.js";
import * as format from "./format.js";
import { SOURCES, inflightColumns } from "./view_overview.js";

/** Calls again and again while a view is shown and nothing is paused. */
export class Poll {
  constructor(work, milliseconds) {
    Object.assign(this, { work, milliseconds, timer: 0 });
  }

  start() {
    this.stop();
    this.timer = setInterval(() => { if (!state.paused && !document.hidden) this.work(); }, this.milliseconds());
    this.work();
  }

  stop() {
    clearInterval(this.timer);
    this.timer = 0;
  }
}

export function later(work, milliseconds = 250) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, milliseconds);
  };
}

const totals = [
  { label: "Requests", number: true, value: (row) => row.requests, show: (row) => format.count(row.requests) },
  { label: "Hit rate", number: true, value: (row) => row.hit_rate, show: (row) => format.percent(row.hit_rate) },
  { label: "Sent", number: true, value: (row) => row.sent, show: (row) => format.bytes(row.sent) },
  { label: "Saved", number: true, value: (row) => row.cached, show: (row) => format.bytes(row.cached) },
  { label: "Uploaded", number: true, value: (row) => row.received, show: (row) => format.bytes(row.received) },
  { label: "Errors", number: true, value: (row) => row.errors, show: (row) => format.count(row.errors) },
];

export const traffic = {
  build(root) {
    this.search = make("input", { type: "search", placeholder: "part of a name", oninput: later(() => this.load()) });
    this.buckets = new Table("Buckets", [
      { label: "Bucket", class: "key", value: (row) => row.bucket, show: (row) => name(row.bucket, "button", { type: "button", class: "link", "data-bucket": row.bucket }) },
      ...totals,
    ], { sort: { name: "Sent", down: true }, key: (row) => row.bucket });
    this.buckets.body.addEventListener("click", (event) => {
      const bucket = event.target.dataset.bucket;
      if (bucket !== undefined) {
        this.bucket = this.bucket === bucket ? "" : bucket;
        this.load();
      }
    });
    this.prefixes = new Table("Prefixes", [
      { label: "Prefix", class: "key", value: (row) => `${row.bucket}/${row.prefix}`, show: (row) => name(`${row.bucket}/${row.prefix}`, "a", { href: `#cache?prefix=${encodeURIComponent(`${row.bucket}/${row.prefix === "(others)" ? "" : row.prefix}`)}` }) },
      ...totals,
    ], { sort: { name: "Sent", down: true }, key: (row) => `${row.bucket}/${row.prefix}` });
    this.which = make("p", { class: "muted" });
    this.failed = make("p", { class: "error-text", role: "alert" });
    this.errors = new Chart({
      label: "Answers that were errors, and clients that left, per second",
      show: format.perSecond,
      curves: [
        { name: "status_4xx", label: "4xx", colour: "partial" },
        { name: "status_5xx", label: "5xx", colour: "error" },
        { name: "aborts", label: "client left", colour: "stale", dash: [3, 3] },
        { name: "shed", label: "turned away", colour: "bypass", dash: [6, 3] },
      ],
    });
    this.total = new Chart({
      label: "Time to the last byte of reads",
      log: true,
      show: format.seconds,
      curves: [
        { name: "total_p50", label: "p50", colour: "p50" },
        { name: "total_p90", label: "p90", colour: "p90", dash: [6, 3] },
        { name: "total_p99", label: "p99", colour: "p99", dash: [3, 3] },
      ],
    });
    root.append(
      make("div", { class: "tools" }, field("Bucket or prefix", this.search)),
      this.failed,
      make("div", { class: "grid" },
        panel("s12", "Buckets", this.buckets.element),
        panel("s12", "Prefixes", this.which, this.prefixes.element),
        panel("s6", "Errors", this.errors.whole),
        panel("s6", "Time to the last byte", this.total.whole),
      ),
    );
    this.bucket = "";
    this.poll = new Poll(() => this.load(), () => 1000 * (state.hello?.refresh ?? 5));
  },
  enter() { this.poll.start(); },
  leave() { this.poll.stop(); },
  series(series) {
    this.errors.update(series);
    this.total.update(series);
  },
  async load() {
    try {
      const q = encodeURIComponent(this.search.value);
      const [buckets, prefixes] = await Promise.all([
        ask(`buckets?q=${q}&limit=500`), ask(`prefixes?q=${q}&bucket=${encodeURIComponent(this.bucket)}&limit=500`),
      ]);
      this.buckets.fill(buckets.rows);
      this.prefixes.fill(prefixes.rows);
      say(this.which, this.bucket ? `Of ${format.clip(this.bucket)}; choose it again for all.` : "Of all buckets; choose one to see its own.");
      say(this.failed, "");
    } catch (error) {
      say(this.failed, error.message);
    }
  },
};

/** Why S3 had to be asked, or an answer was not kept. */
const REASONS = {
  cold: "nothing of the object was cached",
  expired: "the entry was older than its TTL; S3 was asked whether it is still right",
  "always-ask": "a TTL of 0, or a question only S3 can answer",
  incomplete: "some of the bytes were not cached",
  unconfirmed: "written through the proxy and not yet described by S3",
  "client-condition": "the client's condition had to be judged by S3",
  "no-checksums": "the client wants checksums that are not known",
  credentials: "the signature is of a kind that is not understood",
  "not-cacheable": "not a read of an object, or an answer that is not kept",
  "no-address": "the host names no bucket",
  write: "a write",
  "sse-c": "encrypted with the client's own key",
  "read-cache-off": "a rule keeps the object out of the cache",
  "no-cache": "the client asked for a fresh answer",
  "no-store": "the client asked to pass the cache by",
  "range-form": "several ranges, or one that is not understood",
  "part-number": "a part of a part",
  "no-etag": "S3 sent no ETag: it can't be kept",
  "no-length": "S3 did not say how long the body is",
  "too-large": "larger than the cache",
  "store-unavailable": "the cache directory does not work, or another request was storing it",
  overtaken: "the object was written meanwhile",
  changed: "S3 has another version",
  "expired-url": "the presigned URL is past its end",
  refused: "the destination is not allowed",
  overload: "more requests than server.max_concurrent_requests",
  "upstream-error": "S3 did not answer",
  "upstream-timeout": "S3 did not answer in time",
};

export const requests = {
  build(root) {
    this.search = make("input", { type: "search", placeholder: "bucket, key, client, id", oninput: later(() => this.load()) });
    const changed = () => this.load();
    this.outcome = select([["", "all"], ...SOURCES.map((name) => [name.toUpperCase(), name])], { onchange: changed });
    this.reason = select([["", "all"], ...Object.keys(REASONS)], { onchange: changed });
    this.limit = select(["50", "100", "200", "500"], { onchange: changed });
    this.failed = make("p", { class: "error-text", role: "alert" });
    this.table = new Table("Requests that ended last", [
      { label: "Time", show: (row) => make("button", { type: "button", class: "link", text: format.clock(row.time), "data-id": row.id }) },
      { label: "From", show: (row) => tag(row.outcome) },
      { label: "Why", show: (row) => (row.reason ? `${row.reason}: ${REASONS[row.reason] || ""}` : "–") },
      { label: "Status", number: true, show: (row) => String(row.status || "–") },
      { label: "Operation", show: (row) => row.operation.replace("REST.", "") },
      { label: "Object", class: "key", show: (row) => name(row.bucket ? `${row.bucket}/${row.key}` : row.request) },
      { label: "Sent", number: true, show: (row) => format.bytes(row.sent) },
      { label: "First byte", number: true, show: (row) => format.milliseconds(row.first_byte_ms) },
      { label: "Client", show: (row) => row.client },
    ], { empty: "No request fits.", key: (row) => row.id });
    this.table.body.addEventListener("click", (event) => {
      const row = this.table.items.find((each) => each.id === event.target.dataset.id);
      if (row) this.open(row);
    });
    this.inflight = new Table("Requests in flight", inflightColumns, { empty: "No request is being served.", small: true });
    root.append(
      make("div", { class: "tools" }, field("Search", this.search), field("From", this.outcome), field("Reason", this.reason), field("Rows", this.limit)),
      this.failed,
      make("div", { class: "grid" },
        panel("s12", "Requests that ended last", make("p", { class: "muted", text: "Of hits that are answered at once, only the last few are kept." }), this.table.element),
        panel("s12", "Requests in flight", this.inflight.element),
      ),
    );
    this.poll = new Poll(() => this.load(), () => 2000);
  },
  enter(query) {
    if (query.has("q")) this.search.value = query.get("q");
    this.poll.start();
  },
  leave() { this.poll.stop(); },
  tick(tick) { this.inflight.fill(tick.inflight.requests); },
  open(row) {
    const list = make("dl", { class: "facts" });
    const facts = [
      ["Arrived", format.clock(row.time, true)], ["Client", row.client], ["Request", row.request], ["Operation", row.operation],
      ["Bucket", row.bucket], ["Key", row.key], ["Status", `${row.status} ${row.error}`], ["From", row.outcome],
      ["Reason", row.reason ? `${row.reason}: ${REASONS[row.reason] || ""}` : "none"], ["Range", row.range],
      ["Sent", `${format.exact(row.sent)} bytes, ${format.exact(row.cached)} of them from the cache`],
      ["Object", row.size === null ? "" : `${format.exact(row.size)} bytes`],
      ["First byte", format.milliseconds(row.first_byte_ms)], ["Last byte", format.milliseconds(Math.max(row.total_ms ?? 0, row.first_byte_ms ?? 0))],
      ["S3 address", row.upstream], ["S3 answered after", row.upstream_ms === null ? "" : format.milliseconds(row.upstream_ms)],
      ["Waited for another's fetch", row.wait_ms === null ? "" : format.milliseconds(row.wait_ms)],
      ["Ending", row.ending], ["User agent", row.agent], ["Request id", row.id],
    ];
    for (const [name, value] of facts) if (value) list.append(make("dt", { text: name }), make("dd", { text: format.visible(value) }));
    feed.dispatchEvent(new CustomEvent("dialog", { detail: { title: "A request", content: [list] } }));
  },
  async load() {
    const parameters = new URLSearchParams({ q: this.search.value, outcome: this.outcome.value, reason: this.reason.value, limit: this.limit.value });
    try {
      this.table.fill((await ask(`requests?${parameters}`)).requests);
      say(this.failed, "");
    } catch (error) {
      say(this.failed, error.message);
    }
  },
};
