// A browser may name a language that is no language tag ("C", where the system has no locale). Intl
// refuses it, and a script that asks Intl as it loads ends there.
try {
  new Intl.NumberFormat(navigator.language);
} catch {
  Object.defineProperty(navigator, "language", { value: "en" });
}
