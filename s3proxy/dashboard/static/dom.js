/** Elements and tables. Text is only ever set as text. */

import { clip, visible } from "./format.js";

export function make(name, attributes = {}, ...children) {
  const element = name === "svg" || name === "path" || name === "rect"
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "text") element.textContent = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** Changes the text only if it differs: what does not change is not announced or laid out anew. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function tag(word, shown = word) {
  return make("span", { class: `tag ${String(word).toLowerCase()}`, text: shown || "–" });
}

const LONGEST_TITLE = 1500;

/** A name that others have chosen; the whole of it is shown when it is pointed at. */
export function name(text, tagName = "span", attributes = {}) {
  const shown = clip(text);
  const title = shown === text ? null : visible(text).slice(0, LONGEST_TITLE);
  return make(tagName, { text: shown, title, ...attributes });
}

export function field(label, control) {
  return make("label", {}, label, control);
}

export function select(values, attributes = {}) {
  const element = make("select", attributes);
  for (const value of values) {
    const [word, shown] = Array.isArray(value) ? value : [value, value];
    element.append(make("option", { value: word, text: shown }));
  }
  return element;
}

let panels = 0;

export function panel(size, title, ...children) {
  panels += 1;
  const id = `panel-${panels}`;
  return make("section", { class: `panel ${size}`, "aria-labelledby": id }, make("h2", { id, text: title }), ...children);
}

/**
 * A table that keeps its rows: `columns` are {label, show, key?, value?, number?}, where `show` gives text or an
 * element, and `value`, where there is one, makes the column sortable.
 */
export class Table {
  constructor(caption, columns, { empty = "Nothing yet.", sort = null, small = false, key = null } = {}) {
    this.columns = columns;
    this.key = key;
    this.sort = sort;
    this.rows = new Map();
    this.items = [];
    this.head = make("tr");
    this.body = make("tbody");
    this.empty = make("p", { class: "empty", text: empty });
    this.table = make("table", { class: "data", "aria-label": caption }, make("thead", {}, this.head), this.body);
    this.element = make("div", { class: `scroll${small ? " small" : ""}`, tabindex: "0", role: "group", "aria-label": caption }, this.table, this.empty);
    for (const column of columns) {
      const cell = make("th", { scope: "col", class: column.number ? "num" : null });
      if (column.value) {
        cell.append(make("button", { type: "button", text: column.label, onclick: () => this.sortBy(column) }));
      } else {
        cell.textContent = column.label;
      }
      column.cell = cell;
      this.head.append(cell);
    }
    this.mark();
    this.fill([]);
  }

  sortBy(column) {
    const name = column.label;
    this.sort = this.sort && this.sort.name === name ? { name, down: !this.sort.down } : { name, down: Boolean(column.number) };
    this.mark();
    if (this.onsort) this.onsort(column, this.sort.down);
    else this.fill(this.items);
  }

  mark() {
    for (const column of this.columns) {
      if (this.sort && this.sort.name === column.label) {
        column.cell.setAttribute("aria-sort", this.sort.down ? "descending" : "ascending");
      } else {
        column.cell.removeAttribute("aria-sort");
      }
    }
  }

  fill(items) {
    this.items = items;
    const column = this.sort && !this.onsort && this.columns.find((each) => each.label === this.sort.name);
    if (column) {
      const down = this.sort.down ? -1 : 1;
      items = [...items].sort((a, b) => {
        const x = column.value(a), y = column.value(b);
        if (x === y) return 0;
        if (x === null || x === undefined) return 1;
        if (y === null || y === undefined) return -1;
        return (x < y ? -1 : 1) * down;
      });
    }
    const kept = new Map();
    let place = this.body.firstChild;
    items.forEach((item, number) => {
      let name = this.key ? this.key(item) : number;
      while (kept.has(name)) name += "\u0000";
      let row = this.rows.get(name);
      if (!row) {
        row = make("tr");
        for (const each of this.columns) {
          row.append(make("td", { class: [each.number && "num", each.class].filter(Boolean).join(" ") || null, "data-label": each.label }));
        }
      }
      this.columns.forEach((each, at) => {
        const cell = row.children[at];
        const shown = each.show(item);
        if (shown instanceof Node) {
          if (cell.signature !== shown.outerHTML || shown.fresh) {
            cell.replaceChildren(shown);
            cell.signature = shown.outerHTML;
          }
        } else {
          say(cell, String(shown ?? ""));
        }
      });
      kept.set(name, row);
      if (row === place) place = place.nextSibling;
      else this.body.insertBefore(row, place);
    });
    for (const [name, row] of this.rows) {
      if (kept.get(name) !== row) row.remove();
    }
    this.rows = kept;
    this.empty.hidden = items.length > 0;
    this.table.hidden = items.length === 0;
  }
}
