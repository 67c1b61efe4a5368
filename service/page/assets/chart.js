// Lines over time by uPlot: a channel with the band that was expected, and the score with its threshold.

const HEIGHT = 220;

function colour(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function draw(parent, label, data, series, options, together) {
  const axis = { stroke: colour("soft"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1 } };
  const plot = new uPlot({
    width: Math.max(200, parent.clientWidth), height: HEIGHT, title: label,
    series: [{}, ...series], axes: [axis, { ...axis, size: 70 }],
    cursor: { sync: { key: together } }, ...options,
  }, data, parent);
  parent.setAttribute("role", "img");
  parent.setAttribute("aria-label", `${label}: chart of ${data[0].length} readings`);
  const fit = new ResizeObserver(() => plot.setSize({ width: Math.max(200, parent.clientWidth), height: HEIGHT }));
  fit.observe(parent);
  return {
    set: (next) => {
      const follow = !zoomed(plot, data);
      data = next;
      plot.setData(next, follow);
      if (!follow) plot.redraw();
    },
    end: () => { fit.disconnect(); plot.destroy(); },
  };
}

function zoomed(plot, data) {
  const [low, high] = [plot.scales.x.min, plot.scales.x.max];
  return data[0].length > 1 && (low > data[0][0] || high < data[0][data[0].length - 1]);
}

export function channelChart(parent, channel, data, together) {
  const thin = { stroke: colour("band"), width: 1, points: { show: false } };
  return draw(parent, channel, data, [
    { label: "low", ...thin }, { label: "high", ...thin },
    { label: "expected", stroke: colour("accent"), width: 1, dash: [4, 4], points: { show: false } },
    { label: channel, stroke: colour("text"), width: 1.5 },
    { label: "anomalous", stroke: colour("bad"), paths: () => null, points: { show: true, size: 7, fill: colour("bad") } },
  ], { bands: [{ series: [2, 1], fill: colour("band") }], scales: { y: { range: around } } }, together);
}

// The heights that are shown: all values, what is expected, and the band, but no further than two times the values reach.
// A forecast knows less and less: its band alone would leave the readings a flat line.
function around(plot, lowest, highest) {
  const [, low, high, expected, values] = plot.data, [first, last] = plot.series[0].idxs ?? [0, 0];
  const seen = [];
  for (let at = first; at <= last; at++) for (const of of [values, expected]) if (of[at] !== null) seen.push(of[at]);
  if (!seen.length) return [lowest ?? 0, highest ?? 1];
  let [from, to] = [seen.reduce((a, b) => Math.min(a, b)), seen.reduce((a, b) => Math.max(a, b))];
  const reach = to > from ? 2 * (to - from) : Infinity, [least, most] = [from - reach, to + reach];
  for (let at = first; at <= last; at++) {
    if (values[at] === null) continue;
    if (low[at] !== null) from = Math.min(from, Math.max(low[at], least));
    if (high[at] !== null) to = Math.max(to, Math.min(high[at], most));
  }
  const rim = 0.05 * (to - from) || Math.abs(to) || 1;
  return [from - rim, to + rim];
}

export function scoreChart(parent, data, together) {
  return draw(parent, "score (1 is the threshold)", data, [
    { label: "threshold", stroke: colour("bad"), width: 1, dash: [6, 4], points: { show: false } },
    { label: "score", stroke: colour("text"), width: 1.5 },
  ], { scales: { y: { range: (_, low, high) => [0, Math.max(1.2, high * 1.05)] } } }, together);
}
