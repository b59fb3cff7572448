// Shows what lies beside the task: dialogs, the guide, and how texts and keys are switched.

import {composing, digitOf} from "./rank_keys.js";
import {recall, remember} from "./rank_net.js";

const SIZES = {third: ["line", "Whole"], line: ["whole", "Smaller"], whole: ["third", "Smaller"]};

const SEEN_MS = 1000;

export class Panels {
  // keep: the beginning of this person's keys in local storage.
  constructor(root, keep) {
    Object.assign(this, {root, keep, raw: false, single: recall(`${keep}keys`, true)});
    this.help = root.querySelector("#help");
  }

  // The guide opens once by itself, where it leaves room for the task; elsewhere its button stands out once. A page
  // that is gone within a second, as between signing in and ranking, does not count.
  start() {
    const known = recall(`${this.keep}guide`, false);
    this.showHelp(!known && innerWidth > 1200);
    this.button.classList.toggle("new", !known && this.help.hidden);
    addEventListener("popstate", () => this.showHelp(false));
    if (!this.help.hidden) setTimeout(() => remember(`${this.keep}guide`, true), SEEN_MS);
  }

  get button() { return this.root.querySelector(".bar [data-act=help]"); }

  open(name) { this.root.querySelector(`dialog#${name}`).showModal(); }
  close() { this.root.querySelector("dialog[open]")?.close(); }
  onClose(told) {
    for (const dialog of this.root.querySelectorAll("dialog")) dialog.addEventListener("close", () => told(dialog));
  }

  // Digits choose; Enter ends the flags, v the comparison; Escape is the browser's.
  key(event, dialog) {
    if (event.ctrlKey || event.metaKey || event.altKey || composing(event)) return;
    const digit = Number(digitOf(event));
    const choice = digit ? dialog.querySelectorAll(".choices button")[digit - 1] : null;
    const done = dialog.id === "flags" && event.key === "Enter" && event.target.dataset?.act !== "close";
    if (choice) choice.click();
    else if (done || (event.key === "v" && dialog.id === "diff")) dialog.close();
    else return;
    event.preventDefault();
  }

  showFlags(letter, flags) {
    for (const button of this.root.querySelectorAll("#flags [data-act=flag-as]")) {
      button.setAttribute("aria-pressed", String(flags.includes(button.dataset.value)));
    }
    this.root.querySelector("#flags .letter").textContent = letter;
  }

  resizePrompt(article) {
    const prompt = article.querySelector(".prompt");
    const [size, words] = SIZES[prompt.dataset.size];
    prompt.dataset.size = size;
    article.classList.toggle("whole", size === "whole");
    prompt.querySelector(".prompt-size").textContent = words;
  }

  // Returns whether it is open now.
  toggleHelp() {
    this.showHelp(this.help.hidden);
    remember(`${this.keep}guide`, true);
    this.button.classList.remove("new");
    if (!this.help.hidden) this.help.focus();
    this.step();
    return !this.help.hidden;
  }

  // Where the guide lies over the task, a phone's Back closes it and leaves the page alone.
  step() {
    const over = getComputedStyle(this.help).position === "fixed";
    if (!this.help.hidden && over) history.pushState({guide: true}, "");
    else if (this.help.hidden && history.state?.guide) history.back();
  }

  showHelp(open) {
    this.help.hidden = !open;
    this.button.setAttribute("aria-expanded", String(open));
  }

  // This is done for a new task too, because its buttons are new.
  apply() {
    this.setRaw(this.raw);
    this.setSingle(this.single);
  }

  setRaw(on) {
    this.raw = on;
    this.root.classList.toggle("raw-text", on);
    this.root.querySelector("[data-act=raw]").setAttribute("aria-pressed", String(on));
  }

  // With single keys on, Tab walks from card to card; off, it reaches every button.
  setSingle(on) {
    this.single = on;
    remember(`${this.keep}keys`, on);
    const button = this.root.querySelector("[data-act=keys]");
    button.setAttribute("aria-pressed", String(on));
    button.textContent = on ? "Keys on" : "Keys off";
    for (const each of this.root.querySelectorAll(".card header button, .card .ratings button")) each.tabIndex = on ? -1 : 0;
  }
}
