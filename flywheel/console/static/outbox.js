// Answers on their way to the server: kept in localStorage until acknowledged, sent in order.
// A server that is down is tried again; one that refuses an answer leaves it here for the person.

import { local } from "./store.js";

const FIRST_WAIT = 1000;
const LONGEST_WAIT = 15000;

export class Outbox extends EventTarget {
  constructor(task) {
    super();
    this.key = `flywheel.review.${task}.unsaved`;
    this.task = task;
    this.wait = FIRST_WAIT;
    this.problem = "";
    this.retryAt = 0;
    this.sending = null;
    this.lasting = true; // whether what waits would outlast the page
  }

  // Read on every use: another tab may have sent or added some.
  get entries() {
    return local.read(this.key, []);
  }

  keep(entries) {
    if (entries.length) this.lasting = local.set(this.key, JSON.stringify(entries));
    else local.remove(this.key);
    this.dispatchEvent(new Event("change"));
  }

  get waiting() {
    return this.entries.filter((entry) => !entry.refused);
  }

  get refused() {
    return this.entries.filter((entry) => entry.refused);
  }

  add(entry) {
    this.keep([...this.entries, { ...entry, id: drawId() }]);
    this.flush();
  }

  remove(id) {
    this.keep(this.entries.filter((entry) => entry.id !== id));
  }

  // Takes back this person's latest answer if it was not sent yet.
  takeBack(annotator) {
    const last = this.waiting.findLast((entry) => entry.annotator === annotator);
    if (!last || this.sending === last.id) return null;
    this.remove(last.id);
    return last;
  }

  retryNow() {
    clearTimeout(this.timer);
    this.wait = FIRST_WAIT;
    this.flush();
  }

  async flush() {
    if (this.sending) return;
    clearTimeout(this.timer);
    for (let entry = this.waiting[0]; entry; entry = this.waiting[0]) {
      this.sending = entry.id;
      let outcome;
      try {
        outcome = await this.send(entry);
      } catch (error) {
        outcome = { again: silence(error) };
      }
      this.sending = null;
      if (outcome.again) {
        this.postpone(outcome.again);
        return;
      }
      this.problem = "";
      this.wait = FIRST_WAIT;
      if (outcome.refused) {
        this.keep(this.entries.map((one) => (one.id === entry.id ? { ...one, ...outcome } : one)));
      } else {
        this.remove(entry.id);
        this.dispatchEvent(new CustomEvent("saved", { detail: entry }));
      }
    }
    this.dispatchEvent(new Event("idle"));
  }

  postpone(problem) {
    this.problem = problem;
    this.retryAt = Date.now() + this.wait;
    this.timer = setTimeout(() => this.flush(), this.wait);
    this.wait = Math.min(this.wait * 2, LONGEST_WAIT);
    this.dispatchEvent(new Event("change"));
  }

  async send(entry) {
    const { annotator, value, seconds, unlabelable } = entry;
    const kind = unlabelable ? "unlabelable" : value === null ? "skip" : "answer";
    const answer = await post(`/api/review/${this.task}/${encodeURIComponent(entry.item.sample_id)}/${kind}`,
      unlabelable ? { annotator, seconds } : value === null ? { annotator } : { annotator, value, seconds });
    if (answer.ok) return {};
    const words = await problemOf(answer);
    // 401: the session ran out; signing in again in another tab makes the next try pass.
    if (answer.status === 401) return { again: "your session has ended; sign in again in another tab" };
    if (answer.status >= 500 || answer.status === 429 || answer.status === 408) return { again: words };
    // Closed, answered otherwise, or not there: no other answer would be taken either.
    return { refused: words, final: answer.status === 404 || answer.status === 409 };
  }
}

// crypto.randomUUID is there in secure contexts alone: not over plain http from another machine.
function drawId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Why a request got no answer.
export function silence(error) {
  return error.name === "TimeoutError" ? "the console took too long to answer" : "the console cannot be reached";
}

export function post(url, body) {
  return fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json" },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(10000),
  });
}

export async function problemOf(answer) {
  try {
    const { detail, title } = await answer.json();
    return detail || title || `HTTP ${answer.status}`;
  } catch {
    return `HTTP ${answer.status}`;
  }
}
