// What one expert did in this tab: the figures beside the queue, the latest answers, what can be undone.

import { session as tab } from "./store.js";

const REMEMBERED = 50;
const el = (id) => document.getElementById(id);

export class Session {
  constructor(task, by) {
    this.key = `flywheel.review.${task}.session`;
    this.begin(by);
    const kept = tab.read(this.key, {});
    const whole = [kept.seconds, kept.recent, kept.given].every(Array.isArray);
    if (kept.by === by && whole) Object.assign(this.kept, kept);
  }

  // ``given`` is what was answered to each of the latest samples, [id, value]: taken back, an answer
  // is there to be corrected, and nobody has to choose or write it twice.
  begin(by) {
    this.kept = { by, seconds: [], started: 0, undoable: 0, recent: [], given: [] };
  }

  get undoable() {
    return this.kept.undoable > 0;
  }

  nothingToUndo() {
    this.kept.undoable = 0;
  }

  // ``shown`` is what the list of the latest says of it.
  answered(item, value, seconds, shown) {
    const { kept } = this;
    kept.started ||= Date.now() - seconds * 1000;
    if (value !== null) kept.seconds.push(seconds);
    kept.undoable += 1;
    kept.given = [[item.sample_id, value], ...kept.given].slice(0, REMEMBERED);
    kept.recent = [{ id: item.sample_id, text: item.text, value: shown }, ...kept.recent].slice(0, 6);
  }

  // What was answered to a sample, null for a skip; undefined when that is not known any more.
  given(id) {
    return this.kept.given.find(([sample]) => sample === id)?.[1];
  }

  tookBack(id) {
    const { kept } = this;
    kept.undoable = Math.max(0, kept.undoable - 1);
    kept.recent = kept.recent.filter((one) => one.id !== id);
    if (this.given(id) !== null) kept.seconds.pop();
  }

  render(unsaved) {
    const { seconds, started } = this.kept;
    el("stat-count").textContent = seconds.length;
    const minutes = (Date.now() - started) / 60000;
    el("stat-rate").textContent = seconds.length > 1 ? (seconds.length / Math.max(minutes, 1 / 6)).toFixed(1) : "–";
    const sorted = [...seconds].sort((a, b) => a - b);
    const middle = sorted.length >> 1;
    const median = sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
    el("stat-median").textContent = sorted.length ? median.toFixed(1) : "–";
    el("undo").disabled = !this.undoable;
    this.renderRecent(unsaved);
    tab.set(this.key, JSON.stringify(this.kept));
  }

  // The latest answers, with a dot that fills once the server has them: ``unsaved`` are the ids of
  // those it has not.
  renderRecent(unsaved) {
    el("recent-card").hidden = !this.kept.recent.length;
    el("recent").replaceChildren(...this.kept.recent.map(({ id, text, value }) => {
      const row = document.createElement("li");
      const dot = document.createElement("span");
      dot.className = `dot ${unsaved.has(id) ? "k-wait" : "k-pass"}`;
      dot.title = unsaved.has(id) ? "on its way" : "saved";
      const words = document.createElement("span");
      words.textContent = words.title = text;
      const label = document.createElement("b");
      words.dir = label.dir = "auto";
      label.textContent = label.title = value ?? "skipped";
      row.append(dot, words, label);
      return row;
    }));
  }
}
