// What is known of a sample beside its input: why it was chosen, how urgent it is, where it is from.

import { isolated } from "./review-notices.js";

export function showMeta(meta, item) {
  meta.replaceChildren(chip(item.audit ? "Random audit" : "Chosen", item.audit ? "accent" : "warn"));
  if (!item.audit) {
    const reason = document.createElement("span");
    reason.className = "soft";
    reason.dir = "auto";
    reason.textContent = item.reason;
    meta.append(reason);
  }
  // The audits of a rollout that ended are ordinary ones, and have an ordinary priority.
  if (item.audit && item.rollout_id && item.priority > 80) meta.append(chip("decides a rollout", "challenger"));
  if (item.tokens_cut) meta.append(chip(`the model did not read all: ${item.tokens_cut} tokens cut off`, "warn"));
  const rest = document.createElement("span");
  rest.className = "whence";
  rest.append(`priority ${Math.round(item.priority)} · from `, isolated(item.source), ` · ${ago(item.requested_at)} old`);
  meta.append(rest);
}

export function ago(iso) {
  const seconds = Math.max(0, (Date.now() - new Date(iso)) / 1000);
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

function chip(words, kind = "") {
  const node = document.createElement("span");
  node.className = `chip ${kind}`;
  node.textContent = words;
  return node;
}
