// The ranking screen. State is in rank_state.js, and painting is in rank_view.js; this file says what happens when.

import {Clock, unseen} from "./rank_clock.js";
import {diff} from "./rank_diff.js";
import {enableDrag} from "./rank_drag.js";
import {actionOf, valuesOf} from "./rank_keys.js";
import {askItem, post, recall, remember, stayAlive, uuid} from "./rank_net.js";
import {Outbox} from "./rank_outbox.js";
import {Panels} from "./rank_panels.js";
import {followReading, keepClear, reachWide, turnOver, watchPrompt} from "./rank_scroll.js";
import * as S from "./rank_state.js";
import {Task} from "./rank_task.js";
import {View} from "./rank_view.js";

const DRAFT_MS = 1500;
const RETRY_MS = 4000;
const RELOAD_MS = 3000; // a page younger than this is not loaded again
const root = document.body;
const host = document.getElementById("rank").dataset;
const rules = JSON.parse(host.rules);
const ranking = host.mode === "rank";
const keep = `prefloop.${host.person}.`;
const $ = (selector) => root.querySelector(selector);

const view = new View(root);
view.attributes = rules.attributes;
const clock = new Clock();
const tabs = new BroadcastChannel(`${keep}tabs`);
const outbox = new Outbox(`${keep}${ranking ? "outbox" : "review"}`, {told, refused, changed});
const panels = new Panels(root, keep);
let task = null; // the one on the screen
let next = null; // the one that is fetched already
let held = null; // the one put aside while an earlier answer is open
let given = []; // leases answered here, the latest last
let earlier = null; // leases answered before this page was opened, the latest first
let progress = null; // the last known progress of this person; an item that was fetched ahead brings none
let draftTimer = 0;
const reading = followReading(() => task && !document.querySelector("dialog[open]"), (card) => {
  if (card === task.current) return;
  task.current = card;
  paint();
});

// -- items come and go ------------------------------------------------------------------------------------------------

const leaseUrl = (lease, what) => `${host.base}/${encodeURIComponent(lease)}/${what}`;
const sent = (lease) => outbox.waiting().some((entry) => entry.lease === lease);
const read = (article) => (article?.id === "task" ? new Task(article, rules, `${keep}draft`) : null);

function show(shown, article = shown?.article) {
  task = shown;
  $("#work").replaceChildren(article);
  $("#work").setAttribute("aria-busy", "false");
  $("#dock").hidden = !task;
  warn("");
  clock.watch(task?.article, task?.times);
  hear(JSON.parse(article.dataset.progress || "null"));
  if (!task) return view.say("");
  const pair = task.cards === 2;
  $("#rail").hidden = pair;
  $("#rail").scrollLeft = 0;
  $("#pair").hidden = !pair;
  $("#dock").classList.toggle("pair", pair);
  $("#dock").classList.toggle("writing", task.state.comment !== "");
  const comment = $("#comment");
  if (comment) comment.value = task.state.comment;
  panels.apply();
  paint();
  scrollTo(0, 0);
  $("#work").scrollTop = 0;
  watchPrompt(task.article);
  reachWide(task.article);
  reading.rest();
  view.card(task.current).focus({preventScroll: true});
  const earlier = `Your earlier answer: ${S.said(task.state)}. Submit replaces it`;
  $("[data-act=escape]").hidden = !(task.reopened && held);
  if (task.reopened) view.say(`${earlier}.`);
  else view.say(`${task.cards} answers${pair ? ": which is better?" : ""}`);
}

async function fetchItem(url, body) {
  for (;;) {
    await outbox.flush(); // The server must know what is answered before it says what comes next.
    const {status, article} = await askItem(url, body);
    if (article && !sent(article.dataset.lease)) return article;
    if (status === 401) return lost("You are signed out. What you have said is kept.", `/login?next=${location.pathname}`, "Sign in again");
    if (status && status < 500 && status !== 429 && !article) return lost("This item cannot be opened: it is not yours, or cannot be changed any more.", host.after || "/rank", "Go on ranking");
    net("No connection; trying again…");
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

function lost(words, to, name) {
  view.end(words, to, name);
  net("");
  return null;
}

async function advance() {
  if (held) { [task, held] = [held, null]; show(task); return void prefetch(); }
  if (next && !sent(next.lease)) { const ready = next; next = null; show(ready); return void prefetch(); } // This is not awaited.
  $("#work").setAttribute("aria-busy", "true");
  task = null;
  const article = await fetchItem(host.next, {});
  if (!article) return;
  net("");
  if (askedAnew(article) && performance.now() > RELOAD_MS) return location.reload(); // The page then has the new rules and guidelines.
  show(read(article), article);
  prefetch();
}

// Whether an owner has changed what is asked since this page was loaded.
const askedAnew = (article) => article?.dataset.asked && article.dataset.asked !== host.asked;

// Fetches one item ahead, and only once the server has all answers: else it would hand out again what is on its way to it.
async function prefetch() {
  if (!ranking || !task || next || held || outbox.waiting().length) return;
  const lease = task.lease;
  const article = (await askItem(host.next, {after: lease})).article;
  const found = askedAnew(article) ? null : read(article);
  if (task?.lease !== lease || held) return; // It is too late: advance() asked for it itself, and it may be answered by now.
  if (found && found.lease !== lease && !sent(found.lease)) next = found;
}

// -- sending ----------------------------------------------------------------------------------------------------------

function ready() {
  const open = S.missing(task.state, rules.partial);
  if (open.length) return stop(open[0], `${open.map(S.letter).join(", ")} still without a place`);
  const hidden = unseen(task.times);
  if (hidden.length) {
    const part = task.times.seen[`${hidden[0]}start`] ? "end" : "start";
    const message = `You have not seen all of ${hidden.map(S.letter).join(", ")}. Here it is: read it, then submit`;
    stop(hidden[0], message);
    view.card(hidden[0]).querySelector(`[data-edge=${part}]`).scrollIntoView({block: "center"});
    return false;
  }
  if (rules.rationale === "required" && !task.state.comment.trim()) {
    view.say("Say why, in a few words", "stop");
    actions.comment();
    return false;
  }
  return true;
}

function stop(card, message) {
  go(card);
  view.say(`${message}.`, "stop");
  return false;
}

function submit() {
  if (!task || !ready()) return;
  view.say("Submitted");
  send("submit", {uuid: uuid(), answer: task.answer()});
  given.push(task.lease);
  // This is said once the answer is on its way, so that it stops nobody.
  if (task.hurried(progress?.seconds_per_word)) setTimeout(() => view.say("That was much quicker than usual for you. Undo reopens it.", "stop"), 50);
  tabs.postMessage({answered: task.lease});
  if (ranking) advance();
}

function send(what, body) {
  const url = ranking ? leaseUrl(task.lease, what) : host.base;
  clearTimeout(draftTimer);
  outbox.put({url, lease: task.lease, body, draft: task.draft()});
}

function told(entry, receipt) {
  if (!ranking) return location.assign(host.after);
  hear(receipt.progress);
  net("");
  prefetch();
}

function refused(entry, status, message) {
  if (status === 401) return warn("You are signed out. Sign in again in another tab: your answers are kept and sent.");
  if (status >= 500 || status === 429) return;
  if (status === 409) return warn(`An answer was already given in another window. ${message}`);
  remember(`${keep}draft`, entry.draft);
  warn(`An answer was not taken: ${message || `the server said ${status}`}. What you said is kept: undo reopens it.`);
}

function changed(waiting) {
  net(waiting > 1 || (waiting && !navigator.onLine) ? `${waiting} waiting to be sent` : "");
}

function hear(news) {
  if (!news) return;
  progress = news;
  view.paintProgress(progress);
}

// -- what people do ---------------------------------------------------------------------------------------------------

function paint() { view.paint(task.state, {current: task.current, pinned: task.pinned, rules}); }

function apply(state, words) {
  if (!task.become(state)) return view.say("No further in that direction");
  paint();
  view.say(words ?? S.said(state));
  clearTimeout(draftTimer);
  draftTimer = setTimeout(saveDraft, DRAFT_MS);
}

function saveDraft(options) {
  clearTimeout(draftTimer);
  if (!task) return null;
  const draft = task.draft();
  return ranking ? post(leaseUrl(task.lease, "draft"), {state: draft}, options) : null;
}

function go(card) {
  task.current = card;
  paint();
  const node = view.card(card);
  node.focus({preventScroll: true});
  reading.rest();
  node.scrollIntoView({block: reading.touch.matches ? "start" : "nearest"});
}

function placed(card, state) {
  apply(state, `${S.letter(card)}: ${S.placeOf(state, card)}`);
  const order = [...state.slots.keys()].map((i) => (card + 1 + i) % state.slots.length);
  const open = order.find((i) => !state.slots[i] && !state.bad.includes(i));
  if (open === undefined) view.say(`${S.letter(card)}: ${S.placeOf(state, card)}. All placed: ${S.said(state)}`);
  else go(open);
}

async function reopen() {
  if (!ranking) return view.say("Nothing to undo");
  await outbox.flush();
  if (!given.length && !earlier) earlier = (await post(host.given, {})).body.leases ?? [];
  const lease = given.pop() ?? earlier?.shift();
  if (!lease) return view.say("Nothing to undo");
  if (sent(lease)) { given.push(lease); return view.say("That answer is still on its way; try again when it is sent"); }
  const {article} = await askItem(leaseUrl(lease, "reopen"));
  const found = read(article);
  if (!found) return view.say("That answer cannot be changed any more", "stop");
  if (!held) held = task;
  show(found);
}

function compare(card) {
  if (task.pinned === null || task.pinned === card) {
    task.pinned = task.pinned === card ? null : card;
    paint();
    const other = "choose it on a second card to see the two side by side";
    return view.say(task.pinned === null ? "Pin removed" : `${S.letter(card)} pinned: ${other}`);
  }
  const sides = [task.pinned, card].map((c) => ({card: c, text: view.card(c).querySelector(".raw").textContent}));
  view.paintDiff($("#diff"), diff(sides[0].text, sides[1].text), sides);
  task.pinned = null;
  paint();
  panels.open("diff");
}

const showFlags = () => panels.showFlags(S.letter(task.current), task.state.flags[task.current] ?? []);

const actions = {
  next: () => go((task.current + 1) % task.cards),
  previous: () => go((task.current + task.cards - 1) % task.cards),
  card: () => view.card(task.current).focus({preventScroll: true}),
  goto: (value) => go(value),
  place(slot) {
    if (slot > task.cards) return view.say(`There are only ${task.cards} places`);
    placed(task.current, S.place(task.state, task.current, slot));
  },
  slot: (slot) => actions.place(slot),
  better: () => apply(S.move(task.state, task.current, -1)),
  worse: () => apply(S.move(task.state, task.current, 1)),
  tie: () => placed(task.current, S.tie(task.state, task.current)),
  unplace: () => apply(S.unplace(task.state, task.current)),
  bad: () => apply(S.toggleBad(task.state, task.current)),
  none: () => (rules.none_acceptable ? apply(S.toggleNone(task.state)) : view.say("Not offered in this project")),
  rate(value, row = 0) {
    const attribute = rules.attributes[row];
    if (attribute) apply(S.rate(task.state, task.current, attribute, value), `${S.letter(task.current)}: ${attribute} ${value}`);
  },
  pair: (what, much) => apply(S.pair(task.state, what, much && rules.much, rules.none_acceptable)),
  flag() { showFlags(); panels.open("flags"); },
  "flag-as"(flag) { 
    const state = S.toggleFlag(task.state, task.current, flag);
    apply(state, `${S.letter(task.current)}: ${state.flags[task.current].join(", ") || "no"} flag`);
    showFlags();
  },
  compare: () => compare(task.current),
  raw: () => panels.setRaw(!panels.raw),
  comment() { $("#dock").classList.add("writing"); $("#comment")?.focus({preventScroll: true}); },
  draft: () => saveDraft()?.then(({status}) => view.say(status === 0 ? "Kept in this browser" : "Saved")),
  undo() {
    if (!task.back()) return reopen();
    const comment = $("#comment");
    if (comment) comment.value = task.state.comment;
    paint();
    view.say(`Undone. ${S.said(task.state)}`);
  },
  escape() {
    if (!panels.help.hidden) actions.help();
    else if (held) { earlier = null; advance(); }
  },
  submit,
  skip: () => ranking && panels.open("skip"),
  "skip-for"(reason) {
    panels.close();
    send("skip", {uuid: uuid(), reason, answer: task.answer()}); // The server keeps flags and the comment.
    given.push(task.lease);
    tabs.postMessage({answered: task.lease});
    advance();
  },
  prompt: () => panels.resizePrompt(task.article),
  turns: (by) => turnOver(task.article, by),
  help() {
    if (!panels.toggleHelp() && task) actions.card();
  },
  keys: () => panels.setSingle(!panels.single),
  pause() { saveDraft(); clock.paused = true; panels.open("pause"); },
  again: () => advance(),
  close: (_, __, node) => node.closest("dialog").close(),
};
const ANYTIME = new Set(["help", "keys", "raw", "again", "close"]);

function act(name, ...values) {
  if (!task && !ANYTIME.has(name)) return;
  actions[name]?.(...values);
}

// -- events -----------------------------------------------------------------------------------------------------------

root.addEventListener("click", (event) => {
  const card = event.target.closest(".card");
  if (card && task) task.current = Number(card.dataset.card);
  const button = event.target.closest("[data-act]");
  if (!button) return card && paint();
  act(button.dataset.act, ...valuesOf(button.dataset), button);
  // A mouse leaves the focus on the card, so that keys go on from there; a keyboard stays where it is.
  if (event.detail && card && task?.article.contains(card) && !document.querySelector("dialog[open]") &&
      document.activeElement === button) view.card(task.current).focus({preventScroll: true});
});
root.addEventListener("focusin", (event) => {
  const card = event.target.closest(".card");
  if (!card || !task || task.current === Number(card.dataset.card)) return;
  task.current = Number(card.dataset.card);
  paint();
});
root.addEventListener("input", (event) => {
  if (event.target.id !== "comment" || !task) return;
  task.state = {...task.state, comment: event.target.value};
  clearTimeout(draftTimer);
  draftTimer = setTimeout(saveDraft, DRAFT_MS);
});

addEventListener("keydown", (event) => {
  const dialog = document.querySelector("dialog[open]");
  if (dialog) return panels.key(event, dialog);
  const found = actionOf(event, {single: panels.single, pair: task?.cards === 2});
  if (!found) return;
  event.preventDefault();
  if (event.repeat && ["submit", "none", "skip"].includes(found[0])) return; // A held key sends one answer.
  act(...found);
});

panels.onClose((dialog) => {
  if (dialog.id === "pause") clock.paused = false;
  if (document.activeElement?.matches("textarea")) return; // "closed" is said late: somebody may be writing already
  if (task?.article.isConnected) view.card(task.current)?.focus({preventScroll: true});
});

enableDrag(root, (card, {slot, gap}) => {
  task.current = card;
  placed(card, gap ? S.insert(task.state, card, gap) : S.place(task.state, card, slot));
});

tabs.addEventListener("message", ({data}) => {
  if (next?.lease === data.answered) next = null;
  if (task?.lease !== data.answered) return;
  advance().then(() => view.say("You answered that one in another tab; here is the next.", "stop"));
});

// -- signs of life ----------------------------------------------------------------------------------------------------
function net(words) { $("#net").textContent = words; }
function warn(words) {
  $("#warning").textContent = words;
  $("#warning").hidden = !words;
}

if (ranking) {
  stayAlive({
    held: () => (task && clock.running ? [task, next, held].filter((one) => one && !one.reopened) : []),
    url: (one) => leaseUrl(one.lease, "heartbeat"),
    over() {
      if (!task || task.reopened || performance.now() < task.expires || !$("#warning").hidden) return;
      warn("The time for this item is over and someone else may have it now. Submit all the same: your answer is kept.");
    },
  });
}
addEventListener("visibilitychange", () => document.visibilityState === "hidden" && saveDraft({keepalive: true}));
addEventListener("offline", () => net("Offline: answers are kept here and sent later"));
addEventListener("online", () => net(""));
addEventListener("beforeunload", (event) => outbox.waiting().length && !view.ended && event.preventDefault());

async function start() {
  panels.start();
  keepClear($("#dock"));
  changed(outbox.waiting().length);
  await outbox.flush();
  if (!host.open) return advance();
  const article = await fetchItem(host.open, {});
  if (article) show(read(article), article);
}

start();
