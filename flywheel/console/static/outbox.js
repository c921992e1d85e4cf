// Answers on their way to the server: kept in localStorage until acknowledged, sent in order.
// A server that is down is tried again; one that refuses an answer leaves it here for the person.

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
  }

  // Read on every use: another tab may have sent or added some.
  get entries() {
    try {
      return JSON.parse(localStorage.getItem(this.key)) ?? [];
    } catch {
      return [];
    }
  }

  keep(entries) {
    if (entries.length) localStorage.setItem(this.key, JSON.stringify(entries));
    else localStorage.removeItem(this.key);
    this.dispatchEvent(new Event("change"));
  }

  get waiting() {
    return this.entries.filter((entry) => !entry.refused);
  }

  get refused() {
    return this.entries.filter((entry) => entry.refused);
  }

  add(entry) {
    this.keep([...this.entries, { ...entry, id: crypto.randomUUID() }]);
    this.flush();
  }

  remove(id) {
    this.keep(this.entries.filter((entry) => entry.id !== id));
  }

  // Takes back the latest answer if it was not sent yet.
  takeBack() {
    const last = this.waiting.at(-1);
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
        outcome = { again: error.name === "TimeoutError" ? "the console took too long to answer" : "the console cannot be reached" };
      }
      this.sending = null;
      if (outcome.again) {
        this.postpone(outcome.again);
        return;
      }
      this.problem = "";
      this.wait = FIRST_WAIT;
      if (outcome.refused) {
        this.keep(this.entries.map((one) => (one.id === entry.id ? { ...one, refused: outcome.refused } : one)));
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
    const { annotator, value, seconds } = entry;
    const kind = value === null ? "skip" : "answer";
    const answer = await post(`/api/review/${this.task}/${encodeURIComponent(entry.item.sample_id)}/${kind}`,
      value === null ? { annotator } : { annotator, value, seconds });
    if (answer.ok) return {};
    const words = await problemOf(answer);
    // 401: the session ran out; signing in again in another tab makes the next try pass.
    if (answer.status === 401) return { again: "your session has ended; sign in again in another tab" };
    if (answer.status >= 500 || answer.status === 429 || answer.status === 408) return { again: words };
    return { refused: words };
  }
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
    return detail || title;
  } catch {
    return `HTTP ${answer.status}`;
  }
}
