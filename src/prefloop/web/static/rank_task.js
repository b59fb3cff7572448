// Holds one item on the screen: what has been said about it, how to go back, what is sent.

import * as S from "./rank_state.js";
import {noTime} from "./rank_clock.js";
import {recall, remember} from "./rank_net.js";

const QUICK = 0.25; // a share of the person's own median

const parsed = (text) => (text ? JSON.parse(text) : null);

export class Task {
  constructor(article, rules, draftKey) {
    const data = article.dataset;
    Object.assign(this, {article, rules, draftKey, lease: data.lease, words: Number(data.words)});
    this.cards = Number(data.cards);
    this.expires = performance.now() + 1000 * Number(data.seconds);
    this.steps = [];
    const answer = parsed(data.answer);
    this.reopened = Boolean(answer);
    this.state = answer ? fromAnswer(answer, this.cards) : S.blank(this.cards);
    this.times = noTime(this.cards);
    this.restore(parsed(data.draft), recall(draftKey, null));
    this.current = Math.max(0, this.state.slots.indexOf(0));
    this.pinned = null;
  }

  // Returns the newer of the two drafts of this lease: the server's (from wherever) and this browser's (perhaps offline).
  restore(there, here) {
    const mine = here?.lease === this.lease ? here : null;
    const draft = mine && (!there || mine.at >= there.at) ? mine : there;
    if (draft?.state?.slots?.length !== this.cards) return;
    this.state = {...S.blank(this.cards), ...draft.state};
    this.times = {...this.times, ...draft.times};
  }

  // Returns whether anything changed.
  become(state) {
    if (state === this.state) return false;
    this.steps.push(this.state);
    this.state = state;
    return true;
  }

  back() {
    if (!this.steps.length) return false;
    this.state = this.steps.pop();
    return true;
  }

  draft() {
    const draft = {lease: this.lease, at: Date.now(), state: this.state, times: this.times};
    remember(this.draftKey, draft);
    return draft;
  }

  // Whether this was much quicker than the person's own median, by the words there were to read.
  hurried(median) {
    return Boolean(median) && this.times.elapsed / Math.max(this.words, 1) < QUICK * median;
  }

  answer() {
    const {none, bad, ratings, flags, comment, much} = this.state;
    const some = (table) => Object.fromEntries(Object.entries(table).filter(([, v]) => Object.keys(v).length));
    const answer = {
      tiers: S.tiers(this.state),
      unacceptable: bad,
      none_acceptable: none,
      ratings: some(ratings),
      flags: some(flags),
      comment: comment.trim() || null,
      duration_s: round(this.times.elapsed),
      dwell_s: this.times.dwell.map(round),
    };
    return this.rules.much ? {...answer, much} : answer;
  }
}

const round = (seconds) => Math.round(seconds * 100) / 100;

function fromAnswer(answer, cards) {
  const state = S.blank(cards);
  answer.tiers.forEach((members, tier) => members.forEach((card) => (state.slots[card] = tier + 1)));
  return {
    ...state, bad: answer.unacceptable, none: answer.none_acceptable, much: Boolean(answer.much),
    ratings: answer.ratings, flags: answer.flags, comment: answer.comment ?? "",
  };
}
