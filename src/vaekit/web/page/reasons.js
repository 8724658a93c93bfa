// Reasons come from the server in English. A language's file may hold them under "reasons": English with gaps -> its own
// words with the same gaps. What stands in a gap may be a reason again; what no pattern knows stays as it came.

const GAP = /\{(\w+)\}/g;
const literal = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
let patterns = [];

export function learn(reasons = {}) {
  patterns = Object.entries(reasons).map(([english, own]) => ({
    names: [...english.matchAll(GAP)].map((found) => found[1]),
    known: english.replace(GAP, "").length,
    whole: new RegExp(`^${english.split(GAP).map((part, at) => (at % 2 ? "(.+?)" : literal(part))).join("")}$`, "s"),
    own,
  })).sort((one, other) => other.known - one.known);
}

function whole(text) {
  for (const one of patterns) {
    const found = one.whole.exec(text);
    if (found) return one.own.replace(GAP, (_, name) => told(found[one.names.indexOf(name) + 1]));
  }
  return null;
}

// The text, or each part of a list of reasons, or what stands behind the name of what it is about.
function told(text) {
  const found = whole(text);
  if (found !== null) return found;
  for (const between of ["; ", ", ", ": "]) {
    const at = between === ": " ? text.indexOf(between) : text.lastIndexOf(between);
    if (at > 0) {
      const [before, after] = [text.slice(0, at), text.slice(at + between.length)];
      const parts = [told(before), told(after)];
      if (parts[0] !== before || parts[1] !== after) return parts.join(between);
    }
  }
  return text;
}

export const reason = (text) => (text && patterns.length ? told(String(text)) : text ?? "");
