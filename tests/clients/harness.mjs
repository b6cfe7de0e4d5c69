// What all scripts share: a job as JSON on stdin, one JSON document on stdout.
import { webcrypto } from "node:crypto";
import { text } from "node:stream/consumers";

globalThis.crypto ??= webcrypto; // Node 18, Debian 12's, has it only behind a flag

/**
 * Runs scenario(job) and prints {result, doors, calls, headers}: the doors and call ids of its POSTs,
 * and the names of all headers that its client sets.
 * With job.origin, fetch sends Origin as a browser does, below clients that know nothing of it.
 */
export async function run(scenario) {
  const job = JSON.parse(await text(process.stdin));
  const doors = new Set();
  const calls = [];
  const names = new Set();
  const plainFetch = globalThis.fetch;
  globalThis.fetch = async (input, init = {}) => {
    const headers = new Headers(init.headers);
    for (const name of headers.keys()) names.add(name);
    if (job.origin) headers.set("origin", job.origin);
    const response = await plainFetch(input, { ...init, headers });
    if (init.method?.toUpperCase() === "POST") {
      doors.add(doorOf(response));
      calls.push(response.headers.get("x-litellm-call-id"));
    }
    return response;
  };
  const result = await scenario(job);
  process.stdout.write(JSON.stringify({ result, doors: [...doors], calls, headers: [...names] }));
}

// Only Django adds CORS headers.
function doorOf(response) {
  return response.headers.has("access-control-allow-origin") ? "drf" : "fast_lane";
}

/** What was thrown; fails where nothing was. */
export async function thrownBy(action) {
  try {
    await action();
  } catch (error) {
    return error;
  }
  throw new Error("nothing was thrown");
}
