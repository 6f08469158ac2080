// Small tools of all pages: elements, calls of the API, words.
export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (name in node && typeof value !== "string") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

let server = null;

// What the server is; asked anew when `fresh`.
export async function about(fresh = false) {
  if (!server || fresh) server = await (await fetch("/api/server")).json();
  return server;
}

export class Refused extends Error {
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.code = error.code;
    this.fix = error.fix || "";
  }
}

// One call of the API; a server that was started anew has another token, which is fetched once.
export async function call(method, path, body, again = true) {
  const headers = {};
  if (method !== "GET") headers["X-CTGLIP-Token"] = (await about()).token;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  if (answer.ok) return answer.json();
  const error = ((await answer.json().catch(() => null)) || {}).error || { message: "The server does not answer.", code: "" };
  if (error.code === "no_csrf" && again) {
    await about(true);
    return call(method, path, body, false);
  }
  if (answer.status === 401) location.href = "/login";
  throw new Refused(answer.status, error);
}

export const seconds = (value) => value < 9.95 ? `${value.toFixed(1)} s` : value < 60 ? `${Math.round(value)} s`
  : `${Math.floor(value / 60)} min ${String(Math.round(value % 60)).padStart(2, "0")} s`;
export const size = (bytes) => bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
export const number = (value, digits = 0) => value === null || value === undefined ? "–"
  : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace("-", "−");

export function fault(error) {
  return h("p", { class: "caution", role: "alert" }, h("b", {}, error.message), " ", error.fix || "");
}

export const WORDS = {
  uploading: "being sent", queued: "waiting", running: "being read", choose: "several series", ready: "ready",
  failed: "cannot be used", cancelled: "cancelled",
};
