// Keeps a server-rendered page current: fetches it again each second and swaps the [data-live]
// parts whose markup changed. The server's templates stay the only place that renders.

const INTERVAL = 1000;
const SLOWEST = 10000;
const seen = new Map();

function link(state, words) {
  const line = document.getElementById("link");
  if (!line || line.dataset.state === state) return;
  line.dataset.state = state;
  line.textContent = words;
}

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
        location.reload();
        return;
      }
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      if (swap(parser.parseFromString(await answer.text(), "text/html"))) onChange();
      wait = INTERVAL;
      link("live", "Live");
    } catch {
      wait = Math.min(wait * 2, SLOWEST);
      link("lost", "Console not reachable, trying again");
    }
  }

  async function keepOn() {
    await turn();
    setTimeout(keepOn, wait);
  }
  link("live", "Live");
  setTimeout(keepOn, INTERVAL);
  document.addEventListener("visibilitychange", turn);
}
