// Keeps a server-rendered page current: fetches it again each second and swaps the [data-live]
// parts whose markup changed. The server's templates stay the only place that renders.

import { silence } from "./outbox.js";
import { signInLink } from "./sign-in.js";

const INTERVAL = 1000;
const SLOWEST = 10000;
const seen = new Map();

function link(state, words, ...more) {
  const line = document.getElementById("link");
  if (!line || line.textContent.startsWith(words)) return;
  line.dataset.state = state;
  line.replaceChildren(words, ...more);
}

const capitalised = (words) => words[0].toUpperCase() + words.slice(1);

function swap(page) {
  let changed = false;
  document.title = page.title;
  // Where the page tells of something else than before, its parts are others too.
  for (const fresh of page.querySelectorAll("[data-live-key][id]")) {
    const old = document.getElementById(fresh.id);
    if (!old || old.dataset.liveKey === fresh.dataset.liveKey) continue;
    old.replaceWith(document.importNode(fresh, true));
    changed = true;
  }
  for (const fresh of page.querySelectorAll("[data-live][id]")) {
    const old = document.getElementById(fresh.id);
    if (!old || seen.get(fresh.id) === fresh.outerHTML) continue;
    seen.set(fresh.id, fresh.outerHTML);
    if (old.outerHTML === fresh.outerHTML) continue;
    const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
    const open = new Set([...old.querySelectorAll("details[open][id]")].map((node) => node.id));
    const copy = document.importNode(fresh, true);
    for (const node of copy.querySelectorAll("details[id]")) node.open = open.has(node.id);
    old.replaceWith(copy);
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    changed = true;
  }
  return changed;
}

export function live(onChange = () => {}) {
  let wait = INTERVAL;
  const parser = new DOMParser();

  async function turn() {
    if (document.hidden) return;
    try {
      const answer = await fetch(location.href, {
        headers: { Accept: "text/html" },
        signal: AbortSignal.timeout(8000),
      });
      if (answer.redirected && new URL(answer.url).pathname === "/login") {
        wait = INTERVAL * 2;
        link("lost", "Your session has ended. ", signInLink());
        return;
      }
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      if (swap(parser.parseFromString(await answer.text(), "text/html"))) changed();
      wait = INTERVAL;
      link("live", "Live");
    } catch (error) {
      wait = Math.min(wait * 2, SLOWEST);
      link("lost", `${capitalised(silence(error))}, trying again`);
    }
  }

  // What a page draws from its parts is its own affair: where that fails, the parts are current.
  function changed() {
    try {
      onChange();
    } catch (error) {
      console.warn(error);
    }
  }

  async function keepOn() {
    await turn();
    setTimeout(keepOn, wait);
  }
  link("live", "Live");
  setTimeout(keepOn, INTERVAL);
  document.addEventListener("visibilitychange", turn);
  // From the page cache the page shows what was true when it was left.
  window.addEventListener("pageshow", (event) => { if (event.persisted) turn(); });
}
