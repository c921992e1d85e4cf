// What stands above the sample: answers that are not saved or were refused, a session that ended.

import { signInLink } from "./sign-in.js";

// Words of others within ours, in whatever direction they are written.
export function isolated(words) {
  const node = document.createElement("bdi");
  node.textContent = words;
  return node;
}

export class Notices {
  constructor(box, { outbox, drafts, reopen, drop }) {
    Object.assign(this, { box, outbox, drafts, reopen, drop });
    this.signedOut = false;
  }

  render() {
    const rows = this.outbox.refused.map((entry) => this.refusal(entry));
    if (this.outbox.waiting.length && this.outbox.problem) rows.unshift(this.retrying());
    if (this.signedOut) rows.unshift(this.signInAgain());
    const text = rows.map((row) => row.textContent).join();
    if (this.box.dataset.text === text) return;
    this.box.dataset.text = text;
    this.box.replaceChildren(...rows);
  }

  flash(words) {
    const row = notice("warn", [words]);
    this.box.append(row);
    setTimeout(() => row.remove(), 6000);
  }

  refusal(entry) {
    const without = entry.unlabelable ? "Your “can’t be labelled”" : "Your skip";
    const did = entry.value === null ? [without] : ["Your answer “", isolated(entry.value.slice(0, 60)), "”"];
    const words = [...did, " to “", isolated(entry.item.text.slice(0, 60)), `” was refused: ${entry.refused}`];
    const again = entry.final ? [] : [["Answer again", () => this.reopen(entry)]];
    return notice("fail", words, buttons(...again, ["Drop it", () => this.drop(entry)]));
  }

  retrying() {
    const { waiting, problem, lasting } = this.outbox;
    const keeping = lasting
      ? "Kept in this browser and sent again by itself."
      : "This browser refuses to keep anything: leave the page open until they are sent.";
    const words = `${waiting.length} ${waiting.length === 1 ? "answer is" : "answers are"} not saved yet: ${problem}. ${keeping}`;
    const row = notice("warn", [words], buttons(["Send now", () => this.outbox.retryNow()]));
    row.id = "retrying";
    return row;
  }

  // Nobody is sent there: what they are typing would go.
  signInAgain() {
    const lasting = this.drafts.lasting && this.outbox.lasting;
    const link = signInLink();
    link.className = "button";
    if (!lasting) link.target = "_blank";
    const words = lasting
      ? "Your session has ended. What you typed and what is not sent yet is kept in this browser."
      : "Your session has ended, and this browser refuses to keep anything: sign in there, and leave this page open.";
    const row = notice("warn", [words], link);
    row.id = "signed-out";
    return row;
  }
}

function notice(kind, words, ...controls) {
  const row = document.createElement("div");
  row.className = `notice ${kind}`;
  const said = document.createElement("span");
  said.append(...words);
  row.append(said, ...controls);
  return row;
}

function buttons(...pairs) {
  const group = document.createElement("span");
  group.className = "buttons";
  for (const [words, act] of pairs) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "button";
    button.textContent = words;
    button.addEventListener("click", act);
    group.append(button);
  }
  return group;
}
