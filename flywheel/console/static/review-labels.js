// An answer that is one of the task's labels: chosen by number, by arrow, or by a click.

const PEEK = "flywheel.review.peek";

export class LabelAnswer {
  constructor(form, { changed, say }) {
    this.choices = [...form.querySelectorAll(".choice")];
    this.radios = this.choices.map((choice) => choice.querySelector("input"));
    this.peekButton = document.getElementById("peek");
    this.changed = changed;
    this.say = say;
    this.item = null;
    form.querySelector("#choices").addEventListener("change", changed);
    this.keys = {
      j: () => this.move(1),
      k: () => this.move(-1),
      arrowdown: () => this.move(1),
      arrowup: () => this.move(-1),
      arrowright: () => this.move(1),
      arrowleft: () => this.move(-1),
    };
    for (let digit = 1; digit <= 9; digit += 1) this.keys[digit] = () => this.choose(digit - 1);
  }

  show(item) {
    this.item = item;
    for (const radio of this.radios) radio.checked = false;
    this.reveal(localStorage.getItem(PEEK) === "always");
    this.changed();
  }

  get value() {
    return this.radios.find((radio) => radio.checked)?.value ?? null;
  }

  choose(index) {
    const radio = this.radios[index];
    if (!radio || !this.item) return;
    radio.checked = true;
    radio.focus({ preventScroll: true });
    this.choices[index].scrollIntoView({ block: "nearest" });
    this.changed();
  }

  move(step) {
    const { radios } = this;
    const now = radios.findIndex((radio) => radio.checked);
    this.choose(now < 0 ? (step > 0 ? 0 : radios.length - 1) : (now + step + radios.length) % radios.length);
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
    }
    if (shown && item) this.say(item.prediction ? `The model answered ${item.prediction}` : "The model gave no answer");
  }
}
