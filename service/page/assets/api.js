// What the page asks of the service. A key, where one is needed, lives in this tab and goes into a header.

const KEY = "gatewatch-key";

export class Problem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
};

function headers(more = {}) {
  return key.get() ? { authorization: `Bearer ${key.get()}`, ...more } : more;
}

// `seen`: the number of the document that was looked at; the service refuses a change of another one.
async function request(path, { method = "GET", body, signal, seen } = {}) {
  let reply;
  try {
    reply = await fetch(path, {
      method, signal,
      headers: headers({
        ...(body !== undefined && { "content-type": "application/json" }), ...(seen !== undefined && { "if-match": `"${seen}"` }),
      }),
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The service does not answer. What is shown may be old.");
  }
  if (!reply.ok) throw new Problem(reply.status, await detail(reply));
  return reply;
}

async function detail(reply) {
  try {
    return plain(reply.status, (await reply.json()).detail);
  } catch {
    return `The service answered ${reply.status}.`;
  }
}

// What the service says to a program, for a person: which header a key goes into, and that a request may be sent again, are not theirs.
function plain(status, text) {
  if (status === 401) return key.get() ? `The key is refused: ${text}` : "This service answers whoever has a key.";
  return status === 503 ? text.split(";")[0] : text;
}

export async function ask(path, options) {
  const reply = await request(path, options);
  return reply.status === 204 ? null : reply.json();
}

export async function askText(path, options) {
  return (await request(path, options)).text();
}

export const pathOf = (stream) => `v1/streams/${encodeURIComponent(stream)}`;

// Server-sent events by fetch, since an EventSource sends no header. Begins again by itself until `signal` ends it.
export async function listen(path, signal, onEvent, onState) {
  let last = null, waitMs = 500;
  while (!signal.aborted) {
    try {
      const reply = await fetch(path, { signal, headers: headers(last === null ? {} : { "last-event-id": last }) });
      if (!reply.ok) throw new Problem(reply.status, await detail(reply));
      onState(true);
      waitMs = 500;
      for await (const event of eventsOf(reply.body)) {
        if (event.id !== null) last = event.id;
        if (event.data) onEvent(JSON.parse(event.data), event.type);
      }
    } catch (error) {
      if (signal.aborted) return;
      onState(false, error);
    }
    await new Promise((done) => setTimeout(done, waitMs));
    waitMs = Math.min(2 * waitMs, 10000);
  }
}

async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const event = { id: null, type: "message", data: "" };
      for (const line of text.slice(0, end).split("\n")) {
        const [name, rest] = [line.split(":", 1)[0], line.slice(line.indexOf(":") + 1).trimStart()];
        if (name === "data") event.data += rest;
        else if (name === "id") event.id = rest;
        else if (name === "event") event.type = rest;
      }
      yield event;
      text = text.slice(end + 2);
    }
  }
}
