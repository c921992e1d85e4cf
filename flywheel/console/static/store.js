// The browser's storage, which never throws: where a browser refuses it, or it is full, a value
// lasts as long as the page.

class Store {
  constructor(kind) {
    this.kind = kind;
    this.page = new Map();
  }

  get(key) {
    if (this.page.has(key)) return this.page.get(key);
    try {
      return window[this.kind].getItem(key);
    } catch {
      return null;
    }
  }

  // Whether the value outlasts the page.
  set(key, value) {
    try {
      window[this.kind].setItem(key, value);
      this.page.delete(key);
      return true;
    } catch {
      this.page.set(key, value);
      return false;
    }
  }

  remove(key) {
    this.page.delete(key);
    try {
      window[this.kind].removeItem(key);
    } catch { /* nothing was kept there */ }
  }

  // What was kept as JSON where it is of the kind of ``otherwise`` (a list, an object), or that:
  // an earlier version, or somebody's hand, may have written something else.
  read(key, otherwise) {
    try {
      const kept = JSON.parse(this.get(key));
      return kept && Array.isArray(kept) === Array.isArray(otherwise) && typeof kept === "object" ? kept : otherwise;
    } catch {
      return otherwise;
    }
  }
}

export const local = new Store("localStorage");
export const session = new Store("sessionStorage");
