/** Numbers, bytes, and times, as people read them. */

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const UNITS = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

export function count(value) {
  if (!known(value)) return "–";
  if (Math.abs(value) < 100000) return whole.format(value);
  const steps = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  const [size, unit] = steps.find(([each]) => Math.abs(value) >= each);
  return `${short.format(value / size)} ${unit}`;
}

export function exact(value) {
  return known(value) ? whole.format(value) : "–";
}

/** Units are powers of 1000, as S3 bills and networks count. */
export function bytes(value) {
  if (!known(value)) return "–";
  let unit = 0;
  while (Math.abs(value) >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? whole.format(value) : short.format(value)} ${UNITS[unit]}`;
}

export function rate(value) {
  return known(value) ? `${bytes(value)}/s` : "–";
}

export function perSecond(value) {
  if (!known(value)) return "–";
  return value >= 1000 ? count(Math.round(value)) : short.format(value);
}

export function percent(value) {
  return known(value) ? `${(100 * value).toFixed(1)} %` : "–";
}

/** Seconds, from microseconds to minutes. */
export function seconds(value) {
  if (!known(value)) return "–";
  if (value < 0.001) return `${short.format(value * 1e6)} µs`;
  if (value < 1) return `${short.format(value * 1000)} ms`;
  if (value < 120) return `${short.format(value)} s`;
  return span(value);
}

/** A setting: exact below a minute, where span() would round. */
export function duration(value) {
  if (!known(value)) return "–";
  if (value > 0 && value < 1) return `${short.format(value * 1000)} ms`;
  return value < 60 ? `${short.format(value)} s` : span(value);
}

export function milliseconds(value) {
  return known(value) ? seconds(value / 1000) : "–";
}

/** A long time, in its two largest units. */
export function span(value) {
  if (!known(value)) return "–";
  value = Math.max(0, Math.round(value));
  const units = [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"]];
  const at = units.findIndex(([size]) => value >= size);
  if (at < 0) return "0 s";
  const parts = [];
  for (const [size, unit] of units.slice(at, at + 2)) {
    const number = Math.floor(value / size);
    value -= number * size;
    if (number) parts.push(`${number} ${unit}`);
  }
  return parts.join(" ");
}

export function clock(unix, withDate = false) {
  if (!unix) return "–";
  const date = new Date(unix * 1000);
  const two = (number) => String(number).padStart(2, "0");
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return withDate ? `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${time}` : time;
}

export function ago(unix, now) {
  return unix ? `${span(now - unix)} ago` : "never";
}

export function plural(number, word) {
  return `${exact(number)} ${word}${number === 1 ? "" : "s"}`;
}

/** What would not be seen, or would change the place of what is beside it, is written out. */
export function visible(text) {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/gu,
    (mark) => `\\u{${mark.codePointAt(0).toString(16)}}`);
}

const LONGEST = 160;

/** A name that is too long for a table, without its middle. */
export function clip(text) {
  const shown = visible(text);
  if (shown.length <= LONGEST) return shown;
  const marks = [...shown];
  return marks.length <= LONGEST ? shown : `${marks.slice(0, 100).join("")} … ${marks.slice(-50).join("")}`;
}

export function dollars(value) {
  if (!known(value)) return "–";
  return value < 0.01 && value > 0 ? "< $0.01" : `$${value < 100 ? value.toFixed(2) : whole.format(value)}`;
}
