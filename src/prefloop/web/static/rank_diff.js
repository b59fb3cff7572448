// Finds which words two texts share (Myers 1986, the greedy O(ND) algorithm). It attempts no "semantic" clean-up.

const EFFORT = 3000; // differing words until the texts count as unrelated: bounds time and memory

const words = (text) => text.match(/\s+|[\p{L}\p{N}\p{M}_]+|[^\s\p{L}\p{N}\p{M}_]/gu) ?? [];

// Returns [[kind, text], ...] with kind "=", "-" (only in a) or "+" (only in b); null where they have too little in common.
export function diff(a, b) {
  const x = words(a), y = words(b);
  let start = 0;
  while (start < x.length && start < y.length && x[start] === y[start]) start++;
  let end = 0;
  while (end < Math.min(x.length, y.length) - start && x.at(-1 - end) === y.at(-1 - end)) end++;
  const middle = walk(x.slice(start, x.length - end), y.slice(start, y.length - end));
  if (!middle) return null;
  const same = (list) => list.map((w) => ["=", w]);
  return merged([...same(x.slice(0, start)), ...middle, ...same(x.slice(x.length - end))]);
}

function walk(x, y) {
  const limit = Math.min(x.length + y.length, EFFORT);
  const frontier = new Int32Array(2 * limit + 3);
  const history = [];
  for (let d = 0; d <= limit; d++) {
    history.push(frontier.slice(limit - d, limit + d + 3));
    for (let k = -d; k <= d; k += 2) {
      const at = limit + 1 + k;
      const down = k === -d || (k !== d && frontier[at - 1] < frontier[at + 1]);
      let i = down ? frontier[at + 1] : frontier[at - 1] + 1;
      while (i < x.length && i - k < y.length && x[i] === y[i - k]) i++;
      frontier[at] = i;
      if (i >= x.length && i - k >= y.length) return backwards(x, y, history, d);
    }
  }
  return null;
}

function backwards(x, y, history, last) {
  const steps = [];
  let i = x.length, j = y.length;
  for (let d = last; d > 0; d--) {
    const before = history[d]; // before[k + d + 1] is how far diagonal k had come
    const k = i - j, at = k + d + 1;
    const down = k === -d || (k !== d && before[at - 1] < before[at + 1]);
    const fromK = down ? k + 1 : k - 1;
    const fromI = before[fromK + d + 1], fromJ = fromI - fromK;
    while (i > fromI && j > fromJ && i > 0 && j > 0 && x[i - 1] === y[j - 1]) { steps.push(["=", x[--i]]); j--; }
    if (down) steps.push(["+", y[--j]]);
    else steps.push(["-", x[--i]]);
  }
  while (i > 0) { steps.push(["=", x[--i]]); j--; }
  return steps.reverse();
}

function merged(steps) {
  const runs = [];
  for (const [kind, text] of steps) {
    if (runs.length && runs.at(-1)[0] === kind) runs.at(-1)[1] += text;
    else runs.push([kind, text]);
  }
  return runs;
}
