/** S3's addresses, the instances on the directory, the rules. */

import { Chart } from "./charts.js";
import { Table, field, make, name, panel, say, tag } from "./dom.js";
import { ask, state } from "./feed.js";
import * as format from "./format.js";
import { Poll, later } from "./view_traffic.js";

const every = () => 1000 * (state.hello?.refresh ?? 5);

/** What has happened since the start, in words. */
const COUNTERS = {
  requests_waited: "requests that waited for a connection", requests_refused: "of these, got none",
  lookups: "names looked up", lookup_failures: "of these, without an answer", exclusions: "addresses left out",
  connections_opened: "connections made", connections_reused: "requests on a kept connection",
  tls_resumed: "TLS sessions taken up", connect_failures: "connections that failed", attempts: "requests sent",
  retries: "of these, sent again", failures: "requests not answered",
};

export const upstream = {
  build(root) {
    this.failed = make("p", { class: "error-text", role: "alert" });
    this.table = new Table("Addresses of S3", [
      { label: "Host", class: "key", value: (row) => row.host, show: (row) => name(row.host) },
      { label: "Address", value: (row) => row.address, show: (row) => row.address },
      { label: "State", value: (row) => row.state, show: (row) => make("span", {}, tag(row.state), row.seconds === undefined ? "" : ` for ${format.span(row.seconds)}, tried again in ${format.span(row.next_probe_seconds)}`) },
      { label: "Answers", number: true, value: (row) => row.requests, show: (row) => format.count(row.requests) },
      { label: "Mean time", number: true, value: (row) => row.mean_ms, show: (row) => format.milliseconds(row.mean_ms) },
      { label: "Errors", number: true, value: (row) => row.errors, show: (row) => format.count(row.errors) },
      { label: "Received", number: true, value: (row) => row.received, show: (row) => format.bytes(row.received) },
      { label: "Last answer", value: (row) => row.last, show: (row) => format.ago(row.last, Date.now() / 1000) },
    ], { empty: "S3 has not been asked yet.", key: (row) => `${row.host} ${row.address}` });
    this.hosts = new Table("Connections", [
      { label: "Host", class: "key", show: (row) => name(row.host) },
      { label: "Addresses", number: true, show: (row) => format.exact(row.addresses.length) },
      { label: "In use", number: true, show: (row) => format.exact(row.active) },
      { label: "Idle", number: true, show: (row) => format.exact(row.idle) },
    ], { empty: "No connection is open.", small: true });
    this.facts = make("dl", { class: "facts twice" });
    this.latency = new Chart({
      label: "Time to S3's first byte",
      log: true,
      show: format.seconds,
      curves: [
        { name: "first_byte_s3_p50", label: "p50", colour: "p50" },
        { name: "first_byte_s3_p90", label: "p90", colour: "p90", dash: [6, 3] },
        { name: "first_byte_s3_p99", label: "p99", colour: "p99", dash: [3, 3] },
      ],
    });
    this.errors = new Chart({
      label: "Requests that S3 did not answer, per second",
      show: format.perSecond,
      curves: [{ name: "upstream_errors", label: "not answered", colour: "error" }],
    });
    root.append(this.failed, make("div", { class: "grid" },
      panel("s12", "Addresses", this.table.element),
      panel("s6", "Connections", (this.now = make("p", { class: "muted" })), this.hosts.element),
      panel("s6", "Since the start", this.facts),
      panel("s6", "Time to S3's first byte", this.latency.whole),
      panel("s6", "Not answered", this.errors.whole),
    ));
    this.poll = new Poll(() => this.load(), every);
  },
  enter() { this.poll.start(); },
  leave() { this.poll.stop(); },
  series(series) {
    this.latency.update(series);
    this.errors.update(series);
  },
  async load() {
    try {
      const found = await ask("upstreams");
      const rows = found.hosts.flatMap((host) => host.addresses.map((each) => ({ host: host.host, ...each })));
      this.table.fill([...rows, ...found.former.map((each) => ({ host: "(no longer resolved)", ...each }))]);
      this.hosts.fill(found.hosts);
      const { connections_in_use: used, connections_limit: limit, requests_waiting: waiting, ...counters } = found.counters;
      say(this.now, `${format.exact(used)} of ${limit ? format.exact(limit) : "any number of"} connections are in use, ${format.plural(waiting, "request")} wait${waiting === 1 ? "s" : ""} for one.`);
      const words = Object.entries(counters).flatMap(([word, value]) => [COUNTERS[word] ?? word.replaceAll("_", " "), format.exact(value)]);
      if (this.words !== words.join("\n")) {
        this.words = words.join("\n");
        this.facts.replaceChildren(...words.map((text, at) => make(at % 2 ? "dd" : "dt", { text })));
      }
      say(this.failed, "");
    } catch (error) {
      say(this.failed, error.message);
    }
  },
};

export const instances = {
  build(root) {
    this.failed = make("p", { class: "error-text", role: "alert" });
    const card = (name, shown) => (row) => (row.card[name] === undefined ? "–" : shown(row.card[name]));
    this.table = new Table("Instances", [
      { label: "Instance", show: (row) => `${row.card.instance_id ?? row.instance}${row.own ? " (this one)" : ""}` },
      { label: "State", show: (row) => (row.alive ? tag(row.card.health ?? "alive") : tag("gone")) },
      { label: "Host", show: card("hostname", String) },
      { label: "Version", show: card("version", (value) => (state.hello && value !== state.hello.version ? `${value} (differs)` : value)) },
      { label: "Up", number: true, show: (row) => (row.card.started_at ? format.span(this.now - row.card.started_at) : "–") },
      { label: "Last sign", number: true, show: (row) => format.ago(row.beat, this.now) },
      { label: "Requests/s", number: true, show: card("requests_per_second", format.perSecond) },
      { label: "Hit rate", number: true, show: card("hit_rate", format.percent) },
      { label: "To clients", number: true, show: card("sent_per_second", format.rate) },
      { label: "From S3", number: true, show: card("from_s3_per_second", format.rate) },
      { label: "RAM", number: true, show: card("ram_bytes", format.bytes) },
    ], { key: (row) => row.instance });
    this.totals = make("p", { class: "muted" });
    root.append(this.failed, make("div", { class: "grid" },
      panel("s12", "Instances on this cache directory", this.totals, this.table.element)));
    this.poll = new Poll(() => this.load(), every);
    this.now = Date.now() / 1000;
  },
  enter() { this.poll.start(); },
  leave() { this.poll.stop(); },
  async load() {
    try {
      const found = await ask("instances");
      this.now = found.now;
      this.table.fill(found.instances);
      const alive = found.instances.filter((each) => each.alive);
      const sum = (name) => alive.reduce((total, each) => total + (each.card[name] ?? 0), 0);
      say(this.totals, `${alive.length} alive; together ${format.perSecond(sum("requests_per_second"))} requests/s, ${format.rate(sum("sent_per_second"))} to clients, ${format.rate(sum("from_s3_per_second"))} from S3.`);
      say(this.failed, "");
    } catch (error) {
      say(this.failed, error.message);
    }
  },
};

export const rules = {
  build(root) {
    this.failed = make("p", { class: "error-text", role: "alert" });
    this.note = make("p", { class: "muted" });
    this.problems = make("ul", { class: "error-text" });
    this.table = new Table("Rules", [
      { label: "No.", number: true, show: (row) => String(row.number) },
      { label: "Pattern", class: "key mono", show: (row) => name(row.pattern) },
      { label: "Settings", show: (row) => this.settings(row.settings) },
      { label: "Requests", number: true, show: (row) => (row.requests === null ? "–" : format.count(row.requests)) },
      { label: "Hit rate", number: true, show: (row) => format.percent(row.hit_rate) },
    ], { empty: "There are no rules: the configuration's settings hold for every object." });
    this.name = make("input", { type: "search", placeholder: "bucket/key", oninput: later(() => this.match()) });
    this.answer = make("div", { role: "status" });
    root.append(this.failed, make("div", { class: "grid" },
      panel("s8", "Rules in force", this.note, this.problems, this.table.element),
      panel("s4", "Which rule applies?", make("div", { class: "tools" }, field("Object", this.name)), this.answer),
    ));
    this.poll = new Poll(() => this.load(), every);
    this.durations = new Set();
  },
  settings(values) {
    return Object.entries(values).map(([word, value]) => `${word} ${this.durations.has(word) ? format.duration(value) : value}`).join(", ");
  },
  enter() { this.poll.start(); },
  leave() { this.poll.stop(); },
  async load() {
    try {
      const found = await ask("rules");
      this.durations = new Set(found.durations);
      this.table.fill(found.rules.map((each, at) => ({ number: at + 1, ...each })));
      say(this.note, `${found.file}${found.message ? `: ${found.message}` : "."} Each setting is that of the first rule that fits and says something about it. Requests are counted at the first rule that fits, by its place, since the start.`);
      this.problems.replaceChildren(...found.problems.map((text) => make("li", { text })));
      say(this.failed, "");
    } catch (error) {
      say(this.failed, error.message);
    }
  },
  async match() {
    if (!this.name.value) {
      this.answer.replaceChildren();
      return;
    }
    try {
      const found = await ask(`rules/match?name=${encodeURIComponent(this.name.value)}`);
      const list = make("dl", { class: "facts" });
      for (const [word, value] of Object.entries(found.settings)) {
        list.append(make("dt", { text: word }), make("dd", { text: this.durations.has(word) ? format.duration(value) : String(value ?? "as configured") }));
      }
      this.answer.replaceChildren(
        make("p", { text: found.fitting.length ? `Rules that fit: ${found.fitting.join(", ")}; the first is ${found.first}.` : "No rule fits." }), list);
    } catch (error) {
      this.answer.replaceChildren(make("p", { class: "error-text", text: error.message }));
    }
  },
};
