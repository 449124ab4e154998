// Asking the service, and reading what it answers.

import { decodePng } from "./png.js";

/** An error of the service, in its own words (RFC 9457), or of the way to it. */
export class Problem extends Error {
  constructor(title, detail, status = 0, retryAfter = 0) {
    super(detail);
    Object.assign(this, { title, detail, status, retryAfter });
  }
}

let key = "";

/** The API key of all requests from now on; it is kept nowhere but here. */
export function useKey(text) {
  key = text;
}

/** Whether there is one. */
export function hasKey() {
  return key !== "";
}

/** `fetch` from the service; gives the response when it is a good one. Throws Problem, or AbortError. */
export async function request(path, options = {}) {
  let response;
  try {
    // Not as Authorization, which is a proxy's where one asks for a password.
    response = await fetch(path, { ...options, headers: key ? { "X-API-Key": key } : {} });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server cannot be reached", "Check that it is still running, then try again.");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new Problem(
    body.title ?? `Error ${response.status}`,
    body.detail ?? "The server gave no reason.",
    response.status,
    Number(response.headers.get("Retry-After")) || 0,
  );
}

/** The address of an output, relative to the page: what `curl` is given too. */
export function predictPath(output, options = {}) {
  const query = new URLSearchParams(output ? { output } : {});
  for (const [name, value] of Object.entries(options)) if (value !== null && value !== undefined) query.set(name, value);
  return query.size ? `predict?${query}` : "predict";
}

/** POSTs a picture; otherwise as `request`. */
export function post(path, picture, name, signal) {
  const form = new FormData();
  form.append("file", picture, name);
  return request(path, { method: "POST", body: form, signal });
}

/** Everything about a picture from one pass of the network: the JSON answer, and its maps as numbers.
 * Gives {meta, width, height, labels, depth (mm, 0 = invalid), confidence (0 to 255), roundTrip (ms)}. */
export async function analyse(picture, name, options, signal) {
  const start = performance.now();
  const response = await post(predictPath("multipart", options), picture, name, signal);
  const parts = splitParts(new Uint8Array(await response.arrayBuffer()), response.headers.get("Content-Type"));
  const roundTrip = performance.now() - start;
  const meta = JSON.parse(new TextDecoder().decode(parts.get("metadata.json")));
  const [labels, depth, confidence] = await Promise.all(
    ["mask.png", "depth.png", "confidence.png"].map((part) => decodePng(parts.get(part))),
  );
  const { width, height } = meta;
  return { meta, width, height, labels: labels.data, depth: depth.data, confidence: confidence.data, roundTrip };
}

/** The parts of a multipart/mixed body by file name; each has its Content-Length. */
export function splitParts(bytes, contentType) {
  const boundary = `--${/boundary="?([^";]+)/.exec(contentType)[1]}`;
  const found = new Map();
  for (let at = 0; at < bytes.length; ) {
    let end = at;
    while (end < bytes.length && !(bytes[end] === 13 && bytes[end + 2] === 13)) end++;
    const head = new TextDecoder("latin1").decode(bytes.subarray(at, end));
    if (!head.startsWith(boundary) || head.startsWith(`${boundary}--`)) break;
    const length = Number(/content-length: *(\d+)/i.exec(head)[1]);
    const name = /filename="([^"]*)"/i.exec(head)?.[1] ?? "";
    found.set(name, bytes.subarray(end + 4, end + 4 + length));
    at = end + 4 + length + 2;
  }
  return found;
}
