// Turns state into page. It reads nothing but the state, and changes classes, text and aria attributes, never markup from strings.

import * as S from "./rank_state.js";

const make = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};
// What stays as it is isn't touched: the browser would style and lay it out again.
const write = (node, text) => node.textContent !== text && (node.textContent = text);
const press = (button, on) => {
  if (button.getAttribute("aria-pressed") !== String(on)) button.setAttribute("aria-pressed", String(on));
};

export class View {
  constructor(root) {
    this.root = root;
    this.rail = root.querySelector("#rail");
    this.said = root.querySelector("#said");
    this.ended = false; // whether nothing more can come on this page
  }

  get task() { return this.root.querySelector("#task"); }
  card(index) { return this.task?.querySelector(`[data-card="${index}"]`); }

  say(text, kind = "") {
    this.said.textContent = "";
    this.said.textContent = text;
    this.said.dataset.kind = kind;
  }

  // Says why there is no item, and none comes by waiting, and the way on from here.
  end(words, to, name) {
    this.ended = true;
    const way = make("p", {}, make("a", {class: "button main", href: to}, name));
    const work = this.root.querySelector("#work");
    work.replaceChildren(make("section", {class: "finished", role: "alert"}, make("p", {}, words), way));
    work.setAttribute("aria-busy", "false");
    this.root.querySelector("#dock").hidden = true;
  }

  paint(state, {current, pinned, rules}) {
    if (!this.task) return;
    state.slots.forEach((slot, index) => this.paintCard(state, index, slot, current === index, pinned === index));
    this.paintRail(state, current);
    for (const button of this.root.querySelectorAll("[data-act=none]")) press(button, state.none);
    const open = S.missing(state, rules.partial).length;
    const submit = this.root.querySelector("[data-act=submit]");
    submit.classList.toggle("ready", open === 0);
    write(submit.querySelector(".left"), open ? `· ${open} left` : "");
    this.paintPair(state);
  }

  paintCard(state, index, slot, current, pinned) {
    const card = this.card(index);
    const rank = S.rankOf(state, index);
    const words = S.placeOf(state, index);
    const bad = state.bad.includes(index);
    write(card.querySelector(".place"), !bad ? words : slot ? `${words}, unacceptable` : "unacceptable");
    card.classList.toggle("placed", slot > 0 || bad);
    card.classList.toggle("first", rank === 1);
    card.classList.toggle("is-bad", bad);
    card.classList.toggle("current", current);
    for (const button of card.querySelectorAll("button[data-act]")) {
      const value = Number(button.dataset.value);
      if (button.dataset.act === "place") press(button, value === slot);
      if (button.dataset.act === "bad") press(button, bad);
      if (button.dataset.act === "compare") press(button, pinned);
      if (button.dataset.act === "rate") {
        const attribute = this.attributes[Number(button.dataset.row)];
        press(button, state.ratings[index]?.[attribute] === value);
      }
    }
    write(card.querySelector(".flagged"), (state.flags[index] ?? []).map((f) => `${f} `).join(""));
  }

  // The rail is built anew each time: it has at most nine letters in ten boxes. A letter that had the focus gets it back.
  paintRail(state, current) {
    const focused = this.rail.contains(document.activeElement) ? document.activeElement.dataset : null;
    const chip = (index) =>
      make("button", {
        type: "button", class: index === current ? "chip current" : "chip", "data-act": "goto", "data-goto": index,
        "data-drag": index, "aria-label": `go to ${S.letter(index)}`,
      }, S.letter(index));
    const gap = (before) => make("span", {class: "gap", "data-gap": before, "aria-hidden": "true"});
    const boxes = state.slots.map((_, n) => {
      const slot = n + 1;
      const members = state.slots.flatMap((s, i) => (s === slot ? [i] : []));
      const number = make("button", {
        type: "button", class: "slot-number", "data-act": "slot", "data-value": slot,
        "aria-label": `put ${S.letter(current)} in place ${slot}`,
      }, String(slot));
      const inside = members.flatMap((m, i) => (i ? [make("span", {class: "ties"}, "="), chip(m)] : [chip(m)]));
      const classes = members.length > 1 ? "slot tied" : members.length ? "slot" : "slot empty";
      return make("li", {class: classes, "data-slot": slot}, gap(slot), number, ...inside);
    });
    boxes.at(-1).append(gap(state.slots.length + 1));
    const open = state.slots.flatMap((s, i) => (s ? [] : [i]));
    const left = make("li", {class: "slot unplaced", "data-slot": 0}, make("span", {class: "label"}, "unplaced"));
    left.append(...open.map(chip), ...(open.length ? [] : ["–"]));
    this.rail.replaceChildren(...boxes, left);
    if (focused) this.rail.querySelector(this.selector(focused))?.focus();
  }

  selector(data) {
    return data.goto !== undefined ? `[data-goto="${data.goto}"]` : `[data-act="slot"][data-value="${data.value}"]`;
  }

  paintPair(state) {
    if (state.slots.length !== 2) return;
    const [a, b] = state.slots;
    const both = state.none || (state.bad.length === 2 && a === b);
    const chosen = both ? "bad" : !a || !b ? "" : a === b ? "tie" : `${a < b ? 0 : 1}${state.much ? "!" : ""}`;
    for (const button of this.root.querySelectorAll("#pair [data-act=pair]")) {
      press(button, button.dataset.value === chosen);
    }
  }

  paintProgress({done, limit, open, per_hour: pace}) {
    const bar = this.root.querySelector("#progress-bar");
    if (!bar) return;
    const parts = [limit ? `${done} of ${limit}` : `${done} done`];
    if (pace) parts.push(`${pace}/h`);
    if (!limit) parts.push(`${open} open`);
    this.root.querySelector("#progress-words").textContent = parts.join(" · ");
    bar.max = (limit ?? done + open) || 1;
    bar.value = done;
  }

  // Shows two answers with their differing words marked; marks are elements, so they don't hang on colour alone.
  paintDiff(panel, runs, sides) {
    panel.querySelectorAll(".side").forEach((side, n) => {
      const own = n ? "+" : "-";
      side.querySelector("h3").textContent = `Answer ${S.letter(sides[n].card)}`;
      const body = side.querySelector("pre");
      if (!runs) return body.replaceChildren(sides[n].text);
      body.replaceChildren(...runs.flatMap(([kind, text]) =>
        kind === "=" ? [text] : kind === own ? [make(n ? "ins" : "del", {}, text)] : []));
    });
    const differing = (runs ?? []).filter(([kind]) => kind !== "=").length;
    panel.querySelector(".verdict").textContent = !runs
      ? "These two have too little in common to mark single words."
      : differing ? `${differing} differing passages are marked.` : "These two answers are the same, word for word.";
  }
}
