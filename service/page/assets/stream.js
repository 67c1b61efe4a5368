// One stream: readings, band and score as they come, its settings, its incidents.

import { ask, pathOf } from "./api.js";
import { channelChart, scoreChart } from "./chart.js";
import { duration, h, moment, number, table } from "./dom.js";
import { form, schemaOf, words } from "./fields.js";
import { summary } from "./incidents.js";

const EVERY_MS = 3000;
const AHEAD = 30;
const TO_BLAME = 0.2; // share of the score from which a channel is marked; the one with the largest share always is

export async function stream({ room, signal, say, fail }, name) {
  const path = pathOf(name);
  const expected = () => ask(`${path}/forecast?readings=${AHEAD}`, { signal }).catch(absent);
  const [known, kept, next, past, asked, ofSettings, ofPolicy] = await Promise.all([
    ask(path, { signal }), ask(`${path}/history`, { signal }).catch(absent), expected(),
    ask(`v1/incidents?${new URLSearchParams({ stream: name, limit: "20" })}`, { signal }).catch(absent),
    ask(`${path}/policy`, { signal }), schemaOf("StreamSettings"), schemaOf("Policy"),
  ]);
  const facts = h("dl"), charts = h("div"), shares = h("div"), list = h("div");
  room.append(h("h1", {}, name), facts, charts, h("h2", {}, "Shares of the last score"), shares,
    h("h2", {}, "Incidents"), list, h("h2", {}, "Settings"), settings(path, known, ofSettings, say, fail),
    h("h2", {}, "Policy of this stream"), policy(path, asked, ofPolicy, say, fail));
  tell(facts, known);
  tellIncidents(list, past?.incidents ?? []);
  let plots = null;
  const redraw = (entries, ahead) => {
    tellShares(shares, entries.at(-1));
    const all = entries.concat(forecastEntries(ahead, entries.at(-1)));
    if (plots) plots.set(all);
    else if (entries.length) plots = drawn(charts, all, name);
    else charts.replaceChildren(h("p", {}, "No reading is in the history."));
  };
  room.addEventListener("shown", () => redraw(kept ?? [], next), { once: true });
  let busy = false;
  const timer = setInterval(async () => {
    if (document.hidden || busy) return;
    busy = true;
    try {
      const now = await ask(path, { signal });
      if (now.readings !== known.readings) {
        Object.assign(known, now);
        tell(facts, known);
        redraw(...await Promise.all([ask(`${path}/history`, { signal }), expected()]));
      }
    } catch (error) {
      if (!signal.aborted) say(error.message, true);
    } finally {
      busy = false;
    }
  }, EVERY_MS);
  signal.addEventListener("abort", () => { clearInterval(timer); plots?.end(); });
}

function absent(error) {
  if (error.status === 404) return null;
  throw error;
}

function tell(facts, known) {
  const rows = {
    Status: h("span", { class: known.status }, (known.status ?? "–").replace("_", " ")), Score: number(known.score),
    Readings: known.readings.toLocaleString("en"), "Last reading": moment(known.last_timestamp), Model: known.model,
  };
  facts.replaceChildren(...Object.entries(rows).flatMap(([term, value]) => [h("dt", {}, term), h("dd", {}, value)]));
}

// What is expected of the next readings, as entries behind the last one that have no values.
function forecastEntries(ahead, last) {
  if (!ahead || !last) return [];
  return ahead.forecast.filter((one) => one.timestamp && one.timestamp > ahead.last_timestamp)
    .map(({ timestamp, expected }, at) => ({ n: last.n + 1 + at, values: {}, result: { timestamp, expected } }));
}

// Readings that are not next to each other are parted by one without values, so that no line joins them.
function parted(entries) {
  return entries.flatMap((one, at) => (at && one.n > entries[at - 1].n + 1 ? [{ ...one, values: {}, result: { timestamp: one.result.timestamp } }, one] : [one]));
}

function columnsOf(kept) {
  const entries = parted(kept);
  const times = entries.map((one) => Date.parse(one.result.timestamp) / 1000);
  const channels = [...new Set(entries.flatMap((one) => Object.keys(one.values)))];
  const of = (pick) => entries.map((one) => pick(one) ?? null);
  const shares = (one) => one.result.attribution ?? {};
  const blamed = (one, channel) => one.result.status === "anomalous"
    && shares(one)[channel] >= Math.min(TO_BLAME, Math.max(...Object.values(shares(one))));
  return {
    score: [times, times.map(() => 1), of((one) => one.result.score)],
    channels: new Map(channels.map((channel) => [channel, [times,
      of((one) => one.result.expected?.[channel]?.[0]), of((one) => one.result.expected?.[channel]?.[2]),
      of((one) => one.result.expected?.[channel]?.[1]), of((one) => one.values[channel]),
      of((one) => (blamed(one, channel) ? one.values[channel] : null))]])),
  };
}

function drawn(parent, entries, name) {
  const columns = columnsOf(entries), plots = new Map();
  parent.replaceChildren();
  const place = () => parent.appendChild(h("div", { class: "chart" }));
  const score = scoreChart(place(), columns.score, name);
  const add = (channel, data) => plots.set(channel, channelChart(place(), channel, data, name));
  for (const [channel, data] of columns.channels) add(channel, data);
  return {
    set(next) {
      const now = columnsOf(next);
      score.set(now.score);
      for (const [channel, data] of now.channels) plots.has(channel) ? plots.get(channel).set(data) : add(channel, data);
    },
    end() {
      score.end();
      for (const plot of plots.values()) plot.end();
    },
  };
}

export function drawEntries(parent, entries, name) {
  return drawn(parent, entries, name);
}

function tellShares(parent, last) {
  const shares = Object.entries(last?.result.attribution ?? {}).sort((one, other) => other[1] - one[1]);
  parent.replaceChildren(shares.length ? table("Shares of the last score", [
    { name: "Channel", of: ([channel]) => channel },
    { name: "Share", number: true, of: ([, share]) => `${(100 * share).toFixed(0)} %` },
    { name: "Value", number: true, of: ([channel]) => number(last.values[channel]) },
    { name: "Expected", of: ([channel]) => (last.result.expected?.[channel] ?? []).map((one) => number(one)).join(" … ") },
  ], shares) : h("p", { class: "soft" }, "No reading was scored yet."));
}

function tellIncidents(parent, past) {
  parent.replaceChildren(past.length ? table("Incidents of this stream", [
    { name: "Began", of: (one) => h("a", { href: `#/incidents/${encodeURIComponent(one.id)}` }, moment(one.start)) },
    { name: "Lasted", of: (one) => (one.end ? duration(one.start, one.end) : "open") },
    { name: "Highest score", number: true, of: (one) => number(one.peak_score) },
    { name: "What", of: summary },
  ], past) : h("p", { class: "soft" }, "None is kept."));
}

// `PUT` takes all settings at once, so all that the service knows of are sent.
function settings(path, known, schema, say, fail) {
  return form(schema, known, async (given) => {
    try {
      await ask(path, { method: "PUT", body: given });
      say("Settings saved");
    } catch (error) {
      fail(error);
    }
  });
}

// What is asked of this stream by itself, and what that comes to with the patterns that fit its name.
function policy(path, known, schema, say, fail) {
  const whole = h("p", { class: "soft" });
  const tell = (found) => whole.replaceChildren(words(found.policy) ? `With all patterns: ${words(found.policy)}` : "Nothing is asked of it.");
  tell(known);
  return h("div", {}, form(schema, known.asked, async (given) => {
    try {
      tell(await ask(`${path}/policy`, { method: "PUT", body: given }));
      say("Policy saved");
    } catch (error) {
      fail(error);
    }
  }, "Save policy"), whole);
}
