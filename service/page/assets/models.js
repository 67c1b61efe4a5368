// Models: versions and aliases, which rule gives a stream its model; promote and roll back.

import { ask } from "./api.js";
import { h, moment, streamLink, table } from "./dom.js";

const CHAMPION = "champion";
const CHANGES = 10;

export async function models({ room, signal, change }) {
  const [found, rules] = await Promise.all([ask("v1/models", { signal }), ask("v1/rules", { signal })]);
  room.append(h("h1", {}, "Models"),
    h("dl", {}, h("dt", {}, "Default model, of streams without a rule"), h("dd", {}, found.default)));
  if (!found.models.length) {
    room.append(h("p", { class: "soft" }, "The repository (GATEWATCH_MODELS) has no model, or there is none."));
    return;
  }
  for (const { model } of found.models) await show(model);
  tellRules();

  async function show(model) {
    const path = `v1/models/${encodeURIComponent(model)}`;
    const [one, log] = await Promise.all([ask(path, { signal }), ask(`${path}/history`, { signal })]);
    const champion = one.aliases[CHAMPION], before = champion?.before?.[0];
    const act = (what, body, words) => () =>
      change(() => ask(`${path}/${what}`, { method: "POST", body, seen: one.revision }), words);
    const aliasesOf = (version) => Object.entries(one.aliases).filter(([, to]) => to.version === version).map(([name]) => name);
    room.append(h("h2", {}, model), table(`Versions of ${model}`, [
      { name: "Version", of: (of) => of.version },
      { name: "Aliases", of: (of) => aliasesOf(of.version).join(", ") },
      { name: "Champion", of: (of) => h("button", {
        disabled: champion?.version === of.version,
        "aria-label": `Promote ${model} ${of.version}`,
        onclick: act("promote", { version: of.version }, `${model} ${of.version} is champion`),
      }, "Promote") },
      { name: "Added", of: (of) => [moment(of.added_at), of.added_by ? ` by ${of.added_by}` : ""] },
      { name: "Note", of: (of) => of.note },
      { name: "Digest", of: (of) => of.digest },
    ], one.versions.toReversed()), h("p", {}, h("button", {
      disabled: before === undefined, onclick: act("rollback", {}, `${model} is rolled back`),
    }, before === undefined ? `Roll ${model} back` : `Roll ${model} back to ${before}`)),
    h("details", {}, h("summary", {}, `Changes of ${model}`), table(`Changes of ${model}`, [
      { name: "When", of: (of) => moment(of.at) }, { name: "Who", of: (of) => of.by },
      { name: "What", of: (of) => `${of.action} ${of.version}${of.alias ? ` as ${of.alias}` : ""}${of.was ? `, before ${of.was}` : ""}` },
      { name: "Note", of: (of) => of.note },
    ], log.slice(0, CHANGES))));
  }

  function tellRules() {
    const now = (model) => (rules.versions[model] ? `version ${rules.versions[model].version}` : "");
    const model = [{ name: "Model", of: (of) => of.model }, { name: "Now", of: (of) => now(of.model) }];
    const pins = Object.entries(rules.pins).map(([stream, model]) => ({ stream, model }));
    room.append(h("h2", {}, "Rules, the first that fits decides"),
      rules.rules.length ? table("Rules", [{ name: "Streams", of: (of) => of.pattern }, ...model], rules.rules)
        : h("p", { class: "soft" }, "None: every stream without a pin has the default model."),
      h("h2", {}, "Pins, which go before rules"),
      pins.length ? table("Pins", [{ name: "Stream", of: (of) => streamLink(of.stream) }, ...model], pins)
        : h("p", { class: "soft" }, "None."),
      rules.changed_at ? h("p", { class: "soft" }, "Changed ", moment(rules.changed_at), rules.changed_by ? ` by ${rules.changed_by}` : "") : "");
  }
}
