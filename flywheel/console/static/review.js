// The expert queue by keyboard: the next sample is here before this one is answered.

import { composing } from "./composing.js";
import { Drafts } from "./drafts.js";
import { Outbox, post, problemOf, silence } from "./outbox.js";
import { showInput } from "./review-input.js";
import { LabelAnswer } from "./review-labels.js";
import { ago, showMeta } from "./review-meta.js";
import { Notices } from "./review-notices.js";
import { Session } from "./review-session.js";
import { TextAnswer } from "./review-text.js";
import { local } from "./store.js";

const el = (id) => document.getElementById(id);
const root = el("review");
const { task } = root.dataset;
const LEASE = Number(root.dataset.lease) * 1000;
const AHEAD = 2;
const CLOSED = {
  settled: "is settled by others’ answers",
  withdrawn: "was labelled elsewhere",
  answered: "was answered by you in another window",
};
const IDLE_POLL = 2000;
const NAME = "flywheel.annotator";

const outbox = new Outbox(task);
const drafts = new Drafts(task);
let annotator = local.get(NAME) ?? "";
let queue = []; // the first is on screen
let shownAt = 0;
let away = 0; // milliseconds the page was hidden while this sample was shown
let hiddenAt = 0;
let fetching = null;
let askedAt = -Infinity;
let undoing = false;
// Answered here, and when that was acknowledged (Infinity: not yet). A load that left before may still
// offer these; what a later one offers is to be answered again, whoever took it back.
const answered = new Map();
const TAKEN_BACK = -Infinity;
const session = new Session(task, annotator);
let lost = ""; // why the console cannot be asked
let depth = null;

const notices = new Notices(el("unsaved"), { outbox, drafts, reopen, drop });
const renderUnsaved = () => notices.render();
const flash = (words) => notices.flash(words);
const say = (words) => { el("say").textContent = words; };
const changed = () => { el("submit").disabled = answerBox.value === null; };
// Kept as they are typed: nobody knows when the session or the browser ends.
const typed = (words) => drafts.keep(queue[0]?.sample_id, annotator, words);
const Answer = { choice: LabelAnswer, free_text: TextAnswer }[root.dataset.answers];
const answerBox = new Answer(el("answer"), { changed, typed, say, submit, flash, longest: Number(root.dataset.longest) });

// What is on screen ------------------------------------------------------------------------

function render() {
  const item = queue[0];
  el("sample").hidden = el("answer").hidden = !item;
  el("done").hidden = Boolean(item);
  if (!item) {
    renderDone();
    return;
  }
  if (el("sample").dataset.id === item.sample_id) return;
  el("sample").dataset.id = item.sample_id;
  showInput(el("sample-text"), item, task);
  answerBox.show(item, drafts.of(item.sample_id, annotator) ?? session.given(item.sample_id));
  shownAt = performance.now();
  away = 0;
  if (document.activeElement === document.body || el("answer").contains(document.activeElement)) {
    // Not a choice: a ring around the first one would look like an answer.
    el("sample-text").focus({ preventScroll: true });
  }
  showMeta(el("sample-meta"), item);
  say(`Next sample: ${item.text}`);
}

function renderDone() {
  el("sample").dataset.id = "";
  if (fetching) return;
  if (!annotator) {
    el("done-title").textContent = "Say who you are to begin";
    return;
  }
  el("undo-done").hidden = !session.undoable;
  const unsent = outbox.waiting.length;
  if (lost) {
    el("done-title").textContent = "The next samples cannot be fetched";
    el("done-words").textContent = `${capitalised(lost)}. ${unsent ? "Your answers are kept here and sent by themselves. " : ""}Samples appear again as soon as it answers.`;
    return;
  }
  el("done-title").textContent = "Nothing waits for you";
  el("done-words").textContent = unsent
    ? "Your last answers are still on their way."
    : `${othersWait()}New samples appear here by themselves: ${root.dataset.drawn} of all answered requests, drawn at random, and of those the model is unsure of a larger share.`;
}

const capitalised = (words) => words[0].toUpperCase() + words.slice(1);

// What the queue still holds is not for this expert, and why.
function othersWait() {
  const { open, claimed, submitted } = depth ?? {};
  const count = open + claimed + submitted;
  if (!count) return "";
  return `${grouped(count)} in the queue ${count === 1 ? "is" : "are"} for others: held by another expert, or answered or skipped by you. `;
}

const grouped = (number) => number.toLocaleString("en").replaceAll(",", "\u202f");

const unsaved = () => new Set(outbox.entries.map((entry) => entry.item.sample_id));
const renderSession = () => session.render(unsaved());

function renderDepth() {
  for (const state of ["open", "claimed", "submitted", "settled", "unlabelable"]) {
    el(`queue-${state}`).textContent = grouped(depth[state]);
  }
  const badge = document.querySelector("#nav-review .badge");
  if (badge) badge.textContent = depth.open + depth.claimed || "";
  el("queue-age").textContent = depth.oldest_open ? `oldest ${ago(depth.oldest_open)}` : "";
}

// Doing ------------------------------------------------------------------------------------

function leave(value, unlabelable = false) {
  const item = queue[0];
  if (!item) return;
  const seconds = Math.max(0, Math.round((performance.now() - shownAt - away) / 10) / 100);
  // Kept first, and only then off the screen.
  try {
    outbox.add({ item, value, annotator, seconds, unlabelable });
  } catch (error) {
    flash(`This answer could not be kept, so the sample stays: ${error.message}`);
    return;
  }
  queue.shift();
  drafts.keep(item.sample_id, annotator, null);
  answered.set(item.sample_id, Infinity);
  session.answered(item, value, seconds, unlabelable ? "can’t be labelled" : value);
  render();
  fill();
  renderSession();
}

function submit() {
  const { value } = answerBox;
  if (value !== null && queue[0]) leave(value);
}

function drop(entry) {
  outbox.remove(entry.id);
  answered.set(entry.item.sample_id, TAKEN_BACK);
}

function reopen(entry) {
  drop(entry);
  queue = [entry.item, ...queue.filter((item) => item.sample_id !== entry.item.sample_id)];
  render();
}

async function undo() {
  if (!session.undoable || undoing) return;
  undoing = true;
  try {
    // One that is on its way may yet fail, and is here again then.
    let unsent = outbox.takeBack(annotator);
    if (!unsent) {
      await outbox.flush();
      while (outbox.sending) await new Promise((done) => { setTimeout(done, 30); });
      unsent = outbox.takeBack(annotator);
    }
    if (unsent) {
      undone(unsent.item);
      return;
    }
    const answer = await post(`/api/review/${task}/undo`, { annotator });
    if (answer.status === 401) throw Object.assign(new Error(), { refused: "your session has ended" });
    if (!answer.ok) throw Object.assign(new Error(), { refused: await problemOf(answer) });
    const { item } = await answer.json();
    if (item) undone(item);
    else session.nothingToUndo();
  } catch (error) {
    say("");
    const asked = error.name === "TimeoutError" ? "Not known whether it was undone" : "Nothing was undone";
    flash(`${asked}: ${error.refused ?? silence(error)}`);
  } finally {
    undoing = false;
    renderSession();
  }
}

function undone(item) {
  const value = session.given(item.sample_id);
  answered.set(item.sample_id, TAKEN_BACK);
  session.tookBack(item.sample_id);
  if (CLOSED[item.state]) {
    flash(`Taken back. The sample ${CLOSED[item.state]}: it is not to be answered again.`);
    return;
  }
  queue = [item, ...queue.filter((other) => other.sample_id !== item.sample_id)];
  el("sample").dataset.id = ""; // shown anew, even where it is on screen
  renderSession();
  render();
  say(value ? `Undone. Your answer was ${value}: send it again or change it.` : "Undone. Answer it again.");
}

// Keeping samples ahead --------------------------------------------------------------------

async function fill() {
  if (!annotator || fetching) return fetching;
  askedAt = performance.now();
  fetching = load().catch((error) => {
    lost = error.refused ?? silence(error);
    link("lost", `${capitalised(lost)}, trying again`);
  });
  await fetching;
  fetching = null;
  render();
  return null;
}

async function load() {
  const began = performance.now();
  const by = annotator;
  // The server still counts unsent answers as held by us, and offers those first.
  const unsent = new Set(outbox.entries.filter((entry) => entry.annotator === by).map((entry) => entry.item.sample_id));
  const limit = Math.min(50, Math.max(AHEAD, queue.length) + unsent.size);
  const shown = queue[0]?.sample_id ?? "";
  const answer = await fetch(`/api/review/${task}/next?${new URLSearchParams({ annotator, limit, shown })}`, {
    headers: { Accept: "application/json" },
    signal: AbortSignal.timeout(8000),
  });
  notices.signedOut = answer.status === 401;
  renderUnsaved();
  if (notices.signedOut) throw Object.assign(new Error(), { refused: "your session has ended" });
  if (!answer.ok) throw Object.assign(new Error(), { refused: await problemOf(answer) });
  const reply = await answer.json();
  lost = "";
  if (by !== annotator) {
    await load();
    return;
  }
  depth = reply.depth;
  if (queue[0]?.sample_id === shown && CLOSED[reply.shown]) {
    queue.shift();
    drafts.keep(shown, annotator, null);
    flash(`The sample that stood here ${CLOSED[reply.shown]}, meanwhile.`);
  }
  // What was taken back while this load was under way is no longer what waited when it left.
  const ours = (id) => (answered.get(id) ?? (unsent.has(id) ? Infinity : TAKEN_BACK)) > began;
  const drafted = (item) => drafts.of(item.sample_id, annotator) !== undefined;
  const offered = reply.items.filter((item) => !ours(item.sample_id));
  const unseen = [...offered.filter(drafted), ...offered.filter((item) => !drafted(item))];
  // What is on screen stays, whatever became more urgent meanwhile.
  const current = queue[0] && !ours(queue[0].sample_id) ? [queue[0]] : [];
  queue = [...current, ...unseen.filter((item) => item.sample_id !== current[0]?.sample_id)];
  renderDepth();
  link("live", "Live");
}

function link(state, words) {
  el("link").dataset.state = state;
  el("link").textContent = words;
}

// With samples at hand only their lease has to be renewed; without any, the next may come at once.
async function keepFilled() {
  const rest = queue.length ? Math.min(LEASE / 3, 20000) : IDLE_POLL;
  if (!document.hidden && annotator && performance.now() - askedAt >= rest) await fill();
  setTimeout(keepFilled, IDLE_POLL / 4);
}

// Who ---------------------------------------------------------------------------------------

function askName() {
  el("who-name").value = annotator;
  el("who").showModal();
}

function named(name) {
  annotator = name;
  local.set(NAME, name);
  el("rename").textContent = name;
  el("rename").title = "Change your name";
}

el("who").addEventListener("cancel", (event) => { if (!annotator) event.preventDefault(); });
el("who-form").addEventListener("submit", () => {
  const name = el("who-name").value.trim();
  if (!name) return;
  if (name !== annotator) {
    // What another person was shown and answered says nothing of what waits for this one.
    queue = [];
    answered.clear();
    named(name);
    session.begin(name);
    el("done-title").textContent = "Loading the queue…";
    el("done-words").textContent = "";
  }
  renderSession();
  fill();
  render();
});
el("rename").addEventListener("click", askName);

// Keys and buttons --------------------------------------------------------------------------

const keys = {
  ...answerBox.keys,
  enter: submit,
  s: () => queue[0] && leave(null),
  x: () => queue[0] && leave(null, true),
  u: undo,
  m: () => queue[0] && answerBox.peek(),
  r: () => outbox.retryNow(),
  "?": () => el("help").showModal(),
};

// A key by its character; where a layout has another one there, by its place: digits on a French
// keyboard, letters on a Greek one, the question mark on an Arabic one.
function keyOf(event) {
  const key = event.key.toLowerCase();
  if (keys[key]) return key;
  if (!event.shiftKey && /^Digit\d$/.test(event.code)) return event.code.slice(-1);
  // An input method at work names no character.
  if (/^[\x00-\x7f]/.test(key) && key !== "process" && key !== "unidentified") return key;
  if (/^(Key[A-Z]|Numpad\d|Digit\d)$/.test(event.code)) return event.code.slice(-1).toLowerCase();
  if (event.code === "Slash") return event.shiftKey ? "?" : "/";
  return key;
}

document.addEventListener("keydown", (event) => {
  if (answerBox.sendsByCtrlEnter && event.key === "Enter" && (event.ctrlKey || event.metaKey) && !composing(event)
      && !event.repeat && !document.querySelector("dialog[open]")) {
    event.preventDefault();
    submit();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || composing(event)) return;
  if (document.querySelector("dialog[open]")) {
    if (event.key === "?" && el("help").open) el("help").close();
    return;
  }
  const { target } = event;
  if (target.matches("select, textarea, input:not([type=radio])")) return;
  const key = keyOf(event);
  const button = target.closest("a, button");
  if (button && button.id !== "submit" && (key === "enter" || key === " ")) return;
  if (target.id === "sample-text" && key.startsWith("arrow") && target.scrollHeight > target.clientHeight) return;
  if (keys[key] && !(event.repeat && ["enter", "s", "x", "u", "a"].includes(key))) keys[key]();
  else return;
  event.preventDefault();
});

el("answer").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
el("skip").addEventListener("click", () => leave(null));
el("unlabelable").addEventListener("click", keys.x);
el("undo").addEventListener("click", undo);
el("undo-done").addEventListener("click", undo);
el("peek").addEventListener("click", keys.m);
el("help-open").addEventListener("click", keys["?"]);

outbox.addEventListener("change", () => { renderUnsaved(); session.renderRecent(unsaved()); });
outbox.addEventListener("saved", ({ detail: { item } }) => {
  answered.set(item.sample_id, performance.now());
  if (queue.length < AHEAD) fill();
});
window.addEventListener("online", () => outbox.retryNow());
window.addEventListener("storage", renderUnsaved);
window.addEventListener("beforeunload", (event) => {
  if (!drafts.lasting || (outbox.waiting.length && !outbox.lasting)) event.preventDefault();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) hiddenAt = performance.now();
  else if (hiddenAt) {
    away += performance.now() - Math.max(hiddenAt, shownAt);
    hiddenAt = 0;
    fill();
  }
});

// From the page cache the page would show what was true when it was left.
window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

if (annotator) named(annotator);
else askName();
outbox.flush();
render();
keepFilled();
renderUnsaved();
renderSession();
