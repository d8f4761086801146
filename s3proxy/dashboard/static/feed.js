/** What the server tells: documents that are asked for, and the stream of events. */

export const feed = new EventTarget();
export const state = { hello: null, tick: null, series: null, range: "1h", paused: false, live: null, since: 0 };

let source = null;
let polling = 0;
let sleeping = 0;

/** fetch(), with an error that says what it means. */
async function reach(path, options) {
  try {
    return await fetch(`/api/v1/${path}`, options);
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error("The proxy does not answer.");
  }
}

export async function ask(path, signal) {
  const answer = await reach(path, { headers: { Accept: "application/json" }, signal });
  const document = await answer.json().catch(() => ({ error: `status ${answer.status}` }));
  if (!answer.ok) throw new Error(document.error || `status ${answer.status}`);
  return document.data;
}

export async function order(path, body) {
  const answer = await reach(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-S3Proxy": "1" },
    body: JSON.stringify(body),
  });
  const document = await answer.json().catch(() => ({ error: `status ${answer.status}` }));
  if (!answer.ok) throw new Error(document.error || `status ${answer.status}`);
  return document.data;
}

const emit = (name, detail) => feed.dispatchEvent(new CustomEvent(name, { detail }));

function alive(live) {
  if (state.live !== live) {
    state.live = live;
    state.since = Date.now() / 1000;
    emit("live", live);
  }
}

function took(tick) {
  state.tick = tick;
  if (!state.paused) emit("tick", tick);
}

export function connect() {
  disconnect();
  source = new EventSource("/api/v1/events");
  source.addEventListener("hello", (event) => {
    const hello = JSON.parse(event.data);
    const other = state.hello && state.hello.started_at !== hello.started_at;
    state.hello = hello;
    alive(true);
    stopPolling();
    emit("hello", hello);
    if (other || !state.series) loadSeries();
  });
  source.addEventListener("tick", (event) => took(JSON.parse(event.data)));
  source.addEventListener("row", (event) => append(JSON.parse(event.data)));
  source.addEventListener("log", (event) => emit("log", JSON.parse(event.data)));
  source.addEventListener("error", () => {
    alive(false);
    // As many pages as may be are listening, or the proxy is away: ask now and then, and try again.
    if (source && source.readyState === EventSource.CLOSED) startPolling();
  });
}

export function disconnect() {
  if (source) source.close();
  source = null;
  stopPolling();
}

function startPolling() {
  if (polling) return;
  let turns = 0;
  const turn = async () => {
    turns += 1;
    if (turns % 6 === 0) {
      connect();
      return;
    }
    try {
      const found = await ask("summary");
      if (!state.hello) {
        state.hello = found;
        emit("hello", found);
      }
      if (!state.series) loadSeries();
      took({ inflight: { requests: [], fills: [], more: 0 }, buckets: [], ...found });
    } catch {
      alive(false);
    }
  };
  polling = setInterval(turn, 1000 * (state.hello?.refresh ?? 5));
  turn();
}

function stopPolling() {
  clearInterval(polling);
  polling = 0;
}

let loading = null;

/** The curves of the range in force. */
export async function loadSeries() {
  loading?.abort();
  const mine = (loading = new AbortController());
  try {
    const document = await ask(`series?range=${state.range}`, mine.signal);
    const series = { step: document.step };
    document.names.forEach((name, at) => (series[name] = document.values[at]));
    state.series = series;
    emit("series", series);
  } catch (error) {
    if (error.name !== "AbortError") alive(false);
  }
}

function append(point) {
  const series = state.series;
  if (!series || state.range !== "1h" || !state.hello) return;
  const names = state.hello.names;
  const last = series.t.length - 1;
  // The last point may be the same interval, when it was not yet over.
  const replace = last >= 0 && series.t[last] === point[0];
  if (!replace && last >= 0 && point[0] - series.t[last] > 2.5 * series.step) {
    loadSeries();
    return;
  }
  names.forEach((name, at) => {
    if (replace) series[name][last] = point[at];
    else series[name].push(point[at]);
    if (series[name].length > 720) series[name].shift();
  });
  if (!state.paused) emit("series", series);
}

setInterval(() => {
  if (state.range !== "1h" && !state.paused && !document.hidden) loadSeries();
}, 60000);

document.addEventListener("visibilitychange", () => {
  clearTimeout(sleeping);
  if (document.hidden) {
    sleeping = setTimeout(disconnect, 5000);
  } else if (!source) {
    connect();
    loadSeries();
  }
});
