// The page talks to the same API as everybody else; nothing here decides anything.

import { $, read64 } from "./parts.js";
import { reason } from "./reasons.js";
import { t } from "./texts.js";

async function answered(path, request) {
  let answer;
  try {
    answer = await fetch(path, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(t("error.away"));
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => null);
  const detail = told && told.detail;
  const text = Array.isArray(detail) ? detail.map((one) => `${one.loc.slice(1).join(".")}: ${one.msg}`).join("; ") : detail;
  throw new Error(reason(text) || t("error.status", { status: answer.status }));
}

const posted = (body, method = "POST") => ({ method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

export const ask = async (path, body, method) => (await answered(path, body === undefined ? {} : posted(body, method))).json();

const askBlob = async (path, body, signal) =>
  (await answered(path, { ...(body === undefined ? {} : posted(body)), signal })).blob();

// The answer as a picture's address.
export const askPicture = async (path, body, signal) => URL.createObjectURL(await askBlob(path, body, signal));

export const remove = async (path) => (await answered(path, { method: "DELETE" })).json();

// A field for a picture's address elsewhere, where the server fetches them.
export async function byUrl(place, use, problem) {
  const [row, field, go] = ["by-url", "url", "fetch"].map((name) => $(`${place}-${name}`));
  row.hidden = !(await ask("/sdapi/v1/cmd-flags")).allow_urls;
  go.addEventListener("click", async () => {
    problem.textContent = "";
    go.disabled = true;
    try {
      use(await read64(await askBlob("/api/v1/picture", { image: field.value.trim() })));
    } catch (error) {
      problem.textContent = error.message;
    } finally {
      go.disabled = false;
    }
  });
}
