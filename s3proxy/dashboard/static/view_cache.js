/** What is cached: by folder or by search, one object with all that is known of it, and its removal. */

import { Chart, extents } from "./charts.js";
import { Table, field, make, name, panel, say } from "./dom.js";
import { ask, feed, order, state } from "./feed.js";
import * as format from "./format.js";
import { Poll, later } from "./view_traffic.js";

const PAGE = 100;

const show = (title, ...content) => feed.dispatchEvent(new CustomEvent("dialog", { detail: { title, content } }));
const close = () => feed.dispatchEvent(new Event("dialog-close"));

export const cache = {
  build(root) {
    this.prefix = "";
    this.offset = 0;
    this.order = "name";
    this.search = make("input", { type: "search", placeholder: "part of bucket/key, or a glob with *", oninput: later(() => { this.offset = 0; this.load(); }) });
    this.crumbs = make("nav", { class: "crumbs", "aria-label": "Folder" });
    this.count = make("p", { class: "muted", role: "status" });
    this.failed = make("p", { class: "error-text", role: "alert" });
    this.purge = make("button", { type: "button", class: "danger", text: "Remove all that fit…", onclick: () => this.purgeAll(), hidden: true });
    this.table = new Table("Objects in the cache", [
      { label: "Name", class: "key", value: () => 0, order: "name", show: (row) => (row.folder !== undefined
        ? name(row.folder, "button", { type: "button", class: "link", "data-folder": row.folder })
        : name(this.prefix && !this.search.value ? `${row.bucket}/${row.key}`.slice(this.prefix.length) || row.key : `${row.bucket}/${row.key}`, "button", { type: "button", class: "link", "data-ref": row.ref })) },
      { label: "Size", number: true, value: () => 0, order: "size", show: (row) => format.bytes(row.size) },
      { label: "Cached", number: true, show: (row) => (row.folder !== undefined ? format.plural(row.objects, "object") : row.size ? format.percent(Math.min(1, row.held / row.size)) : "whole") },
      { label: "Ranges", number: true, show: (row) => (row.folder !== undefined ? "" : format.exact(row.ranges)) },
      { label: "Confirmed", value: () => 0, order: "age", show: (row) => (row.folder !== undefined ? "" : row.validated ? format.ago(row.validated, Date.now() / 1000) : "not yet") },
      { label: "Asks S3 again", show: (row) => {
        if (row.folder !== undefined) return "";
        if (!row.expires) return "at the next read";
        const left = row.expires - Date.now() / 1000;
        return left > 0 ? `in ${format.span(left)}` : "at the next read";
      } },
    ], { empty: "Nothing that fits is cached.", sort: { name: "Name", down: false }, key: (row) => row.ref ?? row.folder });
    this.table.onsort = (column, down) => {
      this.order = `${down ? "-" : ""}${column.order}`;
      this.load();
    };
    this.table.body.addEventListener("click", (event) => {
      const { folder, ref } = event.target.dataset;
      if (folder !== undefined) this.go(this.prefix + folder);
      else if (ref !== undefined) this.inspect(ref);
    });
    this.earlier = make("button", { type: "button", text: "Earlier", onclick: () => { this.offset = Math.max(0, this.offset - PAGE); this.load(); } });
    this.further = make("button", { type: "button", text: "Further", onclick: () => { this.offset += PAGE; this.load(); } });
    this.size = new Chart({
      label: "Bytes in the cache",
      show: format.bytes,
      least: 1000,
      curves: [
        { name: "disk_bytes", label: "disk", colour: "hit", fill: true },
        { name: "ram_bytes", label: "RAM", colour: "revalidated", dash: [6, 3] },
      ],
    });
    this.churn = new Chart({
      label: "Bytes kept and evicted per second",
      show: format.rate,
      least: 1000,
      curves: [
        { name: "filled", label: "kept", colour: "hit" },
        { name: "evicted", label: "evicted", colour: "error", dash: [6, 3] },
      ],
    });
    root.append(
      make("div", { class: "tools" }, field("Search", this.search), this.purge),
      this.failed,
      make("div", { class: "grid" },
        panel("s12", "Objects", this.crumbs, this.count, this.table.element, make("div", { class: "tools" }, this.earlier, this.further)),
        panel("s6", "Bytes in the cache", this.size.whole),
        panel("s6", "Kept and evicted", this.churn.whole),
      ),
    );
    this.poll = new Poll(() => this.load(), () => 1000 * (state.hello?.refresh ?? 5));
  },
  hello(hello) { this.allowed = hello.allow_purge; },
  enter(query) {
    if (query.has("prefix")) this.prefix = query.get("prefix");
    if (query.has("q")) this.search.value = query.get("q");
    this.offset = 0;
    this.poll.start();
  },
  leave() { this.poll.stop(); },
  series(series) {
    this.size.update(series);
    this.churn.update(series);
  },
  go(prefix) {
    this.offset = 0;
    const wanted = `#cache?prefix=${encodeURIComponent(prefix)}`;
    if (location.hash === wanted) this.load();
    else location.hash = wanted;
  },
  async load() {
    const text = this.search.value;
    const parameters = new URLSearchParams({ prefix: this.prefix, q: text, sort: this.order, offset: this.offset, limit: PAGE, folders: text ? "0" : "1" });
    const number = (this.asked = (this.asked || 0) + 1);
    let found;
    try {
      found = await ask(`cache/objects?${parameters}`);
    } catch (error) {
      say(this.failed, error.message);
      return;
    }
    if (number !== this.asked) return;
    say(this.failed, "");
    this.total = found.total;
    const folders = this.offset === 0 ? found.folders.map((each) => ({ ...each })) : [];
    this.table.fill([...folders, ...found.objects]);
    const looking = found.progress < 1 ? ` Still looking through the directory: ${Math.round(100 * found.progress)} %.` : "";
    say(this.count, `${format.plural(found.total, "object")} found, ${format.bytes(found.size)} at S3.${looking}`);
    say(this.table.empty, looking ? "None found so far." : "Nothing that fits is cached.");
    this.earlier.hidden = this.offset === 0;
    this.further.hidden = this.offset + PAGE >= found.total || found.objects.length < PAGE;
    this.purge.hidden = !this.allowed || found.total === 0 || !this.target();
    this.draw();
    if (found.progress < 1) {
      clearTimeout(this.soon);
      this.soon = setTimeout(() => { if (this.poll.timer) this.load(); }, 700);
    }
  },
  draw() {
    const parts = this.prefix.split("/");
    const links = [make("button", { type: "button", class: "link", text: "all buckets", onclick: () => this.go("") })];
    parts.slice(0, -1).forEach((part, at) => {
      const prefix = `${parts.slice(0, at + 1).join("/")}/`;
      links.push(make("span", { text: "›", "aria-hidden": "true" }), name(part, "button", { type: "button", class: "link", onclick: () => this.go(prefix) }));
    });
    const signature = this.prefix;
    if (this.drawn !== signature) this.crumbs.replaceChildren(...links);
    this.drawn = signature;
  },
  /** What the button would remove: never more than one bucket's names, never by an inexact search. */
  target() {
    const text = this.search.value;
    if (!text) return this.prefix.includes("/") ? { prefix: this.prefix } : null;
    return /[*?]/.test(text) && text.includes("/") ? { glob: text } : null;
  },
  async purgeAll() {
    const target = this.target();
    const what = target.prefix ?? target.glob;
    const status = make("p", { role: "status", text: "Counting…" });
    show("Remove from the cache", status);
    let found;
    try {
      found = await order("cache/purge", { ...target, dry_run: true });
    } catch (error) {
      say(status, error.message);
      return;
    }
    const input = make("input", { type: "text", autocomplete: "off", oninput: () => { go.disabled = input.value !== String(found.objects); } });
    const go = make("button", { type: "button", class: "danger", text: "Remove", disabled: true, onclick: async () => {
      go.disabled = true;
      try {
        const done = await order("cache/purge", target);
        say(status, `${format.plural(done.purged, "object")} removed.`);
        this.load();
      } catch (error) {
        say(status, error.message);
      }
    } });
    say(status, `${format.plural(found.objects, "object")} to be removed: ${format.visible(what)}. At S3 nothing changes; the next read of each fetches it again.`);
    show("Remove from the cache", status, make("div", { class: "tools" }, field(`Type ${found.objects} to go on`, input), go));
  },
  async inspect(ref) {
    let found;
    try {
      found = await ask(`cache/object?${ref}`);
    } catch (error) {
      show("An object", make("p", { text: error.message }));
      return;
    }
    const facts = make("dl", { class: "facts" });
    const rows = [
      ["Store", found.store], ["Size", `${format.exact(found.size)} bytes`],
      ["Cached", `${format.exact(found.held)} bytes in ${format.plural(found.ranges, "range")}, ${found.form}${found.in_memory ? ", described in memory" : ""}`],
      ["Next read", found.next_read], ["Confirmed", found.validated ? format.clock(found.validated, true) : "not yet"],
      ["Asks S3 again", found.expires ? format.clock(found.expires, true) : "at the next read"],
      ["TTL", `${format.duration(found.get_ttl)} for GET, ${format.duration(found.head_ttl)} for HEAD`], ["Rule", found.rule || "none fits: the configuration's settings"], ["ETag", found.etag],
    ];
    for (const [name, value] of rows) facts.append(make("dt", { text: name }), make("dd", { text: format.visible(String(value)) }));
    const headers = make("dl", { class: "facts mono" });
    for (const [name, value] of found.headers) headers.append(make("dt", { text: name }), make("dd", { text: format.visible(value) }));
    const ranges = make("ul", {});
    for (const each of found.extents.slice(0, 200)) ranges.append(make("li", { class: "num", text: `${format.exact(each.start)} – ${format.exact(each.stop)} (${format.bytes(each.stop - each.start)}), stored ${format.clock(each.written, true)}` }));
    const status = make("span", { role: "status" });
    const actions = make("div", { class: "tools" }, make("a", { href: `#requests?q=${encodeURIComponent(`${found.bucket}/${found.key}`)}`, text: "Its last requests", onclick: close }));
    if (this.allowed) {
      const button = make("button", { type: "button", class: "danger", text: "Remove from the cache", onclick: async () => {
        if (!button.sure) {
          button.sure = true;
          say(button, "Remove: sure?");
          return;
        }
        button.disabled = true;
        try {
          await order("cache/purge", { ref });
          say(status, "Removed. The next read fetches it again.");
          this.load();
        } catch (error) {
          say(status, error.message);
        }
      } });
      actions.append(button);
    }
    actions.append(status);
    const content = [facts, make("h3", { text: "Stored ranges" })];
    if (found.size) content.push(extents(found.size, found.extents));
    content.push(make("details", {}, make("summary", { text: "List" }), ranges), make("h3", { text: "Header fields" }), headers, actions);
    show(format.visible(`${found.bucket}/${found.key}`), ...content);
  },
};
