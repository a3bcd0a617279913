// Signals as they are committed, the newest first.

import { barLabel, element, listen, moment, number, signIn } from "./desk.js";

const MOST = 100;
const STATES = {
  live: "live", lost: "connection lost, trying again", refused: "sign in to see signals", waiting: "connecting",
};

export function row(signal, zone, own) {
  const { run, price, rule } = signal.details;
  const why = run
    ? element("a", { href: `/runs/${encodeURIComponent(run)}/notebook`, target: "_blank", "aria-label":
        `Why? The notebook that found the ${signal.signal_type} of ${signal.symbol} at ${signal.timestamp}` }, "why?")
    : element("span", { class: "muted", title: "found outside of a recorded run" }, "–");
  const told = signal.decided ? `decided ${moment(signal.decided, zone)}; yours: ${moment(signal.decided, own)}` : "";
  const chart = element("a", { href: `?page=chart&symbol=${encodeURIComponent(signal.symbol)}` }, signal.symbol);
  const outcome = signal.reason ? `${signal.state.toLowerCase()}: ${signal.reason}` : signal.state.toLowerCase();
  return element("tr", {},
    element("th", { scope: "row" }, chart),
    element("td", { class: signal.signal_type }, signal.signal_type),
    element("td", { class: "n" }, number(price)),
    element("td", { title: told }, barLabel(signal.timestamp, zone)),
    element("td", {}, rule ?? ""),
    element("td", { class: "wrap muted", title: told }, outcome),
    element("td", {}, why));
}

export function render({ model, el }) {
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const state = element("span", { class: "state small muted end", role: "status" }, STATES.waiting);
  const body = element("tbody"), empty = element("p", { class: "empty", hidden: true },
    "No signal yet. ", element("code", {}, "tradebot run nbs/pipelines/pipeline.ipynb"), " looks for some.");
  const news = element("p", { class: "small", role: "log", "aria-live": "polite", style: "position:absolute;clip-path:inset(50%)" });
  const heads = ["Symbol", "Side", "Price", "Bar", "Rule", "What became of it", "Notebook"];
  const table = element("table", {},
    element("caption", {}, "Signals, the newest first"),
    element("thead", {}, element("tr", {}, ...heads.map((head) =>
      element("th", { scope: "col", class: head === "Price" ? "n" : null }, head)))),
    body);
  el.append(
    element("div", { class: "bar" }, element("h2", {}, "Signals"), state),
    element("div", { class: "tall scroll", tabindex: 0, role: "region", "aria-label": "Signals" }, table), empty, news);
  let seen = 0;
  const add = (signals, arrived) => {
    for (const signal of signals) {
      if (signal.id <= seen) continue;
      seen = signal.id;
      const made = row(signal, model.zone, own);
      if (arrived) made.className = "new";
      body.prepend(made);
    }
    while (body.rows.length > MOST) body.deleteRow(-1);
    empty.hidden = body.rows.length > 0;
  };
  return listen({
    recent: (signals) => add(signals.toReversed(), false),
    signals: (signals) => {
      add(signals, true);
      news.textContent = signals.map((one) => `${one.signal_type} ${one.symbol} at ${number(one.details.price)}`).join(", ");
    },
    state: (kind) => {
      state.className = `state small muted end ${kind}`;
      if (kind === "refused") state.replaceChildren(element("a", { href: signIn() }, STATES.refused));
      else state.textContent = STATES[kind];
    },
  });
}
