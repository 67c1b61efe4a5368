// The streams: searched, sorted and paged by the service, so that 100,000 are as quick as ten; what is shown stays alive.

import { ask } from "./api.js";
import { h, moment, number, problem, streamLink, table } from "./dom.js";

const EVERY_MS = 5000;
const RESTS = 20; // times as long as the service took for the list, until it is asked again

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

export async function streams({ room, signal, query, say }) {
  const given = Object.fromEntries(["match", "status", "tag", "sort"].map((name) => [name, query.get(name) ?? ""]));
  const { match, status, tag } = given, sort = given.sort || "name", after = query.get("after") ?? "";
  const to = (more) => {
    const asked = new URLSearchParams({ ...given, ...more });
    for (const [name, value] of [...asked]) if (value === "") asked.delete(name);
    return `#/streams?${asked}`;
  };
  const asked = { match, status, tag, sort, after };
  const page = await found(asked, signal).catch((error) => {
    if (error.status !== 422) throw error;
    return { refused: error };
  });
  const columns = COLUMNS.map((column) => column.sort ? {
    ...column, sorted: column.sort === sort ? column.order : null,
    name: column.sort === sort ? column.name : h("a", { href: to({ sort: column.sort }), title: SORTS[column.sort] }, column.name),
  } : column);
  const list = h("div");
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
    list);
  if (page.refused) {
    list.append(problem(page.refused), h("p", {}, sort === "name" ? null : h("a", { href: to({ sort: "name" }) }, "List them by name")));
    return;
  }
  let shown = "";
  const counted = h("p", { class: "soft" }), rows = h("div");
  list.append(counted, rows);
  const tell = (now) => {
    counted.replaceChildren(`${now.total.toLocaleString("en")} streams in all`,
      ...(now.as_of ? [", in the order of ", moment(now.as_of)] : []));
    const text = JSON.stringify([now.streams, now.next]);
    if (text === shown) return;
    shown = text;
    const focused = rows.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    const across = rows.querySelector(".wide")?.scrollLeft ?? 0;
    rows.replaceChildren(
      now.streams.length ? table("Streams", columns, now.streams)
        : h("p", {}, match || status || tag || after ? "No stream like that." : "No stream yet: the first reading posted begins one."),
      h("p", {}, after ? h("a", { href: to({}) }, "First page") : null, " ",
        now.next ? h("a", { href: to({ after: now.next }) }, "Next page") : null));
    if (across) rows.querySelector(".wide")?.scrollTo(across, 0);
    if (focused) [...rows.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus();
  };
  tell(page);
  follow(() => found(asked, signal), tell, signal, say);
}

// Asks again and again while somebody looks, and the less often the longer an answer takes.
function follow(again, tell, signal, say) {
  let timer = null;
  const turn = async () => {
    let took = 0;
    if (!document.hidden) {
      const begun = performance.now();
      try {
        tell(await again());
      } catch (error) {
        if (signal.aborted) return;
        say(error.message, true);
      }
      took = performance.now() - begun;
    }
    if (!signal.aborted) timer = setTimeout(turn, Math.max(EVERY_MS, RESTS * took));
  };
  timer = setTimeout(turn, EVERY_MS);
  signal.addEventListener("abort", () => clearTimeout(timer));
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
