// Says which key does what: it turns a keyboard event into the name of an action and its value, or null.

const LETTERS = {
  j: ["next"], k: ["previous"], x: ["bad"], f: ["flag"], v: ["compare"], m: ["raw"], s: ["skip"], c: ["comment"],
  u: ["undo"], p: ["prompt"],
};
const SIGNS = {"[": ["better"], "]": ["worse"], "=": ["tie"], "?": ["help"]};
const PAIR = {ArrowLeft: 0, ArrowRight: 1, ArrowDown: "tie", ArrowUp: "bad"};

export const inText = (node) => Boolean(node?.closest?.("textarea, input, select, [contenteditable]"));

// Letters go by what is printed on the key. On keyboards that print no Latin letter there (Greek, Cyrillic, Hebrew and
// Arabic; a Greek Q prints a semicolon, a Hebrew one a slash), they go by where the key is.
function letterOf(event) {
  if (/^[a-z]$/i.test(event.key)) return event.key.toLowerCase();
  const other = /^[^\x00-\x7f]+$/.test(event.key) || [";", "/", "'"].includes(event.key);
  return other ? (/^Key([A-Z])$/.exec(event.code)?.[1] ?? "").toLowerCase() : "";
}

export function digitOf(event) {
  if (/^[0-9]$/.test(event.key)) return event.key;
  // The unshifted number row of French keyboards prints signs, and that of Arabic ones prints other digits.
  return event.shiftKey || SIGNS[event.key] ? "" : (/^Digit([0-9])$/.exec(event.code)?.[1] ?? "");
}

// Brackets go by where they are, if that key prints something that is not ASCII or waits for a second key (ü, ^).
function signOf(event) {
  if (SIGNS[event.key]) return SIGNS[event.key];
  const other = event.key === "Dead" || /^[^\x00-\x7f]$/.test(event.key);
  return other && !event.shiftKey ? {BracketLeft: ["better"], BracketRight: ["worse"]}[event.code] : undefined;
}

// Whether a key belongs to an input method, which composes a word of Chinese, Japanese, Korean ... that Enter takes.
export const composing = (event) => event.isComposing || event.keyCode === 229;

// single: whether single-character shortcuts are on (WCAG 2.1.4). pair: two cards.
export function actionOf(event, {single, pair}) {
  if (composing(event)) return null;
  const command = event.ctrlKey || event.metaKey;
  if (command && !event.altKey) {
    if (event.key === "Enter") return ["submit"];
    if (letterOf(event) === "s") return ["draft"];
    if (letterOf(event) === "z" && !inText(event.target)) return ["undo"];
    return null;
  }
  if (inText(event.target)) return event.key === "Escape" ? ["card"] : null;
  if (event.key === "Escape") return ["escape"];
  if (event.altKey && !command) {
    if (event.key === "ArrowUp") return ["better"];
    if (event.key === "ArrowDown") return ["worse"];
  }
  const sign = signOf(event);
  if (sign && single) return sign; // This comes before the AltGr test, because some keyboards need AltGr for [ and ].
  if (command || event.altKey) return null;
  const scrolls = event.target.closest?.(".turns, pre[tabindex]");
  if (pair && event.key in PAIR && !scrolls) return ["pair", PAIR[event.key], event.shiftKey];
  if (event.key === "Enter") return event.target.closest?.("button, a, summary") ? null : ["submit"];
  if (event.key === "Backspace") return ["unplace"];
  return single ? character(event) : null;
}

function character(event) {
  const digit = digitOf(event);
  if (digit) return digit === "0" ? ["none"] : ["place", Number(digit)];
  const letter = letterOf(event);
  const rating = letter ? "qwert".indexOf(letter) : -1;
  if (rating >= 0) return ["rate", rating + 1, event.shiftKey ? 1 : 0];
  return event.shiftKey ? null : LETTERS[letter] ?? null;
}

// Returns the two values of a button's action, from its data.
export function valuesOf({act, goto: to, value = to, row}) {
  const plain = act === "pair" ? value.replace("!", "") : value;
  const first = /^-?\d+$/.test(plain ?? "") ? Number(plain) : plain;
  return [first, act === "pair" ? value.endsWith("!") : row && Number(row)];
}
