// Applies the kept theme before the first paint; "auto" follows the system.
const KEY = "flywheel.theme";
const root = document.documentElement;
const order = ["auto", "light", "dark"];

let chosen = "auto"; // where the browser keeps nothing, a choice lasts as long as the page

function kept() {
  let theme = chosen;
  try {
    theme = localStorage.getItem(KEY) ?? chosen;
  } catch { /* refused */ }
  return order.includes(theme) ? theme : "auto";
}

function keep(theme) {
  chosen = theme;
  try {
    localStorage.setItem(KEY, theme);
  } catch { /* refused */ }
}

function apply(theme) {
  if (theme === "auto") delete root.dataset.theme;
  else root.dataset.theme = theme;
  const button = document.getElementById("theme");
  if (button) button.querySelector("span").textContent = `Theme: ${theme}`;
  window.dispatchEvent(new Event("themechange"));
}

apply(kept());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => apply(kept()));
document.addEventListener("DOMContentLoaded", () => {
  apply(kept());
  document.getElementById("theme")?.addEventListener("click", () => {
    const theme = order[(order.indexOf(kept()) + 1) % order.length];
    keep(theme);
    apply(theme);
  });
  document.getElementById("task")?.addEventListener("change", (event) => {
    location.assign(event.target.value);
  });
});
