// The streams: searched, sorted and paged by the service, so that 100,000 are as quick as ten.

import { ask } from "./api.js";
import { h, moment, number, streamLink, table } from "./dom.js";

const COLUMNS = [
  { name: "Stream", sort: "name", order: "ascending", of: (one) => streamLink(one.stream) },
  { name: "Status", sort: "status", order: "descending", of: (one) => h("span", { class: one.status }, (one.status ?? "–").replace("_", " ")) },
  { name: "Score", sort: "score", order: "descending", number: true, of: (one) => number(one.score) },
  { name: "Last reading", of: (one) => moment(one.last_timestamp) },
  { name: "Readings", number: true, of: (one) => one.readings.toLocaleString("en") },
  { name: "Model", of: (one) => one.model },
];
const SORTS = { name: "alphabetical", status: "the anomalous first", score: "highest score first" };
const STATUSES = ["", "anomalous", "normal", "warming_up"];

export async function streams({ room, signal, query }) {
  const given = Object.fromEntries(["match", "status", "tag", "sort"].map((name) => [name, query.get(name) ?? ""]));
  const { match, status, tag } = given, sort = given.sort || "name", after = query.get("after") ?? "";
  const to = (more) => {
    const asked = new URLSearchParams({ ...given, ...more });
    for (const [name, value] of [...asked]) if (value === "") asked.delete(name);
    return `#/streams?${asked}`;
  };
  const page = await found({ match, status, tag, sort, after }, signal);
  const columns = COLUMNS.map((column) => column.sort ? {
    ...column, sorted: column.sort === sort ? column.order : null,
    name: column.sort === sort ? column.name : h("a", { href: to({ sort: column.sort }), title: SORTS[column.sort] }, column.name),
  } : column);
  room.append(
    h("h1", {}, "Streams"),
    h("form", {
      class: "row", role: "search",
      onsubmit: (event) => {
        event.preventDefault();
        location.hash = to(Object.fromEntries(new FormData(event.target)));
      },
    },
    h("label", {}, "Name, * for anything", h("input", { type: "search", name: "match", value: match, placeholder: "pump-*" })),
    h("label", {}, "Tag", h("input", { type: "search", name: "tag", value: tag, placeholder: "site=north" })),
    h("label", {}, "Status", h("select", { name: "status" }, STATUSES.map((one) =>
      h("option", { value: one, selected: one === status }, one.replace("_", " ") || "any")))),
    h("label", {}, "Order", h("select", { name: "sort" }, Object.entries(SORTS).map(([one, words]) =>
      h("option", { value: one, selected: one === sort }, words)))),
    h("button", {}, "Search")),
    h("p", { class: "soft" }, `${page.total.toLocaleString("en")} streams in all`,
      ...(page.as_of ? [", in the order of ", moment(page.as_of)] : [])),
    page.streams.length ? table("Streams", columns, page.streams)
      : h("p", {}, match || status || tag || after ? "No stream like that." : "No stream yet: the first reading posted begins one."),
    h("p", {}, after ? h("a", { href: to({}) }, "First page") : null, " ",
      page.next ? h("a", { href: to({ after: page.next }) }, "Next page") : null));
}

// One page; what the service says of a part of the streams in which nothing fits is no page yet.
async function found(asked, signal) {
  for (;;) {
    const parameters = new URLSearchParams({ details: "true", limit: "100" });
    for (const [name, value] of Object.entries(asked)) if (value !== "") parameters.set(name, value);
    const page = await ask(`v1/streams?${parameters}`, { signal });
    if (page.streams.length || !page.next) return page;
    asked = { ...asked, after: page.next };
  }
}
