// An answer in free text: the model's stands there to begin with, to be accepted or rewritten.

import { composing } from "./composing.js";

const el = (id) => document.getElementById(id);

export class TextAnswer {
  constructor(form, { changed, typed, say, submit, flash, longest }) {
    Object.assign(this, { changed, typed, say, submit, flash, longest });
    this.box = form.querySelector("#text");
    this.sendsByCtrlEnter = true; // Enter alone ends a line
    this.item = null;
    this.mine = ""; // what was written before the model's answer was asked back
    this.box.addEventListener("input", () => {
      this.refresh();
      this.typed(this.unchanged ? null : this.box.value);
    });
    this.box.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || composing(event)) return;
      event.preventDefault();
      el("sample-text").focus({ preventScroll: true });
    });
    this.keys = { a: () => this.accept(), e: () => this.edit() };
  }

  // ``earlier`` is what this expert wrote and did not send, or took back.
  show(item, earlier) {
    this.item = item;
    this.mine = "";
    this.write(earlier ?? this.given);
    this.box.scrollTop = 0;
  }

  get given() {
    return this.item?.prediction ?? "";
  }

  // A text area turns line ends into its own: compared with what it was given, not with the item.
  get unchanged() {
    return this.box.value === this.asShown(this.given);
  }

  get value() {
    const text = this.unchanged ? this.given : this.box.value.trim();
    return text.trim() && [...text].length <= this.longest ? text : null;
  }

  asShown(text) {
    return text.replace(/\r\n?/g, "\n");
  }

  write(text) {
    this.box.value = text;
    this.refresh();
  }

  refresh() {
    const count = [...this.box.value].length;
    const over = count > this.longest;
    const sure = this.item?.confidence;
    const whose = this.unchanged
      ? `as the model wrote it${typeof sure === "number" ? `, ${Math.round(sure * 100)}\u202f% sure` : ""}`
      : "your words";
    el("text-note").textContent = over
      ? `${count} characters; at most ${this.longest} are accepted`
      : this.given || !this.unchanged ? whose : "the model wrote nothing: write the right answer";
    el("text-note").classList.toggle("k-fail", over);
    this.box.setAttribute("aria-invalid", String(over));
    el("submit").dataset.does = this.unchanged ? "accept" : "send";
    el("peek").setAttribute("aria-pressed", String(this.unchanged));
    this.changed();
  }

  accept() {
    if (this.unchanged) this.submit();
    else this.flash("You have changed the answer: Ctrl+Enter sends your words, M brings the model’s back.");
  }

  edit() {
    this.box.focus();
    this.box.setSelectionRange(this.box.value.length, this.box.value.length);
  }

  // The model's answer back, and on the next call what was written in its place.
  peek() {
    if (this.unchanged) {
      if (this.mine) this.write(this.mine);
      return;
    }
    this.mine = this.box.value;
    this.write(this.given);
    this.say("The model’s answer is back");
  }
}
