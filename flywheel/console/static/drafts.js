// Words that were typed and not submitted yet: kept in this browser, so that a session that ends, a
// reload or a crash costs none of them.

import { local } from "./store.js";

const MOST = 20;

export class Drafts {
  constructor(task) {
    this.key = `flywheel.review.${task}.drafts`;
    this.lasting = true; // whether what was typed would outlast the page
  }

  // [sample, who, words], the latest first. Read on every use: another tab may have written.
  get entries() {
    return local.read(this.key, []);
  }

  of(sample, who) {
    return this.entries.find(([id, name]) => id === sample && name === who)?.[2];
  }

  // ``words`` null: nothing of it is unsubmitted any more.
  keep(sample, who, words) {
    const others = this.entries.filter(([id, name]) => id !== sample || name !== who);
    const entries = words === null ? others : [[sample, who, words], ...others].slice(0, MOST);
    this.lasting = !entries.length || local.set(this.key, JSON.stringify(entries));
    if (!entries.length) local.remove(this.key);
  }
}
