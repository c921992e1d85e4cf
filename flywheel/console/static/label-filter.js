// Which labels a few typed letters mean: a pure function, likeliest first.

// Words without case, accents and punctuation: "Carte_Bancaire, perdue" → ["carte", "bancaire", "perdue"].
function words(text) {
  return text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
}

// Whether letters are the beginnings of some of the words, in order: "cap" of "card payment".
function abbreviates(letters, parts, from = 0) {
  if (!letters) return true;
  for (let index = from; index < parts.length; index += 1) {
    for (let length = 1; parts[index].startsWith(letters.slice(0, length)); length += 1) {
      if (abbreviates(letters.slice(length), parts, index + 1)) return true;
      if (length === letters.length) break;
    }
  }
  return false;
}

// How far a text is from what was typed: 0 begins with it, then by its initials, by the beginnings
// of its words, somewhere inside; null: not at all.
function distance(typed, text) {
  const parts = words(text);
  const whole = parts.join(" ");
  const letters = typed.replaceAll(" ", "");
  if (whole.startsWith(typed)) return 0;
  if (parts.map((part) => part[0]).join("").startsWith(letters)) return 1;
  if (abbreviates(letters, parts)) return 2;
  return whole.includes(typed) ? 3 : null;
}

// Positions of the labels that match ``query``, likeliest first; ``texts`` holds for each label all
// that it is called. Of equals the one that comes first in the task.
export function matching(query, texts) {
  const typed = words(query).join(" ");
  const matches = [];
  texts.forEach((names, index) => {
    const near = names.map((name) => distance(typed, name)).filter((one) => one !== null);
    if (near.length) matches.push([Math.min(...near), index]);
  });
  return matches.sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(([, index]) => index);
}
