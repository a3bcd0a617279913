// What the dashboard's components share: asking the API, the stream of signals, words, and the theme.

export class Refused extends Error {}

export async function ask(path, options) {
  const answer = await fetch(path, { headers: { Accept: "application/json" }, ...options });
  if (answer.ok) return answer.json();
  const told = await answer.json().catch(() => ({}));
  if (answer.status === 401) throw new Refused("Sign in first.");
  throw new Error(told.message ?? `The server answered ${answer.status}.`);
}

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  made.append(...children);
  return made;
}

export const signIn = () => `/login?next=${encodeURIComponent(location.pathname + location.search)}`;

// The stream: one socket for the whole page, whatever number of components listen.

const listeners = new Set();
let socket = null, last = null, wait = 500, retry = 0;

function tell(kind, value) {
  for (const listener of listeners) listener[kind]?.(value);
}

async function connect() {
  socket = true;
  try {
    if (last === null) {
      const newest = await ask("/latest?n=200");
      last = newest.length ? newest[0].id : 0;
      tell("recent", newest);
    }
  } catch (error) {
    return again(error);
  }
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(`${scheme}//${location.host}/ws?last_id=${last}`);
  socket.onopen = () => { wait = 500; tell("state", "live"); };
  socket.onmessage = (event) => {
    const signals = JSON.parse(event.data).filter((signal) => signal.id > last);
    if (!signals.length) return;
    last = signals.at(-1).id;
    tell("signals", signals);
  };
  socket.onclose = (event) => {
    if (event.code === 4404) last = null;  // another store than before
    again(new Error("The connection is lost."));
  };
}

function again(error) {
  socket = null;
  if (!listeners.size) return;
  tell("state", error instanceof Refused ? "refused" : "lost");
  if (!(error instanceof Refused)) retry = setTimeout(connect, wait);
  wait = Math.min(wait * 2, 30000);
}

export function listen(listener) {
  listeners.add(listener);
  if (socket === null) connect();
  else if (last !== null)
    ask("/latest?n=200").then((newest) => { listener.recent?.(newest); listener.state?.("live"); }, () => {});
  return () => {
    listeners.delete(listener);
    if (listeners.size || socket === null) return;
    clearTimeout(retry);
    if (socket instanceof WebSocket) { socket.onclose = null; socket.close(); }
    socket = last = null;
  };
}

// Words

const figures = new Map();
export function number(value, digits = 2) {
  if (value === null || value === undefined || !Number.isFinite(+value)) return "–";
  if (!figures.has(digits))
    figures.set(digits, new Intl.NumberFormat("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  return figures.get(digits).format(value).replace("-", "−");
}

export const compact = (value) =>
  new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 }).format(value);

export function moment(text, zone) {
  return new Intl.DateTimeFormat("en-GB", {
    timeZone: zone, day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", timeZoneName: "short",
  }).format(new Date(text));
}

// Bars by label: a date for a session, seconds since 1970 for the bars within one.
export const barTime = (label) => (label.length === 10 ? label : Date.parse(label) / 1000);
export const barLabel = (label, zone) => (label.length === 10 ? label : moment(label, zone));

// Theme

export function palette(el) {
  const style = getComputedStyle(el);
  const value = (name) => style.getPropertyValue(name).trim();
  return Object.fromEntries(
    ["ink", "muted", "line", "gain", "loss", "strategy", "benchmark", "buys", "sells"].map((name) => [name, value(`--tb-${name}`)]));
}

export const COLOURS = ["#e08a00", "#3f87e5", "#9c5fd6", "#12a594", "#d6528b", "#8a8f2a"];

export function frame(colours) {
  return {
    layout: {
      background: { color: "transparent" }, textColor: colours.muted, fontSize: 12, attributionLogo: true,
      fontFamily: "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
      panes: { separatorColor: colours.line, separatorHoverColor: colours.line },
    },
    grid: { vertLines: { visible: false }, horzLines: { color: colours.line } },
    rightPriceScale: { borderVisible: false },
    timeScale: { borderVisible: false },
    crosshair: { mode: 0 },
  };
}
