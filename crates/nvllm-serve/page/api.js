// Calls of the server. Addresses are relative, so that the page works under a path of a proxy.

import { events } from "./sse.js";

const KEY = "nvllm.key";

export const apiKey = () => localStorage.getItem(KEY) ?? "";

export function setApiKey(key) {
  if (key) localStorage.setItem(KEY, key);
  else localStorage.removeItem(KEY);
}

/** What went wrong, in words for the user. `status` is HTTP's, 0 if there was no answer. */
export class CallError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

const LOST = "The connection to the server was lost.";

function headers(more = {}) {
  return apiKey() ? { ...more, Authorization: `Bearer ${apiKey()}` } : more;
}

/** A response with status 200. Throws `CallError`, or `AbortError` if `signal` says so. */
async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new CallError("The server cannot be reached.");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const message = errorMessage(body) ?? `The server answered with status ${response.status}.`;
  throw new CallError(message, response.status);
}

/** The words of an error's body, in any of the forms that servers use. */
function errorMessage(body) {
  const error = body?.error ?? body?.detail ?? body;
  const message = typeof error === "string" ? error : error?.message;
  return typeof message === "string" && message ? message : undefined;
}

/** The models that are served, as `{ id, max_model_len }`. */
export async function models() {
  const response = await call("v1/models", { headers: headers() });
  return (await response.json()).data ?? [];
}

/** `{ status, progress }`: whether the model is there. */
export async function readiness() {
  try {
    return await (await fetch("health/ready", { cache: "no-store" })).json();
  } catch {
    return { status: "unreachable" };
  }
}

/** Yields the chunks of a streamed answer. Throws if it does not end with `[DONE]`. */
export async function* streamChat(body, signal) {
  const response = await call("v1/chat/completions", {
    method: "POST",
    headers: headers({ "Content-Type": "application/json" }),
    body: JSON.stringify(body),
    signal,
  });
  try {
    for await (const { event, data } of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = parse(data);
      if (event === "error" || chunk.error) {
        throw new CallError(errorMessage(chunk) ?? "The server ended the answer with an error.", response.status);
      }
      yield chunk;
    }
  } catch (error) {
    throw error instanceof TypeError ? new CallError(LOST) : error;
  }
  throw new CallError(`${LOST} The answer is not complete.`);
}

function parse(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new CallError("The server sent something that is not JSON.");
  }
}
