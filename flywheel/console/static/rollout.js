// Commands to the rollout controller, each with a name and a reason; the page keeps itself current.

import { live } from "./live.js";
import { post, problemOf, silence } from "./outbox.js";
import { local, session as tab } from "./store.js";

const NAME = "flywheel.annotator";
const WHY = "flywheel.rollout.why";
const el = (id) => document.getElementById(id);
const words = {
  pause: ["Pause this rollout?", "The challenger keeps its present share until someone resumes, promotes or rolls back. Harm still rolls it back.", "Pause"],
  resume: ["Resume this rollout?", "It goes on from where it was held; the checks decide its next step.", "Resume"],
  promote: ["Promote the challenger now?", "It becomes the champion and gets all traffic.", "Promote"],
  rollback: ["Roll the challenger back?", "The champion gets all traffic again within a second. The challenger stays in the registry.", "Roll back"],
};
// What was seen when the dialog was opened: it names that rollout, whatever runs meanwhile.
let command = {};

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-command]");
  if (!button) return;
  const kind = button.dataset.command;
  const { rollout, revision } = el("commands").dataset;
  command = { kind, rollout, revision: Number(revision) };
  const [title, explained, verb] = words[kind];
  el("command-title").textContent = title;
  el("command-words").textContent = explained;
  el("command-do").textContent = verb;
  el("command-do").classList.toggle("danger", kind === "rollback");
  el("command-verdict").replaceChildren();
  if (kind === "promote") el("command-verdict").innerHTML = el("verdict").innerHTML;
  el("command-problem").hidden = true;
  el("command-by").value = local.get(NAME) ?? "";
  el("command-why").value ||= tab.get(WHY) ?? "";
  el("command").showModal();
  el(el("command-by").value ? "command-why" : "command-by").focus();
});

// What is typed outlasts a reload and signing in again.
el("command-why").addEventListener("input", () => tab.set(WHY, el("command-why").value));

el("command-cancel").addEventListener("click", () => el("command").close());

el("command-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const by = el("command-by").value.trim();
  const why = el("command-why").value.trim();
  el("command-do").disabled = true;
  let problem = "";
  try {
    const answer = await post(`/api/rollouts/${el("commands").dataset.task}/commands`, { ...command, by, why });
    if (answer.status === 401) problem = "Your session has ended: sign in again in another tab, then try again here.";
    else if (!answer.ok) problem = await problemOf(answer);
  } catch (error) {
    // Sent and not answered: it may have been taken all the same.
    problem = error.name === "TimeoutError"
      ? `Not known whether it was taken: ${silence(error)}. If it was, the page behind this says so.`
      : `Nothing was changed: ${silence(error)}. Try again.`;
  }
  el("command-do").disabled = false;
  if (problem) {
    el("command-problem").textContent = problem;
    el("command-problem").hidden = false;
    return;
  }
  local.set(NAME, by);
  el("command-why").value = "";
  tab.remove(WHY);
  el("command").close();
});

// Left while a command was on its way, and come back to by the page cache.
window.addEventListener("pageshow", () => { el("command-do").disabled = false; });

early.ready = true;
early.control?.click();

live();
