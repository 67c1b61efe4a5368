// Health of the service: readiness and its warnings, and the series that an operator looks at first.

import { ask, askText } from "./api.js";
import { h, number, problem, table } from "./dom.js";

const EVERY_MS = 15000;

export async function health({ room, signal, fail }) {
  let first = true;
  const ready = h("div"), series = h("div");
  room.append(h("h1", {}, "Health"), ready, h("h2", {}, "Series"), series);
  const look = async () => {
    try {
      const found = await ask("readyz", { signal });
      ready.replaceChildren(h("p", { class: "normal" }, "Ready: a reading sent now would be scored."),
        ...(found.warnings ?? []).map((warning) => h("p", { class: "error" }, warning)));
    } catch (error) {
      if (signal.aborted) return;
      ready.replaceChildren(problem(error));
    }
    try {
      const rows = parsed(await askText("metrics", { signal }));
      series.replaceChildren(table("Series", [
        { name: "Value", number: true, of: (one) => number(one.value, 6) },
        { name: "What", of: (one) => one.help }, { name: "Labels", kind: "labels", of: (one) => one.labels },
      ], rows));
    } catch (error) {
      if (signal.aborted) return;
      if (!series.querySelector("tbody")) series.replaceChildren(problem(error)); // what is there stays: the header says that it is old
      if (error.status === 401 && first) fail(error);
    }
    first = false;
  };
  await look();
  const timer = setInterval(() => { if (!document.hidden) look(); }, EVERY_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
}

// Of the exposition format the counters and gauges of this service; buckets of histograms are for Prometheus.
function parsed(text) {
  const helps = new Map(), rows = [];
  for (const line of text.split("\n")) {
    const help = /^# HELP (\S+) (.*)$/.exec(line);
    if (help) helps.set(help[1], help[2]);
    const sample = /^(gatewatch_\w+?)(\{.*\})? (\S+)$/.exec(line);
    if (!sample || /_(bucket|created|sum)$/.test(sample[1])) continue;
    rows.push({ help: helps.get(sample[1]) ?? helps.get(sample[1].replace(/_(total|count)$/, "")) ?? sample[1], labels: (sample[2] ?? "").slice(1, -1).replaceAll('",', '", '), value: Number(sample[3]) });
  }
  return rows;
}
