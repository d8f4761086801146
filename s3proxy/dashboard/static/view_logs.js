/** The application log, as it is written. */

import { Table, field, make, panel, say, select, tag } from "./dom.js";
import { ask, state } from "./feed.js";
import * as format from "./format.js";
import { Poll, later } from "./view_traffic.js";

const LEVELS = ["trace", "debug", "info", "warn", "error", "critical"];

export const logs = {
  build(root) {
    this.search = make("input", { type: "search", placeholder: "part of a line", oninput: later(() => this.load(), 300) });
    this.level = select([["trace", "all"], ["debug", "debug and up"], ["info", "info and up"], ["warn", "warnings and up"], ["error", "errors"]], { onchange: () => this.load() });
    this.limit = select(["100", "200", "500", "1000"], { onchange: () => this.load() });
    this.failed = make("p", { class: "error-text", role: "alert" });
    this.note = make("p", { class: "muted" });
    this.table = new Table("Lines", [
      { label: "Time", class: "nowrap", show: (row) => format.clock(row.time, true) },
      { label: "Level", show: (row) => tag(row.level) },
      { label: "Text", class: "line-text mono break", show: (row) => row.text },
      // worker-1 s3proxy.services.rules_source.RulesSource
      { label: "Source", class: "mono", show: (row) => make("span", { title: row.source, text: row.source.replace(/[^ ]*\./, "") }) },
    ], { empty: "No line fits.", key: (row) => row.number });
    root.append(
      make("div", { class: "tools" }, field("Search", this.search), field("Level", this.level), field("Rows", this.limit)),
      this.failed,
      make("div", { class: "grid" }, panel("s12", "Application log", this.note, this.table.element)),
    );
    this.poll = new Poll(() => this.load(), () => 1000 * (state.hello?.logs_refresh ?? 10));
  },
  enter(query) {
    if (query.has("q")) this.search.value = query.get("q");
    this.poll.start();
  },
  leave() { this.poll.stop(); },
  fits(line) {
    const text = this.search.value.toLowerCase();
    return LEVELS.indexOf(line.level) >= LEVELS.indexOf(this.level.value) && (!text || `${line.source} ${line.text}`.toLowerCase().includes(text));
  },
  /** New lines, newest first. */
  lines(found) {
    if (!this.poll.timer || state.paused) return;
    const known = new Set(this.table.items.map((each) => each.number));
    this.show([...found.filter((each) => !known.has(each.number) && this.fits(each)), ...this.table.items].slice(0, Number(this.limit.value)));
  },
  show(lines) {
    this.table.fill(lines);
    const bad = lines.filter((each) => LEVELS.indexOf(each.level) >= 3).length;
    say(this.note, `${lines.length} lines, ${bad} of them warnings or errors. The last 2,000 lines since the start are kept here; older ones are in the file.`);
  },
  async load() {
    const parameters = new URLSearchParams({ level: this.level.value, q: this.search.value, limit: this.limit.value });
    try {
      this.show((await ask(`logs?${parameters}`)).lines);
      say(this.failed, "");
    } catch (error) {
      say(this.failed, error.message);
    }
  },
};
