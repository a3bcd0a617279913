// Equity against buy and hold, and the drawdown of both.

import * as lw from "./lightweight-charts.mjs";
import { element, frame, number, palette } from "./desk.js";

const NAMES = { strategy: "account", benchmark: "buy and hold" };

export function render({ model, el }) {
  const legend = element("div", { class: "legend" });
  const place = element("div", { class: "chart", role: "img", style: `height:${model.height - 40}px`,
    "aria-label": "Equity of the account and of buying and holding, and how far each is below its highest" });
  el.append(legend, place);
  const chart = lw.createChart(place, { autoSize: true }), series = [];
  const draw = () => {
    for (const old of series.splice(0)) chart.removeSeries(old.line);
    const colours = palette(el), { days, curves } = model.data;
    chart.applyOptions(frame(colours));
    for (const kind of ["benchmark", "strategy"].filter((kind) => curves[kind])) {
      const add = (pane, values, format) => {
        const line = chart.addSeries(lw.LineSeries, { color: colours[kind], lineWidth: 2, priceLineVisible: false,
          lastValueVisible: false, crosshairMarkerVisible: false, priceFormat: { type: "custom", formatter: format, minMove: 0.0001 } }, pane);
        line.setData(days.map((time, i) => ({ time, value: values[i] })));
        series.push({ line, kind, pane });
      };
      let high = model.data.capital;
      const falls = curves[kind].map((value) => value / (high = Math.max(high, value)) - 1);
      add(0, curves[kind], (value) => `$${number(value, 0)}`);
      add(1, falls, (value) => `${number(value * 100, 1)}%`);
    }
    chart.panes().forEach((pane, number) => pane.setStretchFactor(number ? 1 : 2.2));
    chart.timeScale().fitContent();
    tell(days.length - 1);
  };
  const tell = (at) => {
    const { days, curves } = model.data, i = Math.max(0, Math.min(Math.round(at), days.length - 1));
    const colours = palette(el);
    legend.replaceChildren(element("b", {}, days[i]), ...Object.keys(NAMES).filter((kind) => curves[kind]).map((kind) => {
      const key = element("span", { class: "key" }, `${NAMES[kind]} `, element("i", {}, `$${number(curves[kind][i], 0)}`));
      key.style.setProperty("--c", colours[kind]);
      return key;
    }));
  };
  chart.subscribeCrosshairMove((event) => tell(event.logical ?? model.data.days.length - 1));
  model.on("data", draw);
  model.on("dark", () => requestAnimationFrame(draw));
  draw();
  return () => chart.remove();
}
