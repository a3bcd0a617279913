// Candles, volume, stored indicators and signals of one symbol.

import * as lw from "./lightweight-charts.mjs";
import { ask, barLabel, barTime, COLOURS, compact, element, frame, listen, moment, number, palette, Refused, signIn } from "./desk.js";

const FIRST = 1500, OLDER = 5000;
const OWN_PANE = /^(rsi|macd|atr|natr|adx|dm|cci|stoch|willr|mfi|roc|mom|obv|ppo|tsi|uo|cmf|cmo|aroon|zscore|stdev|variance|er|slope)/i;
const family = (name) => name.replace(/_(signal|hist|upper|middle|lower|up|down|event)$/, "");

// An indicator lies over the prices if it is of their size and no known oscillator.
function overlays(name, features, closes) {
  if (OWN_PANE.test(name)) return false;
  const ratios = features.map((one) => one.values[name] / closes.get(one.timestamp)).filter(Number.isFinite).sort((a, b) => a - b);
  const middle = ratios[ratios.length >> 1];
  return middle > 0.5 && middle < 2;
}

async function everySignal(symbol) {
  const found = [];
  for (let after = 0; after !== null;) {
    const page = await ask(`/signals?symbol=${encodeURIComponent(symbol)}&after_id=${after}&limit=1000`);
    found.push(...page.items);
    after = page.next_id;
  }
  return found;
}

class Chart {
  constructor(model, place, legend) {
    Object.assign(this, { model, place, legend, bars: [], features: [], signals: [], lines: new Map() });
    this.chart = lw.createChart(place, { autoSize: true });
    this.candles = this.chart.addSeries(lw.CandlestickSeries, { borderVisible: false });
    this.volume = this.chart.addSeries(lw.HistogramSeries,
      { priceFormat: { type: "volume" }, priceScaleId: "volume", lastValueVisible: false, priceLineVisible: false });
    this.chart.priceScale("volume").applyOptions({ scaleMargins: { top: 0.84, bottom: 0 } });
    this.candles.priceScale().applyOptions({ scaleMargins: { top: 0.06, bottom: 0.18 } });
    this.marks = lw.createSeriesMarkers(this.candles, []);
    this.chart.subscribeCrosshairMove((event) => this.tell(event.logical ?? this.bars.length - 1));
    this.chart.timeScale().subscribeVisibleLogicalRangeChange((range) => { if (range && range.from < 40) this.older(); });
    const zone = model.zone;
    this.chart.applyOptions({ localization: { timeFormatter: (time) =>
      typeof time === "number" ? moment(time * 1000, zone) : typeof time === "string" ? time : `${time.year}-${time.month}-${time.day}` } });
    this.dress();
  }

  dress() {
    const colours = this.colours = palette(this.place);
    this.chart.applyOptions(frame(colours));
    this.candles.applyOptions({ upColor: colours.gain, downColor: colours.loss, wickUpColor: colours.gain, wickDownColor: colours.loss });
    if (this.bars.length) { this.drawVolume(); this.mark(); }
  }

  async open(symbol) {
    this.symbol = symbol;
    this.place.setAttribute("aria-label", `Chart of ${symbol}: candles, volume, indicators and signals`);
    const bars = await ask(`/prices/${encodeURIComponent(symbol)}?limit=${FIRST}`);
    if (symbol !== this.symbol) return;
    [this.bars, this.previous, this.features, this.signals] = [bars.items, bars.previous, [], []];
    this.draw();
    this.chart.timeScale().setVisibleLogicalRange({ from: this.bars.length - 180, to: this.bars.length + 4 });
    const [features, signals] = await Promise.all([this.indicators(symbol), everySignal(symbol)]);
    if (symbol !== this.symbol) return;
    [this.features, this.signals] = [features, signals];
    this.draw();
  }

  async indicators(symbol, before = "") {
    try {
      return (await ask(`/indicators/${encodeURIComponent(symbol)}?limit=${before ? OLDER : FIRST}${before}`)).items;
    } catch (error) {
      if (error instanceof Refused) throw error;
      return [];  // none are stored
    }
  }

  async older() {
    if (!this.previous || this.loading) return;
    this.loading = true;
    try {
      const symbol = this.symbol, before = `&before=${this.previous}`;
      const [bars, features] = await Promise.all(
        [ask(`/prices/${encodeURIComponent(symbol)}?limit=${OLDER}${before}`), this.indicators(symbol, before)]);
      if (symbol !== this.symbol) return;
      this.previous = bars.previous;
      const range = this.chart.timeScale().getVisibleLogicalRange(), added = bars.items.length;
      this.bars = [...bars.items, ...this.bars];
      this.features = [...features, ...this.features];
      this.draw();
      this.chart.timeScale().setVisibleLogicalRange({ from: range.from + added, to: range.to + added });
    } catch (error) {
      this.previous = null;
      throw error;
    } finally {
      this.loading = false;
    }
  }

  // New bars appear by themselves; a repaired history is loaded again with the page.
  async newer() {
    if (!this.bars.length || this.loading) return;
    const symbol = this.symbol, last = this.bars.at(-1).timestamp;
    const { items } = await ask(`/prices/${encodeURIComponent(symbol)}?limit=20`);
    if (symbol !== this.symbol) return;
    const fresh = items.filter((bar) => bar.timestamp >= last);
    if (JSON.stringify(fresh) === JSON.stringify(this.bars.slice(-1))) return;
    const { items: features } = await ask(`/indicators/${encodeURIComponent(symbol)}?limit=20`).catch(() => ({ items: [] }));
    if (symbol !== this.symbol) return;
    this.bars = [...this.bars.slice(0, -1), ...fresh];
    this.features = [...this.features.filter((one) => one.timestamp < last), ...features.filter((one) => one.timestamp >= last)];
    this.draw();
  }

  draw() {
    this.times = this.bars.map((bar) => barTime(bar.timestamp));
    this.candles.setData(this.bars.map((bar, i) => ({ time: this.times[i], open: bar.open, high: bar.high, low: bar.low, close: bar.close })));
    this.values = new Map(this.features.map((one) => [one.timestamp, one.values]));
    this.drawVolume();
    this.drawIndicators();
    this.mark();
    this.tell(this.bars.length - 1);
  }

  drawVolume() {
    const { gain, loss } = this.colours;
    this.volume.setData(this.bars.map((bar, i) => ({ time: this.times[i], value: bar.volume, color: (bar.close >= bar.open ? gain : loss) + "55" })));
  }

  drawIndicators() {
    const names = this.features.length ? Object.keys(this.features.at(-1).values) : [];
    for (const [name, line] of this.lines) if (!names.includes(name)) { this.chart.removeSeries(line); this.lines.delete(name); }
    const closes = new Map(this.bars.map((bar) => [bar.timestamp, bar.close])), panes = new Map();
    names.forEach((name, place) => {
      const over = overlays(name, this.features, closes), group = family(name);
      if (!over && !panes.has(group)) panes.set(group, panes.size + 1);
      if (!this.lines.has(name)) this.lines.set(name, this.line(name, place, over ? 0 : panes.get(group)));
      this.lines.get(name).setData(this.bars.flatMap((bar, i) => {
        const value = this.values.get(bar.timestamp)?.[name];
        return value === null || value === undefined ? [{ time: this.times[i] }] : [{ time: this.times[i], value }];
      }));
    });
    this.chart.panes().forEach((pane, place) => pane.setStretchFactor(place ? 1 : 3.6));
  }

  line(name, place, pane) {
    const bars = name.endsWith("_hist"), color = COLOURS[place % COLOURS.length];
    const line = this.chart.addSeries(bars ? lw.HistogramSeries : lw.LineSeries,
      { color, lineWidth: 1.5, priceLineVisible: false, lastValueVisible: pane > 0, crosshairMarkerVisible: false }, pane);
    if (/^rsi/.test(name))
      for (const price of [30, 70]) line.createPriceLine({ price, color, lineWidth: 1, lineStyle: 3, axisLabelVisible: false });
    line.colour = color;
    return line;
  }

  mark() {
    const first = this.bars[0]?.timestamp ?? "", { buys, sells } = this.colours;
    this.marks.setMarkers(this.signals.filter((one) => one.timestamp >= first).sort((a, b) => (a.timestamp < b.timestamp ? -1 : 1))
      .map((one) => one.signal_type === "buy"
        ? { time: barTime(one.timestamp), position: "belowBar", shape: "arrowUp", color: buys }
        : { time: barTime(one.timestamp), position: "aboveBar", shape: "arrowDown", color: sells }));
  }

  tell(place) {
    const bar = this.bars[Math.max(0, Math.min(Math.round(place), this.bars.length - 1))];
    if (!bar) return;
    const part = (name, value) => element("span", {}, `${name} `, element("i", {}, value));
    const parts = [element("b", {}, `${this.symbol} ${barLabel(bar.timestamp, this.model.zone)}`),
      ...["open", "high", "low", "close"].map((name) => part(name, number(bar[name]))), part("volume", compact(bar.volume))];
    for (const [name, line] of this.lines) {
      const told = part(name, number(this.values.get(bar.timestamp)?.[name] ?? null));
      told.className = "key";
      told.style.setProperty("--c", line.colour);
      parts.push(told);
    }
    const signals = this.signals.filter((one) => one.timestamp === bar.timestamp);
    parts.push(...signals.map((one) => element("span", { class: one.signal_type }, `${one.signal_type}: ${one.details.rule ?? one.strategy}`)));
    this.legend.replaceChildren(...parts);
  }
}

export function render({ model, el }) {
  const legend = element("div", { class: "legend" }), problem = element("p", { class: "problem", role: "alert" });
  const place = element("div", { class: "chart", role: "img", style: `height:${model.height - 60}px` });
  el.append(problem, legend, place);
  const chart = new Chart(model, place, legend);
  const told = async (work) => {
    try { await work; problem.replaceChildren(); place.dataset.ready = chart.symbol; } catch (error) {
      problem.replaceChildren(error instanceof Refused ? element("a", { href: signIn() }, "Sign in to see prices.") : error.message);
    }
  };
  told(chart.open(model.symbol));
  model.on("symbol", () => told(chart.open(model.symbol)));
  model.on("dark", () => requestAnimationFrame(() => chart.dress()));
  const timer = setInterval(() => { if (!document.hidden) told(chart.newer()); }, model.every * 1000);
  const deaf = listen({ signals: (signals) => {
    const own = signals.filter((one) => one.symbol === chart.symbol);
    if (own.length) { chart.signals.push(...own); told(chart.newer()); chart.mark(); }
  } });
  place.chart = chart.chart;
  return () => { clearInterval(timer); deaf(); chart.chart.remove(); };
}
