// An answer that is one of the task's labels: chosen by number, by arrow, by a click, or by typing
// some of its letters.

import { composing } from "./composing.js";
import { matching } from "./label-filter.js";
import { local } from "./store.js";

const PEEK = "flywheel.review.peek";

export class LabelAnswer {
  constructor(form, { changed, say }) {
    this.tiles = form.querySelector("#tiles");
    this.choices = [...form.querySelectorAll(".choice")];
    this.radios = this.choices.map((choice) => choice.querySelector("input"));
    this.peekButton = document.getElementById("peek");
    this.changed = changed;
    this.say = say;
    this.item = null;
    this.keys = {
      j: () => this.move(1),
      k: () => this.move(-1),
      arrowdown: () => this.move(1),
      arrowup: () => this.move(-1),
      arrowright: () => this.move(1),
      arrowleft: () => this.move(-1),
    };
    for (let digit = 1; digit <= 9; digit += 1) this.keys[digit] = () => this.choose(digit - 1);
    this.filter = form.querySelector("#filter"); // none where the labels are few
    if (this.filter) this.listen(form);
    form.querySelector("#choices").addEventListener("change", (event) => {
      if (event.target === this.filter) return;
      this.clear();
      changed();
    });
  }

  // ``earlier`` is what this expert chose before they took it back.
  show(item, earlier) {
    this.item = item;
    this.clear();
    this.tiles.scrollTop = 0;
    for (const radio of this.radios) radio.checked = false;
    const before = this.radios.findIndex((radio) => radio.value === earlier);
    if (before >= 0) this.check(before);
    this.reveal(local.get(PEEK) === "always");
    this.changed();
  }

  get value() {
    return this.radios.find((radio) => radio.checked)?.value ?? null;
  }

  check(index) {
    this.radios[index].checked = true;
    this.choices[index].scrollIntoView({ block: "nearest" });
  }

  choose(index) {
    if (!this.radios[index] || !this.item) return;
    this.clear();
    this.check(index);
    this.radios[index].focus({ preventScroll: true });
    this.changed();
  }

  move(step) {
    const { radios } = this;
    const now = radios.findIndex((radio) => radio.checked);
    this.choose(now < 0 ? (step > 0 ? 0 : radios.length - 1) : (now + step + radios.length) % radios.length);
  }

  // Typing to find a label. While it has the focus, letters are letters.

  listen(form) {
    this.texts = this.choices.map((choice) => [choice.dataset.label, choice.querySelector(".name").textContent]);
    this.none = form.querySelector("#no-match");
    this.keys["/"] = () => this.filter.focus();
    this.filter.addEventListener("input", () => this.narrow());
    this.filter.addEventListener("keydown", (event) => {
      if (composing(event)) return;
      const act = {
        Enter: () => { if (!event.repeat && this.filter.value) this.choose(this.matches[this.pointed]); },
        Escape: () => {
          this.clear();
          document.getElementById("sample-text").focus({ preventScroll: true });
        },
        ArrowDown: () => this.point(this.pointed + 1),
        ArrowUp: () => this.point(this.pointed - 1),
      }[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    });
    this.clear();
  }

  narrow() {
    const every = this.choices.map((_, index) => index);
    this.matches = this.filter.value.trim() ? matching(this.filter.value, this.texts) : every;
    const shown = new Set(this.matches);
    this.choices.forEach((choice, index) => { choice.hidden = !shown.has(index); });
    this.tiles.append(...this.matches.map((index) => this.choices[index]));
    this.none.hidden = shown.size > 0;
    this.tiles.scrollTop = 0;
    this.point(0);
    if (!this.filter.value.trim()) return;
    const first = this.matches.length ? `, first ${this.texts[this.matches[0]][1]}` : "";
    this.say(`${this.matches.length} of ${this.choices.length} labels match${first}`);
  }

  // The match that Enter takes.
  point(position) {
    this.pointed = Math.min(Math.max(position, 0), Math.max(this.matches.length - 1, 0));
    const typed = this.filter.value.trim();
    this.choices.forEach((choice, index) => {
      choice.classList.toggle("pointed", Boolean(typed) && this.matches[this.pointed] === index);
    });
    if (typed) this.choices[this.matches[this.pointed]]?.scrollIntoView({ block: "nearest" });
  }

  clear() {
    if (!this.filter) return;
    this.filter.value = "";
    this.narrow();
  }

  peek() {
    this.reveal(this.peekButton.getAttribute("aria-pressed") !== "true");
  }

  // The model's view stays hidden until asked for: seen first, it would lead the answer.
  reveal(shown) {
    const { item } = this;
    this.peekButton.setAttribute("aria-pressed", String(shown));
    for (const choice of this.choices) {
      const score = choice.querySelector(".score");
      const value = item?.scores?.[choice.dataset.label];
      const predicted = shown && item?.prediction === choice.dataset.label;
      choice.classList.toggle("predicted", predicted);
      score.hidden = !shown || (value === undefined && !predicted);
      if (score.hidden) continue;
      score.querySelector("b").textContent = value === undefined ? "predicted" : `${Math.round(value * 100)}\u202f%`;
      score.querySelector("rect").setAttribute("width", value ?? 1);
      if (predicted) choice.scrollIntoView({ block: "nearest" });
    }
    if (shown && item) this.say(item.prediction ? `The model answered ${item.prediction}` : "The model gave no answer");
  }
}
