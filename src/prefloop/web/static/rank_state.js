// Holds what a person has said about one item so far, as plain values: every change returns a new state, so undo is a stack.
//
// slots: by card, 0 = unplaced, else 1..K. Slots may have gaps while somebody is working ("this one is third"); what
// is sent are the occupied slots in order. bad: cards marked unacceptable, which counts as a place of their own.

export function blank(cards) {
  return {slots: Array(cards).fill(0), bad: [], none: false, much: false, ratings: {}, flags: {}, comment: ""};
}

const copy = (state, changes) => ({...state, ...changes});
const withSlot = (state, card, slot) => copy(state, {slots: state.slots.map((s, i) => (i === card ? slot : s))});
const occupied = (slots) => [...new Set(slots.filter(Boolean))].sort((a, b) => a - b);

export const letter = (card) => String.fromCharCode(65 + card);
export const tiedWith = (state, card) =>
  state.slots.flatMap((s, i) => (s && i !== card && s === state.slots[card] ? [i] : []));
export const tiers = (state) => occupied(state.slots).map((n) => state.slots.flatMap((s, i) => (s === n ? [i] : [])));
export const rankOf = (state, card) => occupied(state.slots).indexOf(state.slots[card]) + 1; // 0 = unplaced

export const place = (state, card, slot) => copy(withSlot(state, card, slot), {much: false});
export const unplace = (state, card) => place(state, card, 0);

// Gives the card a tier of its own, before the tier that now has the slot `before` (K + 1 = after the last one).
export function insert(state, card, before) {
  const others = withSlot(state, card, 0);
  const order = tiers(others);
  const at = occupied(others.slots).filter((n) => n < before).length;
  order.splice(at, 0, [card]);
  const slots = Array(state.slots.length).fill(0);
  order.forEach((members, tier) => members.forEach((i) => (slots[i] = tier + 1)));
  return copy(state, {slots, much: false});
}

// Moves one step better (-1) or worse (+1): out of a tie into a tier of its own, from there into a tie with the next tier.
// Every order can be reached this way. Returns the same object where there is no way to go.
export function move(state, card, by) {
  const slot = state.slots[card];
  if (!slot) return place(state, card, by < 0 ? occupied(state.slots)[0] ?? 1 : occupied(state.slots).at(-1) ?? 1);
  if (tiedWith(state, card).length) {
    const free = slot + by;
    const open = free >= 1 && free <= state.slots.length && !state.slots.includes(free);
    return open ? place(state, card, free) : insert(state, card, by < 0 ? slot : slot + 1);
  }
  const next = occupied(state.slots)[occupied(state.slots).indexOf(slot) + by];
  return next === undefined ? state : place(state, card, next);
}

// Joins the tier above; a card without a place joins the last tier.
export function tie(state, card) {
  const slot = state.slots[card];
  const above = occupied(withSlot(state, card, 0).slots).filter((n) => !slot || n < slot).at(-1);
  return above === undefined ? state : place(state, card, above);
}

const toggled = (list, value) =>
  list.includes(value) ? list.filter((x) => x !== value) : [...list, value].sort((a, b) => (a < b ? -1 : 1));

export const toggleBad = (state, card) => copy(state, {bad: toggled(state.bad, card)});
export const toggleNone = (state) => copy(state, {none: !state.none, much: false});

export function rate(state, card, attribute, value) {
  const mine = {...(state.ratings[card] ?? {})};
  if (mine[attribute] === value) delete mine[attribute];
  else mine[attribute] = value;
  return copy(state, {ratings: {...state.ratings, [card]: mine}});
}

export const toggleFlag = (state, card, flag) =>
  copy(state, {flags: {...state.flags, [card]: toggled(state.flags[card] ?? [], flag)}});

// Judges two cards: which is better (0 or 1), a tie ("tie"), or both bad ("bad").
export function pair(state, what, much, noneOffered) {
  if (what === "bad")
    return noneOffered
      ? copy(state, {slots: [0, 0], bad: [], none: true, much: false})
      : copy(state, {slots: [1, 1], bad: [0, 1], none: false, much: false});
  const slots = what === "tie" ? [1, 1] : what === 0 ? [1, 2] : [2, 1];
  return copy(state, {slots, bad: [], none: false, much: what !== "tie" && much});
}

// Returns which cards still need a place; empty where the answer is whole. The server checks the same.
export function missing(state, partial) {
  const ranked = state.slots.filter(Boolean).length;
  if (state.none && !ranked) return [];
  const open = state.slots.flatMap((s, i) => (s || state.bad.includes(i) ? [] : [i]));
  if (!partial) return open;
  return ranked >= 2 || state.bad.length || state.none ? [] : open;
}

// Says where one card is: "place 2, tied with A".
export function placeOf(state, card) {
  const tied = tiedWith(state, card).map(letter);
  return state.slots[card] ? `place ${state.slots[card]}${tied.length ? `, tied with ${tied.join(", ")}` : ""}` : "unplaced";
}

// Says the order to people who hear the page: "1: B, then C and D tied; unacceptable: A".
export function said(state) {
  if (state.none && !state.slots.some(Boolean)) return "none acceptable";
  const parts = tiers(state).map((members, i) => `${i + 1}: ${members.map(letter).join(" = ")}`);
  if (state.bad.length) parts.push(`unacceptable: ${state.bad.map(letter).join(", ")}`);
  if (state.none) parts.push("none acceptable");
  return parts.join(", ") || "nothing placed";
}
