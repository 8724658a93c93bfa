// The page talks to the same API as everybody else; nothing here decides anything.

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
  throw new Error(text || t("error.status", { status: answer.status }));
}

const posted = (body, method = "POST") => ({ method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

export const ask = async (path, body, method) => (await answered(path, body === undefined ? {} : posted(body, method))).json();

// The answer as a picture's address.
export const askPicture = async (path, body, signal) =>
  URL.createObjectURL(await (await answered(path, { ...(body === undefined ? {} : posted(body)), signal })).blob());

export const remove = async (path) => (await answered(path, { method: "DELETE" })).json();
