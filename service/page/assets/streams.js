// The streams: searched and paged by the service, so that 100,000 are as quick as ten.

import { ask } from "./api.js";
import { h, moment, number, streamLink, table } from "./dom.js";

const COLUMNS = [
  { name: "Stream", of: (one) => streamLink(one.stream) },
  { name: "Status", of: (one) => h("span", { class: one.status }, (one.status ?? "–").replace("_", " ")) },
  { name: "Score", number: true, of: (one) => number(one.score) },
  { name: "Last reading", of: (one) => moment(one.last_timestamp) },
  { name: "Readings", number: true, of: (one) => one.readings.toLocaleString("en") },
  { name: "Model", of: (one) => one.model },
];

export async function streams({ room, signal, query }) {
  const match = query.get("match") ?? "", after = query.get("after") ?? "", status = query.get("status") ?? "";
  const asked = new URLSearchParams({ details: "true", limit: "100", after, match, status });
  for (const [name, value] of [...asked]) if (value === "") asked.delete(name);
  const page = await ask(`v1/streams?${asked}`, { signal });
  const to = (more) => `#/streams?${new URLSearchParams({ match, status, ...more })}`;
  room.append(
    h("h1", {}, "Streams"),
    h("form", {
      class: "row", role: "search",
      onsubmit: (event) => {
        event.preventDefault();
        const given = new FormData(event.target);
        location.hash = `#/streams?${new URLSearchParams(given)}`;
      },
    },
    h("label", {}, "Name, * for anything", h("input", { type: "search", name: "match", value: match, placeholder: "pump-*" })),
    h("label", {}, "Status", h("select", { name: "status" }, ["", "anomalous", "normal", "warming_up"].map((one) =>
      h("option", { value: one, selected: one === status }, one.replace("_", " ") || "any")))),
    h("button", {}, "Search")),
    h("p", { class: "soft" }, `${page.total.toLocaleString("en")} streams in all`),
    page.streams.length ? table("Streams", COLUMNS, page.streams)
      : h("p", {}, match || status || after ? "No stream like that." : "No stream yet: the first reading posted begins one."),
    h("p", {}, after ? h("a", { href: to({}) }, "First page") : null, " ",
      page.next ? h("a", { href: to({ after: page.next }) }, "Next page") : null));
}
